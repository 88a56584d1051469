// linear: y = x W^T [+ addend]; dx = dy W; dW = dy^T x, summed over fixed runs of rows, then over the runs in order. The last
// two also as one op.
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

/// One block of rows of dx.
template <class S>
void bwd_x(const Operand& dy, const Operand& weight, const Operand& dx, int member, int block) {
  const Shape& w = *weight.shape;
  const Partition part = row_blocks(dy.shape->rows());
  const int64_t begin = part.begin(block), rows = part.end(block) - begin;
  const int in = w[1], out = w[0];
  matrix(dx.at<S>(member) + begin * in, rows, in, in).noalias() =
      matrix(dy.at<const S>(member) + begin * out, rows, out, out) *
      matrix(weight.at<const S>(member), out, in, in);
}
template <class S>
void run_bwd_x(const Call& call, int member, int block, S*) {
  bwd_x<S>(call.in[0], call.in[1], call.out[0], member, block);
}

int blocks_bwd_w(const CallShapes& c) { return weight_blocks(c.in[0]->shape.rows()).parts; }
int64_t workspace_bwd_w(const CallShapes& c) {
  return blocks_bwd_w(c) * padded(c.out.back().shape.size());
}

/// One block's part of dW.
template <class S>
void bwd_w(const Operand& dy, const Operand& x, const Operand& parts, int member, int block) {
  const Partition part = weight_blocks(dy.shape->rows());
  const int64_t begin = part.begin(block), rows = part.end(block) - begin;
  const int in = x.shape->last(), out = dy.shape->last();
  matrix(parts.at<S>(member) + block * padded(int64_t(in) * out), out, in, in).noalias() =
      matrix(dy.at<const S>(member) + begin * out, rows, out, out).transpose() *
      matrix(x.at<const S>(member) + begin * in, rows, in, in);
}
template <class S>
void run_bwd_w(const Call& call, int member, int block, S*) {
  bwd_w<S>(call.in[0], call.in[1], call.workspace, member, block);
}

template <class S>
void finish_bwd_w(const Call& call, int member) {
  const Operand& dw = call.out.back();
  const int64_t n = dw.shape->size();
  const int count = weight_blocks(call.in[0].shape->rows()).parts;
  auto total = row(dw.at<S>(member), n);
  total.setZero();
  for (int b = 0; b < count; ++b) total += row(call.workspace.at<S>(member) + b * padded(n), n);
}

// Both: the blocks of dx, then those of dW.

int blocks_bwd(const CallShapes& c) { return blocks_rows(c) + blocks_bwd_w(c); }

template <class S>
void run_bwd(const Call& call, int member, int block, S*) {
  const Operand &dy = call.in[0], &weight = call.in[1], &x = call.in[2];
  const int first_w = row_blocks(dy.shape->rows()).parts;
  if (block < first_w) {
    bwd_x<S>(dy, weight, call.out[0], member, block);
  } else {
    bwd_w<S>(dy, x, call.workspace, member, block - first_w);
  }
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
template <class S>
CpuKernel<S> linear_bwd_kernel() {
  return {.blocks = blocks_bwd,
          .workspace_elements = workspace_bwd_w,
          .run = run_bwd<S>,
          .finish = finish_bwd_w<S>};
}
template CpuKernel<float> linear_kernel();
template CpuKernel<double> linear_kernel();
template CpuKernel<float> linear_bwd_x_kernel();
template CpuKernel<double> linear_bwd_x_kernel();
template CpuKernel<float> linear_bwd_w_kernel();
template CpuKernel<double> linear_bwd_w_kernel();
template CpuKernel<float> linear_bwd_kernel();
template CpuKernel<double> linear_bwd_kernel();

}  // namespace statelab::cpu
