// embedding: y[b, t] = weight[tokens[b, t]]; its gradient sums rows per symbol over fixed runs, then over the runs in order.
#include <cstring>

#include "kernels/cpu/eigen.h"
#include "kernels/cpu/kernels.h"

namespace statelab::cpu {
namespace {

Partition row_blocks(int64_t rows) { return Partition::of(rows, 16, 256); }

int blocks(const CallShapes& c) { return row_blocks(c.in[0]->shape.size()).parts; }

template <class S>
void run_fwd(const Call& call, int member, int block, S*) {
  const int d = call.in[1].shape->last();
  const Partition part = row_blocks(call.in[0].shape->size());
  const int32_t* tokens = call.in[0].at<const int32_t>(member);
  const S* w = call.in[1].at<const S>(member);
  S* y = call.out[0].at<S>(member);
  for (int64_t r = part.begin(block); r < part.end(block); ++r) {
    std::memcpy(y + r * d, w + int64_t(tokens[r]) * d, size_t(d) * sizeof(S));
  }
}

int64_t workspace_bwd(const CallShapes& c) { return blocks(c) * padded(c.out[0].shape.size()); }

template <class S>
void run_bwd(const Call& call, int member, int block, S*) {
  const Shape& w = *call.out[0].shape;
  const int d = w.last();
  const Partition part = row_blocks(call.in[0].shape->size());
  const int32_t* tokens = call.in[0].at<const int32_t>(member);
  const S* dy = call.in[1].at<const S>(member);
  S* partial = call.workspace.at<S>(member) + block * padded(w.size());
  std::fill(partial, partial + w.size(), S(0));
  for (int64_t r = part.begin(block); r < part.end(block); ++r)
    row(partial + int64_t(tokens[r]) * d, d) += row(dy + r * d, d);
}

template <class S>
void finish_bwd(const Call& call, int member) {
  const int64_t n = call.out[0].shape->size();
  const int count = row_blocks(call.in[0].shape->size()).parts;
  auto total = row(call.out[0].at<S>(member), n);
  total.setZero();
  for (int b = 0; b < count; ++b) total += row(call.workspace.at<S>(member) + b * padded(n), n);
}

}  // namespace

template <class S>
CpuKernel<S> embedding_kernel() {
  return {.blocks = blocks, .run = run_fwd<S>};
}
template <class S>
CpuKernel<S> embedding_bwd_kernel() {
  return {.blocks = blocks,
          .workspace_elements = workspace_bwd,
          .run = run_bwd<S>,
          .finish = finish_bwd<S>};
}
template CpuKernel<float> embedding_kernel();
template CpuKernel<double> embedding_kernel();
template CpuKernel<float> embedding_bwd_kernel();
template CpuKernel<double> embedding_bwd_kernel();

}  // namespace statelab::cpu
