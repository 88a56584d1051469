#include "experiments/sweep.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "experiments/field.h"
#include "tests/experiments/config_files.h"

namespace statelab {
namespace {

using testing::ConfigFolder;

class SweepFiles : public ConfigFolder {};

std::vector<std::string> values(const SweepConfig& sweep, const std::string& key) {
  std::vector<std::string> out;
  for (const RunConfig& run : sweep.runs)
    out.push_back(to_canonical_json(find_field(key)->get(run)));
  return out;
}

using List = std::vector<std::string>;

TEST(Sweep, LastKeyIsFastestAndSeedsAreInnermost) {
  const auto sweep = parse_sweep(
      "parameters:\n  model.d_state: { values: [16, 32] }\n  train.optimizer.lr: { values: [0.1, "
      "0.2] }\nseeds: 2\n",
      "s.yaml", {});
  EXPECT_EQ(values(sweep, "model.d_state"), (List{"16", "16", "16", "16", "32", "32", "32", "32"}));
  EXPECT_EQ(values(sweep, "train.optimizer.lr"),
            (List{"0.1", "0.1", "0.2", "0.2", "0.1", "0.1", "0.2", "0.2"}));
  EXPECT_EQ(values(sweep, "seed"), (List{"0", "1", "0", "1", "0", "1", "0", "1"}));
  EXPECT_EQ(sweep.swept_keys, (List{"model.d_state", "train.optimizer.lr"}));
}

TEST(Sweep, OrderIsThatOfTheFileAcrossSections) {
  const auto sweep = parse_sweep(
      "zip: { width: { model.n_layers: [1, 3], model.d_state: [64, 32] } }\nparameters: { "
      "train.batch: { values: [2, 4] } }\n",
      "s.yaml", {});
  EXPECT_EQ(values(sweep, "model.n_layers"), (List{"1", "1", "3", "3"}));
  EXPECT_EQ(values(sweep, "model.d_state"), (List{"64", "64", "32", "32"}));
  EXPECT_EQ(values(sweep, "train.batch"), (List{"2", "4", "2", "4"}));
}

TEST(Sweep, ParametersBeatBaseAndTheCommandLineBeatsBoth) {
  const char* text =
      "base: { train: { batch: 8 }, model: { d_state: 16 } }\nparameters: { train.batch: { values: "
      "[2, 4] } }\n";
  EXPECT_EQ(values(parse_sweep(text, "s.yaml", {}), "train.batch"), (List{"2", "4"}));
  EXPECT_EQ(values(parse_sweep(text, "s.yaml", {"train.batch=32"}), "train.batch"), (List{"32"}));
  EXPECT_EQ(values(parse_sweep(text, "s.yaml", {"train.batch=32,64,128"}), "train.batch"),
            (List{"32", "64", "128"}));
  EXPECT_EQ(values(parse_sweep(text, "s.yaml", {"seeds=5", "train.batch=1"}), "seed"),
            (List{"0", "1", "2", "3", "4"}));
  EXPECT_EQ(values(parse_sweep(text, "s.yaml", {"seeds=7,9", "train.batch=1"}), "seed"),
            (List{"7", "9"}));
  EXPECT_EQ(values(parse_sweep(text, "s.yaml", {"eval.lengths=[40, 80],[40]", "train.batch=1"}),
                   "eval.lengths"),
            (List{"[40,80]", "[40]"}));
}

TEST(Sweep, AnOverrideFixesAColumnOfAZip) {
  const auto sweep =
      parse_sweep("zip: { w: { model.n_layers: [1, 3], model.d_state: [64, 32] } }\n", "s.yaml",
                  {"model.d_state=16"});
  EXPECT_EQ(values(sweep, "model.n_layers"), (List{"1", "3"}));
  EXPECT_EQ(values(sweep, "model.d_state"), (List{"16", "16"}));
}

TEST(Sweep, AWandbBlockPastesIn) {
  const auto sweep = parse_sweep(R"(
method: grid
parameters:
  train.batch: {value: 30}
  model:
    parameters:
      d_state: {values: [16, 32]}
  train.optimizer:
    parameters:
      weight_decay: {values: [0.0, 0.1]}
  model.n_layers: {min: 1, max: 3}
  eval.samples: {distribution: q_uniform, min: 32, max: 128, q: 32}
)",
                                 "s.yaml", {});
  EXPECT_EQ(sweep.runs.size(), 2u * 2 * 3 * 3);
  EXPECT_EQ(sweep.runs[0].train.batch, 30);
  EXPECT_EQ(sweep.runs[2].eval.samples, 96);  // 32, 64, 96: the upper end is excluded
}

TEST(Sweep, LogspaceHasExactEndsAndTidyValues) {
  const auto sweep = parse_sweep(
      "parameters: { train.optimizer.lr: { distribution: logspace, min: 0.0001, max: 0.01, count: "
      "3 } }\n",
      "s.yaml", {});
  EXPECT_EQ(values(sweep, "train.optimizer.lr"), (List{"1e-04", "0.001", "0.01"}));
}

TEST(Sweep, RandomDrawsAreReproducibleAndIndependentOfOtherKeys) {
  const std::string head =
      "method: random\nrun_cap: 20\nparameters:\n  train.optimizer.lr: { distribution: "
      "log_uniform_values, min: 0.0001, max: 0.01 }\n";
  const auto once = parse_sweep(head, "s.yaml", {}), twice = parse_sweep(head, "s.yaml", {});
  const auto more = parse_sweep(head + "  model.d_state: { values: [16, 32] }\n", "s.yaml", {});
  EXPECT_EQ(values(once, "train.optimizer.lr"), values(twice, "train.optimizer.lr"));
  EXPECT_EQ(values(once, "train.optimizer.lr"), values(more, "train.optimizer.lr"));
  ASSERT_EQ(once.runs.size(), 20u);
  for (const RunConfig& run : once.runs) {
    EXPECT_GE(run.train.optimizer.lr, 0.0001);
    EXPECT_LE(run.train.optimizer.lr, 0.01);
  }
  EXPECT_NE(values(once, "train.optimizer.lr"),
            values(parse_sweep(head, "s.yaml", {"sweep_seed=1"}), "train.optimizer.lr"));
}

TEST(Sweep, ProbabilitiesWeighRandomValues) {
  const auto sweep = parse_sweep(
      "method: random\nrun_cap: 400\nparameters:\n  model.d_state: { values: [16, 32], "
      "probabilities: [0.1, 0.9] }\n  train.optimizer.lr: { min: 0.1, max: 0.2 }\n",
      "s.yaml", {});
  const auto drawn = values(sweep, "model.d_state");
  const auto small = std::count(drawn.begin(), drawn.end(), "16");
  EXPECT_GT(small, 15);  // 40 expected, standard deviation 6
  EXPECT_LT(small, 65);
}

TEST(Sweep, ExcludeDropsPointsAndIncludeAddsSome) {
  const auto sweep = parse_sweep(
      "parameters: { model.n_layers: { values: [1, 3] }, train.batch: { values: [2, 4] } }\n"
      "exclude: [ { model: { n_layers: 3 }, train.batch: 4 } ]\ninclude: [ { model.n_layers: 2, "
      "train.batch: 64 } ]\nseeds: [5, 6]\n",
      "s.yaml", {});
  EXPECT_EQ(values(sweep, "model.n_layers"), (List{"1", "1", "1", "1", "3", "3", "2", "2"}));
  EXPECT_EQ(values(sweep, "train.batch"), (List{"2", "2", "4", "4", "2", "2", "64", "64"}));
  EXPECT_EQ(values(sweep, "seed"), (List{"5", "6", "5", "6", "5", "6", "5", "6"}));
}

TEST(Sweep, RunsThatComputeTheSameAreKeptOnce) {
  const auto sweep = parse_sweep(
      "parameters: { model.mixer: { values: [mamba2] }, model.rotation: { values: [none, standard] "
      "} }\n",
      "s.yaml", {});
  EXPECT_EQ(sweep.runs.size(), 1u);
  ASSERT_FALSE(sweep.warnings.empty());
  EXPECT_NE(sweep.warnings[0].find("1 runs compute the same"), std::string::npos)
      << sweep.warnings[0];
}

TEST(Sweep, AKeyThatNoRunReadsIsWarnedOf) {
  const auto sweep =
      parse_sweep("base:\n  model:\n    mixer: mamba2\n    rotation: none\n", "s.yaml", {});
  ASSERT_EQ(sweep.warnings.size(), 1u);
  EXPECT_EQ(sweep.warnings[0], "s.yaml:4:5: model.rotation: no run of this sweep reads it");
}

TEST(Sweep, AnLstmReadsNothingOfHeadsAndChunks) {
  const auto sweep = parse_sweep(
      "base: { model: { mixer: lstm, d_model: 30 } }\n"
      "parameters: { model.headdim: { values: [16, 64] }, model.scan: { values: [chunked, "
      "recurrent] } }\n",
      "s.yaml", {});
  EXPECT_EQ(sweep.runs.size(), 1u);  // all four compute the same
  auto warned = [&](const std::string& text) {
    return std::any_of(sweep.warnings.begin(), sweep.warnings.end(),
                       [&](const std::string& w) { return w.find(text) != std::string::npos; });
  };
  EXPECT_TRUE(warned("model.headdim: no run of this sweep reads it"));
  EXPECT_TRUE(warned("model.scan: no run of this sweep reads it"));
}

TEST(Sweep, NamesSayWhatIsSweptAndAreDistinct) {
  const auto sweep = parse_sweep(
      "name: n\nparameters: { model.mixer: { values: [mamba3, mamba2] }, train.optimizer.lr: { "
      "values: [0.001] } }\nseeds: 2\n",
      "s.yaml", {});
  ASSERT_EQ(sweep.run_names.size(), 4u);
  EXPECT_EQ(sweep.run_names[0], "mamba3-s0-" + run_id(sweep.runs[0]).substr(0, 8));
  EXPECT_EQ(sweep.run_names[3], "mamba2-s1-" + run_id(sweep.runs[3]).substr(0, 8));
}

TEST(Sweep, NamesKeepTheMinusOfAListAsOfANumber) {
  const SweepConfig sweep = parse_sweep(
      "base: { model.mixer: gated_delta_net }\n"
      "parameters: { model.eigenvalue_range: { values: [[0, 1], [-1, 1]] } }\n",
      "s.yaml", {});
  ASSERT_EQ(sweep.run_names.size(), 2u);
  EXPECT_TRUE(sweep.run_names[0].starts_with("eigenvalue_range0_1-s0-")) << sweep.run_names[0];
  EXPECT_TRUE(sweep.run_names[1].starts_with("eigenvalue_rangem1_1-s0-")) << sweep.run_names[1];
}

TEST(Sweep, ResolvedTextGivesTheSameRuns) {
  const char* text = R"(
name: all-of-it
base: { task: { name: parity }, model: { d_state: 16 }, eval: { stop_at: 0.99 } }
parameters:
  train.optimizer.lr: { distribution: logspace, min: 0.0001, max: 0.01, count: 3 }
zip: { w: { model.n_layers: [1, 3], model.headdim: [64, 32] } }
exclude: [ { model.n_layers: 3, train.optimizer.lr: 0.01 } ]
include: [ { train.batch: 7 } ]
seeds: [3, 4]
)";
  const auto first = parse_sweep(text, "s.yaml", {"train.batch=16", "model.expand=1,2", "seeds=2"});
  const auto second = parse_sweep(first.resolved, "resolved", {});
  ASSERT_EQ(first.runs.size(), second.runs.size());
  for (size_t i = 0; i < first.runs.size(); ++i)
    EXPECT_EQ(canonical_json(first.runs[i]), canonical_json(second.runs[i])) << i;
  EXPECT_EQ(first.run_names, second.run_names);
  EXPECT_EQ(second.name, "all-of-it");
}

