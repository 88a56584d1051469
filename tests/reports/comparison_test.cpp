#include "reports/comparison.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "reports/render.h"
#include "tests/reports/sample_lab.h"

namespace statelab {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

const Cell& cell(const Table& table, size_t row, const std::string& key) {
  for (size_t c = 0; c < table.columns.size(); ++c) {
    if (table.columns[c].key == key) return table.rows.at(row).at(c);
  }
  throw std::out_of_range("no column " + key);
}
double number(const Table& table, size_t row, const std::string& key) {
  return std::get<double>(cell(table, row, key).value);
}

std::vector<std::string> keys(const Table& table) {
  std::vector<std::string> list;
  for (const Column& column : table.columns) list.push_back(column.key);
  return list;
}

// Two models, three seeds each; at length 40 both solve it, at 80 only the first.
void add_two_models(SampleLab& lab) {
  std::vector<SampleRun> runs;
  const int64_t first[] = {1000, 940, 990}, second[] = {500, 520, 490};
  for (int seed = 0; seed < 3; ++seed) {
    SampleRun run{.seed = seed, .test = {{40, 1000}, {80, first[seed]}}};
    run.validations = {{500, {{40, seed == 1 ? 400 : 980}}},
                       {1000, {{40, 1000}, {80, first[seed]}}}};
    runs.push_back(run);
    runs.push_back({.mixer = "mamba2", .seed = seed, .test = {{40, 960}, {80, second[seed]}}});
  }
  lab.add("two", runs);
}

TEST(Compare, GroupsOverSeedsWithHandComputedStatistics) {
  SampleLab lab;
  add_two_models(lab);
  const Table t = compare(lab.database(), {.fold_levels = false});
  ASSERT_EQ(t.rows.size(), 2u);
  EXPECT_EQ(std::get<std::string>(cell(t, 0, "model.mixer").value), "mamba3");
  EXPECT_EQ(std::get<int64_t>(cell(t, 0, "runs").value), 3);
  EXPECT_EQ(std::get<int64_t>(cell(t, 0, "l80.n").value), 3);
  EXPECT_DOUBLE_EQ(number(t, 0, "l80.best"), 1.0);
  EXPECT_DOUBLE_EQ(number(t, 0, "l80.median"), 0.99);
  EXPECT_NEAR(number(t, 0, "l80.mean"), 2.93 / 3, 1e-12);
  EXPECT_NEAR(cell(t, 0, "l80.mean").spread, summarize(std::vector<double>{1, 0.94, 0.99}).sd,
              1e-12);
  EXPECT_DOUBLE_EQ(number(t, 0, "l80.success"), 2.0 / 3);
  EXPECT_DOUBLE_EQ(cell(t, 0, "l80.success").low, wilson_interval(2, 3).low);
  EXPECT_DOUBLE_EQ(number(t, 0, "l80.standard_error"),
                   accuracy_standard_error(0.99, kSampleAnswers));
  EXPECT_DOUBLE_EQ(number(t, 0, "l80.chance"), 0.5);
  EXPECT_DOUBLE_EQ(number(t, 1, "l80.best_useless"), expected_best_of(3, 0.5, kSampleAnswers));
  EXPECT_EQ(std::get<int64_t>(cell(t, 0, "parameters").value), 36740);
  EXPECT_DOUBLE_EQ(number(t, 0, "wall_seconds"), 12);
}

TEST(Compare, ShowsOnlySweptKeys) {
  SampleLab lab;
  add_two_models(lab);
  const std::vector<std::string> names = keys(compare(lab.database(), {}));
  EXPECT_EQ(names.front(), "model.mixer");
  EXPECT_THAT(names,
              Not(testing::Contains("model.rotation")));  // mamba2 has none, all of mamba3 the same
  EXPECT_THAT(names, Not(testing::Contains("model.d_model")));
  EXPECT_THAT(names, Not(testing::Contains("seed")));
}

TEST(Compare, StepsToSolveAreTheMedianOverRunsThatStaySolved) {
  SampleLab lab;
  add_two_models(lab);
  const Table t = compare(lab.database(), {});
  EXPECT_DOUBLE_EQ(number(t, 0, "steps_to_solve"), 500);  // 500, 1000, 500
  EXPECT_EQ(std::get<std::string>(cell(t, 0, "solved").value), "3/3");
  EXPECT_EQ(std::get<std::string>(cell(t, 1, "solved").value), "0/3");
}

TEST(Compare, FoldsEqualLevelsIntoNotesForPeopleOnly) {
  SampleLab lab;
  add_two_models(lab);
  const Table folded = compare(lab.database(), {});
  EXPECT_THAT(keys(folded), Not(testing::Contains("l80.chance")));
  EXPECT_THAT(keys(folded), Not(testing::Contains("l80.best_useless")));
  const std::string text = render_text(folded);
  EXPECT_THAT(text, HasSubstr("at length 40, 80: chance 50.00 %, constant answer 50.00 %\n"));
  EXPECT_THAT(text, HasSubstr("at length 40, 80: expected best of 3 useless models 51."));
  EXPECT_THAT(keys(compare(lab.database(), {.fold_levels = false})),
              testing::Contains("l80.chance"));
}

TEST(Compare, OneRunHasNoSpread) {
  SampleLab lab;
  lab.add("one", {{.test = {{40, 500}}}});
  const Table t = compare(lab.database(), {});
  EXPECT_THAT(render_text(t), Not(HasSubstr("50.00 ±")));
  EXPECT_THAT(render_json(t), HasSubstr("\"l40.mean_sd\":null"));
}

TEST(Compare, LevelsStayInTheTableWhereTheyDiffer) {
  SampleLab lab;
  lab.add(
      "levels",
      {{.test = {{40, 500}}},
       {.test = {{40, 300}}, .task = "cycle_navigation", .chance = 0.2, .constant_answer = 0.2}});
  EXPECT_THAT(keys(compare(lab.database(), {})), testing::Contains("l40.chance"));
}

TEST(Compare, MarksTheBestOnlyWhereAllRowsShareOneProtocol) {
  SampleLab lab;
  add_two_models(lab);
  const Table same = compare(lab.database(), {});
  EXPECT_TRUE(cell(same, 0, "l80.median").best);
  EXPECT_FALSE(cell(same, 1, "l80.median").best);
  lab.add("other", {{.seed = 9, .test = {{80, 999}}, .supervision = "all"}});
  const Table mixed = compare(lab.database(), {});
  for (const auto& row : mixed.rows) {
    for (const Cell& c : row) EXPECT_FALSE(c.best);
  }
  EXPECT_THAT(render_text(mixed),
              HasSubstr("no value is marked as best: the rows differ in supervision"));
}

TEST(Compare, DivergedRunsCountAgainstTheSuccessRate) {
  SampleLab lab;
  lab.add("d", {{.seed = 0, .test = {{40, 1000}}},
                {.seed = 1, .status = "diverged"},
                {.seed = 2, .status = "failed"},
                {.seed = 3, .status = "pending"}});
  const Table t = compare(lab.database(), {.fold_levels = false});
  EXPECT_EQ(std::get<int64_t>(cell(t, 0, "l40.n").value), 1);
  EXPECT_DOUBLE_EQ(number(t, 0, "l40.success"), 1.0 / 3);
  EXPECT_THAT(render_text(t), HasSubstr("of these runs: 1 diverged, 1 failed, 1 pending"));
}

TEST(Compare, BestByValidationIsNotTheBestOnTheTest) {
  SampleLab lab;
  SampleRun lucky{.lr = 0.001, .test = {{80, 700}}}, chosen{.lr = 0.002, .test = {{80, 600}}};
  lucky.validations = {{1000, {{80, 500}}}};
  chosen.validations = {{1000, {{80, 800}}}};
  lab.add("settings", {lucky, chosen});
  const Table t = compare(lab.database(), {.group_by = {"model"}});
  ASSERT_EQ(t.rows.size(), 1u);
  EXPECT_EQ(std::get<int64_t>(cell(t, 0, "settings").value), 2);
  EXPECT_DOUBLE_EQ(number(t, 0, "l80.best"), 0.7);
  EXPECT_DOUBLE_EQ(number(t, 0, "l80.best_by_validation"), 0.6);
}

TEST(Compare, ScalesScoresAndLevelsAlike) {
  SampleLab lab;
  lab.add("s", {{.test = {{40, 250}}}});
  const Table t =
      compare(lab.database(), {.metric = Metric::kScaledAccuracy, .fold_levels = false});
  EXPECT_DOUBLE_EQ(number(t, 0, "l40.median"), -0.5);
  EXPECT_DOUBLE_EQ(number(t, 0, "l40.chance"), 0);
  EXPECT_DOUBLE_EQ(number(t, 0, "l40.standard_error"),
                   2 * accuracy_standard_error(0.25, kSampleAnswers));
}

TEST(Compare, UselessModelsMayAnswerAlwaysTheSame) {
  SampleLab lab;
  lab.add("brackets", {{.test = {{40, 300}}, .chance = 0.2, .constant_answer = 0.3}});
  const Table t = compare(lab.database(), {.fold_levels = false});
  EXPECT_NEAR(number(t, 0, "l40.best_useless"), 0.3, 1e-12);
}

TEST(Compare, LongLayoutHasTheSameColumnsForEveryDatabase) {
  SampleLab lab;
  add_two_models(lab);
  const Table t = compare(lab.database(), {.layout = CompareLayout::kLong, .fold_levels = false});
  EXPECT_EQ(t.rows.size(), 4u);
  EXPECT_EQ(std::get<std::string>(cell(t, 1, "length").value), "80");
  EXPECT_TRUE(cell(t, 1, "median").best);   // mamba3 at 80
  EXPECT_FALSE(cell(t, 3, "median").best);  // mamba2 at 80
  EXPECT_TRUE(cell(t, 0, "median").best);   // a contest of its own at 40
}

TEST(Compare, TakesTheLongLayoutWhereTheWideOneDoesNotFit) {
  SampleLab lab;
  add_two_models(lab);
  EXPECT_EQ(compare_for_width(lab.database(), {}, 400).rows.size(), 2u);
  EXPECT_EQ(compare_for_width(lab.database(), {}, 80).rows.size(), 4u);
}

TEST(Compare, SortsByTheMedianAtTheLongestLengthWhenAsked) {
  SampleLab lab;
  lab.add("s", {{.lr = 0.001, .test = {{40, 990}, {80, 500}}},
                {.lr = 0.002, .test = {{40, 600}, {80, 900}}}});
  const Table t = compare(lab.database(), {.sort_by_median = true});
  EXPECT_EQ(std::get<std::string>(cell(t, 0, "train.optimizer.lr").value), "0.002");
}

TEST(Compare, FiltersBySweepTaskAndConfigurationKey) {
  SampleLab lab;
  add_two_models(lab);
  lab.add("other", {{.lr = 0.01, .seed = 7, .test = {{40, 500}}}});
  EXPECT_EQ(compare(lab.database(), {.filter = {.sweep = "other"}}).rows.size(), 1u);
  EXPECT_EQ(compare(lab.database(), {.filter = {.where = {{"model.mixer", "mamba2"}}}}).rows.size(),
            1u);
  EXPECT_EQ(
      compare(lab.database(), {.filter = {.where = {{"train.optimizer.lr", "0.01"}}}}).rows.size(),
      1u);
  EXPECT_TRUE(compare(lab.database(), {.filter = {.task = "no such task"}}).rows.empty());
  EXPECT_THROW(compare(lab.database(), {.filter = {.where = {{"x') --", "1"}}}}),
               std::invalid_argument);
}

TEST(Compare, RefusesAThresholdOutsideZeroToOne) {
  SampleLab lab;
  add_two_models(lab);
  EXPECT_THAT(
      [&] { compare(lab.database(), {.threshold = 95}); },
      testing::ThrowsMessage<std::invalid_argument>(HasSubstr("must lie in (0, 1], is 95")));
}

}  // namespace
}  // namespace statelab
