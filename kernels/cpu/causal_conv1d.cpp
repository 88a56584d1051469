// causal_conv1d: pre[t] = [b] + sum_j w[j] x[t - W + 1 + j] per channel, y = SiLU(pre); other channels pass unchanged.
#include <cmath>
#include <cstring>

#include "kernels/cpu/eigen.h"
#include "kernels/cpu/kernels.h"
#include "kernels/fault.h"

namespace statelab::cpu {
namespace {

using Attrs = CausalConv1dAttrs;

Partition partition(int batch) { return Partition::of(batch, 32, 1); }

/// weight (C, 1, W) as (W, C), so that a tap is a row.
template <class S>
void transpose_taps(const S* weight, int channels, int width, S* taps) {
  for (int c = 0; c < channels; ++c) {
    for (int j = 0; j < width; ++j)
      taps[int64_t(j) * padded(channels) + c] = weight[int64_t(c) * width + j];
  }
}

/// Pre-activation of one token into `pre` (C); bias may be null.
template <class S>
void convolve(const Attrs& a, const S* x_b, int width_x, int t, const S* taps, const S* bias,
              S* pre) {
  auto p = row(pre, a.channels);
  if (bias != nullptr) {
    p = row(bias, a.channels);
  } else {
    p.setZero();
  }
  for (int j = 0; j < a.width; ++j) {
    const int u = t - a.width + 1 + j + (STATELAB_FAULT(conv_looks_ahead) ? 1 : 0);
    if (u >= 0 && u <= t)
      p += row(taps + int64_t(j) * padded(a.channels), a.channels) *
           row(x_b + int64_t(u) * width_x + a.begin, a.channels);
  }
}

int blocks_fwd(const CallShapes& c) { return partition(c.in[0]->shape[0]).parts; }
int64_t scratch_fwd(const CallShapes& c) {
  const auto& a = c.attrs<Attrs>();
  return (a.width + 1) * padded(a.channels);
}

template <class S>
void run_fwd(const Call& call, int member, int block, S* scratch) {
  const auto& a = call.attrs<Attrs>();
  const Shape& shape = *call.in[0].shape;
  const int T = shape[1], W = shape[2];
  const S* x = call.in[0].at<const S>(member);
  const S* bias = call.in[2].at<const S>(member);
  S* y = call.out[0].at<S>(member);
  S *taps = scratch, *pre = scratch + a.width * padded(a.channels);
  transpose_taps(call.in[1].at<const S>(member), a.channels, a.width, taps);
  const Partition part = partition(shape[0]);
  for (int64_t b = part.begin(block); b < part.end(block); ++b) {
    for (int t = 0; t < T; ++t) {
      const int64_t at = (b * T + t) * W;
      std::memcpy(y + at, x + at, size_t(W) * sizeof(S));
      convolve(a, x + b * T * W, W, t, taps, bias, pre);
      const auto p = row(pre, a.channels);
      row(y + at + a.begin, a.channels) = p / (S(1) + (-p).exp());
    }
  }
}

int blocks_bwd(const CallShapes& c) { return partition(c.in[1]->shape[0]).parts; }
int64_t partial_elements(const Attrs& a) { return (a.width + 1) * padded(a.channels); }
int64_t workspace_bwd(const CallShapes& c) {
  return blocks_bwd(c) * partial_elements(c.attrs<Attrs>());
}
int64_t scratch_bwd(const CallShapes& c) {
  const auto& a = c.attrs<Attrs>();
  return (a.width + 1) * padded(a.channels) + c.in[1]->shape[1] * padded(a.channels);
}

template <class S>
void run_bwd(const Call& call, int member, int block, S* scratch) {
  const auto& a = call.attrs<Attrs>();
  const Shape& shape = *call.in[1].shape;
  const int T = shape[1], W = shape[2], C = a.channels;
  const int64_t C16 = padded(C);
  const S *dy = call.in[0].at<const S>(member), *x = call.in[1].at<const S>(member),
          *bias = call.in[3].at<const S>(member);
  S* dx = call.out[0].at<S>(member);
  S *taps = scratch, *pre = scratch + a.width * C16, *dpre = pre + C16;
  S* partial =
      call.workspace.at<S>(member) + block * partial_elements(a);  // taps (W, C), then bias (C)
  std::fill(partial, partial + partial_elements(a), S(0));
  transpose_taps(call.in[2].at<const S>(member), C, a.width, taps);
  const Partition part = partition(shape[0]);
  for (int64_t b = part.begin(block); b < part.end(block); ++b) {
    const S* x_b = x + b * T * W;
    for (int t = 0; t < T; ++t) {
      convolve(a, x_b, W, t, taps, bias, pre);
      const auto p = row(pre, C);
      auto d = row(dpre + t * C16, C);
      d = S(1) / (S(1) + (-p).exp());
      d = row(dy + (b * T + t) * W + a.begin, C) * d * (S(1) + p * (S(1) - d));
      for (int j = 0; j < a.width; ++j) {
        const int u = t - a.width + 1 + j;
        if (u >= 0) row(partial + j * C16, C) += d * row(x_b + int64_t(u) * W + a.begin, C);
      }
      row(partial + a.width * C16, C) += d;
    }
    for (int t = 0; t < T; ++t) {
      const int64_t at = (b * T + t) * W;
      std::memcpy(dx + at, dy + at, size_t(W) * sizeof(S));
      auto d = row(dx + at + a.begin, C);
      d.setZero();
      for (int j = 0; j < a.width; ++j) {
        const int u = t + a.width - 1 - j;
        if (u < T) d += row(taps + j * C16, C) * row(dpre + u * C16, C);
      }
    }
  }
}

template <class S>
void finish_bwd(const Call& call, int member) {
  const auto& a = call.attrs<Attrs>();
  const int count = partition((*call.in[1].shape)[0]).parts;
  S *dweight = call.out[1].at<S>(member), *dbias = call.out[2].at<S>(member);
  std::fill(dweight, dweight + int64_t(a.channels) * a.width, S(0));
  std::fill(dbias, dbias + a.channels, S(0));
  for (int b = 0; b < count; ++b) {
    const S* p = call.workspace.at<S>(member) + b * partial_elements(a);
    for (int c = 0; c < a.channels; ++c) {
      for (int j = 0; j < a.width; ++j)
        dweight[int64_t(c) * a.width + j] += p[j * padded(a.channels) + c];
      dbias[c] += p[a.width * padded(a.channels) + c];
    }
  }
}

}  // namespace

template <class S>
CpuKernel<S> causal_conv1d_kernel() {
  return {.blocks = blocks_fwd, .scratch_elements = scratch_fwd, .run = run_fwd<S>};
}
template <class S>
CpuKernel<S> causal_conv1d_bwd_kernel() {
  return {blocks_bwd, workspace_bwd, scratch_bwd, run_bwd<S>, finish_bwd<S>};
}
template CpuKernel<float> causal_conv1d_kernel();
template CpuKernel<double> causal_conv1d_kernel();
template CpuKernel<float> causal_conv1d_bwd_kernel();
template CpuKernel<double> causal_conv1d_bwd_kernel();

}  // namespace statelab::cpu
