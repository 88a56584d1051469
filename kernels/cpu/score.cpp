// score: what an evaluation counts, sequence by sequence in sample order, so the loss is one running sum in that order.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/kernels.h"

namespace statelab::cpu {
namespace {

template <class S>
double logsumexp(const S* l, int n) {
  double top = static_cast<double>(l[0]);
  for (int i = 1; i < n; ++i) top = std::max(top, static_cast<double>(l[i]));
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += std::exp(static_cast<double>(l[i]) - top);
  return top + std::log(sum);
}

/// Counts one sequence: logits (seqlen, width), targets (seqlen).
template <class S>
void count(const ScoreAttrs& a, const S* logits, const int32_t* targets, int seqlen, int width,
           double* counts) {
  double *total = counts + kScores, *correct = total + seqlen, *prefix = correct + seqlen;
  bool all_right = true, any = false;
  for (int t = 0; t < seqlen; ++t) {
    if (targets[t] < 0) continue;
    const S* l = logits + static_cast<int64_t>(t) * width;
    int best = a.legal_begin;
    for (int i = a.legal_begin + 1; i < a.legal_end; ++i) {
      if (l[i] > l[best]) best = i;
    }
    const bool right = best == targets[t];
    all_right = all_right && right;
    any = true;
    counts[kScoreTokens] += 1;
    counts[kScoreTokensCorrect] += right;
    counts[kScoreLoss] += logsumexp(l, a.classes) - static_cast<double>(l[targets[t]]);
    total[t] += 1;
    correct[t] += right;
    prefix[t] += all_right;
  }
  counts[kScoreSequences] += 1;
  counts[kScoreSequencesCorrect] += any && all_right;
}

int one_block(const CallShapes&) { return 1; }

template <class S>
void run(const Call& call, int member, int, S*) {
  const auto& a = call.attrs<ScoreAttrs>();
  const Shape& shape = *call.in[0].shape;
  const int batch = shape[0], seqlen = shape[1], width = shape[2];
  const S* logits = call.in[0].at<const S>(member);
  const int32_t* targets = call.in[1].at<const int32_t>(member);
  const int64_t first = int64_t{call.in[2].at<const int32_t>(member)[0]} * batch;
  double* counts = call.in[3].at<double>(member);
  for (int64_t b = 0; b < std::min<int64_t>(batch, a.samples - first); ++b)
    count(a, logits + b * seqlen * width, targets + b * seqlen, seqlen, width, counts);
}

}  // namespace

template <class S>
CpuKernel<S> score_kernel() {
  return {.blocks = one_block, .run = run<S>};
}
template CpuKernel<float> score_kernel();
template CpuKernel<double> score_kernel();

}  // namespace statelab::cpu
