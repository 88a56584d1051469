#include "tests/tasks/oracle.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/tasks/every_task.h"

namespace statelab::testing {
namespace {

TEST(EveryTask, AnswersAreThoseOfTheOracle) {
  for (const Case& c : every_task()) {
    SCOPED_TRACE(c.label);
    const auto task = make_task(c.config);
    task->check_lengths(c.lengths);
    for (uint32_t i = 0; i < 300; ++i) {
      const Sample sample = draw_one(*task, {7, Stream::kTest}, i / 16, i, c.lengths);
      SCOPED_TRACE(c.label + ", sample " + std::to_string(i) + ": " +
                   task->render(sample.tokens, sample.targets));
      ASSERT_EQ(sample.targets, oracle_targets(c.config, sample.tokens));
      for (const int32_t token : sample.tokens) {
        ASSERT_GE(token, 0);
        ASSERT_LT(token, task->vocab_size());
      }
      if (task->legal_end() > 0 && !c.config.bos) {
        ASSERT_GE(sample.targets.back(), task->legal_begin());
        ASSERT_LT(sample.targets.back(), task->legal_end());
      }
    }
  }
}

TEST(EveryTask, RowsHaveTheLengthThatTheProfileCounts) {
  for (const Case& c : every_task()) {
    SCOPED_TRACE(c.label);
    const auto task = make_task(c.config);
    // Tokens up to the answer for a reported length, as a person would count them.
    const std::string& profile = c.config.profile;
    const bool flat = c.config.name == "modular_arithmetic";
    const bool brackets = c.config.name == "modular_arithmetic_brackets";
    const bool adder = c.config.machine.rfind("adder", 0) == 0;
    for (uint32_t i = 0; i < 200; ++i) {
      const Sample sample = draw_one(*task, {8, Stream::kTest}, i, i, c.lengths);
      const int s = sample.info.length;
      int expected = s;
      if (profile == "xlstm") expected = brackets ? s - 2 : s - 1;
      if (profile == "chomsky") expected = s + 1;
      if (profile == "word") expected = s * c.config.fillers;
      if (profile == "fflm") expected = s - 1;
      if (adder) expected = s + 1;
      if (c.config.bos) ++expected;
      ASSERT_EQ(sample.info.tokens, expected) << c.label << ", length " << s;
      ASSERT_LE(sample.info.tokens, task->seqlen(c.lengths.max));
      if (flat) {
        ASSERT_EQ(s % 2, profile == "slice" ? 0 : 1);
      }
      ASSERT_GE(sample.targets.back(), 0) << "the last used position is supervised";
    }
  }
}

TEST(EveryTask, SeqlenIsReachedByTheLongestLength) {
  for (const Case& c : every_task()) {
    SCOPED_TRACE(c.label);
    const auto task = make_task(c.config);
    const int longest = c.lengths.max - c.lengths.max % 2;  // even: every rule has a row for it
    const Sample sample = draw_one(*task, {9, Stream::kTest}, 0, 0, {longest, longest});
    EXPECT_EQ(sample.info.tokens, task->seqlen(longest)) << c.label;
  }
}

TEST(EveryTask, ConstantAnswerIsWhatCountingGives) {
  for (const Case& c : every_task()) {
    SCOPED_TRACE(c.label);
    const auto task = make_task(c.config);
    constexpr uint32_t kSamples = 4000;
    std::vector<double> count(static_cast<size_t>(task->vocab_size()), 0.0);
    double total = 0;
    for (uint32_t i = 0; i < kSamples; ++i) {
      const Sample sample = draw_one(*task, {11, Stream::kTest}, i, i, c.lengths);
      for (const int32_t target : sample.targets) {
        if (target < 0) continue;
        count[static_cast<size_t>(target)] += 1;
        total += 1;
      }
    }
    const double best = *std::max_element(count.begin(), count.end()) / total;
    // Positions of one row are dependent, so the error is that of independent rows; the largest
    // of several equal counts lies a little above.
    const double tolerance = 4.5 * std::sqrt(0.25 / kSamples);
    EXPECT_NEAR(task->constant_answer(c.lengths), best, tolerance) << c.label;
  }
}

TEST(BracketedExpression, LongestRowIsDrawnWithinTheStack) {
  const TaskConfig config = config_of("modular_arithmetic_brackets", "slice");
  const auto task = make_task(config);
  for (uint32_t i = 0; i < 3; ++i) {
    const Sample sample = draw_one(*task, {3, Stream::kTest}, 0, i, {kMaxLength, kMaxLength});
    ASSERT_EQ(sample.info.tokens, kMaxLength);
    EXPECT_EQ(sample.targets, oracle_targets(config, sample.tokens));
  }
}

}  // namespace
}  // namespace statelab::testing
