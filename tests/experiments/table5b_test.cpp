// The presets of the Mamba-3 paper's formal-language table say what the paper says.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <set>

#include "experiments/sweep.h"
#include "models/numerics.h"

namespace statelab {
namespace {

SweepConfig preset(const std::string& name, const std::vector<std::string>& overrides = {}) {
  return load_sweep(STATELAB_SOURCE_DIR "/experiments/configs/mamba3-table5b/" + name + ".yaml",
                    overrides);
}

class Table5b : public testing::TestWithParam<const char*> {};

TEST_P(Table5b, HasFiveModelsAtSixteenSettingsEach) {
  const SweepConfig sweep = preset(GetParam());
  EXPECT_TRUE(sweep.warnings.empty()) << sweep.warnings[0];
  ASSERT_EQ(sweep.runs.size(), 80u);
  std::map<std::pair<std::string, std::string>, std::set<std::pair<int, double>>> models;
  std::set<double> rates;
  for (const RunConfig& run : sweep.runs) {
    const ModelConfig& m = run.model;
    models[{m.mixer, m.mixer == "mamba3" ? m.rotation : ""}].insert(
        {m.d_model, run.train.optimizer.lr});
    rates.insert(run.train.optimizer.lr);
    if (m.mixer == "gated_delta_net") {
      EXPECT_EQ(m.eigenvalue_min, -1);
      EXPECT_TRUE(m.conv);
      EXPECT_EQ(m.nheads(), 1);
    } else {
      EXPECT_EQ(m.headdim, 64);
    }
    EXPECT_EQ(m.d_state, 64);
  }
  ASSERT_EQ(models.size(), 5u);
  for (const auto& [model, settings] : models)
    EXPECT_EQ(settings.size(), 16u) << model.first << ' ' << model.second;
  ASSERT_EQ(rates.size(), 8u);
  EXPECT_DOUBLE_EQ(*rates.begin(), 1e-4);
  EXPECT_DOUBLE_EQ(*rates.rbegin(), 1e-2);
}

TEST_P(Table5b, TrainsAndTestsAsThePaperStates) {
  const std::string name = GetParam();
  for (const RunConfig& run : preset(name).runs) {
    EXPECT_EQ(run.train.batch, 256);
    EXPECT_EQ(run.model.n_layers, name == "parity" ? 1 : 3);
    const auto& stages = run.train.curriculum;
    EXPECT_EQ(stages.front().length.max, 40);
    EXPECT_EQ(stages.back().length.max, 160);
    for (const StageConfig& stage : stages) {
      EXPECT_EQ(stage.length.min, 3);
      EXPECT_EQ(stage.steps, 10000);
    }
    EXPECT_NE(std::find(run.eval.lengths.begin(), run.eval.lengths.end(), 256),
              run.eval.lengths.end());
    ASSERT_EQ(run.eval.ranges.size(), 1u);
    EXPECT_EQ(run.eval.ranges[0].min, 40);
    EXPECT_EQ(run.eval.ranges[0].max, 256);
    const std::string task =
        name == "modular_arithmetic_brackets_multiplication" ? "modular_arithmetic_brackets" : name;
    EXPECT_EQ(run.task.name, task);
    if (task == "modular_arithmetic_brackets") {
      EXPECT_EQ(run.task.multiplication, task != name);
    }
  }
}

TEST_P(Table5b, TrainsInOneCohortPerModelAndWidth) {
  std::map<std::string, int> shapes;
  for (const RunConfig& run : preset(GetParam()).runs) ++shapes[shape_key(run)];
  EXPECT_EQ(shapes.size(), 10u);
  for (const auto& [shape, runs] : shapes) EXPECT_EQ(runs, 8);
}

INSTANTIATE_TEST_SUITE_P(Columns, Table5b,
                         testing::Values("parity", "modular_arithmetic",
                                         "modular_arithmetic_brackets",
                                         "modular_arithmetic_brackets_multiplication"));

// Levels as -1 and +1, by factor, one entry a setting.
std::map<std::string, std::vector<int>> factorial_signs() {
  std::map<std::string, std::vector<int>> signs;
  std::set<std::string> seen;
  for (const RunConfig& run : preset("factorial").runs) {
    if (!seen.insert(group_id(run)).second) continue;
    const auto add = [&](const std::string& factor, bool high) {
      signs[factor].push_back(high ? 1 : -1);
    };
    add("a activation", run.model.a_activation == "heavy_tail");
    add("dt range", run.model.dt_min == 0.5);
    add("bos", run.task.bos);
    add("rope fraction", run.model.rope_fraction == 1);
    add("precision", run.train.precision == "tf32");
    add("one schedule", !run.train.schedule.per_stage);
  }
  return signs;
}

TEST(Table5bFactorial, HasSixteenSettingsOfFiveSeedsOfOneModel) {
  const SweepConfig sweep = preset("factorial");
  ASSERT_EQ(sweep.runs.size(), 80u);
  std::map<std::string, std::set<uint32_t>> settings;
  for (const RunConfig& run : sweep.runs) {
    settings[group_id(run)].insert(run.seed);
    EXPECT_EQ(run.model.mixer, "mamba3");
    EXPECT_EQ(run.model.rotation, "data_dependent");
    EXPECT_EQ(run.task.name, "parity");
  }
  EXPECT_EQ(settings.size(), 16u);
  for (const auto& [group, seeds] : settings) EXPECT_EQ(seeds.size(), 5u);
}

TEST(Table5bFactorial, NoMainEffectIsMixedWithAnotherOrWithAPair) {
  const auto signs = factorial_signs();
  ASSERT_EQ(signs.size(), 6u);
  const auto sum_of_products = [](std::vector<const std::vector<int>*> columns) {
    int sum = 0;
    for (size_t i = 0; i < columns[0]->size(); ++i) {
      int product = 1;
      for (const auto* column : columns) product *= (*column)[i];
      sum += product;
    }
    return sum;
  };
  for (const auto& [a, x] : signs) {
    EXPECT_EQ(sum_of_products({&x}), 0) << a << " is not balanced";
    for (const auto& [b, y] : signs) {
      if (b <= a) continue;
      EXPECT_EQ(sum_of_products({&x, &y}), 0) << a << ", " << b;
      for (const auto& [c, z] : signs) {
        if (c <= b) continue;
        EXPECT_EQ(sum_of_products({&x, &y, &z}), 0) << a << ", " << b << ", " << c;
      }
    }
  }
}

TEST(Table5bFactorial, TheGeneratorsAreThoseOfTheFile) {
  auto s = factorial_signs();
  for (size_t i = 0; i < 16; ++i) {
    EXPECT_EQ(s["precision"][i], s["a activation"][i] * s["dt range"][i] * s["bos"][i]);
    EXPECT_EQ(s["one schedule"][i], s["dt range"][i] * s["bos"][i] * s["rope fraction"][i]);
  }
}

/// Results stay true when later numbers differ in their last bits: they are of the version that they record.
TEST(Table5bResults, AreOfTheRunsThatThePresetsDescribe) {
  struct Result {
    const char *preset, *file;
    std::vector<std::string> overrides;
    size_t runs;
  };
  for (const Result& result :
       {Result{"parity", "parity", {}, 80}, Result{"confirm", "parity", {}, 50},
        Result{"factorial", "factorial", {"seeds=1"}, 16}}) {
    std::ifstream file(std::string(STATELAB_SOURCE_DIR "/reports/published/ours/") + result.file +
                       ".jsonl");
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    const SweepConfig sweep = preset(result.preset, result.overrides);
    EXPECT_EQ(sweep.runs.size(), result.runs);
    const std::string key = "\"numerics_version\":", now = key + std::to_string(kNumericsVersion);
    const size_t at = text.find(key);
    ASSERT_NE(at, std::string::npos);
    const std::string recorded = text.substr(at, text.find(',', at) - at);
    for (const RunConfig& run : sweep.runs) {
      std::string config = canonical_json(run);
      ASSERT_NE(config.find(now), std::string::npos) << config;
      config.replace(config.find(now), now.size(), recorded);
      EXPECT_NE(text.find("\"config\":" + config + ","), std::string::npos)
          << result.preset << " lacks " << config;
    }
  }
}

}  // namespace
}  // namespace statelab
