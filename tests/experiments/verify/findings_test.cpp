// How findings become rows: NaN, controls, the worst case, and errors that are relative.
#include "experiments/verify/findings.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

namespace statelab {
namespace {

using namespace verify;  // NOLINT: the whole file is about it

Finding finding(double error, double tolerance, bool must_fail = false) {
  Finding f;
  f.identity = "a = b";
  f.error = error;
  f.tolerance = tolerance;
  f.where = "T=" + std::to_string(tolerance);
  f.must_fail = must_fail;
  return f;
}

const double kNan = std::numeric_limits<double>::quiet_NaN();

TEST(VerifyRows, NanFailsWhereverItStands) {
  EXPECT_FALSE(rows_of("s", {finding(kNan, 1), finding(0, 1)})[0].passed);
  EXPECT_FALSE(rows_of("s", {finding(0, 1), finding(kNan, 1)})[0].passed);
  EXPECT_FALSE(rows_of("s", {finding(kNan, 0)})[0].passed);
}

TEST(VerifyRows, ANegativeControlPassesOnlyWhenEveryCaseIsFarOff) {
  EXPECT_TRUE(rows_of("s", {finding(2, 1, true), finding(3, 1, true)})[0].passed);
  EXPECT_FALSE(rows_of("s", {finding(2, 1, true), finding(0.5, 1, true)})[0].passed);
  EXPECT_FALSE(rows_of("s", {finding(2, 1, true), finding(kNan, 1, true)})[0].passed);
}

TEST(VerifyRows, TheWorstCaseIsTheOneNearestItsOwnTolerance) {
  const auto rows = rows_of("s", {finding(0.5, 1), finding(0.1, 0.125), finding(0.6, 1)});
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].cases, 3);
  EXPECT_EQ(rows[0].error, 0.1);
  EXPECT_EQ(rows[0].tolerance, 0.125);
  EXPECT_TRUE(rows[0].passed);
}

TEST(VerifyRows, AToleranceOfZeroAsksForEquality) {
  EXPECT_TRUE(rows_of("s", {finding(0, 0)})[0].passed);
  EXPECT_FALSE(rows_of("s", {finding(0, 0), finding(1e-300, 0)})[0].passed);
}

TEST(VerifyErrors, AreRelativeToTheLargestReference) {
  EXPECT_DOUBLE_EQ(relative_error({1, 2.5}, {1, 2}), 0.25);
  EXPECT_DOUBLE_EQ(relative_error({1, 2.5}, {1, 2}, 10), 0.05);
  EXPECT_EQ(relative_error({0, 0}, {0, 0}), 0);
  EXPECT_TRUE(std::isinf(relative_error({1}, {1, 2})));
  EXPECT_TRUE(std::isinf(relative_error({kNan}, {1})));
  EXPECT_TRUE(std::isinf(relative_error({1}, {std::numeric_limits<double>::infinity()})));
}

TEST(VerifyErrors, AGradientNamesItsWorstInputAndIgnoresRoundingOfTheLargest) {
  const std::vector<std::string> names = {"x", "y"};
  std::string worst;
  EXPECT_DOUBLE_EQ(gradient_error({{1000}, {2}}, {{1000}, {1}}, 1e-3, &worst, &names), 1);
  EXPECT_EQ(worst, "y");
  EXPECT_DOUBLE_EQ(gradient_error({{1000}, {2}}, {{1000}, {1}}, 1e-1, &worst, &names), 0.01);
}

TEST(VerifyCases, RunInParallelAndJoinInOrder) {
  for (int threads : {1, 3}) {
    const Findings all =
        find_in_parallel(20, threads, [](int i) { return Findings{finding(i, 1)}; });
    ASSERT_EQ(all.size(), 20u);
    for (int i = 0; i < 20; ++i) EXPECT_EQ(all[static_cast<std::size_t>(i)].error, i);
  }
  EXPECT_THROW(find_in_parallel(3, 2,
                                [](int i) -> Findings {
                                  if (i == 1) throw std::runtime_error("case");
                                  return {};
                                }),
               std::runtime_error);
}

TEST(VerifyReport, AnEmptyReportDoesNotPass) { EXPECT_FALSE(VerifyReport{}.passed()); }

TEST(VerifyReport, TextAndJsonTellTheSameVerdicts) {
  VerifyReport report;
  report.seed = 17;
  report.rows = rows_of("s", {finding(kNan, 1)});
  Finding control = finding(2, 1, true);
  control.identity = "control: c";
  report.rows.push_back(rows_of("s", {control})[0]);
  report.reaches = {{"parity", "cpu fp32", 100, 4, 7}, {"parity", "cpu fp64", 100, 4, 0}};
  const std::string text = to_text(report);
  for (const char* part : {"seed 17", "FAIL", "fails, as it must", "1 of 2 checks passed",
                           "7 tokens", "none in 4 x 100 tokens"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  }
  const auto json = nlohmann::json::parse(to_json(report));
  EXPECT_EQ(json["passed"], false);
  EXPECT_EQ(json["seed"], 17);
  EXPECT_TRUE(json["rows"][0]["error"].is_null());
  EXPECT_EQ(json["rows"][0]["passed"], false);
  EXPECT_EQ(json["rows"][1]["negative_control"], true);
  EXPECT_EQ(json["rows"][1]["passed"], true);
  EXPECT_EQ(json["reaches"][0]["first_error"], 7);
  EXPECT_TRUE(json["reaches"][1]["first_error"].is_null());
}

}  // namespace
}  // namespace statelab
