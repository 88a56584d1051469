#include "experiments/confirmation.h"

#include <gtest/gtest.h>

#include <set>

#include "experiments/sweep.h"

namespace statelab {
namespace {

std::vector<RunConfig> settings() {
  return parse_sweep(R"(name: chosen
base:
  task: { name: parity, bos: true }
  train: { batch: 32, curriculum: [ { steps: 6, length: [3, 8] }, { steps: 9, length: [3, 20] } ] }
  eval: { lengths: [8, 16], ranges: [[4, 20]], stop_at: 0.99 }
zip:
  model:
    model.mixer: [mamba3, mamba3, mamba2]
    model.rotation: [data_dependent, none, none]
    model.eigenvalue_range: [[0, 1], [0, 1], [-1, 1]]
    train.optimizer.lr: [0.000372759, 0.001, 0.01]
seeds: [0]
)",
                     "chosen.yaml", {})
      .runs;
}

TEST(Confirmation, RunsEachSettingWithEachSeedAndNothingElse) {
  const std::vector<RunConfig> chosen = settings();
  const std::vector<uint32_t> seeds = {101, 4294967295u};
  const std::string text = confirmation_yaml("again", chosen, seeds, {"why", "how"});
  EXPECT_EQ(text.rfind("# why\n# how\nname: again\n", 0), 0u) << text;
  const SweepConfig sweep = parse_sweep(text, "again.yaml", {});
  EXPECT_TRUE(sweep.warnings.empty());
  ASSERT_EQ(sweep.runs.size(), 6u) << text;
  for (size_t i = 0; i < sweep.runs.size(); ++i) {
    EXPECT_EQ(group_id(sweep.runs[i]), group_id(chosen[i / 2])) << text;
    EXPECT_EQ(sweep.runs[i].seed, seeds[i % 2]);
  }
}

TEST(Confirmation, OneSettingNeedsNoZip) {
  const std::vector<RunConfig> one = {settings()[0]};
  const std::vector<uint32_t> seeds = {7};
  const std::string text = confirmation_yaml("one", one, seeds, {});
  EXPECT_EQ(text.find("zip:"), std::string::npos) << text;
  const SweepConfig sweep = parse_sweep(text, "one.yaml", {});
  ASSERT_EQ(sweep.runs.size(), 1u);
  EXPECT_EQ(group_id(sweep.runs[0]), group_id(one[0]));
}

TEST(Confirmation, CustomTasksSurvive) {
  const std::vector<RunConfig> one = parse_sweep(R"(
base:
  task:
    name: automaton
    supervision: all
    automaton:
      states: [dark, lit]
      symbols: [wait, push]
      start: dark
      transitions: { dark: { wait: dark, push: lit }, lit: { wait: lit, push: dark } }
)",
                                                 "custom.yaml", {})
                                         .runs;
  const std::vector<uint32_t> seeds = {7};
  const SweepConfig sweep = parse_sweep(confirmation_yaml("c", one, seeds, {}), "c.yaml", {});
  EXPECT_EQ(group_id(sweep.runs[0]), group_id(one[0]));
}

TEST(Confirmation, NothingToConfirmIsRefused) {
  const std::vector<uint32_t> seeds = {7};
  EXPECT_THROW(confirmation_yaml("none", {}, seeds, {}), std::invalid_argument);
  EXPECT_THROW(confirmation_yaml("none", settings(), {}, {}), std::invalid_argument);
}

}  // namespace
}  // namespace statelab
