// rms_norm: r = (mean x^2 + eps)^(-1/2), y = x r w;  dx = r (g w - x r mean(g w x) r) [+ addend], dw = sum g x r.
#include <cmath>

#include "kernels/cpu/eigen.h"
#include "kernels/cpu/kernels.h"
#include "kernels/fault.h"

namespace statelab::cpu {
namespace {

Partition row_blocks(int64_t rows) { return Partition::of(rows, 16, 128); }

int blocks_fwd(const CallShapes& c) { return row_blocks(c.in[0]->shape.rows()).parts; }
int blocks_bwd(const CallShapes& c) { return row_blocks(c.in[1]->shape.rows()).parts; }
int64_t workspace_bwd(const CallShapes& c) { return blocks_bwd(c) * padded(c.in[2]->shape.size()); }

template <class S>
S inverse_rms(const S* x, int n, double eps) {
  return S(1) / std::sqrt(row(x, n).square().sum() / S(n) + S(eps));
}

template <class S>
void run_fwd(const Call& call, int member, int block, S*) {
  const Shape& shape = *call.in[0].shape;
  const int n = shape.last();
  const double eps = call.attrs<RmsNormAttrs>().eps;
  const Partition part = row_blocks(shape.rows());
  const S* x = call.in[0].at<const S>(member);
  const auto w = row(call.in[1].at<const S>(member), n);
  S* y = call.out[0].at<S>(member);
  for (int64_t r = part.begin(block); r < part.end(block); ++r) {
    row(y + r * n, n) = row(x + r * n, n) * inverse_rms(x + r * n, n, eps) * w;
  }
}

template <class S>
void run_bwd(const Call& call, int member, int block, S*) {
  const Shape& shape = *call.in[1].shape;
  const int n = shape.last();
  const double eps = call.attrs<RmsNormAttrs>().eps;
  const Partition part = row_blocks(shape.rows());
  const S *dy = call.in[0].at<const S>(member), *x = call.in[1].at<const S>(member);
  const auto w = row(call.in[2].at<const S>(member), n);
  const S* addend = call.in.size() > 3 ? call.in[3].at<const S>(member) : nullptr;
  S* dx = call.out[0].at<S>(member);
  auto dw = row(call.workspace.at<S>(member) + block * padded(n), n);
  dw.setZero();
  for (int64_t r = part.begin(block); r < part.end(block); ++r) {
    const auto xr = row(x + r * n, n);
    const auto g = row(dy + r * n, n);
    const S inv = inverse_rms(x + r * n, n, eps);
    dw += g * xr * inv;
    S dot = (g * w * xr).sum() * inv / S(n);
    if (STATELAB_FAULT(rms_norm_mean_missing)) dot = S(0);
    row(dx + r * n, n) = inv * (g * w - xr * inv * dot);
    if (addend != nullptr) row(dx + r * n, n) += row(addend + r * n, n);
  }
}

template <class S>
void finish_bwd(const Call& call, int member) {
  const int n = call.in[1].shape->last();
  const int count = row_blocks(call.in[1].shape->rows()).parts;
  auto total = row(call.out[1].at<S>(member), n);
  total.setZero();
  for (int b = 0; b < count; ++b) total += row(call.workspace.at<S>(member) + b * padded(n), n);
}

}  // namespace

template <class S>
CpuKernel<S> rms_norm_kernel() {
  return {.blocks = blocks_fwd, .run = run_fwd<S>};
}
template <class S>
CpuKernel<S> rms_norm_bwd_kernel() {
  return {.blocks = blocks_bwd,
          .workspace_elements = workspace_bwd,
          .run = run_bwd<S>,
          .finish = finish_bwd<S>};
}
template CpuKernel<float> rms_norm_kernel();
template CpuKernel<double> rms_norm_kernel();
template CpuKernel<float> rms_norm_bwd_kernel();
template CpuKernel<double> rms_norm_bwd_kernel();

}  // namespace statelab::cpu
