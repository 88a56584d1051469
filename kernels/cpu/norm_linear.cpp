// norm_linear: y = rms_norm(x) W^T; norm_linear_bwd: du = dy W, dW = dy^T rms_norm(x). The norm of a run of rows at a time; dW as
// linear_bwd sums it.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/eigen.h"
#include "kernels/cpu/kernels.h"

namespace statelab::cpu {
namespace {

constexpr int64_t kRun = 256;  // rows that are normed at once

Partition row_blocks(int64_t rows) { return Partition::of(rows, 1 << 20, kRun); }
Partition weight_blocks(int64_t rows) { return Partition::of(rows, 16, 64); }

/// Rows begin .. of x, normed; as rms_norm has it.
template <class S>
void norm_rows(const Operand& x, const Operand& norm, double eps, int member, int64_t begin,
               int64_t rows, S* u) {
  const int n = x.shape->last();
  const auto w = row(norm.at<const S>(member), n);
  for (int64_t r = 0; r < rows; ++r) {
    const auto from = row(x.at<const S>(member) + (begin + r) * n, n);
    row(u + r * n, n) = from * (S(1) / std::sqrt(from.square().sum() / S(n) + S(eps))) * w;
  }
}

int blocks_fwd(const CallShapes& c) { return row_blocks(c.in[0]->shape.rows()).parts; }
int64_t scratch_fwd(const CallShapes& c) { return kRun * c.in[0]->shape.last(); }

template <class S>
void run_fwd(const Call& call, int member, int block, S* u) {
  const Shape &x = *call.in[0].shape, &w = *call.in[2].shape;
  const Partition part = row_blocks(x.rows());
  const int64_t begin = part.begin(block), rows = part.end(block) - begin;
  norm_rows(call.in[0], call.in[1], call.attrs<RmsNormAttrs>().eps, member, begin, rows, u);
  matrix(call.out[0].at<S>(member) + begin * w[0], rows, w[0], w[0]).noalias() =
      matrix(u, rows, w[1], w[1]) *
      matrix(call.in[2].at<const S>(member), w[0], w[1], w[1]).transpose();
}

int blocks_of_rows(const CallShapes& c) { return row_blocks(c.in[0]->shape.rows()).parts; }
int blocks_of_weight(const CallShapes& c) { return weight_blocks(c.in[0]->shape.rows()).parts; }
int blocks_bwd(const CallShapes& c) { return blocks_of_rows(c) + blocks_of_weight(c); }
int64_t workspace_bwd(const CallShapes& c) {
  return blocks_of_weight(c) * padded(c.in[1]->shape.size());
}
int64_t scratch_bwd(const CallShapes& c) { return kRun * c.in[2]->shape.last(); }

/// The blocks of du, then those of dW.
template <class S>
void run_bwd(const Call& call, int member, int block, S* u) {
  const Operand &dy = call.in[0], &weight = call.in[1], &x = call.in[2];
  const int out = (*weight.shape)[0], in = (*weight.shape)[1];
  const Partition of_rows = row_blocks(dy.shape->rows());
  if (block < of_rows.parts) {
    const int64_t begin = of_rows.begin(block), rows = of_rows.end(block) - begin;
    matrix(call.out[0].at<S>(member) + begin * in, rows, in, in).noalias() =
        matrix(dy.at<const S>(member) + begin * out, rows, out, out) *
        matrix(weight.at<const S>(member), out, in, in);
    return;
  }
  block -= of_rows.parts;
  const Partition part = weight_blocks(dy.shape->rows());
  auto dw = matrix(call.workspace.at<S>(member) + block * padded(int64_t(in) * out), out, in, in);
  dw.setZero();
  for (int64_t begin = part.begin(block); begin < part.end(block); begin += kRun) {
    const int64_t rows = std::min(kRun, part.end(block) - begin);
    norm_rows(x, call.in[3], call.attrs<RmsNormAttrs>().eps, member, begin, rows, u);
    dw.noalias() += matrix(dy.at<const S>(member) + begin * out, rows, out, out).transpose() *
                    matrix(static_cast<const S*>(u), rows, in, in);
  }
}

template <class S>
void finish_bwd(const Call& call, int member) {
  const int64_t n = call.out[1].shape->size();
  auto total = row(call.out[1].at<S>(member), n);
  total.setZero();
  const int count = weight_blocks(call.in[0].shape->rows()).parts;
  for (int b = 0; b < count; ++b) total += row(call.workspace.at<S>(member) + b * padded(n), n);
}

}  // namespace

template <class S>
CpuKernel<S> norm_linear_kernel() {
  return {.blocks = blocks_fwd, .scratch_elements = scratch_fwd, .run = run_fwd<S>};
}
template <class S>
CpuKernel<S> norm_linear_bwd_kernel() {
  return {.blocks = blocks_bwd,
          .workspace_elements = workspace_bwd,
          .scratch_elements = scratch_bwd,
          .run = run_bwd<S>,
          .finish = finish_bwd<S>};
}
template CpuKernel<float> norm_linear_kernel();
template CpuKernel<double> norm_linear_kernel();
template CpuKernel<float> norm_linear_bwd_kernel();
template CpuKernel<double> norm_linear_bwd_kernel();

}  // namespace statelab::cpu
