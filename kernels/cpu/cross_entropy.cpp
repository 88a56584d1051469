// cross_entropy: mean over supervised positions of logsumexp(logits) - logits[target]; dlogits = (softmax - onehot) / count.
// Sums over positions run in double, block by block, in order.
#include <cmath>

#include "kernels/cpu/eigen.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/loss.h"
#include "kernels/fault.h"

namespace statelab::cpu {
namespace {

Partition row_blocks(int64_t rows) { return Partition::of(rows, 16, 256); }

int blocks_fwd(const CallShapes& c) { return row_blocks(c.in[1]->shape.size()).parts; }
int64_t workspace_fwd(const CallShapes& c) { return blocks_fwd(c) * kLossSumsReals; }

template <class S>
LossSums* partial(const Call& call, int member, int block) {
  return reinterpret_cast<LossSums*>(call.workspace.at<S>(member) + block * kLossSumsReals);
}

template <class S>
void run_fwd(const Call& call, int member, int block, S*) {
  const int width = call.in[0].shape->last(), classes = call.attrs<CrossEntropyAttrs>().classes;
  const Partition part = row_blocks(call.in[1].shape->size());
  const S* logits = call.in[0].at<const S>(member);
  const int32_t* targets = call.in[1].at<const int32_t>(member);
  LossSums sum{0, 0, 0};
  for (int64_t r = part.begin(block); r < part.end(block); ++r) {
    if (targets[r] < 0) continue;
    const S* l = logits + r * width;
    sum.loss += logsumexp(l, classes) - static_cast<double>(l[targets[r]]);
    sum.correct += argmax(l, classes) == targets[r] ? 1 : 0;
    sum.count += 1;
  }
  *partial<S>(call, member, block) = sum;
}

template <class S>
void finish_fwd(const Call& call, int member) {
  const int count = row_blocks(call.in[1].shape->size()).parts;
  LossSums sum{0, 0, 0};
  for (int b = 0; b < count; ++b) {
    const LossSums& p = *partial<S>(call, member, b);
    sum.loss += p.loss;
    sum.correct += p.correct;
    sum.count += p.count;
  }
  const double n = std::max(sum.count, 1.0);
  call.out[0].at<S>(member)[0] = static_cast<S>(sum.loss / n);
  call.out[1].at<S>(member)[0] = static_cast<S>(sum.correct / n);
}

int blocks_bwd(const CallShapes& c) { return row_blocks(c.in[2]->shape.size()).parts; }

template <class S>
void run_bwd(const Call& call, int member, int block, S*) {
  const int width = call.in[1].shape->last(), classes = call.attrs<CrossEntropyAttrs>().classes;
  const int64_t rows = call.in[2].shape->size();
  const Partition part = row_blocks(rows);
  const S* logits = call.in[1].at<const S>(member);
  const int32_t* targets = call.in[2].at<const int32_t>(member);
  S* dlogits = call.out[0].at<S>(member);
  int64_t supervised = 0;
  for (int64_t r = 0; r < rows; ++r) supervised += targets[r] >= 0;
  if (STATELAB_FAULT(loss_mean_over_all_positions)) supervised = rows;
  const double scale = static_cast<double>(call.in[0].at<const S>(member)[0]) /
                       static_cast<double>(std::max<int64_t>(supervised, 1));
  for (int64_t r = part.begin(block); r < part.end(block); ++r) {
    S* d = dlogits + r * width;
    for (int i = 0; i < width; ++i) d[i] = S(0);
    if (targets[r] < 0) continue;
    const S* l = logits + r * width;
    const double lse = logsumexp(l, classes);
    for (int i = 0; i < classes; ++i) {
      d[i] = static_cast<S>(
          scale * (std::exp(static_cast<double>(l[i]) - lse) - (i == targets[r] ? 1.0 : 0.0)));
    }
  }
}

}  // namespace

template <class S>
CpuKernel<S> cross_entropy_kernel() {
  return {.blocks = blocks_fwd,
          .workspace_elements = workspace_fwd,
          .run = run_fwd<S>,
          .finish = finish_fwd<S>};
}
template <class S>
CpuKernel<S> cross_entropy_bwd_kernel() {
  return {.blocks = blocks_bwd, .run = run_bwd<S>};
}
template CpuKernel<float> cross_entropy_kernel();
template CpuKernel<double> cross_entropy_kernel();
template CpuKernel<float> cross_entropy_bwd_kernel();
template CpuKernel<double> cross_entropy_bwd_kernel();

}  // namespace statelab::cpu
