// Compares a scalar loss's value and gradients with a golden summary.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "tests/golden/mixer_vectors.h"

namespace statelab::golden {

inline constexpr double kRelative = 1e-10;  ///< the vectors are printed to 12 digits

inline void expect_close(double actual, double expected, const std::string& what) {
  EXPECT_TRUE(std::abs(actual - expected) <= kRelative * std::abs(expected) + 1e-13)
      << what << ": " << actual << " should be " << expected;
}

template <class S>
S weighted_sum(const std::vector<S>& y) {
  S loss(0);
  for (std::size_t i = 0; i < y.size(); ++i) loss += S(loss_weight(i)) * y[i];
  return loss;
}

inline void expect_output(const std::vector<double>& y, const OutputSummary& golden) {
  ASSERT_GE(y.size(), 6u);
  expect_close(weighted_sum(y), golden.loss, "loss");
  expect_close(std::accumulate(y.begin(), y.end(), 0.0), golden.sum, "sum");
  for (std::size_t i = 0; i < 3; ++i) {
    expect_close(y[i], golden.first[i], "first outputs");
    expect_close(y[y.size() - 3 + i], golden.last[i], "last outputs");
  }
}

inline void expect_gradients(const std::vector<std::vector<double>>& gradients,
                             std::span<const GradientSummary> golden) {
  ASSERT_EQ(gradients.size(), golden.size());
  for (std::size_t i = 0; i < golden.size(); ++i) {
    const auto& g = gradients[i];
    const std::string name = golden[i].name;
    expect_close(std::accumulate(g.begin(), g.end(), 0.0), golden[i].sum,
                 "gradient sum of " + name);
    expect_close(std::sqrt(std::inner_product(g.begin(), g.end(), g.begin(), 0.0)), golden[i].norm,
                 "gradient norm of " + name);
    expect_close(g.at(0), golden[i].first, "first gradient of " + name);
  }
}

}  // namespace statelab::golden
