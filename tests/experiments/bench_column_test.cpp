#include "experiments/bench_column.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "experiments/bench_train.h"
#include "experiments/build_info.h"
#include "experiments/sweep.h"

namespace statelab {
namespace {

constexpr const char* kTwoShapes = R"(name: tiny
base:
  task: { name: parity }
  model: { d_model: 8, headdim: 8, d_state: 4, chunk_size: 8 }
  train: { batch: 4, curriculum: [ { steps: 6, length: [3, 8] }, { steps: 9, length: [3, 20] } ] }
  eval: { lengths: [8, 16], samples: 40, every: 4 }
parameters: { model.mixer: { values: [mamba3, mamba2] } }
seeds: 6
)";

bool optimised() {
  const std::string& type = build_info().build_type;
  return type == "Release" || type == "RelWithDebInfo";
}

TEST(BenchColumn, MeasuresEachStageAndTheEvaluationsOfEveryDistinctCohort) {
  if (!optimised()) GTEST_SKIP() << "benchmarks refuse this build";
  const SweepConfig sweep = parse_sweep(kTwoShapes, "tiny.yaml", {});
  const BenchColumnReport report =
      bench_column(sweep.runs, {.seconds = 0.02, .max_members = 4}, ComputeDevice(1));
  // Six runs a shape in cohorts of four and two; two stages and the evaluations each.
  ASSERT_EQ(report.rows.size(), 12u);
  double seconds = 0;
  int64_t runs = 0;
  for (size_t r = 0; r < report.rows.size(); ++r) {
    const BenchColumnRow& row = report.rows[r];
    EXPECT_EQ(row.config.model.mixer, r < 6 ? "mamba3" : "mamba2");
    EXPECT_EQ(row.members, r / 3 % 2 == 0 ? 4 : 2);
    EXPECT_EQ(row.cohorts, 1);
    EXPECT_EQ(row.evaluation, r % 3 == 2);
    EXPECT_EQ(row.count, r % 3 == 0 ? 6 : r % 3 == 1 ? 9 : 5) << "three validations, end and test";
    EXPECT_EQ(row.seqlen, r % 3 == 0 ? 8 : r % 3 == 1 ? 24 : 0) << "rounded up to the bucket";
    EXPECT_GT(row.per_second, 0);
    EXPECT_DOUBLE_EQ(row.seconds, static_cast<double>(row.cohorts * row.count) / row.per_second);
    seconds += row.seconds;
    if (row.evaluation) runs += row.runs;
  }
  EXPECT_NEAR(report.seconds, seconds, 1e-9 * seconds);
  EXPECT_EQ(runs, 12);
}

TEST(BenchColumn, ManyCohortsOfOneSizeAreMeasuredOnce) {
  if (!optimised()) GTEST_SKIP() << "benchmarks refuse this build";
  const SweepConfig sweep = parse_sweep(kTwoShapes, "tiny.yaml", {"model.mixer=mamba3", "seeds=6"});
  const BenchColumnReport report =
      bench_column(sweep.runs, {.seconds = 0.01, .max_members = 2}, ComputeDevice(1));
  ASSERT_EQ(report.rows.size(), 3u);
  EXPECT_EQ(report.rows[0].cohorts, 3);
  EXPECT_EQ(report.rows[0].runs, 6);
  EXPECT_DOUBLE_EQ(report.rows[0].seconds, 18 / report.rows[0].per_second);
}

TEST(BenchColumn, RefusesBuildsThatAreNotOptimised) {
  if (optimised()) GTEST_SKIP() << "this build is optimised";
  const SweepConfig sweep = parse_sweep(kTwoShapes, "tiny.yaml", {});
  EXPECT_THROW(bench_column(sweep.runs, {}, ComputeDevice(1)), BenchRefused);
}

TEST(BenchColumn, CohortsAreThoseOfTheRunner) {
  const SweepConfig sweep = parse_sweep(kTwoShapes, "tiny.yaml", {});
  EXPECT_EQ(chosen_members(sweep.runs[0], 100, ComputeDevice(2)), 4);
  EXPECT_EQ(chosen_members(sweep.runs[0], 100, ComputeDevice(6)), 6);
  EXPECT_EQ(chosen_members(sweep.runs[0], 3, ComputeDevice(6)), 3);
  EXPECT_EQ(chosen_members(sweep.runs[0], 100, ComputeDevice(2), 16), 16);
}

TEST(BenchColumn, CountsTheEvaluationsThatTrainingMakes) {
  RunConfig run;
  run.train.curriculum = {{6, {3, 8}}, {4, {3, 16}}};
  const auto count = [&](int64_t every) {
    run.eval.every = every;
    return evaluations_of(run);
  };
  EXPECT_EQ(count(0), 2) << "at the end, and the test";
  EXPECT_EQ(count(5), 3);
  EXPECT_EQ(count(4), 4) << "4, 8, the end, and the test";
  EXPECT_EQ(count(100), 2);
}

}  // namespace
}  // namespace statelab
