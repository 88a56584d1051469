#include "reports/marginals.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "reports/render.h"
#include "tests/reports/sample_lab.h"

namespace statelab {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

const Cell& cell(const Table& table, size_t row, const std::string& key) {
  for (size_t c = 0; c < table.columns.size(); ++c) {
    if (table.columns[c].key == key) return table.rows.at(row).at(c);
  }
  throw std::out_of_range("no column " + key);
}
double number(const Table& table, size_t row, const std::string& key) {
  return number_of(cell(table, row, key).value);
}

// Rotation decides, the learning rate does not: 2 x 2 settings, two seeds each.
void add_two_by_two(SampleLab& lab) {
  std::vector<SampleRun> runs;
  for (const char* rotation : {"data_dependent", "none"}) {
    for (const double lr : {0.001, 0.002}) {
      for (const int seed : {0, 1}) {
        const bool learns = std::string(rotation) != "none";
        runs.push_back(
            {.rotation = rotation,
             .lr = lr,
             .seed = seed,
             .test = {{40, learns ? 1000 : 500}, {80, learns && seed == 0 ? 980 : 510}}});
      }
    }
  }
  lab.add("design", runs);
}

TEST(Marginals, CountEachValueOverAllValuesOfTheOthers) {
  SampleLab lab;
  add_two_by_two(lab);
  const Table t = marginals(lab.database(), {});
  ASSERT_EQ(t.rows.size(), 5u);  // two rotations, two rates, all
  const std::vector<std::pair<std::string, double>> expected = {
      {"data_dependent", 0.5}, {"none", 0}, {"0.001", 0.25}, {"0.002", 0.25}, {"", 0.25}};
  for (size_t r = 0; r < expected.size(); ++r) {
    EXPECT_EQ(text_of(cell(t, r, "value").value), expected[r].first);
    EXPECT_DOUBLE_EQ(number(t, r, "l80.success"), expected[r].second);
    EXPECT_EQ(number(t, r, "runs"), r == 4 ? 8 : 4);
    EXPECT_EQ(number(t, r, "settings"), r == 4 ? 4 : 2);
  }
  const Interval wilson = wilson_interval(2, 4);
  EXPECT_DOUBLE_EQ(cell(t, 0, "l80.success").low, wilson.low);
  EXPECT_DOUBLE_EQ(cell(t, 0, "l80.success").high, wilson.high);
  EXPECT_DOUBLE_EQ(number(t, 0, "longest_median"), 60);  // 80, 40, 80, 40
  EXPECT_EQ(number(t, 0, "longest_best"), 80);
  EXPECT_EQ(number(t, 1, "longest_best"), 0);
  EXPECT_EQ(text_of(cell(t, 4, "setting").value), "all");
}

TEST(Marginals, TakeTheKeysLengthsAndThresholdAskedFor) {
  SampleLab lab;
  add_two_by_two(lab);
  const Table t = marginals(lab.database(),
                            {.keys = {"model.rotation"}, .lengths = {{40, 40}}, .threshold = 0.5});
  ASSERT_EQ(t.rows.size(), 3u);
  EXPECT_DOUBLE_EQ(number(t, 1, "l40.success"), 1);
  EXPECT_THROW(cell(t, 0, "l80.success"), std::out_of_range);
  EXPECT_THAT(render_text(t), HasSubstr("longest length ≥ 50 %"));
  EXPECT_THROW(marginals(lab.database(), {.threshold = 0}), std::invalid_argument);
}

TEST(Marginals, NameTheColumnsOfALengthAsACompareDoes) {
  SampleLab lab;
  lab.add("s", {{.test = {{40, 1000}}, .test_from_40 = {{256, 600}}}});
  const std::vector<ScoredLength> lengths = {{40, 40}, {40, 256}};
  const Table by = marginals(lab.database(), {.keys = {"model"}, .lengths = lengths}),
              side_by_side = compare(lab.database(), {.lengths = lengths});
  for (const char* key : {"l40.success", "l40.median", "l40_256.success", "l40_256.best"})
    EXPECT_EQ(number(by, 0, key), number(side_by_side, 0, key)) << key;
}

TEST(Marginals, RefuseKeysThatNoRunHas) {
  SampleLab lab;
  EXPECT_EQ(marginals(lab.database(), {.keys = {"model.d_stat"}}).rows.size(), 1u) << "no runs yet";
  add_two_by_two(lab);
  const auto refused = [&](const std::string& key, const RunFilter& filter) {
    return [&lab, key, filter] { marginals(lab.database(), {.filter = filter, .keys = {key}}); };
  };
  EXPECT_THAT(refused("model.d_stat", {.sweep = "design"}),
              ThrowsMessage<std::invalid_argument>(
                  AllOf(HasSubstr("sweep design: no run has a setting \"model.d_stat\""),
                        HasSubstr("all but the seed, are model, task.name, "))));
  EXPECT_THROW(refused("seed", {})(), std::invalid_argument) << "what groups are over";
  lab.add("other", {{.mixer = "mamba2", .test = {{40, 500}}}});
  EXPECT_EQ(marginals(lab.database(), {.keys = {"model.rotation"}}).rows.size(), 4u)
      << "two, none, all";
  EXPECT_THROW(refused("model.rotation", {.sweep = "other"})(), std::invalid_argument);
}

TEST(Marginals, RunsThatDivergedReachNothingButCount) {
  SampleLab lab;
  lab.add("d", {{.seed = 0, .test = {{40, 1000}}},
                {.seed = 1, .status = "diverged"},
                {.seed = 2, .status = "failed"}});
  const Table t = marginals(lab.database(), {.keys = {"model"}});
  EXPECT_DOUBLE_EQ(number(t, 0, "l40.success"), 1.0 / 3);
  EXPECT_DOUBLE_EQ(number(t, 0, "longest_median"), 0);
  EXPECT_EQ(number(t, 0, "longest_best"), 40);
}

TEST(LongestLength, StopsAtTheFirstTestedLengthThatIsMissed) {
  const auto run = [](std::map<ScoredLength, double> accuracies) {
    ScoredRun r;
    for (const auto& [length, accuracy] : accuracies) {
      r.test[length] = {.accuracy = accuracy, .chance = 0.5, .sequences = 100, .tokens = 100};
    }
    return r;
  };
  const auto longest = [&](const std::map<ScoredLength, double>& a) {
    return longest_length(run(a), Metric::kAccuracy, 0.95);
  };
  EXPECT_EQ(longest({{{40, 40}, 1}, {{80, 80}, 0.95}, {{160, 160}, 0.94}}), 80);
  EXPECT_EQ(longest({{{40, 40}, 1}, {{80, 80}, 0.5}, {{160, 160}, 1}}), 40);
  EXPECT_EQ(longest({{{40, 40}, 0.5}, {{80, 80}, 1}}), 0);
  EXPECT_EQ(longest({{{40, 256}, 1}}), std::nullopt) << "a range is no length";
  EXPECT_EQ(longest({}), std::nullopt);
  EXPECT_EQ(longest_length(run({{{40, 40}, 0.96}}), Metric::kScaledAccuracy, 0.95), 0);
}

}  // namespace
}  // namespace statelab
