// A user's own groups and automata, and the presets.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/tasks/drawing.h"
#include "tests/tasks/oracle.h"

namespace statelab::testing {
namespace {

TEST(OwnGroup, TwoGeneratorsOfS3GiveTheNamedGroup) {
  TaskConfig config = word_config("");
  config.custom_group.generators = {{2, 1, 3}, {2, 3, 1}};
  const auto own = make_task(config);
  const auto named = make_task(word_config("S3"));
  EXPECT_EQ(own->vocab_size(), named->vocab_size());
  for (uint32_t i = 0; i < 50; ++i) {
    const Sample a = draw_one(*own, {1, Stream::kTest}, 0, i, {3, 20});
    const Sample b = draw_one(*named, {1, Stream::kTest}, 0, i, {3, 20});
    EXPECT_EQ(a.tokens, b.tokens);
    EXPECT_EQ(a.targets, b.targets);
    EXPECT_EQ(own->render(a.tokens, a.targets), named->render(b.tokens, b.targets));
  }
}

TEST(OwnGroup, QuaternionsByCayleyTableEqualTheNamedGroup) {
  TaskConfig config = word_config("");
  const OracleGroup oracle("Q8");
  for (int a = 0; a < 8; ++a) {
    config.custom_group.cayley_table.emplace_back();
    for (int b = 0; b < 8; ++b) {
      config.custom_group.cayley_table.back().push_back(oracle.product(a, b));
    }
  }
  config.custom_group.elements = {"1", "i", "j", "k", "-1", "-i", "-j", "-k"};
  const auto own = make_task(config);
  const auto named = make_task(word_config("Q8"));
  for (uint32_t i = 0; i < 50; ++i) {
    const Sample a = draw_one(*own, {1, Stream::kTest}, 0, i, {3, 20});
    const Sample b = draw_one(*named, {1, Stream::kTest}, 0, i, {3, 20});
    EXPECT_EQ(own->render(a.tokens, a.targets), named->render(b.tokens, b.targets));
  }
}

TEST(OwnGroup, IdentityNeedNotBeTheFirstElement) {
  TaskConfig config = word_config("");
  config.custom_group.cayley_table = {{1, 0}, {0, 1}};  // element 1 is the identity of Z_2
  config.fillers = 2;
  const auto task = make_task(config);
  for (uint32_t i = 0; i < 20; ++i) {
    const Sample s = draw_one(*task, {1, Stream::kTest}, 0, i, {2, 2});
    EXPECT_EQ(s.targets[0], 1);
    EXPECT_EQ(s.targets[1], s.tokens[0]);
    EXPECT_EQ(s.targets[3], s.tokens[0] == s.tokens[2] ? 1 : 0);
  }
}

TEST(OwnGroup, SubgroupAlphabetsWarn) {
  TaskConfig config = word_config("S3");
  config.alphabet = "list";
  config.alphabet_list = {0, 3, 4};
  EXPECT_THAT(make_task(config)->warnings(),
              ::testing::ElementsAre("[word_problem] the alphabet generates 3 of 6 elements; never "
                                     "an answer: (2 3), ..."));
  EXPECT_TRUE(make_task(word_config("S3"))->warnings().empty());
  config.alphabet_list = {1, 2};  // two swaps: products of four are even
  EXPECT_TRUE(make_task(config)->warnings().empty());
  config.variant = "hard";
  EXPECT_THAT(
      make_task(config)->warnings(),
      ::testing::ElementsAre("[word_problem] products of four of the alphabet generate 3 of "
                             "6 elements; never an answer: (2 3), ..."));
}

TEST(OwnAutomaton, UnreachableStatesWarn) {
  TaskConfig config = vending_machine("xlstm");
  EXPECT_TRUE(make_task(config)->warnings().empty());
  config.automaton.states.push_back("broken");
  config.automaton.transitions.push_back({7, 7, 7});
  config.automaton.outputs.push_back("none");
  EXPECT_THAT(make_task(config)->warnings(),
              ::testing::ElementsAre("[automaton] state broken cannot be reached from c0"));
}

TEST(OwnAutomaton, StatesAreTheAnswersWithoutOutputs) {
  TaskConfig config = vending_machine("liu");
  config.automaton.outputs.clear();
  const auto task = make_task(config);
  EXPECT_EQ(task->legal_end(), 7);
  const Sample s = draw_one(*task, {1, Stream::kTest}, 0, 0, {12, 12});
  EXPECT_EQ(s.targets, oracle_targets(config, s.tokens));
  EXPECT_EQ(task->answer_name(6), "sold");
  EXPECT_EQ(task->token_name(2), "cancel");
}

TEST(Preset, EveryListedOneBuildsAndIsFound) {
  const auto names = list_presets();
  EXPECT_GE(names.size(), 50u);
  for (const std::string& name : names) {
    const auto config = find_preset(name);
    ASSERT_TRUE(config.has_value()) << name;
    EXPECT_NE(make_task(*config), nullptr) << name;
  }
}

TEST(Preset, NamesCarryTheReleasedSettings) {
  EXPECT_FALSE(find_preset("modarith-br.xlstm")->multiplication);
  EXPECT_TRUE(find_preset("modarith-br-mul.xlstm")->multiplication);
  EXPECT_EQ(find_preset("cyclenav.chomsky")->name, "cycle_navigation");
  EXPECT_EQ(find_preset("cyclenav.chomsky")->profile, "chomsky");
  const auto word = find_preset("word.Z24xS3");
  ASSERT_TRUE(word.has_value());
  EXPECT_TRUE(word->bos);
  EXPECT_EQ(word->supervision, "all");
  EXPECT_EQ(find_preset("ffl")->ignore_prob, 0.8);
}

TEST(Preset, UnknownNamesAreNotFound) {
  for (const char* name : {"", "parity", "parity.word", "word.B5", "liu.none", "parity.xlstm.x"}) {
    EXPECT_FALSE(find_preset(name).has_value()) << name;
  }
}

TEST(TaskList, NamesEveryTaskOnceWithItsParameters) {
  const auto tasks = list_tasks();
  ASSERT_EQ(tasks.size(), 9u);
  EXPECT_EQ(tasks[0].name, "parity");
  EXPECT_EQ(tasks[2].parameters, (std::vector<std::string>{"modulus", "max_move"}));
  for (const TaskSummary& task : tasks) EXPECT_FALSE(task.description.empty()) << task.name;
}

}  // namespace
}  // namespace statelab::testing
