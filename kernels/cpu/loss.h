// What the losses share: the answer and the normaliser of a row of logits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace statelab::cpu {

/// Sums over supervised rows.
struct LossSums {
  double loss = 0, correct = 0, count = 0;
};
/// Of a workspace, for LossSums whatever its scalar: a multiple of padded()'s step.
inline constexpr int64_t kLossSumsReals = 16;
static_assert(sizeof(LossSums) <= kLossSumsReals * sizeof(float));

/// First position of the largest of n logits; NaN never wins over a number.
template <class S>
int argmax(const S* logits, int n) {
  int best = 0;
  for (int i = 1; i < n; ++i) {
    if (logits[i] > logits[best]) best = i;
  }
  return best;
}

template <class S>
double logsumexp(const S* logits, int n) {
  double top = static_cast<double>(logits[0]);
  for (int i = 1; i < n; ++i) top = std::max(top, static_cast<double>(logits[i]));
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += std::exp(static_cast<double>(logits[i]) - top);
  return top + std::log(sum);
}

}  // namespace statelab::cpu