TEST(Sweep, ResolvedTextOfARandomSweepGivesTheSameRuns) {
  const auto first = parse_sweep(
      "method: random\nrun_cap: 9\nsweep_seed: 4\nzip: { w: { model.n_layers: [1, 3], "
      "model.headdim: [64, 32] } }\n"
      "parameters: { train.optimizer.lr: { distribution: log_uniform, min: -7, max: -3 } }\n",
      "s.yaml", {});
  const auto second = parse_sweep(first.resolved, "resolved", {});
  ASSERT_EQ(first.runs.size(), second.runs.size());
  for (size_t i = 0; i < first.runs.size(); ++i)
    EXPECT_EQ(run_id(first.runs[i]), run_id(second.runs[i])) << i;
}

TEST(Sweep, APresetNamesSeveralTaskKeysAtOnce) {
  const auto preset =
      parse_sweep("base: { task: { name: modarith-br.slice, modulus: 7 } }\n", "s.yaml", {});
  EXPECT_EQ(preset.runs[0].task.name, "modular_arithmetic_brackets");
  EXPECT_EQ(preset.runs[0].task.profile, "slice");
  EXPECT_EQ(preset.runs[0].task.modulus, 7);
  const auto again = parse_sweep(preset.resolved, "resolved", {});
  EXPECT_EQ(run_id(again.runs[0]), run_id(preset.runs[0]));
}

