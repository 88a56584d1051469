// Every kind of malformed configuration: file, line, column, key and what to do.
#include <gtest/gtest.h>

#include <sstream>

#include "experiments/sweep.h"
#include "tests/experiments/config_files.h"

namespace statelab {
namespace {

using testing::ConfigFolder;
using testing::problems_of;

struct Case {
  const char* name;
  std::string text;
  std::vector<std::string>
      expected;  ///< one per problem, each the start of a line; "..." stands for anything
};

std::string exploding_aliases() {
  std::string text = "base:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 9; ++i) {
    text += "  a" + std::to_string(i) + ": &a" + std::to_string(i) + " [";
    for (int j = 0; j < 10; ++j) text += (j ? ", *a" : "*a") + std::to_string(i - 1);
    text += "]\n";
  }
  return text;
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"UnknownKey",
       "base:\n  model:\n    d_stat: 4\n",
       {"s.yaml:3:5: model.d_stat: unknown key, did you mean d_state?"}},
      {"UnknownKeyOfAnotherSection",
       "base:\n  model:\n    lr: 4\n",
       {"s.yaml:3:5: model.lr: unknown key, did you mean train.optimizer.lr?"}},
      {"UnknownTopLevelKey", "bsae: {}\n", {"s.yaml:1:1: bsae: unknown key, did you mean base?"}},
      {"SectionAtTheTopLevel",
       "model: { d_state: 4 }\n",
       {"s.yaml:1:1: model: unknown key at the top level, belongs under base:"}},
      {"WrongType",
       "base:\n  train:\n    batch: many\n",
       {"s.yaml:3:12: train.batch: must be an integer in [1, 1048576], is many"}},
      {"QuotedNumber",
       "base: { train.batch: \"64\" }\n",
       {"s.yaml:1:22: train.batch: must be an integer in [1, 1048576], is the text \"64\": remove "
        "the "
        "quotation marks"}},
      {"LeadingZero",
       "base: { train.batch: 010 }\n",
       {"s.yaml:1:22: train.batch: must be an integer in [1, 1048576], is 010: write it without "
        "leading "
        "zeros"}},
      {"Underscore",
       "base: { train.batch: 1_000 }\n",
       {"s.yaml:1:22: train.batch: must be an integer in [1, 1048576], is 1_000: write the digits "
        "without _"}},
      {"YesIsNoBoolean",
       "base: { task.bos: yes }\n",
       {"s.yaml:1:19: task.bos: must be true or false, is yes"}},
      {"FractionForAnInteger",
       "base: { train.batch: 2.5 }\n",
       {"s.yaml:1:22: train.batch: must be an integer in [1, 1048576], is 2.5"}},
      {"OutOfRange",
       "base:\n  train:\n    optimizer:\n      lr: -1\n",
       {"s.yaml:4:11: train.optimizer.lr: must be a number in (0, 100], is -1"}},
      {"NotANumber",
       "base: { train.optimizer.lr: .nan }\n",
       {"s.yaml:1:29: train.optimizer.lr: must be a number in (0, 100], is .nan"}},
      {"WideSeed",
       "seeds: [4294967296]\n",
       {"s.yaml:1:9: seeds: a seed must be an integer in [0, 4294967295], is 4294967296"}},
      {"BadChoice",
       "base: { model.mixer: mamba4 }\n",
       {"s.yaml:1:22: model.mixer: must be one of mamba3 | mamba2 | gated_delta_net | delta_net "
        "| lstm, is mamba4, did you mean mamba3?"}},
      {"DuplicateKey",
       "base:\n  train:\n    batch: 1\n    batch: 2\n",
       {"s.yaml:4:5: base.train.batch: duplicate key, first at line 3: remove one of the two"}},
      {"DuplicateKeyInTwoSpellings",
       "base:\n  train: { batch: 1 }\n  train.batch: 2\n",
       {"s.yaml:3:3: train.batch: duplicate key, first at line 2"}},
      {"MergeKey",
       "x: &x {a: 1}\nbase:\n  <<: *x\n",
       {"s.yaml:1:1: x: unknown key",
        "s.yaml:3:3: base.<<: merge keys are not supported: use extends"}},
      {"ImpossibleLength",
       "base:\n  eval:\n    lengths: [40, 1]\n",
       {"s.yaml:3:19: eval.lengths: length 1: "}},
      {"ImpossibleStage",
       "base:\n  train:\n    curriculum: [ { steps: 5, length: [9, 3] } ]\n",
       {"s.yaml:3:39: train.curriculum: lengths must satisfy 1 <= min <= max"}},
      {"EmptyCurriculum",
       "base: { train.curriculum: [] }\n",
       {"s.yaml:1:27: train.curriculum: must be a list of stages"}},
      {"StageWithoutSteps",
       "base: { train.curriculum: [{ length: [3, 40] }] }\n",
       {"s.yaml:1:28: train.curriculum: stage lacks steps"}},
      {"UnknownTask",
       "base:\n  task:\n    name: partiy\n",
       {"s.yaml:3:11: task.name: ...did you mean parity?"}},
      {"TaskAsAWord",
       "base:\n  task: parity\n",
       {"s.yaml:2:9: task: must be a map, is parity: write { name: parity }"}},
      {"ImpossibleTask",
       "base:\n  task:\n    name: parity\n    profile: word\n",
       {"s.yaml:4:14: task.profile: "}},
      {"ImpossibleModel", "base:\n  model:\n    headdim: 48\n", {"s.yaml:3:14: model.headdim: "}},
      {"StopWithoutValidation",
       "base:\n  eval: { stop_at: 0.99, every: 0 }\n",
       {"s.yaml:2:20: eval.stop_at: needs validations during training"}},
      {"EmptyFile", "", {"s.yaml:1:1: is empty"}},
      {"OnlyAComment", "# nothing\n", {"s.yaml:1:1: is empty"}},
      {"EmptySweep",
       "parameters: { train.batch: { values: [1] } }\nexclude: [ { train.batch: 1 } ]\n",
       {"s.yaml:2:12: exclude: leaves no run: the sweep is empty"}},
      {"EmptyValues",
       "parameters:\n  train.batch: { values: [] }\n",
       {"s.yaml:2:26: train.batch.values: must be a list of at least one value, is empty"}},
      {"NoSeeds", "seeds: 0\n", {"s.yaml:1:8: seeds: must be a number of seeds"}},
      {"UnevenZip",
       "zip:\n  w: { model.n_layers: [1, 2], model.d_state: [4] }\n",
       {"s.yaml:2:47: model.d_state: all lists of zip w must have the same length: model.n_layers "
        "has 2, this has 1"}},
      {"SweptTwice",
       "parameters: { train.batch: { values: [1] } }\nzip: { w: { train.batch: [1] } }\n",
       {"s.yaml:2:8: train.batch: is swept twice, first at line 1"}},
      {"BareListParameter",
       "parameters: { train.batch: [1, 2] }\n",
       {"s.yaml:1:28: train.batch: must be a map such as { values: [...] }"}},
      {"UnknownDistribution",
       "parameters: { train.optimizer.lr: { distribution: log_uniform_value, min: 1, max: 2 } }\n",
       {"s.yaml:1:51: train.optimizer.lr.distribution: must be one of ...did you mean "
        "log_uniform_values?"}},
      {"ContinuousGrid",
       "parameters: { train.optimizer.lr: { min: 0.1, max: 0.2 } }\n",
       {"s.yaml:1:35: train.optimizer.lr: distribution uniform needs method: random"}},
      {"RandomWithoutCap",
       "method: random\nparameters: { train.optimizer.lr: { min: 0.1, max: 0.2 } }\n",
       {"s.yaml:1:1: run_cap: method: random needs run_cap"}},
      {"DrawOutOfRange",
       "method: random\nrun_cap: 3\nparameters: { train.optimizer.lr: { distribution: normal, mu: "
       "-5, sigma: 0.1 } }\n",
       {"s.yaml:3:15: train.optimizer.lr: must be a number in (0, 100], is -"}},
      {"TooManyRuns",
       "parameters: { train.batch: { min: 1, max: 1000 }, model.d_state: { min: 1, max: 1000 } }\n",
       {"s.yaml:1:15: parameters: the sweep has 1000000 runs, at most 100000 are allowed"}},
      {"HugeRange",
       "parameters: { train.batch: { min: 1, max: 2000000000 } }\n",
       {"s.yaml:1:28: train.batch: gives 2000000000 values, at most 100000"}},
      {"ExplodingAliases",
       exploding_aliases(),
       {"s.yaml:...: base.a5: more than 1000000 values after aliases are followed"}},
      {"AliasOfItself",
       "base: &a\n  x: *a\n",
       {"s.yaml:...nested deeper than 64 levels: does an alias contain itself?"}},
      {"UndefinedAlias", "base: *nothing\n", {"s.yaml:1:7: not valid YAML"}},
      {"BrokenYaml", "base: { model: [1, 2 }\n", {"s.yaml:1:22: not valid YAML"}},
      {"TwoDocuments", "base: {}\n---\nbase: {}\n", {"s.yaml:3:1: one document per file is read"}},
      {"TagOnAValue",
       "base: { train.batch: !!float 3 }\n",
       {"s.yaml:1:...: base.train.batch: the tag "}},
      {"AutomatonWithoutTransition",
       "base:\n  task:\n    name: automaton\n    automaton:\n      states: [a, b]\n      symbols: "
       "[x, y]\n      transitions:\n        a: { x: a, y: b }\n        b: { x: a }\n",
       {"s.yaml:9:12: task.automaton.transitions.b: lacks a transition on symbol y"}},
      {"AutomatonToNowhere",
       "base:\n  task:\n    name: automaton\n    automaton: { states: [a], symbols: [x], "
       "transitions: { a: { x: c } } }\n",
       {"s.yaml:4:68: task.automaton.transitions.a.x: next state c is not one of the states"}},
      {"GroupWithBothForms",
       "base: { task: { name: word_problem, group: { generators: [[1]], cayley_table: [[0]] } } "
       "}\n",
       {"s.yaml:1:44: task.group: must give exactly one of generators and cayley_table"}},
      {"GroupThatIsNone",
       "base:\n  task: { name: word_problem, profile: word, supervision: all, bos: true, group: { "
       "cayley_table: [[0, 1], [1, 1]] } }\n",
       {"s.yaml:2:...: task.group"}},
  };
  return all;
}

