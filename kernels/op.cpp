#include "kernels/op.h"

#include <string>
#include <type_traits>

#include "kernels/error.h"
#include "kernels/scan_at.h"

namespace statelab {
namespace {

using Inputs = std::span<const ValueType* const>;

[[noreturn]] void fail(Op op, const std::string& rule) { throw ShapeError(op_name(op), rule); }

const ValueType& operand(Op op, Inputs in, size_t i, const char* name) {
  if (i >= in.size() || in[i] == nullptr) fail(op, std::string("operand ") + name + " is missing");
  return *in[i];
}

void expect(Op op, Inputs in, size_t i, const char* name, const Shape& shape,
            DType dtype = DType::kReal) {
  const ValueType& v = operand(op, in, i, name);
  if (v.dtype != dtype) fail(op, std::string(name) + " has the wrong element type");
  if (!(v.shape == shape))
    fail(op, std::string(name) + " must be " + shape.text() + ", is " + v.shape.text());
}

void expect_optional(Op op, Inputs in, size_t i, const char* name, const Shape& shape) {
  if (i < in.size() && in[i] != nullptr) expect(op, in, i, name, shape);
}

void expect_count(Op op, Inputs in, size_t count) {
  if (in.size() != count)
    fail(op, "takes " + std::to_string(count) + " operands, got " + std::to_string(in.size()));
}

/// `count` operands, or one more: the addend.
void expect_addend_count(Op op, Inputs in, size_t count) {
  if (in.size() != count && in.size() != count + 1) {
    fail(op, "takes " + std::to_string(count) + " or " + std::to_string(count + 1) +
                 " operands, got " + std::to_string(in.size()));
  }
}

void expect_positive(Op op, const char* name, int value) {
  if (value < 1) fail(op, std::string(name) + " must be at least 1, is " + std::to_string(value));
}

int nchunks(int seqlen, int chunk_size) { return (seqlen + chunk_size - 1) / chunk_size; }

template <class Attrs>
const ValueType& check_scan(Op op, const Attrs& a, Inputs in, size_t first) {
  for (auto [name, value] : {std::pair{"nheads", a.nheads},
                             {"headdim", a.headdim},
                             {"ngroups", a.ngroups},
                             {"d_state", a.d_state},
                             {"chunk_size", a.chunk_size}}) {
    expect_positive(op, name, value);
  }
  if (a.nheads % a.ngroups != 0) {
    fail(op, "ngroups must divide nheads: " + std::to_string(a.ngroups) + " and " +
                 std::to_string(a.nheads));
  }
  const ValueType& proj = operand(op, in, first, "proj");
  if (proj.shape.rank() != 3 || proj.shape.last() != a.d_proj()) {
    fail(op, "proj must be (batch, seqlen, " + std::to_string(a.d_proj()) + "), is " +
                 proj.shape.text());
  }
  return proj;
}

ValueType states_type(int batch, int nheads, int chunks, int headdim, int d_state) {
  return {DType::kReal, {batch, nheads, chunks, headdim, d_state}};
}

ValueType phi_type(const Mamba3ScanAttrs& a, const Shape& proj) {
  if (a.rotation != Mamba3ScanAttrs::Rotation::kDataDependent) return {DType::kReal, {1}};
  return {DType::kReal, {proj[0], proj[1], a.nheads, a.nangles}};
}

/// A last operand that may be left out.
void expect_targets(Op op, Inputs in, size_t i, const Shape& proj) {
  if (i < in.size() && in[i] != nullptr)
    expect(op, in, i, "targets", {proj[0], proj[1]}, DType::kInt32);
}

/// The same, of rows (batch, seqlen, columns).
void expect_row_targets(Op op, Inputs in, size_t i, const Shape& rows) {
  if (i >= in.size() || in[i] == nullptr) return;
  if (rows.rank() != 3)
    fail(op, "rows with targets must be (batch, seqlen, columns), are " + rows.text());
  expect_targets(op, in, i, rows);
}

void check_angles(Op op, const Mamba3ScanAttrs& a) {
  if (a.nangles < 0 || 2 * a.nangles > a.d_state) {
    fail(op, "2 * nangles must be in 0..d_state: " + std::to_string(a.nangles) + ", " +
                 std::to_string(a.d_state));
  }
}

std::vector<ValueType> infer_mamba3(Op op, const Mamba3ScanAttrs& a, Inputs in, bool backward) {
  const size_t first = backward ? 1 : 0;
  expect_addend_count(op, in, backward ? 12 : 8);
  const Shape& proj = check_scan(op, a, in, first).shape;
  check_angles(op, a);
  const Shape inner{proj[0], proj[1], a.d_inner()}, heads{a.nheads}, bias{a.nheads, 1, a.d_state},
      state{a.d_state};
  expect(op, in, first + 1, "dt_bias", heads);
  expect_optional(op, in, first + 2, "B_bias", bias);
  expect_optional(op, in, first + 3, "C_bias", bias);
  expect_optional(op, in, first + 4, "B_norm", state);
  expect_optional(op, in, first + 5, "C_norm", state);
  expect(op, in, first + 6, "D", heads);
  expect_optional(op, in, first + 7, "norm", {a.d_inner()});
  expect_targets(op, in, backward ? 12 : 8, proj);
  const ValueType states =
      states_type(proj[0], a.nheads, nchunks(proj[1], a.chunk_size), a.headdim, a.d_state);
  if (!backward) return {{DType::kReal, inner}, {DType::kReal, inner}, phi_type(a, proj), states};
  expect(op, in, 0, "dy", inner);
  expect(op, in, 9, "o", inner);
  expect(op, in, 10, "Phi", phi_type(a, proj).shape);
  expect(op, in, 11, "states", states.shape);
  return {{DType::kReal, proj},  {DType::kReal, heads},        {DType::kReal, bias},
          {DType::kReal, bias},  {DType::kReal, state},        {DType::kReal, state},
          {DType::kReal, heads}, {DType::kReal, {a.d_inner()}}};
}

std::vector<ValueType> infer_mamba2(Op op, const Mamba2ScanAttrs& a, Inputs in, bool backward) {
  const size_t first = backward ? 1 : 0;
  expect_addend_count(op, in, backward ? 8 : 5);
  const Shape& proj = check_scan(op, a, in, first).shape;
  const Shape inner{proj[0], proj[1], a.d_inner()}, heads{a.nheads};
  for (size_t i = 1; i <= 3; ++i) {
    expect(op, in, first + i, i == 1 ? "dt_bias" : i == 2 ? "A_log" : "D", heads);
  }
  expect(op, in, first + 4, "norm", {a.d_inner()});
  expect_targets(op, in, backward ? 8 : 5, proj);
  const ValueType states =
      states_type(proj[0], a.nheads, nchunks(proj[1], a.chunk_size), a.headdim, a.d_state);
  if (!backward) return {{DType::kReal, inner}, {DType::kReal, inner}, states};
  expect(op, in, 0, "dy", inner);
  expect(op, in, 6, "o", inner);
  expect(op, in, 7, "states", states.shape);
  return {{DType::kReal, proj},
          {DType::kReal, heads},
          {DType::kReal, heads},
          {DType::kReal, heads},
          {DType::kReal, {a.d_inner()}}};
}

template <class Attrs>
std::vector<ValueType> infer_scan_at(Op op, const Attrs& a, Inputs in, bool backward) {
  constexpr bool kMamba3 = std::is_same_v<Attrs, Mamba3ScanAttrs>;
  const ScanAtOperands at(kMamba3);
  const size_t first = backward ? 1 : 0;
  expect_count(op, in, static_cast<size_t>(at.count()) + 2 * first);
  const Shape& proj = check_scan(op, a, in, first).shape;
  if constexpr (kMamba3) {
    check_angles(op, a);
  } else if (a.negative_eigenvalues) {
    fail(op, "takes no negative eigenvalues");
  }
  const Shape heads{a.nheads}, bias{a.nheads, 1, a.d_state}, state{a.d_state},
      inner{proj[0], 1, a.d_inner()};
  struct Parameter {
    int operand;
    const char* name;
    Shape shape;
    bool optional;
  };
  const Parameter parameters[] = {{at.dt_bias, "dt_bias", heads, false},
                                  {at.B_bias, "B_bias", bias, true},
                                  {at.C_bias, "C_bias", bias, true},
                                  {at.B_norm, "B_norm", state, true},
                                  {at.C_norm, "C_norm", state, true},
                                  {at.A_log, "A_log", heads, false},
                                  {at.D, "D", heads, false},
                                  {at.norm, "norm", {a.d_inner()}, kMamba3}};
  std::vector<ValueType> gradients{{DType::kReal, proj}};
  for (const Parameter& p : parameters) {
    if (p.operand < 0) continue;
    const size_t i = first + static_cast<size_t>(p.operand);
    p.optional ? expect_optional(op, in, i, p.name, p.shape) : expect(op, in, i, p.name, p.shape);
    gradients.push_back({DType::kReal, p.shape});
  }
  expect(op, in, first + static_cast<size_t>(at.targets), "targets", {proj[0], proj[1]},
         DType::kInt32);
  if (!backward) return {{DType::kReal, inner}, {DType::kReal, inner}};
  expect(op, in, 0, "dy", inner);
  expect(op, in, in.size() - 1, "o", inner);
  return gradients;
}

const Shape& targets_shape(Op op, Inputs in, size_t i) {
  const ValueType& targets = operand(op, in, i, "targets");
  if (targets.dtype != DType::kInt32 || targets.shape.rank() != 2)
    fail(op, "targets must be integers (batch, seqlen), is " + targets.shape.text());
  return targets.shape;
}

std::vector<ValueType> infer_gated_delta(Op op, const GatedDeltaScanAttrs& a, Inputs in,
                                         bool backward) {
  const size_t first = backward ? 1 : 0;
  expect_count(op, in, backward ? 7 : 4);
  const Shape& proj = check_scan(op, a, in, first).shape;
  const Shape inner{proj[0], proj[1], a.d_inner()}, heads{a.nheads};
  for (size_t i = 1; i <= 2; ++i) {
    const char* name = i == 1 ? "dt_bias" : "A_log";
    if (a.decay) {
      expect(op, in, first + i, name, heads);
    } else if (in[first + i] != nullptr) {
      fail(op, std::string(name) + " is given, but there is no decay");
    }
  }
  expect(op, in, first + 3, "norm", {a.headdim});
  const ValueType states =
      states_type(proj[0], a.nheads, nchunks(proj[1], a.chunk_size), a.d_state, a.headdim);
  if (!backward) return {{DType::kReal, inner}, {DType::kReal, inner}, states};
  expect(op, in, 0, "dy", inner);
  expect(op, in, 5, "o", inner);
  expect(op, in, 6, "states", states.shape);
  return {{DType::kReal, proj},
          {DType::kReal, heads},
          {DType::kReal, heads},
          {DType::kReal, {a.headdim}}};
}

std::vector<ValueType> infer_lstm(Op op, const LstmAttrs& a, Inputs in, bool backward) {
  const size_t first = backward ? 1 : 0;
  expect_count(op, in, backward ? 7 : 3);
  expect_positive(op, "hidden", a.hidden);
  const Shape& proj = operand(op, in, first, "proj").shape;
  if (proj.rank() != 3 || proj.last() != 4 * a.hidden) {
    fail(op,
         "proj must be (batch, seqlen, " + std::to_string(4 * a.hidden) + "), is " + proj.text());
  }
  const Shape weight{4 * a.hidden, a.hidden}, bias{4 * a.hidden}, out{proj[0], proj[1], a.hidden};
  expect(op, in, first + 1, "weight_hh", weight);
  expect(op, in, first + 2, "bias", bias);
  if (!backward) return {{DType::kReal, out}, {DType::kReal, proj}, {DType::kReal, out}};
  expect(op, in, 0, "dy", out);
  expect(op, in, 4, "y", out);
  expect(op, in, 5, "gates", proj);
  expect(op, in, 6, "cells", out);
  return {{DType::kReal, proj}, {DType::kReal, weight}, {DType::kReal, bias}};
}

Shape with_last(const Shape& shape, int last) {
  std::vector<int> e = shape.extents();
  e.back() = last;
  return Shape(std::move(e));
}

std::vector<ValueType> infer_conv(Op op, const CausalConv1dAttrs& a, Inputs in, bool backward) {
  const size_t first = backward ? 1 : 0;
  expect_addend_count(op, in, backward ? 4 : 3);
  const ValueType& x = operand(op, in, first, "x");
  if (x.shape.rank() != 3) fail(op, "x must be (batch, seqlen, channels), is " + x.shape.text());
  if (a.begin < 0 || a.channels < 1 || a.begin + a.channels > x.shape.last()) {
    fail(op, "channels " + std::to_string(a.begin) + ".." + std::to_string(a.begin + a.channels) +
                 " exceed x " + x.shape.text());
  }
  const Shape weight{a.channels, 1, a.width}, bias{a.channels};
  expect(op, in, first + 1, "weight", weight);
  expect_optional(op, in, first + 2, "bias", bias);
  expect_targets(op, in, first + 3, x.shape);
  if (!backward) return {x};
  expect(op, in, 0, "dy", x.shape);
  return {x, {DType::kReal, weight}, {DType::kReal, bias}};
}

const Shape kScalar{1};

/// norm, head, targets and dloss, from operand `first` on, of rows (batch, seqlen, d).
void expect_head(Op op, const HeadLossAttrs& a, Inputs in, size_t first, const Shape& rows) {
  const int d = rows.last();
  const Shape& head = operand(op, in, first + 1, "head").shape;
  if (head.rank() != 2 || head[1] != d || a.classes < 1 || a.classes > head[0]) {
    fail(op, "head must be (>= " + std::to_string(a.classes) + ", " + std::to_string(d) + "), is " +
                 head.text());
  }
  expect(op, in, first, "norm", {d});
  expect(op, in, first + 2, "targets", {rows[0], rows[1]}, DType::kInt32);
  expect(op, in, first + 3, "dloss", kScalar);
}

}  // namespace

const char* op_name(Op op) {
  switch (op) {
    case Op::kDraw:
      return "draw";
    case Op::kConstant:
      return "constant";
    case Op::kAdd:
      return "add";
    case Op::kEmbedding:
      return "embedding";
    case Op::kEmbeddingBwd:
      return "embedding_bwd";
    case Op::kLinear:
      return "linear";
    case Op::kLinearBwdX:
      return "linear_bwd_x";
    case Op::kLinearBwdW:
      return "linear_bwd_w";
    case Op::kLinearBwd:
      return "linear_bwd";
    case Op::kNormLinear:
      return "norm_linear";
    case Op::kNormLinearBwd:
      return "norm_linear_bwd";
    case Op::kRmsNorm:
      return "rms_norm";
    case Op::kRmsNormBwd:
      return "rms_norm_bwd";
    case Op::kSwiglu:
      return "swiglu";
    case Op::kSwigluBwd:
      return "swiglu_bwd";
    case Op::kCausalConv1d:
      return "causal_conv1d";
    case Op::kCausalConv1dBwd:
      return "causal_conv1d_bwd";
    case Op::kMamba3Scan:
      return "mamba3_scan";
    case Op::kMamba3ScanBwd:
      return "mamba3_scan_bwd";
    case Op::kMamba2Scan:
      return "mamba2_scan";
    case Op::kMamba2ScanBwd:
      return "mamba2_scan_bwd";
    case Op::kGatedDeltaScan:
      return "gated_delta_scan";
    case Op::kGatedDeltaScanBwd:
      return "gated_delta_scan_bwd";
    case Op::kLstm:
      return "lstm";
    case Op::kLstmBwd:
      return "lstm_bwd";
    case Op::kCrossEntropy:
      return "cross_entropy";
    case Op::kCrossEntropyBwd:
      return "cross_entropy_bwd";
    case Op::kSelect:
      return "select";
    case Op::kSelectBwd:
      return "select_bwd";
    case Op::kMamba3ScanAt:
      return "mamba3_scan_at";
    case Op::kMamba3ScanAtBwd:
      return "mamba3_scan_at_bwd";
    case Op::kMamba2ScanAt:
      return "mamba2_scan_at";
    case Op::kMamba2ScanAtBwd:
      return "mamba2_scan_at_bwd";
    case Op::kHeadLoss:
      return "head_loss";
    case Op::kOutProjLoss:
      return "out_proj_loss";
    case Op::kScore:
      return "score";
    case Op::kGlobalNorm:
      return "global_norm";
    case Op::kSchedule:
      return "schedule";
    case Op::kGuard:
      return "guard";
    case Op::kAdamW:
      return "adamw";
    case Op::kMetrics:
      return "metrics";
    case Op::kAdvance:
      return "advance";
  }
  return "?";
}

std::vector<int> updated_inputs(Op op, int input_count) {
  switch (op) {
    case Op::kGuard:
    case Op::kScore:
      return {3};
    case Op::kMetrics:
      return {5};
    case Op::kAdvance:
      return {0, 1};
    case Op::kAdamW: {
      std::vector<int> out;
      for (int i = 5; i + 3 < input_count; i += 4) out.insert(out.end(), {i, i + 1, i + 2});
      return out;
    }
    default:
      return {};
  }
}

std::vector<ValueType> infer(Op op, const Attributes& attributes, Inputs in) {
  switch (op) {
    case Op::kDraw: {
      const auto& a = std::get<DrawAttrs>(attributes);
      expect_count(op, in, 1);
      expect(op, in, 0, "step", kScalar, DType::kInt32);
      expect_positive(op, "batch", a.batch);
      expect_positive(op, "seqlen", a.seqlen);
      return {{DType::kInt32, {a.batch, a.seqlen}}, {DType::kInt32, {a.batch, a.seqlen}}};
    }
    case Op::kConstant:
      expect_count(op, in, 0);
      return {{DType::kReal, kScalar}};
    case Op::kAdd:
      expect_count(op, in, 2);
      expect(op, in, 0, "a", operand(op, in, 0, "a").shape);
      expect(op, in, 1, "b", in[0]->shape);
      return {*in[0]};
    case Op::kEmbedding: {
      expect_count(op, in, 2);
      const ValueType &tokens = operand(op, in, 0, "tokens"), &w = operand(op, in, 1, "weight");
      if (tokens.dtype != DType::kInt32 || tokens.shape.rank() != 2)
        fail(op, "tokens must be integers (batch, seqlen), is " + tokens.shape.text());
      if (w.shape.rank() != 2) fail(op, "weight must be (vocab, d_model), is " + w.shape.text());
      return {{DType::kReal, {tokens.shape[0], tokens.shape[1], w.shape[1]}}};
    }
    case Op::kEmbeddingBwd: {
      expect_count(op, in, 3);
      const ValueType &tokens = operand(op, in, 0, "tokens"), &w = operand(op, in, 2, "weight");
      expect(op, in, 1, "dy", {tokens.shape[0], tokens.shape[1], w.shape[1]});
      return {w};
    }
    case Op::kLinear: {
      expect_addend_count(op, in, 2);
      const ValueType &x = operand(op, in, 0, "x"), &w = operand(op, in, 1, "weight");
      if (w.shape.rank() != 2 || x.shape.rank() < 1 || x.shape.last() != w.shape[1]) {
        fail(op, "x (.., in) and weight (out, in) must agree in `in`: x " + x.shape.text() +
                     ", weight " + w.shape.text());
      }
      const Shape y = with_last(x.shape, w.shape[0]);
      if (in.size() > 2) expect_optional(op, in, 2, "addend", y);
      return {{DType::kReal, y}};
    }
    case Op::kLinearBwdX:
    case Op::kLinearBwd: {
      if (op == Op::kLinearBwd) {
        expect_addend_count(op, in, 3);
      } else {
        expect_count(op, in, 2);
      }
      const ValueType &dy = operand(op, in, 0, "dy"), &w = operand(op, in, 1, "weight");
      if (w.shape.rank() != 2 || dy.shape.last() != w.shape[0]) {
        fail(op, "dy (.., out) and weight (out, in) must agree in `out`: dy " + dy.shape.text() +
                     ", weight " + w.shape.text());
      }
      const Shape x = with_last(dy.shape, w.shape[1]);
      if (op == Op::kLinearBwdX) return {{DType::kReal, x}};
      expect(op, in, 2, "x", x);
      expect_row_targets(op, in, 3, dy.shape);
      return {{DType::kReal, x}, {DType::kReal, w.shape}};
    }
    case Op::kLinearBwdW: {
      expect_count(op, in, 2);
      const ValueType &dy = operand(op, in, 0, "dy"), &x = operand(op, in, 1, "x");
      if (dy.shape.rows() != x.shape.rows())
        fail(op, "dy and x must agree in rows: dy " + dy.shape.text() + ", x " + x.shape.text());
      return {{DType::kReal, {dy.shape.last(), x.shape.last()}}};
    }
    case Op::kNormLinear: {
      expect_count(op, in, 3);
      const ValueType &x = operand(op, in, 0, "x"), &w = operand(op, in, 2, "weight");
      if (w.shape.rank() != 2 || x.shape.rank() < 1 || x.shape.last() != w.shape[1]) {
        fail(op, "x (.., in) and weight (out, in) must agree in `in`: x " + x.shape.text() +
                     ", weight " + w.shape.text());
      }
      expect(op, in, 1, "norm", {x.shape.last()});
      return {{DType::kReal, with_last(x.shape, w.shape[0])}};
    }
    case Op::kNormLinearBwd: {
      expect_addend_count(op, in, 4);
      const ValueType &dy = operand(op, in, 0, "dy"), &w = operand(op, in, 1, "weight");
      if (w.shape.rank() != 2 || dy.shape.last() != w.shape[0]) {
        fail(op, "dy (.., out) and weight (out, in) must agree in `out`: dy " + dy.shape.text() +
                     ", weight " + w.shape.text());
      }
      const Shape x = with_last(dy.shape, w.shape[1]);
      expect(op, in, 2, "x", x);
      expect(op, in, 3, "norm", {w.shape[1]});
      expect_row_targets(op, in, 4, dy.shape);
      return {{DType::kReal, x}, {DType::kReal, w.shape}};
    }
    case Op::kRmsNorm:
      expect_count(op, in, 2);
      expect(op, in, 1, "weight", {operand(op, in, 0, "x").shape.last()});
      return {*in[0]};
    case Op::kRmsNormBwd:
      expect_addend_count(op, in, 3);
      expect(op, in, 1, "x", operand(op, in, 0, "dy").shape);
      expect(op, in, 2, "weight", {in[1]->shape.last()});
      if (in.size() > 3) expect_optional(op, in, 3, "addend", in[1]->shape);
      return {*in[1], *in[2]};
    case Op::kSwiglu: {
      expect_count(op, in, 1);
      const ValueType& ug = operand(op, in, 0, "ug");
      if (ug.shape.last() % 2 != 0)
        fail(op, "the last axis holds value and gate and must be even, is " + ug.shape.text());
      return {{DType::kReal, with_last(ug.shape, ug.shape.last() / 2)}};
    }
    case Op::kSwigluBwd:
      expect_count(op, in, 2);
      expect(op, in, 0, "dy", with_last(operand(op, in, 1, "ug").shape, in[1]->shape.last() / 2));
      return {*in[1]};
    case Op::kCausalConv1d:
      return infer_conv(op, std::get<CausalConv1dAttrs>(attributes), in, false);
    case Op::kCausalConv1dBwd:
      return infer_conv(op, std::get<CausalConv1dAttrs>(attributes), in, true);
    case Op::kMamba3Scan:
      return infer_mamba3(op, std::get<Mamba3ScanAttrs>(attributes), in, false);
    case Op::kMamba3ScanBwd:
      return infer_mamba3(op, std::get<Mamba3ScanAttrs>(attributes), in, true);
    case Op::kMamba2Scan:
      return infer_mamba2(op, std::get<Mamba2ScanAttrs>(attributes), in, false);
    case Op::kMamba2ScanBwd:
      return infer_mamba2(op, std::get<Mamba2ScanAttrs>(attributes), in, true);
    case Op::kGatedDeltaScan:
      return infer_gated_delta(op, std::get<GatedDeltaScanAttrs>(attributes), in, false);
    case Op::kGatedDeltaScanBwd:
      return infer_gated_delta(op, std::get<GatedDeltaScanAttrs>(attributes), in, true);
    case Op::kLstm:
      return infer_lstm(op, std::get<LstmAttrs>(attributes), in, false);
    case Op::kLstmBwd:
      return infer_lstm(op, std::get<LstmAttrs>(attributes), in, true);
    case Op::kCrossEntropy:
    case Op::kCrossEntropyBwd: {
      const size_t first = op == Op::kCrossEntropy ? 0 : 1;
      expect_count(op, in, first + 2);
      const ValueType& logits = operand(op, in, first, "logits");
      const int classes = std::get<CrossEntropyAttrs>(attributes).classes;
      if (logits.shape.rank() != 3 || classes < 1 || classes > logits.shape.last()) {
        fail(op, "logits must be (batch, seqlen, >= " + std::to_string(classes) + "), is " +
                     logits.shape.text());
      }
      expect(op, in, first + 1, "targets", {logits.shape[0], logits.shape[1]}, DType::kInt32);
      if (op == Op::kCrossEntropyBwd) {
        expect(op, in, 0, "dloss", kScalar);
        return {logits};
      }
      return {{DType::kReal, kScalar}, {DType::kReal, kScalar}};
    }
    case Op::kSelect: {
      expect_count(op, in, 2);
      const Shape& targets = targets_shape(op, in, 1);
      const ValueType& x = operand(op, in, 0, "x");
      if (x.dtype == DType::kInt32) {
        expect(op, in, 0, "x", targets, DType::kInt32);
        return {{DType::kInt32, {targets[0], 1}}};
      }
      expect(op, in, 0, "x", {targets[0], targets[1], x.shape.last()});
      return {{DType::kReal, {targets[0], 1, x.shape.last()}}};
    }
    case Op::kSelectBwd: {
      expect_count(op, in, 2);
      const Shape& targets = targets_shape(op, in, 1);
      const int width = operand(op, in, 0, "dy").shape.last();
      expect(op, in, 0, "dy", {targets[0], 1, width});
      return {{DType::kReal, {targets[0], targets[1], width}}};
    }
    case Op::kMamba3ScanAt:
      return infer_scan_at(op, std::get<Mamba3ScanAttrs>(attributes), in, false);
    case Op::kMamba3ScanAtBwd:
      return infer_scan_at(op, std::get<Mamba3ScanAttrs>(attributes), in, true);
    case Op::kMamba2ScanAt:
      return infer_scan_at(op, std::get<Mamba2ScanAttrs>(attributes), in, false);
    case Op::kMamba2ScanAtBwd:
      return infer_scan_at(op, std::get<Mamba2ScanAttrs>(attributes), in, true);
    case Op::kHeadLoss: {
      expect_count(op, in, 5);
      const ValueType& h = operand(op, in, 0, "h");
      if (h.shape.rank() != 3) fail(op, "h must be (batch, seqlen, d), is " + h.shape.text());
      expect_head(op, std::get<HeadLossAttrs>(attributes), in, 1, h.shape);
      return {{DType::kReal, kScalar}, {DType::kReal, kScalar}, h, *in[1], *in[2]};
    }
    case Op::kOutProjLoss: {
      expect_count(op, in, 7);
      const ValueType &y = operand(op, in, 0, "y"), &x = operand(op, in, 2, "x");
      if (x.shape.rank() != 3) fail(op, "x must be (batch, seqlen, d), is " + x.shape.text());
      expect(op, in, 0, "y", {x.shape[0], 1, y.shape.last()});
      expect(op, in, 1, "out_proj", {x.shape.last(), y.shape.last()});
      expect_head(op, std::get<HeadLossAttrs>(attributes), in, 3, x.shape);
      return {{DType::kReal, kScalar}, {DType::kReal, kScalar}, y, *in[1], x, *in[3], *in[4]};
    }
    case Op::kScore: {
      const auto& a = std::get<ScoreAttrs>(attributes);
      expect_count(op, in, 4);
      const Shape& logits = operand(op, in, 0, "logits").shape;
      if (logits.rank() != 3 || a.classes < 1 || a.classes > logits.last())
        fail(op, "logits must be (batch, seqlen, >= " + std::to_string(a.classes) + "), is " +
                     logits.text());
      if (a.legal_begin < 0 || a.legal_begin >= a.legal_end || a.legal_end > logits.last())
        fail(op, "answers " + std::to_string(a.legal_begin) + ".." + std::to_string(a.legal_end) +
                     " exceed logits " + logits.text());
      expect(op, in, 1, "targets", {logits[0], logits[1]}, DType::kInt32);
      expect(op, in, 2, "pass", kScalar, DType::kInt32);
      expect(op, in, 3, "counts", {kScores + 3 * logits[1]}, DType::kFloat64);
      return {};
    }
    case Op::kGlobalNorm:
      if (in.empty()) fail(op, "takes at least one operand");
      return {{DType::kReal, kScalar}};
    case Op::kSchedule: {
      const auto& a = std::get<ScheduleAttrs>(attributes);
      expect_count(op, in, 2);
      expect(op, in, 0, "step", kScalar, DType::kInt32);
      expect(op, in, 1, "settings", {kSettings}, DType::kFloat64);
      if (a.begins.empty() || a.begins.size() != a.lengths.size())
        fail(op, "needs one length per stage");
      return {{DType::kFloat64, kScalar}};
    }
    case Op::kGuard:
      expect_count(op, in, 4);
      expect(op, in, 0, "loss", kScalar);
      expect(op, in, 1, "norm", kScalar);
      expect(op, in, 2, "step", kScalar, DType::kInt32);
      expect(op, in, 3, "diverged_at", kScalar, DType::kInt32);
      return {};
    case Op::kAdamW: {
      const auto& a = std::get<AdamWAttrs>(attributes);
      expect_count(op, in, 5 + 4 * a.decays.size());
      expect(op, in, 0, "norm", kScalar);
      expect(op, in, 1, "lr", kScalar, DType::kFloat64);
      expect(op, in, 2, "optimizer_step", kScalar, DType::kInt32);
      expect(op, in, 3, "settings", {kSettings}, DType::kFloat64);
      expect(op, in, 4, "diverged_at", kScalar, DType::kInt32);
      for (size_t i = 5; i < in.size(); i += 4) {
        const Shape& w = operand(op, in, i, "weight").shape;
        expect(op, in, i + 1, "exp_avg", w);
        expect(op, in, i + 2, "exp_avg_sq", w);
        expect(op, in, i + 3, "grad", w);
      }
      return {};
    }
    case Op::kMetrics:
      expect_count(op, in, 6);
      for (size_t i = 0; i < 3; ++i)
        expect(op, in, i, i == 0 ? "loss" : i == 1 ? "accuracy" : "norm", kScalar);
      expect(op, in, 3, "lr", kScalar, DType::kFloat64);
      expect(op, in, 4, "diverged_at", kScalar, DType::kInt32);
      expect(op, in, 5, "window", {kWindows}, DType::kFloat64);
      return {};
    case Op::kAdvance:
      expect_count(op, in, 2);
      expect(op, in, 0, "step", kScalar, DType::kInt32);
      expect(op, in, 1, "optimizer_step", kScalar, DType::kInt32);
      return {};
  }
  fail(op, "has no shape rule");
}

}  // namespace statelab
