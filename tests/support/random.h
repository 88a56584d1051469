// Random numbers for tests, keyed by a text (usually the test's name), so that a failure can be repeated.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/rng.h"

namespace statelab::testing_support {

inline uint32_t seed_of(const std::string& text) {
  uint32_t h = 2166136261u;
  for (char c : text) h = (h ^ static_cast<unsigned char>(c)) * 16777619u;
  return h;
}

/// n numbers uniform in (low, high).
inline std::vector<double> uniform(const std::string& text, size_t n, double low = -1,
                                   double high = 1) {
  std::vector<double> out(n);
  const RngKey key{seed_of(text), Stream::kVerify};
  for (size_t i = 0; i < n; ++i) {
    const RngBlock b = philox(key, {static_cast<uint32_t>(i), 0, 0, 0});
    out[i] = low + (high - low) * uniform01(b.v[0], b.v[1]);
  }
  return out;
}

inline std::vector<int32_t> integers(const std::string& text, size_t n, uint32_t bound) {
  std::vector<int32_t> out(n);
  const RngKey key{seed_of(text), Stream::kVerify};
  for (size_t i = 0; i < n; ++i)
    out[i] =
        static_cast<int32_t>(bounded(philox(key, {static_cast<uint32_t>(i), 1, 0, 0}).v[0], bound));
  return out;
}

}  // namespace statelab::testing_support
