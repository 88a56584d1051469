#include "tasks/expression_values.h"

#include "tasks/draw/expression.h"

namespace statelab {
namespace {

int apply(int op, int left, int right, int modulus) {
  const int64_t value = op == kTimes   ? static_cast<int64_t>(left) * right
                        : op == kMinus ? left - right
                                       : left + right;
  return positive_mod(value, modulus);
}

}  // namespace

std::vector<ValueDistribution> flat_values(int modulus, int operators, int max_tokens) {
  const auto m = static_cast<size_t>(modulus);
  // State (sum, term): the value is sum + term, and only `term` can still be multiplied.
  std::vector<double> state(m * m, 0.0);
  for (size_t digit = 0; digit < m; ++digit) state[digit] = 1.0 / modulus;
  std::vector<ValueDistribution> values;
  for (int t = 0; t < max_tokens; ++t) {
    if (t > 0 && t % 2 == 0) {
      std::vector<double> after(m * m, 0.0);
      for (int s = 0; s < modulus; ++s) {
        for (int c = 0; c < modulus; ++c) {
          const double share = state[static_cast<size_t>(s * modulus + c)] / (operators * modulus);
          for (int digit = 0; digit < modulus; ++digit) {
            for (int op = 0; op < operators; ++op) {
              const int sum = op == kTimes ? s : apply(kPlus, s, c, modulus);
              const int term = apply(op, op == kTimes ? c : 0, digit, modulus);
              after[static_cast<size_t>(sum * modulus + term)] += share;
            }
          }
        }
      }
      state = std::move(after);
    }
    ValueDistribution value(m, 0.0);
    for (int s = 0; s < modulus; ++s) {
      for (int c = 0; c < modulus; ++c) {
        value[static_cast<size_t>(apply(kPlus, s, c, modulus))] +=
            state[static_cast<size_t>(s * modulus + c)];
      }
    }
    values.push_back(std::move(value));
  }
  return values;
}

std::vector<ValueDistribution> bracketed_values(int modulus, int operators, int max_tokens) {
  const auto m = static_cast<size_t>(modulus);
  const ValueDistribution uniform(m, 1.0 / modulus);
  std::vector<ValueDistribution> values(static_cast<size_t>(max_tokens), uniform);
  if (operators < 3) return values;  // sums of uniform digits stay uniform
  for (int n = 5; n <= max_tokens; ++n) {
    ValueDistribution value(m, 0.0);
    for (int left = 1; left <= n - 4; ++left) {
      const ValueDistribution& p = values[static_cast<size_t>(left - 1)];
      const ValueDistribution& q = values[static_cast<size_t>(n - 3 - left - 1)];
      for (int a = 0; a < modulus; ++a) {
        for (int b = 0; b < modulus; ++b) {
          const double share = p[static_cast<size_t>(a)] * q[static_cast<size_t>(b)];
          for (int op = 0; op < operators; ++op) {
            value[static_cast<size_t>(apply(op, a, b, modulus))] += share;
          }
        }
      }
    }
    for (double& probability : value) probability /= static_cast<double>(operators) * (n - 4);
    values[static_cast<size_t>(n - 1)] = std::move(value);
  }
  return values;
}

}  // namespace statelab
