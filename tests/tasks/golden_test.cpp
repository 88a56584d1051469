// Worked examples of the published conventions: each row is searched among the task's own draws.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/tasks/drawing.h"
#include "tests/tasks/oracle.h"

namespace statelab::testing {
namespace {

using Ids = std::vector<int32_t>;

Ids with_last(size_t size, int32_t answer) {
  Ids targets(size, -1);
  targets.back() = answer;
  return targets;
}

/// Draws until the row appears and compares its targets.
void expect_row(const TaskConfig& config, int length, const Ids& tokens, const Ids& targets,
                uint32_t tries) {
  const auto task = make_task(config);
  const auto sample = find_sample(*task, {length, length}, tokens, tries);
  ASSERT_TRUE(sample.has_value()) << "row never drawn";
  EXPECT_EQ(sample->info.length, length);
  EXPECT_EQ(sample->targets, targets);
}

TEST(Golden, XlstmParityCountsTwosAndAnswersBeforeTheLabelSlot) {
  expect_row(config_of("parity", "xlstm"), 5, {2, 1, 2, 2}, {-1, -1, -1, 2}, 1000);
}

TEST(Golden, XlstmEvenPairsComparesFirstAndLast) {
  expect_row(config_of("even_pairs", "xlstm"), 5, {1, 2, 2, 1}, with_last(4, 1), 1000);
  expect_row(config_of("even_pairs", "xlstm"), 4, {1, 2, 2}, with_last(3, 2), 1000);
}

TEST(Golden, XlstmCycleNavigationAddsMovesModuloFive) {
  expect_row(config_of("cycle_navigation", "xlstm"), 5, {1, 2, 2, 3}, with_last(4, 5), 2000);
}

TEST(Golden, XlstmArithmeticBindsTimesTighter) {
  expect_row(config_of("modular_arithmetic", "xlstm"), 9, {7, 2, 8, 2, 8, 3, 7, 4}, with_last(8, 8),
             300000);
}

TEST(Golden, XlstmBracketsReadTheAnswerAtTheEqualsSign) {
  TaskConfig config = config_of("modular_arithmetic_brackets", "xlstm");
  config.multiplication = false;
  expect_row(config, 10, {8, 4, 6, 8, 3, 9, 9, 10}, with_last(8, 1), 5000);
}

TEST(Golden, ChomskyCycleNavigationStartsAtMinusOne) {
  expect_row(config_of("cycle_navigation", "chomsky"), 5, {2, 0, 1, 0, 0, 3}, with_last(6, 3),
             5000);
}

TEST(Golden, S3TableHasTheLeftFactorAsRow) {
  const auto task = make_task(word_config("S3"));
  std::vector<std::string> rows(6, "......");
  for (uint32_t i = 0; i < 2000; ++i) {
    const Sample s = draw_one(*task, {1, Stream::kVerify}, 0, i, {2, 2});
    rows[size_t(s.tokens[0])][size_t(s.tokens[1])] = static_cast<char>('0' + s.targets[1]);
  }
  EXPECT_EQ(rows,
            (std::vector<std::string>{"012345", "104523", "230154", "325401", "451032", "543210"}));
}

TEST(Golden, S3RunningProductsMultiplyFromTheRight) {
  expect_row(word_config("S3"), 4, {5, 4, 2, 4}, {5, 1, 4, 3}, 30000);
  expect_row(word_config("S3"), 4, {5, 0, 2, 2}, {5, 5, 3, 5}, 30000);
  expect_row(word_config("S3"), 4, {0, 5, 3, 1}, {0, 5, 2, 3}, 30000);
}

TEST(Golden, A5AndS5RunningProducts) {
  TaskConfig a5 = word_config("A5");
  a5.alphabet = "list";
  a5.alphabet_list = {1, 2, 3, 4, 5};
  expect_row(a5, 5, {1, 2, 3, 4, 5}, {1, 0, 3, 2, 11}, 60000);
  TaskConfig s5 = word_config("S5");
  s5.alphabet = "list";
  s5.alphabet_list = {5, 7, 33, 100};
  expect_row(s5, 4, {7, 100, 33, 5}, {7, 77, 20, 22}, 10000);
}

TEST(Golden, PermutationsAreNumberedLexicographically) {
  const auto a5 = make_task(word_config("A5"));
  std::vector<std::string> first;
  for (int i = 0; i < 6; ++i) first.push_back(a5->token_name(i));
  EXPECT_EQ(first, (std::vector<std::string>{"e", "(3 4 5)", "(3 5 4)", "(2 3)(4 5)", "(2 3 4)",
                                             "(2 3 5)"}));
  const auto s5 = make_task(word_config("S5"));
  EXPECT_EQ(s5->token_name(24), "(1 2)");
  EXPECT_EQ(s5->token_name(33), "(1 2 3 4 5)");
}

TEST(Golden, DihedralHeisenbergAndQuaternionProducts) {
  TaskConfig d8 = word_config("D8");
  d8.alphabet = "list";
  d8.alphabet_list = {1, 2, 4, 5};
  expect_row(d8, 5, {1, 4, 1, 5, 2}, {1, 5, 4, 3, 1}, 20000);
  TaskConfig h3 = word_config("H3");
  h3.alphabet = "list";
  h3.alphabet_list = {2, 4, 7};
  expect_row(h3, 5, {4, 2, 4, 2, 7}, {4, 7, 3, 1, 6}, 5000);
  TaskConfig q8 = word_config("Q8");
  q8.alphabet = "list";
  q8.alphabet_list = {1, 2, 3};
  expect_row(q8, 6, {1, 2, 3, 1, 1, 2}, {1, 3, 4, 5, 0, 2}, 20000);
}

TEST(Golden, SwapsOfS5AreTheElevenPublishedElements) {
  TaskConfig config = word_config("S5");
  config.alphabet = "swaps";
  std::set<int32_t> swaps, three;
  const auto swap_task = make_task(config);
  config.alphabet = "le3";
  const auto three_task = make_task(config);
  for (uint32_t i = 0; i < 500; ++i) {
    const Sample a = draw_one(*swap_task, {1, Stream::kVerify}, 0, i, {4, 4});
    const Sample b = draw_one(*three_task, {1, Stream::kVerify}, 0, i, {4, 4});
    swaps.insert(a.tokens.begin(), a.tokens.end());
    three.insert(b.tokens.begin(), b.tokens.end());
  }
  EXPECT_EQ(swaps, (std::set<int32_t>{0, 1, 2, 5, 6, 14, 21, 24, 54, 80, 105}));
  EXPECT_EQ(three.size(), 31u);
}

TEST(Golden, FillersRepeatTheElement) {
  TaskConfig config = word_config("S3");
  config.fillers = 3;
  config.filler = "repeat";
  expect_row(config, 3, {5, 5, 5, 4, 4, 4, 2, 2, 2}, {0, 0, 5, 5, 5, 1, 1, 1, 4}, 5000);
}

TEST(Golden, HardShowsProductsOfFourAndThreeIdentities) {
  TaskConfig config = word_config("Z5");
  config.variant = "hard";
  config.alphabet = "list";
  config.alphabet_list = {1};  // blocks of 1 + 1 + 1 + 1, the last of 1 + 1
  expect_row(config, 10, {4, 0, 0, 0, 4, 0, 0, 0, 2, 0}, {0, 0, 0, 4, 4, 4, 4, 3, 3, 3}, 1);
  config.supervision = "last";
  config.bos = true;
  expect_row(config, 7, {6, 4, 0, 0, 0, 3, 0, 0}, with_last(8, 4), 1);
}

TEST(Golden, HardMultipliesTheElementsOfThePlainTask) {
  TaskConfig config = word_config("S5");
  config.alphabet = "swaps";
  const auto plain = make_task(config);
  config.variant = "hard";
  const auto hard = make_task(config);
  const OracleGroup s5("S5");
  for (uint32_t i = 0; i < 100; ++i) {
    const Sample factors = draw_one(*plain, {1, Stream::kVerify}, 0, i, {4, 20});
    const Sample shown = draw_one(*hard, {1, Stream::kVerify}, 0, i, {4, 20});
    ASSERT_EQ(shown.tokens.size(), factors.tokens.size());
    for (size_t t = 0; t < shown.tokens.size(); t += 4) {
      int product = 0;
      for (size_t j = t; j < std::min(t + 4, factors.tokens.size()); ++j) {
        product = s5.product(product, factors.tokens[j]);
      }
      EXPECT_EQ(shown.tokens[t], product);
      if (t + 3 < shown.tokens.size()) {
        EXPECT_EQ(shown.targets[t + 3], factors.targets[t + 3]);
      }
    }
  }
}

TEST(Golden, BosIsSupervisedInWordProblems) {
  TaskConfig config = word_config("S3");
  config.bos = true;
  const auto task = make_task(config);
  EXPECT_EQ(task->vocab_size(), 13);
  const Sample s = draw_one(*task, {1, Stream::kVerify}, 0, 0, {4, 4});
  EXPECT_EQ(s.tokens[0], 7);
  EXPECT_EQ(s.targets[0], 7);
  EXPECT_EQ(s.targets[1], s.tokens[1]);
}

TEST(Golden, TaggingAutomata) {
  expect_row(liu_config("quaternion"), 6, {1, 2, 3, 1, 1, 2}, {1, 3, 4, 5, 0, 2}, 100000);
  expect_row(liu_config("symmetric", 3), 5, {1, 2, 1, 1, 2}, {3, 5, 2, 1, 4}, 5000);
  expect_row(liu_config("alternating", 4), 5, {1, 2, 1, 2, 2}, {4, 8, 9, 0, 5}, 5000);
  expect_row(liu_config("dihedral", 4), 7, {1, 1, 0, 1, 1, 0, 1}, {1, 2, 6, 5, 4, 0, 1}, 5000);
  expect_row(liu_config("gridworld", 4), 10, {1, 1, 1, 1, 0, 0, 1, 0, 0, 0},
             {1, 2, 3, 3, 2, 1, 2, 1, 0, 0}, 30000);
  expect_row(liu_config("abab"), 8, {0, 1, 0, 1, 0, 1, 1, 0}, {0, 1, 2, 3, 0, 1, 4, 4}, 10000);
}

TEST(Golden, AdderAppendsAZeroColumn) {
  const auto task = make_task(liu_config("adder"));
  // 3 + 3, least significant bit first: columns 3 3, then the zero column; digit + 2 carry.
  const auto sample = find_sample(*task, {2, 2}, {3, 3, 0}, 1000);
  ASSERT_TRUE(sample.has_value());
  EXPECT_EQ(sample->targets, (Ids{2, 3, 1}));
}

}  // namespace
}  // namespace statelab::testing
