// head_loss: rms_norm, linear, cross_entropy and their gradients, row by row; equations are in those files. Gradients of the
// weights are summed over fixed runs of rows, then over the runs in order.
#include <algorithm>

#include "kernels/cpu/head.h"
#include "kernels/cpu/kernels.h"

namespace statelab::cpu {
namespace {

enum In { kH, kNorm, kHead, kTargets, kDloss };
enum Out { kLoss, kAccuracy, kDh, kDnorm, kDhead };

Partition row_blocks(int64_t rows) { return Partition::of(rows, 16, 128); }
int blocks(const CallShapes& c) { return row_blocks(c.in[kTargets]->shape.size()).parts; }

/// Of one block: the sums of the loss, dnorm, dhead.
int64_t part_elements(const Shape& head) {
  return kLossSumsReals + padded(head[1]) + padded(head.size());
}
int64_t workspace(const CallShapes& c) { return blocks(c) * part_elements(c.in[kHead]->shape); }
int64_t scratch(const CallShapes& c) { return head_scratch(c.in[kHead]->shape); }

template <class S>
struct Part {
  LossSums* sums;
  S *dnorm, *dhead;
  Part(const Call& call, int member, int block) {
    const Shape& head = *call.in[kHead].shape;
    S* const at = call.workspace.at<S>(member) + block * part_elements(head);
    sums = reinterpret_cast<LossSums*>(at);
    dnorm = at + kLossSumsReals;
    dhead = dnorm + padded(head[1]);
  }
};

template <class S>
void run(const Call& call, int member, int block, S* scratch) {
  const Shape& shape = *call.in[kHead].shape;
  const int n = shape[1];
  const int32_t* targets = call.in[kTargets].at<const int32_t>(member);
  const int64_t rows = call.in[kTargets].shape->size();
  int64_t supervised = 0;
  for (int64_t r = 0; r < rows; ++r) supervised += targets[r] >= 0;
  const Head<S> head(call, member, kNorm, supervised, scratch);
  const Part<S> part(call, member, block);
  LossSums sums;
  row(part.dnorm, n).setZero();
  row(part.dhead, shape.size()).setZero();
  const Partition runs = row_blocks(rows);
  for (int64_t r = runs.begin(block); r < runs.end(block); ++r) {
    auto dh = row(call.out[kDh].at<S>(member) + r * n, n);
    if (targets[r] < 0) {
      dh.setZero();
      continue;
    }
    head.add_row(call.in[kH].at<const S>(member) + r * n, targets[r], sums, part.dnorm, part.dhead,
                 dh.data());
  }
  *part.sums = sums;
}

template <class S>
void finish(const Call& call, int member) {
  const Shape& head = *call.in[kHead].shape;
  const int count = row_blocks(call.in[kTargets].shape->size()).parts;
  auto dnorm = row(call.out[kDnorm].at<S>(member), head[1]),
       dhead = row(call.out[kDhead].at<S>(member), head.size());
  dnorm.setZero();
  dhead.setZero();
  LossSums sums;
  for (int b = 0; b < count; ++b) {
    const Part<S> part(call, member, b);
    sums.loss += part.sums->loss;
    sums.correct += part.sums->correct;
    sums.count += part.sums->count;
    dnorm += row(part.dnorm, head[1]);
    dhead += row(part.dhead, head.size());
  }
  const double n = std::max(sums.count, 1.0);
  call.out[kLoss].at<S>(member)[0] = static_cast<S>(sums.loss / n);
  call.out[kAccuracy].at<S>(member)[0] = static_cast<S>(sums.correct / n);
}

}  // namespace

template <class S>
CpuKernel<S> head_loss_kernel() {
  return {.blocks = blocks,
          .workspace_elements = workspace,
          .scratch_elements = scratch,
          .run = run<S>,
          .finish = finish<S>};
}
template CpuKernel<float> head_loss_kernel();
template CpuKernel<double> head_loss_kernel();

}  // namespace statelab::cpu