bool matches(const std::string& line, const std::string& pattern) {
  size_t at = 0, from = 0;
  for (;;) {
    const size_t dots = pattern.find("...", from);
    const std::string part = pattern.substr(from, dots == std::string::npos ? dots : dots - from);
    const size_t found = line.find(part, at);
    if (found == std::string::npos || (from == 0 && found != 0)) return false;
    at = found + part.size();
    if (dots == std::string::npos) return true;
    from = dots + 3;
  }
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

class Malformed : public ::testing::TestWithParam<Case> {};

TEST_P(Malformed, IsReportedWithItsPlaceAndRemedy) {
  const auto lines = lines_of(problems_of(GetParam().text));
  ASSERT_EQ(lines.size(), GetParam().expected.size()) << problems_of(GetParam().text);
  for (size_t i = 0; i < lines.size(); ++i) {
    EXPECT_TRUE(matches(lines[i], GetParam().expected[i]))
        << "got      " << lines[i] << "\nexpected " << GetParam().expected[i];
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, Malformed, ::testing::ValuesIn(cases()),
                         [](const auto& kind) { return std::string(kind.param.name); });

TEST(MalformedSweep, AllProblemsAreListedAtOnceInFileOrder) {
  const auto lines =
      lines_of(problems_of("seeds: -1\nbase:\n  model: { d_stat: 4 }\n  eval: { lengths: [1, 40] "
                           "}\n  train: { batch: x }\n"));
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0].rfind("s.yaml:1:8: seeds", 0), 0u) << lines[0];
  EXPECT_EQ(lines[1].rfind("s.yaml:3:12: model.d_stat", 0), 0u) << lines[1];
  EXPECT_EQ(lines[2].rfind("s.yaml:4:21: eval.lengths", 0), 0u) << lines[2];
  EXPECT_EQ(lines[3].rfind("s.yaml:5:19: train.batch", 0), 0u) << lines[3];
}

