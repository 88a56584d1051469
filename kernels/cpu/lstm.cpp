// lstm: (i, f, g, o) = proj_t + W h_{t-1} + b;  c_t = s(f) c_{t-1} + s(i) tanh(g);  h_t = s(o) tanh(c_t), s the sigmoid.
// Backwards, dc and dh carrying what later tokens ask for:
//   dh += dy_t;  dc += dh o (1 - tanh^2 c_t);  di = dc g i (1 - i);  df = dc c_{t-1} f (1 - f);  dg = dc i (1 - g^2);
//   do = dh tanh(c_t) o (1 - o);  dproj_t = (di, df, dg, do);  dc *= f;  dh = W^T dproj_t
//   dW = sum over sequences and t >= 1 of dproj_t h_{t-1}^T;  db = sum of dproj
// A block takes a run of sequences and walks their tokens; dW and db are summed by block, then over the blocks in order.
#include "kernels/cpu/eigen.h"
#include "kernels/cpu/kernels.h"
#include "kernels/fault.h"

namespace statelab::cpu {
namespace {

Partition sequence_blocks(const Shape& proj) { return Partition::of(proj[0], 16, 16); }

int blocks_fwd(const CallShapes& c) { return sequence_blocks(c.in[0]->shape).parts; }
int blocks_bwd(const CallShapes& c) { return sequence_blocks(c.in[1]->shape).parts; }

int64_t weight_elements(int64_t hidden) { return padded(4 * hidden * hidden); }
int64_t partial_elements(int64_t hidden) { return weight_elements(hidden) + padded(4 * hidden); }

int64_t workspace_bwd(const CallShapes& c) {
  return blocks_bwd(c) * partial_elements(c.attrs<LstmAttrs>().hidden);
}
/// dh and dc of the block's sequences.
int64_t scratch_bwd(const CallShapes& c) {
  return 2 * padded(sequence_blocks(c.in[1]->shape).size * c.attrs<LstmAttrs>().hidden);
}

/// Token t of a block's sequences: (sequences, columns), one sequence a row.
template <class P>
auto token(P* data, const Partition& part, int block, int seqlen, int columns, int t) {
  const int64_t first = part.begin(block), count = part.end(block) - first;
  return matrix(data + (first * seqlen + t) * columns, count, columns, int64_t(seqlen) * columns);
}

template <class S>
void run_fwd(const Call& call, int member, int block, S*) {
  const Shape& proj = *call.in[0].shape;
  const int H = call.attrs<LstmAttrs>().hidden, T = proj[1];
  const Partition part = sequence_blocks(proj);
  const S* x = call.in[0].at<const S>(member);
  const auto weight = matrix(call.in[1].at<const S>(member), 4 * H, H, H);
  const auto bias = row(call.in[2].at<const S>(member), 4 * H);
  S *y = call.out[0].at<S>(member), *gates = call.out[1].at<S>(member),
    *cells = call.out[2].at<S>(member);
  for (int t = 0; t < T; ++t) {
    auto a = token(gates, part, block, T, 4 * H, t);
    a = token(x, part, block, T, 4 * H, t);
    a.rowwise() += bias.matrix();
    if (t > 0) {
      a.noalias() += token(static_cast<const S*>(y), part, block, T, H, t - 1) * weight.transpose();
    }
    for (int64_t b = part.begin(block); b < part.end(block); ++b) {
      S* q = gates + (b * T + t) * 4 * H;
      auto input_forget = row(q, 2 * H), g = row(q + 2 * H, H), o = row(q + 3 * H, H);
      input_forget = (S(1) + (-input_forget).exp()).inverse();
      g = g.tanh();
      o = (S(1) + (-o).exp()).inverse();
      auto c = row(cells + (b * T + t) * H, H);
      c = row(q, H) * g;
      if (t > 0 && !STATELAB_FAULT(lstm_cell_forgotten))
        c += row(q + H, H) * row(cells + (b * T + t - 1) * H, H);
      row(y + (b * T + t) * H, H) = o * c.tanh();
    }
  }
}

template <class S>
void run_bwd(const Call& call, int member, int block, S* scratch) {
  const Shape& proj = *call.in[1].shape;
  const int H = call.attrs<LstmAttrs>().hidden, T = proj[1];
  const Partition part = sequence_blocks(proj);
  const int64_t first = part.begin(block), count = part.end(block) - first;
  const S* dy = call.in[0].at<const S>(member);
  const auto weight = matrix(call.in[2].at<const S>(member), 4 * H, H, H);
  const S *y = call.in[4].at<const S>(member), *gates = call.in[5].at<const S>(member),
          *cells = call.in[6].at<const S>(member);
  S* dproj = call.out[0].at<S>(member);
  S *later_h = scratch, *later_c = scratch + padded(part.size * H);
  auto dh_all = matrix(later_h, count, H, H);
  dh_all.setZero();
  row(later_c, count * H).setZero();
  for (int t = T - 1; t >= 0; --t) {
    for (int64_t b = 0; b < count; ++b) {
      const int64_t at = (first + b) * T + t;
      const S* q = gates + at * 4 * H;
      const auto i = row(q, H), f = row(q + H, H), g = row(q + 2 * H, H), o = row(q + 3 * H, H);
      const auto c = row(cells + at * H, H);
      auto dh = row(later_h + b * H, H), dc = row(later_c + b * H, H);
      S* d = dproj + at * 4 * H;
      dh += row(dy + at * H, H);
      row(d + 3 * H, H) = dh * c.tanh() * o * (S(1) - o);
      dc += dh * o * (S(1) - c.tanh().square());
      row(d, H) = dc * g * i * (S(1) - i);
      if (t > 0) {
        row(d + H, H) = dc * row(cells + (at - 1) * H, H) * f * (S(1) - f);
      } else {
        row(d + H, H).setZero();
      }
      row(d + 2 * H, H) = dc * i * (S(1) - g.square());
      if (!STATELAB_FAULT(lstm_cell_gradient_kept)) dc *= f;
    }
    if (t > 0) {
      dh_all.noalias() = token(static_cast<const S*>(dproj), part, block, T, 4 * H, t) * weight;
    }
  }
  S* partial = call.workspace.at<S>(member) + block * partial_elements(H);
  auto dweight = matrix(partial, 4 * H, H, H);
  auto dbias = row(partial + weight_elements(H), 4 * H);
  dweight.setZero();
  dbias.setZero();
  for (int64_t b = first; b < first + count; ++b) {
    const S* d = dproj + b * T * 4 * H;
    if (T > 1) {
      dweight.noalias() +=
          matrix(d + 4 * H, T - 1, 4 * H, 4 * H).transpose() * matrix(y + b * T * H, T - 1, H, H);
    }
    for (int t = 0; t < T; ++t) dbias += row(d + int64_t(t) * 4 * H, 4 * H);
  }
}

template <class S>
void finish_bwd(const Call& call, int member) {
  const int64_t H = call.attrs<LstmAttrs>().hidden;
  const int count = sequence_blocks(*call.in[1].shape).parts;
  const S* partial = call.workspace.at<const S>(member);
  auto dweight = row(call.out[1].at<S>(member), 4 * H * H);
  auto dbias = row(call.out[2].at<S>(member), 4 * H);
  dweight.setZero();
  dbias.setZero();
  for (int b = 0; b < count; ++b, partial += partial_elements(H)) {
    dweight += row(partial, 4 * H * H);
    dbias += row(partial + weight_elements(H), 4 * H);
  }
}

}  // namespace

template <class S>
CpuKernel<S> lstm_kernel() {
  return {.blocks = blocks_fwd, .run = run_fwd<S>};
}
template <class S>
CpuKernel<S> lstm_bwd_kernel() {
  return {.blocks = blocks_bwd,
          .workspace_elements = workspace_bwd,
          .scratch_elements = scratch_bwd,
          .run = run_bwd<S>,
          .finish = finish_bwd<S>};
}
template CpuKernel<float> lstm_kernel();
template CpuKernel<double> lstm_kernel();
template CpuKernel<float> lstm_bwd_kernel();
template CpuKernel<double> lstm_bwd_kernel();

}  // namespace statelab::cpu
