// linear: y = x W^T [+ addend]; dx = dy W; dW = dy^T x, summed over fixed runs of rows, then over the runs in order.
#include "kernels/cpu/eigen.h"
#include "kernels/cpu/kernels.h"

namespace statelab::cpu {
namespace {

Partition row_blocks(int64_t rows) {
  return Partition::of(rows, 1 << 20, 256);
}  // runs of 256 rows
Partition weight_blocks(int64_t rows) { return Partition::of(rows, 16, 64); }

int blocks_rows(const CallShapes& c) { return row_blocks(c.in[0]->shape.rows()).parts; }

template <class S>
void run_fwd(const Call& call, int member, int block, S*) {
  const Shape &x = *call.in[0].shape, &w = *call.in[1].shape;
  const Partition part = row_blocks(x.rows());
  const int64_t begin = part.begin(block), rows = part.end(block) - begin;
  const int in = w[1], out = w[0];
  auto y = matrix(call.out[0].at<S>(member) + begin * out, rows, out, out);
  y.noalias() = matrix(call.in[0].at<const S>(member) + begin * in, rows, in, in) *
                matrix(call.in[1].at<const S>(member), out, in, in).transpose();
  if (const S* addend = call.in.size() > 2 ? call.in[2].at<const S>(member) : nullptr)
    y += matrix(addend + begin * out, rows, out, out);
}

template <class S>
void run_bwd_x(const Call& call, int member, int block, S*) {
  const Shape &dy = *call.in[0].shape, &w = *call.in[1].shape;
  const Partition part = row_blocks(dy.rows());
  const int64_t begin = part.begin(block), rows = part.end(block) - begin;
  const int in = w[1], out = w[0];
  matrix(call.out[0].at<S>(member) + begin * in, rows, in, in).noalias() =
      matrix(call.in[0].at<const S>(member) + begin * out, rows, out, out) *
      matrix(call.in[1].at<const S>(member), out, in, in);
}

int blocks_bwd_w(const CallShapes& c) { return weight_blocks(c.in[0]->shape.rows()).parts; }
int64_t workspace_bwd_w(const CallShapes& c) {
  return blocks_bwd_w(c) * padded(c.out[0].shape.size());
}

template <class S>
void run_bwd_w(const Call& call, int member, int block, S*) {
  const Shape &dy = *call.in[0].shape, &x = *call.in[1].shape;
  const Partition part = weight_blocks(dy.rows());
  const int64_t begin = part.begin(block), rows = part.end(block) - begin;
  const int in = x.last(), out = dy.last();
  matrix(call.workspace.at<S>(member) + block * padded(int64_t(in) * out), out, in, in).noalias() =
      matrix(call.in[0].at<const S>(member) + begin * out, rows, out, out).transpose() *
      matrix(call.in[1].at<const S>(member) + begin * in, rows, in, in);
}

template <class S>
void finish_bwd_w(const Call& call, int member) {
  const int64_t n = call.out[0].shape->size();
  const int count = weight_blocks(call.in[0].shape->rows()).parts;
  auto total = row(call.out[0].at<S>(member), n);
  total.setZero();
  for (int b = 0; b < count; ++b) total += row(call.workspace.at<S>(member) + b * padded(n), n);
}

}  // namespace

template <class S>
CpuKernel<S> linear_kernel() {
  return {.blocks = blocks_rows, .run = run_fwd<S>};
}
template <class S>
CpuKernel<S> linear_bwd_x_kernel() {
  return {.blocks = blocks_rows, .run = run_bwd_x<S>};
}
template <class S>
CpuKernel<S> linear_bwd_w_kernel() {
  return {.blocks = blocks_bwd_w,
          .workspace_elements = workspace_bwd_w,
          .run = run_bwd_w<S>,
          .finish = finish_bwd_w<S>};
}
template CpuKernel<float> linear_kernel();
template CpuKernel<double> linear_kernel();
template CpuKernel<float> linear_bwd_x_kernel();
template CpuKernel<double> linear_bwd_x_kernel();
template CpuKernel<float> linear_bwd_w_kernel();
template CpuKernel<double> linear_bwd_w_kernel();

}  // namespace statelab::cpu