TEST(MalformedSweep, AProblemOfManyRunsIsListedOnce) {
  EXPECT_EQ(lines_of(problems_of("base: { eval: { lengths: [1] } }\nseeds: 50\nparameters: { "
                                 "train.batch: { min: 1, max: 20 } }\n"))
                .size(),
            1u);
}

TEST(MalformedSweep, OverridesAreBlamedOnTheCommandLine) {
  EXPECT_EQ(problems_of("base: {}\n", {"model.d_stat=3"}),
            "command line: model.d_stat: unknown key, did you mean d_state?");
  EXPECT_EQ(problems_of("base: {}\n", {"train.batch=0"}),
            "command line: train.batch: must be an integer in [1, 1048576], is 0");
  EXPECT_EQ(problems_of("base: {}\n", {"eval.lengths=40,80"})
                .rfind("command line: eval.lengths: must be a list of integers", 0),
            0u);
  EXPECT_EQ(problems_of("base: {}\n", {"nonsense"}),
            "command line: nonsense: is neither a file nor key=value");
}

class MalformedFiles : public ConfigFolder {};

TEST_F(MalformedFiles, CyclicExtendsNamesTheCycle) {
  const auto a = write("a.yaml", "extends: b.yaml\n");
  write("b.yaml", "name: b\nextends: a.yaml\n");
  try {
    load_sweep(a, {});
    FAIL();
  } catch (const ConfigError& e) {
    ASSERT_EQ(e.problems().size(), 1u) << e.what();
    EXPECT_EQ(e.problems()[0].line, 2);
    EXPECT_EQ(e.problems()[0].column, 10);
    EXPECT_NE(e.problems()[0].message.find("is cyclic: a.yaml -> b.yaml -> a.yaml"),
              std::string::npos)
        << e.what();
  }
}

TEST_F(MalformedFiles, AMissingParentIsBlamedOnItsLine) {
  const auto a = write("a.yaml", "name: a\nextends: nowhere.yaml\n");
  try {
    load_sweep(a, {});
    FAIL();
  } catch (const ConfigError& e) {
    EXPECT_EQ(e.problems().at(0).text().rfind(a + ":2:10: extends: no such file: ", 0), 0u)
        << e.what();
  }
}

TEST_F(MalformedFiles, AMissingFileIsNamed) {
  try {
    load_sweep((folder_ / "none.yaml").string(), {});
    FAIL();
  } catch (const ConfigError& e) {
    EXPECT_NE(std::string(e.what()).find("none.yaml: cannot read this file: No such file"),
              std::string::npos)
        << e.what();
  }
}

}  // namespace
}  // namespace statelab
