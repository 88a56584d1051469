// Chance and constant-answer levels against the published ones.
#include <gtest/gtest.h>

#include "tests/tasks/drawing.h"

namespace statelab::testing {
namespace {

TEST(ConstantAnswer, FlatArithmeticLevels) {
  const auto task = make_task(config_of("modular_arithmetic", "xlstm"));
  EXPECT_NEAR(task->constant_answer({3, 40}), 0.2063, 5e-5);
  EXPECT_NEAR(task->constant_answer({40, 256}), 0.2000, 5e-5);
  EXPECT_NEAR(task->constant_answer({5, 5}), 0.253, 5e-4);
  EXPECT_NEAR(task->constant_answer({7, 7}), 0.232, 5e-4);
}

TEST(ConstantAnswer, BracketsWithMultiplicationLevels) {
  const auto xlstm = make_task(config_of("modular_arithmetic_brackets", "xlstm"));
  EXPECT_NEAR(xlstm->constant_answer({3, 40}), 0.2666, 5e-5);
  EXPECT_NEAR(xlstm->constant_answer({40, 256}), 0.3052, 5e-5);
  const auto chomsky = make_task(config_of("modular_arithmetic_brackets", "chomsky"));
  EXPECT_NEAR(chomsky->constant_answer({41, 100}), 0.2987, 5e-5);
  EXPECT_NEAR(chomsky->constant_answer({41, 500}), 0.3101, 5e-5);
  const std::vector<std::pair<int, double>> sizes = {{5, 0.2533},   {37, 0.2904},  {40, 0.2916},
                                                     {100, 0.3032}, {253, 0.3114}, {500, 0.3160}};
  for (const auto& [size, level] : sizes) {
    EXPECT_NEAR(chomsky->constant_answer({size, size}), level, 5e-5) << size;
  }
}

TEST(ConstantAnswer, BracketsWithoutMultiplicationAreExactlyUniform) {
  TaskConfig config = config_of("modular_arithmetic_brackets", "xlstm");
  config.multiplication = false;
  EXPECT_NEAR(make_task(config)->constant_answer({3, 256}), 0.2, 1e-12);
}

TEST(ConstantAnswer, ParityAndEvenPairsAreHalfAtEveryLength) {
  for (const std::string name : {"parity", "even_pairs"}) {
    const auto task = make_task(config_of(name, "xlstm"));
    for (const int length : {3, 4, 40, 257}) {
      EXPECT_NEAR(task->constant_answer({length, length}), 0.5, 1e-12) << name;
    }
  }
}

TEST(ConstantAnswer, BosIsOneSurePositionOfAWordProblem) {
  TaskConfig config = word_config("S3");
  config.bos = true;
  // 5 positions: BOS, always right for the answer BOS; an element is right with 1/6 on four of them.
  EXPECT_NEAR(make_task(config)->constant_answer({4, 4}), std::max(1.0 / 5, 4.0 / 5 / 6), 1e-12);
}

TEST(ConstantAnswer, FillersShowTheIdentityFirst) {
  TaskConfig config = word_config("S3");
  config.fillers = 3;
  // k = 2: six positions, the first two are the identity, the other four uniform.
  EXPECT_NEAR(make_task(config)->constant_answer({2, 2}), (2 + 4.0 / 6) / 6, 1e-12);
}

TEST(ConstantAnswer, HardShowsTheIdentityFirst) {
  TaskConfig config = word_config("S3");
  config.variant = "hard";
  // Six positions: the first three are the identity, the others the uniform product of one block.
  EXPECT_NEAR(make_task(config)->constant_answer({6, 6}), (3 + 3.0 / 6) / 6, 1e-12);
}

TEST(ConstantAnswer, DenseSupervisionPoolsAllPositionsOfAllLengths) {
  const auto task = make_task(config_of("modular_arithmetic", "chomsky", "all"));
  // Answer 0: 1/5 after one digit and after the operator; after two digits 5 of 25 sums, 5 of 25
  // differences and 9 of 25 products. The query repeats the last answer.
  const double one = 1.0 / 5, two = 19.0 / 75;
  EXPECT_NEAR(task->constant_answer({3, 3}), (2 * one + 2 * two) / 4, 1e-12);
  // Lengths 1, 2, 3 become 1, 1, 3: two rows of two positions and one of four.
  EXPECT_NEAR(task->constant_answer({1, 3}), (4 * one + 2 * one + 2 * two) / 8, 1e-12);
}

TEST(Chance, IsOneOverTheLegalAnswers) {
  EXPECT_DOUBLE_EQ(make_task(config_of("parity", "xlstm"))->chance(), 0.5);
  EXPECT_DOUBLE_EQ(make_task(config_of("cycle_navigation", "xlstm"))->chance(), 0.2);
  EXPECT_DOUBLE_EQ(make_task(config_of("modular_arithmetic", "slice"))->chance(), 0.2);
  EXPECT_DOUBLE_EQ(make_task(word_config("S5"))->chance(), 1.0 / 120);
  EXPECT_DOUBLE_EQ(make_task(config_of("flip_flop", "fflm"))->chance(), 0.5);
  EXPECT_DOUBLE_EQ(make_task(liu_config("gridworld", 4))->chance(), 0.25);
  EXPECT_DOUBLE_EQ(make_task(vending_machine("liu"))->chance(), 1.0 / 3);
}

TEST(Vocabulary, HasThePublishedSizes) {
  const auto size = [](const TaskConfig& config) { return make_task(config)->vocab_size(); };
  for (const std::string profile : {"xlstm", "slice"}) {
    EXPECT_EQ(size(config_of("parity", profile)), 3);
    EXPECT_EQ(size(config_of("even_pairs", profile)), 3);
    EXPECT_EQ(size(config_of("cycle_navigation", profile)), 9);
    EXPECT_EQ(size(config_of("modular_arithmetic", profile)), 10);
    EXPECT_EQ(size(config_of("modular_arithmetic_brackets", profile)), 12);
  }
  EXPECT_EQ(size(word_config("S5")), 127);
  EXPECT_EQ(size(config_of("flip_flop", "fflm")), 5);
  EXPECT_EQ(size(config_of("parity", "chomsky")), 3);
  EXPECT_EQ(size(config_of("modular_arithmetic", "chomsky")), 10);
  EXPECT_EQ(size(config_of("modular_arithmetic_brackets", "chomsky")), 12);
}

TEST(Vocabulary, BosIsTheLastIdOutsideWordProblems) {
  TaskConfig config = config_of("parity", "xlstm");
  config.bos = true;
  const auto task = make_task(config);
  EXPECT_EQ(task->vocab_size(), 4);
  const Sample with = draw_one(*task, {1, Stream::kTrain}, 0, 0, {10, 10});
  EXPECT_EQ(with.tokens[0], 3);
  EXPECT_EQ(with.targets[0], -1);
  config.bos = false;
  const Sample without = draw_one(*make_task(config), {1, Stream::kTrain}, 0, 0, {10, 10});
  EXPECT_EQ(std::vector<int32_t>(with.tokens.begin() + 1, with.tokens.end()), without.tokens)
      << "BOS does not change the data";
}

TEST(LegalAnswers, ChomskyAndLiuScoreOverClassesOthersOverTheVocabulary) {
  EXPECT_EQ(make_task(config_of("cycle_navigation", "chomsky"))->legal_end(), 5);
  EXPECT_EQ(make_task(config_of("modular_arithmetic_brackets", "chomsky"))->legal_end(), 5);
  EXPECT_EQ(make_task(liu_config("quaternion"))->legal_end(), 8);
  for (const std::string profile : {"xlstm", "slice"}) {
    EXPECT_EQ(make_task(config_of("parity", profile))->legal_end(), 0);
  }
  EXPECT_EQ(make_task(word_config("S3"))->legal_end(), 0);
}

}  // namespace
}  // namespace statelab::testing
