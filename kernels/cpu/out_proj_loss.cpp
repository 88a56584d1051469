// out_proj_loss: select, linear, rms_norm, linear, cross_entropy and their gradients, sequence by sequence; equations are in those
// files. Gradients of the weights are summed over fixed runs of sequences, then over the runs in order.
#include <algorithm>

#include "kernels/cpu/head.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/position.h"
#include "kernels/cpu/scratch_arrays.h"

namespace statelab::cpu {
namespace {

enum In { kY, kOutProj, kX, kNorm, kHead, kTargets, kDloss };
enum Out { kLoss, kAccuracy, kDy, kDoutProj, kDx, kDnorm, kDhead };

Partition sequences(const Shape& targets) { return Partition::of(targets[0], 16, 16); }
int blocks(const CallShapes& c) { return sequences(c.in[kTargets]->shape).parts; }

int64_t part_elements(const Shape& out_proj, const Shape& head) {
  return kLossSumsReals + padded(out_proj.size()) + padded(head[1]) + padded(head.size());
}
int64_t workspace(const CallShapes& c) {
  return blocks(c) * part_elements(c.in[kOutProj]->shape, c.in[kHead]->shape);
}
int64_t scratch(const CallShapes& c) {
  const Shape& head = c.in[kHead]->shape;
  return head_scratch(head) + padded(head[1]);
}

/// Of one block: the sums of the loss, dout_proj, dnorm, dhead.
template <class S>
struct Part {
  LossSums* sums;
  S *dout_proj, *dnorm, *dhead;
  Part(const Call& call, int member, int block) {
    const Shape &out_proj = *call.in[kOutProj].shape, &head = *call.in[kHead].shape;
    ScratchArrays<S> part(call.workspace.at<S>(member) + block * part_elements(out_proj, head));
    sums = reinterpret_cast<LossSums*>(part.take(kLossSumsReals));
    dout_proj = part.take(out_proj.size());
    dnorm = part.take(head[1]);
    dhead = part.take(head.size());
  }
};

/// The target at a sequence's supervised position, negative where there is none.
struct Supervised {
  int at, target;
  Supervised(const int32_t* targets, int seqlen)
      : at(supervised_position(targets, seqlen)), target(targets[at]) {}
};

template <class S>
void run(const Call& call, int member, int block, S* scratch) {
  const Shape &shape = *call.in[kOutProj].shape, &targets = *call.in[kTargets].shape;
  const int n = shape[0], k = shape[1], seqlen = targets[1];
  const int32_t* of = call.in[kTargets].at<const int32_t>(member);
  int64_t supervised = 0;
  for (int64_t b = 0; b < targets[0]; ++b)
    supervised += Supervised(of + b * seqlen, seqlen).target >= 0;
  const Head<S> head(call, member, kNorm, supervised, scratch);
  auto h = row(scratch + head_scratch(*call.in[kHead].shape), n);
  const auto out_proj = matrix(call.in[kOutProj].at<const S>(member), n, k, k);
  const Part<S> part(call, member, block);
  LossSums sums;
  auto dout_proj = matrix(part.dout_proj, n, k, k);
  dout_proj.setZero();
  row(part.dnorm, n).setZero();
  row(part.dhead, call.in[kHead].shape->size()).setZero();
  const Partition runs = sequences(targets);
  for (int64_t b = runs.begin(block); b < runs.end(block); ++b) {
    const int64_t first = b * seqlen * n;
    S* const dx = call.out[kDx].at<S>(member) + first;
    auto dy = matrix(call.out[kDy].at<S>(member) + b * k, 1, k, k);
    row(dx, int64_t{seqlen} * n).setZero();
    dy.setZero();
    const Supervised label(of + b * seqlen, seqlen);
    if (label.target < 0) continue;
    const auto y = matrix(call.in[kY].at<const S>(member) + b * k, 1, k, k);
    matrix(h.data(), 1, n, n).noalias() = y * out_proj.transpose();
    h += row(call.in[kX].at<const S>(member) + first + label.at * n, n);
    S* const dh = dx + label.at * n;
    head.add_row(h.data(), label.target, sums, part.dnorm, part.dhead, dh);
    dy.noalias() = matrix(dh, 1, n, n) * out_proj;
    dout_proj.noalias() += matrix(dh, 1, n, n).transpose() * y;
  }
  *part.sums = sums;
}

template <class S>
void finish(const Call& call, int member) {
  auto total = [&](Out out) {
    auto all = row(call.out[out].at<S>(member), call.out[out].shape->size());
    all.setZero();
    return all;
  };
  auto dout_proj = total(kDoutProj), dnorm = total(kDnorm), dhead = total(kDhead);
  LossSums sums;
  for (int b = 0; b < sequences(*call.in[kTargets].shape).parts; ++b) {
    const Part<S> part(call, member, b);
    sums.loss += part.sums->loss;
    sums.correct += part.sums->correct;
    sums.count += part.sums->count;
    dout_proj += row(part.dout_proj, dout_proj.size());
    dnorm += row(part.dnorm, dnorm.size());
    dhead += row(part.dhead, dhead.size());
  }
  const double n = std::max(sums.count, 1.0);
  call.out[kLoss].at<S>(member)[0] = static_cast<S>(sums.loss / n);
  call.out[kAccuracy].at<S>(member)[0] = static_cast<S>(sums.correct / n);
}

}  // namespace

template <class S>
CpuKernel<S> out_proj_loss_kernel() {
  return {.blocks = blocks,
          .workspace_elements = workspace,
          .scratch_elements = scratch,
          .run = run<S>,
          .finish = finish<S>};
}
template CpuKernel<float> out_proj_loss_kernel();
template CpuKernel<double> out_proj_loss_kernel();

}  // namespace statelab::cpu
