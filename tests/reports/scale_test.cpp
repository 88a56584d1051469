// Ten thousand runs in one database.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>

#include "reports/comparison.h"
#include "reports/run_list.h"
#include "reports/run_lookup.h"
#include "reports/sweep_status.h"
#include "tests/reports/sample_lab.h"

namespace statelab {
namespace {

constexpr int kRuns = 10000, kSeeds = 10;
constexpr double kSeconds = 1.0;

class TenThousandRuns : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    lab_ = new SampleLab;
    std::vector<SampleRun> runs;
    for (int i = 0; i < kRuns; ++i) {
      runs.push_back({.mixer = i / kSeeds % 2 ? "mamba2" : "mamba3",
                      .lr = 0.0001 * (1 + i / kSeeds),
                      .seed = i % kSeeds,
                      .status = "pending"});
    }
    lab_->add("large", runs);
    // Results straight into the tables: what is measured is reading.
    Transaction transaction(lab_->database());
    lab_->database().execute(
        "UPDATE runs SET status = 'finished', selected_step = 1000, steps_done = 1000;"
        "INSERT INTO run_executions SELECT id, 1, 0, 1000, 12, 1 FROM runs;"
        "INSERT INTO evaluations (run, split, step, length_min, length_max, data_seed, samples, "
        "configured, sequences,"
        " sequences_correct, tokens, tokens_correct, chance, constant_answer)"
        " SELECT r.id, 'test', 1000, l.value, l.value, 0, 1000, 1, 1000, 500 + r.id % 500, 1000, "
        "500 + r.id % 500, 0.5, 0.5"
        " FROM runs r, json_each('[40, 80, 160]') l;"
        "INSERT INTO evaluations (run, split, step, length_min, length_max, data_seed, samples, "
        "configured, sequences,"
        " sequences_correct, tokens, tokens_correct, chance, constant_answer)"
        " SELECT r.id, 'validation', s.value, l.value, l.value, 0, 1000, 1, 1000, 500 + r.id % "
        "500, 1000, 500 + r.id % 500, 0.5,"
        " 0.5 FROM runs r, json_each('[100, 400, 700, 1000]') s, json_each('[40, 80]') l;");
    transaction.commit();
  }
  static void TearDownTestSuite() {
    delete lab_;
    lab_ = nullptr;
  }
  // Processor time of this process: what other programs do at the same time does not count.
  template <typename F>
  static double seconds(F&& call) {
    const std::clock_t start = std::clock();
    call();
    return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  }
  static std::string plan(const std::string& sql) {
    std::string text;
    for (const Row& row : query(lab_->database(), "EXPLAIN QUERY PLAN " + sql))
      text += text_of(row[3]) + '\n';
    return text;
  }
  static inline SampleLab* lab_ = nullptr;
};

TEST_F(TenThousandRuns, ListAnswersWithinASecond) {
  size_t rows = 0;
  EXPECT_LT(seconds([&] { rows = list_runs(lab_->database(), {}).rows.size(); }), kSeconds);
  EXPECT_EQ(rows, static_cast<size_t>(kRuns));
}

TEST_F(TenThousandRuns, CompareAnswersWithinASecond) {
  size_t rows = 0;
  EXPECT_LT(seconds([&] { rows = compare_for_width(lab_->database(), {}, 80).rows.size(); }),
            kSeconds);
  EXPECT_EQ(rows, static_cast<size_t>(3 * kRuns / kSeeds));
}

TEST_F(TenThousandRuns, StatusAnswersWithinASecond) {
  int64_t runs = 0;
  EXPECT_LT(seconds([&] { runs = integer_of(sweep_status(lab_->database()).rows.at(0)[2].value); }),
            kSeconds);
  EXPECT_EQ(runs, kRuns);
}

TEST_F(TenThousandRuns, LookingUpARunUsesTheIndex) {
  EXPECT_THAT(plan("SELECT run_id FROM runs WHERE run_id >= 'abcd' AND run_id < 'abcd' || 'g' "
                   "ORDER BY run_id LIMIT 11"),
              testing::AllOf(testing::HasSubstr("SEARCH"), testing::HasSubstr("run_id>"),
                             testing::Not(testing::HasSubstr("TEMP B-TREE"))));
}

TEST_F(TenThousandRuns, OneRunsEvaluationsAreFoundWithoutAScan) {
  const std::string steps = plan(
      "SELECT r.run_id, v.step, v.accuracy FROM runs r JOIN evaluations v ON v.run = r.id AND "
      "v.split = 'validation'"
      " AND v.length_min = 40 AND v.length_max = 40 WHERE r.run_id = 'x'");
  EXPECT_THAT(steps, testing::Not(testing::HasSubstr("SCAN")));
}

}  // namespace
}  // namespace statelab
