// `statelab verify --quick` as a whole: everything passes, at more than one seed, whatever the
// number of threads.
#include "experiments/verify/verify.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace statelab {
namespace {

VerifyReport quick(std::vector<std::string> suites, uint32_t seed, int threads) {
  VerifyOptions options;
  options.suites = std::move(suites);
  options.quick = true;
  options.seed = seed;
  options.threads = threads;
  return run_verify(options);
}

class QuickSuite : public testing::TestWithParam<std::string> {};

TEST_P(QuickSuite, PassesAtSeveralSeeds) {
  for (uint32_t seed : {1u, 2u, 11u}) {
    const VerifyReport report = quick({GetParam()}, seed, 2);
    EXPECT_TRUE(report.passed()) << to_text(report);
    for (const VerifyRow& row : report.rows) EXPECT_EQ(row.suite, GetParam());
  }
}

TEST_P(QuickSuite, HasARowOfItsOwnForEveryIdentity) {
  const VerifyReport report = quick({GetParam()}, 1, 2);
  std::set<std::string> identities;
  for (const VerifyRow& row : report.rows) {
    EXPECT_TRUE(identities.insert(row.identity).second) << row.identity;
    EXPECT_GE(row.cases, 1);
    EXPECT_FALSE(row.sizes.empty());
    EXPECT_FALSE(row.reason.empty());
  }
  EXPECT_GE(report.rows.size(), 10u);
}

INSTANTIATE_TEST_SUITE_P(All, QuickSuite, testing::ValuesIn(verify_suites()),
                         [](const auto& suite) { return suite.param; });

TEST(Verify, ThreadsDoNotChangeAnyNumber) {
  VerifyReport one = quick({"rope", "gradients"}, 3, 1), two = quick({"rope", "gradients"}, 3, 2);
  one.wall_s = two.wall_s = 0;
  EXPECT_EQ(to_json(one), to_json(two));
}

TEST(Verify, AnotherSeedDrawsOtherSystems) {
  VerifyReport one = quick({"rope"}, 1, 2), two = quick({"rope"}, 2, 2);
  bool differs = false;
  for (std::size_t i = 0; i < one.rows.size(); ++i)
    differs = differs || one.rows[i].error != two.rows[i].error;
  EXPECT_TRUE(differs);
}

TEST(Verify, NegativeControlsArePartOfTheTable) {
  const VerifyReport report = quick({"rope"}, 1, 2);
  for (const char* control :
       {"control: product up to t-1 instead of t", "control: previous term without its rotation",
        "control: new factor on the right", "control: quaternion factor on the left"}) {
    const auto row = std::find_if(report.rows.begin(), report.rows.end(),
                                  [&](const VerifyRow& r) { return r.identity == control; });
    ASSERT_NE(row, report.rows.end()) << control;
    EXPECT_TRUE(row->must_fail);
    EXPECT_GT(row->error, row->tolerance);
  }
}

TEST(Verify, AnUnknownSuiteIsRefusedByName) {
  try {
    quick({"ropes"}, 1, 1);
    FAIL();
  } catch (const std::invalid_argument& e) {
    EXPECT_STREQ(
        e.what(),
        "[verify] suite must be one of rope, discretization, gradients, backends, exact; is ropes");
  }
}

}  // namespace
}  // namespace statelab
