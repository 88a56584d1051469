// Philox and what is built on it.
#include "kernels/rng.h"

#include <gtest/gtest.h>

#include <cmath>

namespace statelab {
namespace {

TEST(Rng, MatchesThePublishedKnownAnswer) {
  const RngBlock zero = philox({0, static_cast<Stream>(0)}, {0, 0, 0, 0});
  EXPECT_EQ(zero.v[0], 0x6627e8d5u);
  EXPECT_EQ(zero.v[1], 0xe169c58du);
  EXPECT_EQ(zero.v[2], 0xbc57ac4cu);
  EXPECT_EQ(zero.v[3], 0x9b00dbd8u);
}

TEST(Rng, StreamsAndCountersDiffer) {
  const uint32_t a = philox({7, Stream::kTrain}, {1, 2, 3, 4}).v[0];
  EXPECT_NE(a, philox({7, Stream::kTest}, {1, 2, 3, 4}).v[0]);
  EXPECT_NE(a, philox({8, Stream::kTrain}, {1, 2, 3, 4}).v[0]);
  EXPECT_NE(a, philox({7, Stream::kTrain}, {2, 1, 3, 4}).v[0]);
}

TEST(Rng, BoundedCoversItsRangeEvenly) {
  int count[5] = {};
  for (uint32_t i = 0; i < 50000; ++i)
    ++count[bounded(philox({1, Stream::kVerify}, {i, 0, 0, 0}).v[0], 5)];
  for (int c : count) EXPECT_NEAR(c, 10000, 400);
  EXPECT_EQ(bounded(0xffffffffu, 5), 4u);
  EXPECT_EQ(bounded(0, 5), 0u);
}

TEST(Rng, Uniform01NeverReachesItsEnds) {
  EXPECT_GT(uniform01(0, 0), 0);
  EXPECT_LT(uniform01(0xffffffffu, 0xffffffffu), 1);
}

TEST(Rng, NormalPairHasUnitVariance) {
  double sum = 0, square = 0;
  for (uint32_t i = 0; i < 20000; ++i) {
    double a, b;
    normal_pair(philox({2, Stream::kVerify}, {i, 0, 0, 0}), a, b);
    sum += a + b;
    square += a * a + b * b;
  }
  EXPECT_NEAR(sum / 40000, 0, 0.02);
  EXPECT_NEAR(square / 40000, 1, 0.03);
}

}  // namespace
}  // namespace statelab
