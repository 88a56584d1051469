// Counter-based random numbers: Philox4x32-10, the same bits on host and device.
//
// There is no state. A draw is a pure function of a key and a counter, so any sample can be drawn alone, in any
// order, on any thread or device:
//   key     = (seed, stream)                     which experiment, and which of its disjoint uses of randomness
//   counter = (position, sample, step, draw)     which number
// All six words are 32 bits wide. Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include <Random123/philox.h>

#include <cstdint>

#ifdef __CUDACC__
#define STATELAB_HOST_DEVICE __host__ __device__
#else
#define STATELAB_HOST_DEVICE
#endif

namespace statelab {

/// Uses of randomness that must never overlap. Values are part of every drawn bit: append, never renumber.
enum class Stream : uint32_t {
  kTrain = 0,       ///< training samples
  kValidation = 1,  ///< samples that choose (select: best, stop_at)
  kTest = 2,        ///< samples that are only reported
  kInit = 3,        ///< initial weights: counter = (element, parameter, 0, draw)
  kVerify = 4,      ///< random systems of `statelab verify` and of the tests
  kSweep = 5,       ///< random sweeps
  kShow = 6,        ///< `statelab sample`
};

struct RngKey {
  uint32_t seed = 0;
  Stream stream = Stream::kTrain;
};

struct RngCounter {
  uint32_t position = 0;  ///< token position, tree node or element
  uint32_t sample = 0;
  uint32_t step = 0;
  uint32_t draw = 0;  ///< numbers the draws made at one position
};

struct RngBlock {
  uint32_t v[4];
};

/// 128 random bits for one counter value.
STATELAB_HOST_DEVICE inline RngBlock philox(RngKey key, RngCounter c) {
  const r123::Philox4x32::ctr_type ctr = {{c.position, c.sample, c.step, c.draw}};
  const r123::Philox4x32::key_type k = {{key.seed, static_cast<uint32_t>(key.stream)}};
  const auto r = r123::Philox4x32()(ctr, k);
  return {{r[0], r[1], r[2], r[3]}};
}

/// Integer in 0..n-1 by high multiply, without rejection: bias below n / 2^32. n >= 1.
STATELAB_HOST_DEVICE inline uint32_t bounded(uint32_t bits, uint32_t n) {
  return static_cast<uint32_t>((static_cast<uint64_t>(bits) * n) >> 32);
}

/// Uniform in (0, 1), 52 bits and a half: never 0, and never rounded up to 1.
STATELAB_HOST_DEVICE inline double uniform01(uint32_t hi, uint32_t lo) {
  const uint64_t bits = (static_cast<uint64_t>(hi) << 32 | lo) >> 12;
  return (static_cast<double>(bits) + 0.5) * (1.0 / 4503599627370496.0);
}

/// Two independent standard normal numbers from one block (Box-Muller). Host only: libm differs on devices.
void normal_pair(const RngBlock& block, double& first, double& second);

}  // namespace statelab