TEST(Sweep, CustomAutomataAndGroupsAreConfigurationAlone) {
  const auto machine = parse_sweep(R"(
base:
  task:
    name: automaton
    automaton:
      states: [even, odd]
      symbols: [0, 1]
      transitions: { even: { 0: even, 1: odd }, odd: { 0: odd, 1: even } }
      start: even
)",
                                   "s.yaml", {});
  EXPECT_EQ(machine.runs[0].task.automaton.transitions,
            (std::vector<std::vector<int>>{{0, 1}, {1, 0}}));
  const auto group = parse_sweep(
      "base: { task: { name: word_problem, profile: word, supervision: all, bos: true, group: { "
      "generators: [[2, 1, 3], [2, 3, 1]] } },"
      " train: { curriculum: [{ steps: 1, length: [3, 8] }] }, eval: { lengths: [8] } }\n",
      "s.yaml", {});
  EXPECT_EQ(group.runs[0].task.custom_group.generators.size(), 2u);
}

TEST_F(SweepFiles, ExtendsMergesKeyByKeyAndTheChildWins) {
  write("parent.yaml",
        "name: parent\nbase: { model: { d_state: 16, n_layers: 2 } }\nparameters: { train.batch: { "
        "values: [2, 4] } }\nseeds: 2\n");
  const auto path = write("child.yaml",
                          "extends: parent.yaml\nbase: { model.d_state: 32 }\nparameters: { "
                          "train.optimizer.lr: { values: [0.1, 0.2] } }\n");
  const auto sweep = load_sweep(path, {});
  EXPECT_EQ(sweep.name, "child");
  EXPECT_EQ(sweep.runs.size(), 8u);
  EXPECT_EQ(sweep.runs[0].model.d_state, 32);
  EXPECT_EQ(sweep.runs[0].model.n_layers, 2);
  const auto fixed = load_sweep(
      write("fixed.yaml", "extends: [parent.yaml]\nbase: { train.batch: 64 }\nseeds: [9]\n"), {});
  ASSERT_EQ(fixed.runs.size(), 1u);
  EXPECT_EQ(fixed.runs[0].train.batch, 64);
  EXPECT_EQ(fixed.runs[0].seed, 9u);
}

TEST_F(SweepFiles, AFolderMeansItsSweepFileAndNamesIt) {
  write("question/sweep.yaml", "base: { model: { d_state: 16 } }\n");
  EXPECT_EQ(load_sweep((folder_ / "question").string(), {}).name, "question");
}

TEST_F(SweepFiles, ProblemsOfAllFilesAreListedAtOnce) {
  const auto a = write("a.yaml", "base: { modle: 1 }\n"), b = write("b.yaml", "seeds: 0\n");
  try {
    load_sweeps({a, b}, {});
    FAIL();
  } catch (const ConfigError& e) {
    ASSERT_EQ(e.problems().size(), 2u) << e.what();
    EXPECT_EQ(e.problems()[0].file, a);
    EXPECT_EQ(e.problems()[1].file, b);
  }
}

TEST(Sweep, TenThousandRunsExpandQuickly) {
  const auto sweep = parse_sweep(
      "parameters: { train.optimizer.lr: { distribution: logspace, min: 0.0001, max: 0.01, count: "
      "100 } }\nseeds: 100\n",
      "s.yaml", {});
  EXPECT_EQ(sweep.runs.size(), 10000u);
}

}  // namespace
}  // namespace statelab
