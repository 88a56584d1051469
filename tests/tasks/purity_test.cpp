#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <thread>

#include "tests/tasks/every_task.h"

namespace statelab::testing {
namespace {

TEST(Draw, AnySampleAloneEqualsTheSampleInAnyOrder) {
  for (const Case& c : every_task()) {
    const auto task = make_task(c.config);
    std::vector<Sample> forward, backward(32);
    for (uint32_t i = 0; i < 32; ++i) {
      forward.push_back(draw_one(*task, {5, Stream::kTrain}, 9, i, c.lengths));
    }
    std::thread other([&] {  // a second instance, last sample first, on another thread
      const auto same = make_task(c.config);
      for (uint32_t i = 32; i-- > 0;) {
        backward[i] = draw_one(*same, {5, Stream::kTrain}, 9, i, c.lengths);
      }
    });
    other.join();
    for (uint32_t i = 0; i < 32; ++i) {
      ASSERT_EQ(forward[i].tokens, backward[i].tokens) << c.label << ", sample " << i;
      ASSERT_EQ(forward[i].targets, backward[i].targets) << c.label << ", sample " << i;
    }
  }
}

TEST(Draw, UnusedTailIsTokenZeroWithoutTarget) {
  for (const Case& c : every_task()) {
    const auto task = make_task(c.config);
    const auto width = static_cast<size_t>(task->seqlen(c.lengths.max)) + 5;
    for (uint32_t i = 0; i < 20; ++i) {
      std::vector<int32_t> tokens(width, -7), targets(width, -7);
      const SampleInfo info = task->draw({6, Stream::kTrain}, 0, i, c.lengths, tokens, targets);
      for (size_t t = 0; t < width; ++t) {
        if (t < size_t(info.tokens)) {
          ASSERT_GE(tokens[t], 0) << c.label;
          ASSERT_GE(targets[t], -1) << c.label;
        } else {
          ASSERT_EQ(tokens[t], 0) << c.label;
          ASSERT_EQ(targets[t], -1) << c.label;
        }
      }
    }
  }
}

TEST(Draw, StreamsSeedsAndStepsNeverShareASample) {
  const auto task = make_task(config_of("parity", "xlstm"));
  std::set<std::vector<int32_t>> seen;
  size_t drawn = 0;
  for (const Stream stream : {Stream::kTrain, Stream::kValidation, Stream::kTest, Stream::kShow}) {
    for (const uint32_t seed : {0u, 1u}) {
      for (const uint32_t step : {0u, 1u}) {
        for (uint32_t i = 0; i < 500; ++i, ++drawn) {
          seen.insert(draw_one(*task, {seed, stream}, step, i, {129, 129}).tokens);
        }
      }
    }
  }
  EXPECT_EQ(seen.size(), drawn);  // 128 fair bits each: a chance hit has probability 2^-103
}

TEST(Draw, SupervisionChangesTargetsOnly) {
  for (const Case& c : every_task()) {
    if (c.config.supervision != "last" || c.config.name == "modular_arithmetic_brackets") continue;
    TaskConfig dense = c.config;
    dense.supervision = "all";
    const Sample last = draw_one(*make_task(c.config), {5, Stream::kTrain}, 1, 2, c.lengths);
    const Sample all = draw_one(*make_task(dense), {5, Stream::kTrain}, 1, 2, c.lengths);
    EXPECT_EQ(last.tokens, all.tokens) << c.label;
    EXPECT_EQ(last.targets.back(), all.targets.back()) << c.label;
    EXPECT_EQ(std::count_if(last.targets.begin(), last.targets.end(), [](int t) { return t >= 0; }),
              1)
        << c.label;
  }
}

TEST(Draw, HasOneTargetWhereTheTaskSaysSo) {
  for (const Case& c : every_task()) {
    const auto task = make_task(c.config);
    EXPECT_EQ(task->one_target(), c.config.supervision == "last") << c.label;
    for (uint32_t sample = 0; sample < 50 && task->one_target(); ++sample) {
      const Sample s = draw_one(*task, {5, Stream::kTrain}, 1, sample, c.lengths);
      EXPECT_EQ(std::count_if(s.targets.begin(), s.targets.end(), [](int t) { return t >= 0; }), 1)
          << c.label;
    }
  }
}

TEST(Draw, PrefixesOfOneSampleAgreeAcrossLengths) {
  // Counters name the position, so a longer row begins like a shorter one.
  const auto task = make_task(config_of("cycle_navigation", "slice"));
  const Sample a = draw_one(*task, {5, Stream::kTest}, 0, 3, {20, 20});
  const Sample b = draw_one(*task, {5, Stream::kTest}, 0, 3, {300, 300});
  EXPECT_TRUE(std::equal(a.tokens.begin(), a.tokens.end(), b.tokens.begin()));
}

}  // namespace
}  // namespace statelab::testing
