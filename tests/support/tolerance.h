// The error measure of every numeric test: max |a - b| / max |b|. NaN and infinities are errors, never agreement.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

namespace statelab::testing_support {

inline double relative_error(const std::vector<double>& actual,
                             const std::vector<double>& expected) {
  if (actual.size() != expected.size()) return std::numeric_limits<double>::infinity();
  double difference = 0, scale = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    if (!std::isfinite(actual[i]) || !std::isfinite(expected[i]))
      return std::numeric_limits<double>::infinity();
    difference = std::max(difference, std::abs(actual[i] - expected[i]));
    scale = std::max(scale, std::abs(expected[i]));
  }
  return scale > 0 ? difference / scale : difference;
}

}  // namespace statelab::testing_support
