#include <gtest/gtest.h>

#include "tests/tasks/drawing.h"

namespace statelab::testing {
namespace {

using Ids = std::vector<int32_t>;

std::string rendered(const TaskConfig& config, const Ids& tokens, const Ids& targets) {
  return make_task(config)->render(tokens, targets);
}

TEST(Render, ExpressionsReadAsWritten) {
  EXPECT_EQ(rendered(config_of("modular_arithmetic", "xlstm"), {7, 2, 8, 2, 8, 3, 7, 4},
                     {-1, -1, -1, -1, -1, -1, -1, 8}),
            "2-3-3*2 = 3");
  EXPECT_EQ(rendered(config_of("modular_arithmetic_brackets", "xlstm"), {8, 4, 6, 8, 3, 9, 9, 10},
                     {-1, -1, -1, -1, -1, -1, -1, 1}),
            "(4-(3)) = 1");
}

TEST(Render, BitsMovesAndPermutationsReadAsWritten) {
  EXPECT_EQ(rendered(config_of("parity", "xlstm"), {2, 1, 2, 2}, {-1, -1, -1, 2}), "1 0 1 1 -> 1");
  EXPECT_EQ(rendered(config_of("cycle_navigation", "xlstm"), {1, 2, 2, 3}, {-1, -1, -1, 5}),
            "stay +1 +1 -1 -> 1");
  EXPECT_EQ(rendered(config_of("cycle_navigation", "chomsky"), {2, 0, 1, 0, 0, 3},
                     {-1, -1, -1, -1, -1, 3}),
            "+1 -1 stay -1 -1 ? -> 3");
  EXPECT_EQ(rendered(word_config("S3"), {3, 2}, {-1, 5}), "(1 2 3) · (1 2) -> (1 3)");
}

TEST(Render, SupervisedPositionsAreMarkedWhenThereAreSeveral) {
  EXPECT_EQ(rendered(config_of("parity", "xlstm", "all"), {2, 1, 2}, {2, 2, 1}), "1[1] 0[1] 1[0]");
  EXPECT_EQ(rendered(config_of("flip_flop", "fflm", "all"), {0, 4, 1, 4, 1}, {-1, -1, 4, -1, 4}),
            "w 1 r[1] 1 r[1]");
  EXPECT_EQ(rendered(config_of("modular_arithmetic", "xlstm", "all"), {7, 2, 8, 4}, {7, 7, 9, 9}),
            "2[2]-[2]3[4] =[4]");
}

TEST(Render, FillersAndIdentitiesAreShown) {
  TaskConfig config = word_config("S3");
  config.fillers = 2;
  config.filler = "repeat";
  EXPECT_EQ(rendered(config, {3, 3, 2, 2}, {-1, -1, -1, 5}),
            "(1 2 3) · (1 2 3) · (1 2) · (1 2) -> (1 3)");
  config = word_config("S3");
  config.variant = "hard";
  EXPECT_EQ(rendered(config, {3, 0, 0, 0, 2}, {0, 0, 0, 3, 3}),
            "(1 2 3)[e] · e[e] · e[e] · e[(1 2 3)] · (1 2)[(1 2 3)]");
}

TEST(Render, PaddingIsLeftOutAndStrangeIdsAreShown) {
  EXPECT_EQ(rendered(config_of("parity", "xlstm"), {2, 2, 0, 0}, {-1, 1, -1, -1}), "1 1 -> 0");
  EXPECT_EQ(make_task(config_of("parity", "xlstm"))->token_name(9), "9?");
}

}  // namespace
}  // namespace statelab::testing
