// The op set: what a node of a graph can be. Declared here once; kernels/cpu (and kernels/cuda) hold one file per op
// that computes it, models/autodiff.cpp holds its gradient.
//
// Every op works on all members alike: a "shape" below is one member's shape, and batch-like leading extents are
// called rows. An operand written [x] may be absent (kNoValue); a last [addend] may be left out. It is added to the whole
// result, as `add` would.
#pragma once

#include <span>
#include <string>
#include <variant>
#include <vector>

#include "kernels/tensor.h"

namespace statelab {

enum class Op {
  kDraw,             ///< (step) -> tokens, targets
  kConstant,         ///< () -> value
  kAdd,              ///< (a, b) -> a + b
  kEmbedding,        ///< (tokens, weight) -> y
  kEmbeddingBwd,     ///< (tokens, dy, weight) -> dweight
  kLinear,           ///< (x, weight, [addend]) -> x weight^T [+ addend]
  kLinearBwdX,       ///< (dy, weight) -> dy weight
  kLinearBwdW,       ///< (dy, x) -> dy^T x
  kLinearBwd,        ///< (dy, weight, x, [targets]) -> dx = dy weight, dweight = dy^T x
  kRmsNorm,          ///< (x, weight) -> y
  kRmsNormBwd,       ///< (dy, x, weight, [addend]) -> dx [+ addend], dweight
  kNormLinear,       ///< (x, norm, weight) -> rms_norm(x, norm) weight^T
  kNormLinearBwd,    ///< (dy, weight, x, norm, [targets]) -> dy weight, dy^T rms_norm(x, norm)
  kSwiglu,           ///< (ug) -> u * silu(g)
  kSwigluBwd,        ///< (dy, ug) -> dug
  kCausalConv1d,     ///< (x, weight, [bias], [targets]) -> y
  kCausalConv1dBwd,  ///< (dy, x, weight, [bias], [targets]) -> dx, dweight, dbias
  kMamba3Scan,  ///< (proj, dt_bias, [B_bias], [C_bias], [B_norm], [C_norm], D, [norm], [targets]) -> y, o, Phi, states
  kMamba3ScanBwd,  ///< (dy, the inputs of mamba3_scan up to norm, o, Phi, states, [targets]) -> the gradients of its inputs
  kMamba2Scan,     ///< (proj, dt_bias, A_log, D, norm, [targets]) -> y, o, states
  kMamba2ScanBwd,  ///< (dy, the inputs of mamba2_scan up to norm, o, states, [targets]) -> the gradients of its inputs
  kGatedDeltaScan,  ///< (proj, [dt_bias], [A_log], norm) -> y, o, states
  kGatedDeltaScanBwd,  ///< (dy, the inputs of gated_delta_scan, o, states) -> the gradients of its inputs
  kLstm,               ///< (proj, weight_hh, bias) -> y, gates, cells
  kLstmBwd,            ///< (dy, the inputs of lstm, y, gates, cells) -> the gradients of its inputs
  kCrossEntropy,     ///< (logits, targets) -> loss, accuracy
  kCrossEntropyBwd,  ///< (dloss, logits, targets) -> dlogits
  kSelect,           ///< (x, targets) -> the row of x at each sequence's supervised position
  kSelectBwd,        ///< (dy, targets) -> dx
  kMamba3ScanAt,     ///< (proj, .. norm as mamba3_scan, targets) -> y, o
  kMamba3ScanAtBwd,  ///< (dy, the inputs of mamba3_scan_at, o) -> the gradients of its inputs but the targets
  kMamba2ScanAt,  ///< (proj, .. norm as mamba2_scan, targets) -> y, o
  kMamba2ScanAtBwd,  ///< (dy, the inputs of mamba2_scan_at, o) -> the gradients of its inputs but the targets
  kHeadLoss,  ///< (h, norm, head, targets, dloss) -> loss, accuracy, dh, dnorm, dhead
  kOutProjLoss,  ///< (y, out_proj, x, norm, head, targets, dloss) -> loss, accuracy, dy, dout_proj, dx, dnorm, dhead
  kScore,       ///< (logits, targets, pass, counts) updates counts
  kGlobalNorm,  ///< (g_1 .. g_n) -> sqrt(sum of squares)
  kSchedule,    ///< (step, settings) -> lr
  kGuard,       ///< (loss, norm, step, diverged_at) updates diverged_at
  kAdamW,  ///< (norm, lr, optimizer_step, settings, diverged_at, then weight, exp_avg, exp_avg_sq, grad per parameter)
  kMetrics,  ///< (loss, accuracy, norm, lr, diverged_at, window) updates window
  kAdvance,  ///< (step, optimizer_step) adds one to both
};

/// draw: the batch that the owner of the data supplies.
struct DrawAttrs {
  int batch = 1, seqlen = 1;
};

/// constant: one real number.
struct ConstantAttrs {
  double value = 0;
};

/// rms_norm: y = x / sqrt(mean(x^2) + eps) * weight over the last axis. Source: models.md section 1.
struct RmsNormAttrs {
  double eps = 1e-5;
};

/// norm_linear, norm_linear_bwd: rms_norm (its attributes) and linear, linear_bwd behind it, the normed rows never stored: a layer's
/// projection and its gradients. The gradient of the normed rows comes out; what the norm makes of it is rms_norm_bwd's.

/// causal_conv1d: channels [begin, begin + channels) of x are replaced by SiLU(bias + sum_j w[c, j] x[t - W + 1 + j]);
/// the others pass unchanged. weight (channels, 1, W): index W - 1 multiplies the current token; bias (channels), zero where
/// absent. [targets] as the scans' (below).
struct CausalConv1dAttrs {
  int begin = 0, channels = 0, width = 4;
};

/// mamba3_scan: everything between in_proj and out_proj of a Mamba-3 SISO block. Source: models.md sections 3.2 - 3.10.
///   proj   (batch, seqlen, d_proj), columns [z d_in | x d_in | B G*N | C G*N | dd_dt H | dd_A H | trap H | ang S]
///   dt_bias, D (H); B_bias, C_bias (H, 1, N); B_norm, C_norm (N); norm (d_in)
///   y, o   (batch, seqlen, d_in): after and before [norm and] gate
///   Phi    (batch, seqlen, H, S) wrapped to [-pi, pi), or (1) when the rotation does not depend on data
///   states (batch, H, nchunks, P, N): incoming lookahead state G of each chunk (models.md 3.4)
struct Mamba3ScanAttrs {
  enum class Rotation { kDataDependent, kStandard, kNone };
  enum class Discretization { kTrapezoidal, kEuler, kHalf };
  int nheads = 1, headdim = 1, ngroups = 1, d_state = 1;
  int nangles = 0;  ///< S, rotated pairs (2j, 2j + 1), j < S
  Rotation rotation = Rotation::kDataDependent;
  Discretization discretization = Discretization::kTrapezoidal;
  bool heavy_tail = false;  ///< A = -max(f(dd_A), a_floor) with f heavy-tail instead of softplus
  double a_floor = 1e-4;
  double eps = 1e-5;
  bool chunked = true;  ///< chunk-parallel, or the recurrence token by token
  int chunk_size = 64;
  int d_inner() const { return nheads * headdim; }
  int d_proj() const { return 2 * d_inner() + 2 * ngroups * d_state + 3 * nheads + nangles; }
};

/// [targets], which may be left out as an addend may, of either scan and of the convolution: (batch, seqlen) int32. Whoever gives
/// them reads nothing behind a sequence's last target (position 0 without one), and dy is zero there: results behind it are then
/// any finite numbers, gradients zero. The same numbers otherwise, for less work where sequences of a batch differ in length.
/// [targets] of linear_bwd and norm_linear_bwd, (batch, seqlen) as the leading extents of dy, promise the same.

/// mamba2_scan: everything between the convolution and out_proj of a Mamba-2 block. Source: models.md section 6.
///   proj   (batch, seqlen, d_proj), columns [z d_in | x d_in | B G*N | C G*N | dd_dt H], x B C already convolved
///   dt_bias, A_log, D (H); norm (d_in): gated RMSNorm (gate first) over groups of d_in / G channels
struct Mamba2ScanAttrs {
  int nheads = 1, headdim = 1, ngroups = 1, d_state = 1;
  bool negative_eigenvalues = false;  ///< alpha = 2 exp(dt A) - 1 instead of exp(dt A)
  double eps = 1e-5;
  bool chunked = true;
  int chunk_size = 64;
  int d_inner() const { return nheads * headdim; }
  int d_proj() const { return 2 * d_inner() + 2 * ngroups * d_state + nheads; }
};

/// mamba3_scan_at, mamba2_scan_at: the scans where only one position of a sequence is read: the last one with a target, the first
/// where there is none (select takes the same). Attributes are the scans', without negative eigenvalues; chunks play no part.
///   targets (batch, seqlen) int32; y, o (batch, 1, d_in): the scan's rows at that position; of later tokens nothing is read,
///   and their gradients are zero

/// gated_delta_scan: everything between the projections (or the convolution) and out_proj of a Gated DeltaNet block. Source:
/// models.md sections 7.2 - 7.5.
///   S' = exp(g_t) S_{t-1},  r_t = v_t - S'^T k_t,  S_t = S' + beta_t k_t r_t^T,  o_t = K^(-1/2) S_t^T q_t        (S is K x V)
///   q, k l2-normalised (1e-6 inside the root), beta = beta_max sigmoid(b), g = -exp(A_log) softplus(a + dt_bias)
///   y = RMS_norm(o; over V) [* silu(gate)]
///   proj   (batch, seqlen, d_proj), columns [q G*K | k G*K | v H*V | gate H*V | a H | b H]; gate and a only where the model has
///          them. Head h reads q and k of group h div (H / G).
///   dt_bias, A_log (H), absent without decay; norm (V), shared by the heads
///   y, o   (batch, seqlen, d_inner): after and before norm [and gate]
///   states (batch, H, nchunks, K, V): incoming state S of each chunk
struct GatedDeltaScanAttrs {
  int nheads = 1, headdim = 1;  ///< [H, V]
  int ngroups = 1;              ///< [G] heads of q and k; divides nheads
  int d_state = 1;              ///< [K]
  double beta_max = 1;          ///< 1: eigenvalues along k in [0, 1]; 2: in [-1, 1]
  bool decay = true;            ///< false: g = 0 (DeltaNet)
  bool gate = true;             ///< the output gate
  bool activate = false;        ///< SiLU of q, k, v here, where no convolution has applied it
  double eps = 1e-5;            ///< of the output's norm
  bool chunked = true;          ///< WY form by chunks, or the recurrence token by token
  int chunk_size = 64;
  int d_inner() const { return nheads * headdim; }
  int d_proj() const {
    return 2 * ngroups * d_state + (gate ? 2 : 1) * d_inner() + (decay ? 2 : 1) * nheads;
  }
};

/// lstm: the recurrence of an LSTM layer; the input's products are in proj already.
///   (i, f, g, o) = proj_t + weight_hh h_{t-1} + bias, PyTorch's order;  c_t = sig(f) c_{t-1} + sig(i) tanh(g),
///   h_t = sig(o) tanh(c_t)
///   proj (batch, seqlen, 4 hidden); weight_hh (4 hidden, hidden); bias (4 hidden); y = h (batch, seqlen, hidden);
///   gates (batch, seqlen, 4 hidden) after their activation; cells (batch, seqlen, hidden)
/// Source: Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000, as in torch.nn.LSTM.
struct LstmAttrs {
  int hidden = 1;
};

/// cross_entropy: mean over supervised positions (target >= 0) of lse - logit[target]; accuracy = share of them whose
/// first argmax is the target. Only the first `classes` columns compete; the rest is padding.
struct CrossEntropyAttrs {
  int classes = 0;
};

/// head_loss: what follows the last layer of a training step, with its gradients:
///   u = rms_norm(h, norm), logits = linear(u, head), (loss, accuracy) = cross_entropy(logits, targets); dh, dnorm, dhead are
///   the gradients of dloss * loss. A row of h without a target is not read, its dh is zero, as
///   are the rows of dhead that only pad.
///   h, dh (batch, seqlen, d); norm, dnorm (d); head, dhead (padded classes, d); targets (batch, seqlen); dloss (1)
struct HeadLossAttrs {
  double eps = 1e-5;  ///< of the norm
  int classes = 0;
};

/// out_proj_loss: what follows the last layer's recurrence where only the supervised position of a sequence is needed, with its
/// gradients: h = linear(y, out_proj, select(x, targets)), then head_loss (whose attributes it has) of h and of the targets at
/// that position. Of a sequence without a target neither y nor x shows; its dy and dx are zero.
///   y, dy (batch, 1, d_inner); out_proj, dout_proj (d, d_inner); x, dx (batch, seqlen, d), the residual stream; others as head_loss

/// score: what an evaluation counts. Row b of pass p is sample p * batch + b; samples from `samples` on are left out.
/// The answer is the first argmax over columns [legal_begin, legal_end); the loss is over columns [0, classes).
///   counts (f64) [Score's sums, then per position, seqlen each: total, correct, prefix], exact integers but the loss
struct ScoreAttrs {
  int classes = 0;
  int legal_begin = 0, legal_end = 0;
  int64_t samples = 0;
};

/// Leading columns of `counts`: sums over samples. A sequence is correct when it is supervised and right wherever it is;
/// prefix[t] counts the sequences that supervise t and are right at every supervised position up to it.
enum Score {
  kScoreSequences,
  kScoreSequencesCorrect,
  kScoreTokens,
  kScoreTokensCorrect,
  kScoreLoss,
  kScores
};

/// schedule: lr of a step. Stages begin at begins[i]; lengths[i] is the span that warm-up and decay refer to.
struct ScheduleAttrs {
  enum class Kind { kCosine, kLinear, kConstant };
  Kind kind = Kind::kCosine;
  double warmup = 0;  ///< share of the span
  std::vector<int64_t> begins, lengths;
};

/// Columns of the `settings` state (f64), one row a member.
enum Setting {
  kSettingLr,
  kSettingBeta1,
  kSettingBeta2,
  kSettingEps,
  kSettingWeightDecay,
  kSettingClipNorm,
  kSettings
};

/// Columns of the `window` state (f64): running sums since the last read.
enum Window { kWindowSteps, kWindowLoss, kWindowAccuracy, kWindowNorm, kWindowLr, kWindows };

/// adamw: decoupled weight decay, bias-corrected; clipping by the global norm happens here (g * min(1, clip / (norm + 1e-6))).
/// A member with diverged_at >= 0 is left untouched. Source: Loshchilov & Hutter 2019; PyTorch's order of operations.
struct AdamWAttrs {
  std::vector<bool> decays;  ///< per parameter: does weight decay apply?
};

using Attributes =
    std::variant<std::monostate, DrawAttrs, ConstantAttrs, RmsNormAttrs, CausalConv1dAttrs,
                 Mamba3ScanAttrs, Mamba2ScanAttrs, GatedDeltaScanAttrs, LstmAttrs,
                 CrossEntropyAttrs, HeadLossAttrs, ScoreAttrs, ScheduleAttrs, AdamWAttrs>;

struct ValueType {
  DType dtype = DType::kReal;
  Shape shape;
};

const char* op_name(Op op);

/// The shape rule: output types for these inputs (nullptr = absent operand).
/// Throws ShapeError naming the op, the rule and the actual shapes.
std::vector<ValueType> infer(Op op, const Attributes& attributes,
                             std::span<const ValueType* const> inputs);

/// Indices of inputs that the op overwrites (states); empty for pure ops.
std::vector<int> updated_inputs(Op op, int input_count);

}  // namespace statelab
