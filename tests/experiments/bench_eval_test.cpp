// What `statelab bench eval` times, and that it times whole evaluations, without a GPU. How fast they are is not tested.
#include "experiments/bench_eval.h"

#include <gtest/gtest.h>

#include <set>

#include "experiments/build_info.h"

namespace statelab {
namespace {

TEST(BenchEval, ComparesEqualTokensOverLengthsAndEqualSamplesOverMembers) {
  const std::vector<EvalWork> works = eval_works(ComputeDevice::cuda(0));
  std::set<int> lengths, members;
  bool has_asked = false;
  for (const EvalWork& w : works) {
    EXPECT_GT(w.samples, 0);
    if (w.members == 1) lengths.insert(w.length);
    if (w.length == 160) members.insert(w.members);
    has_asked = has_asked || (w.length == 16384 && w.samples == 1024);
    if (w.members > 1) {
      EXPECT_EQ(w.samples, 8192);
    } else if (w.samples != 8192) {
      EXPECT_NEAR(static_cast<double>(w.samples) * w.length, 1 << 24, w.length);
    }
  }
  EXPECT_EQ(*lengths.begin(), 160);
  EXPECT_EQ(*lengths.rbegin(), 65536);
  EXPECT_EQ(members, (std::set<int>{1, 4, 16, 64}));
  EXPECT_TRUE(has_asked);  // 16,384 tokens x 1,024 samples
}

TEST(BenchEval, ReportsPositiveNumbersOnTheCpu) {
  BenchEvalOptions options;
  options.repeats = 2;
  options.works = {{12, 2, 5}, {40, 1, 3}};
  const std::string& build = build_info().build_type;
  if (build != "Release" && build != "RelWithDebInfo") {
    EXPECT_THROW(bench_eval(options, 1), BenchRefused);
    return;
  }
  const BenchEvalReport report = bench_eval(options, 1);
  ASSERT_EQ(report.rows.size(), 2u);
  EXPECT_EQ(report.precision, "fp32");
  for (size_t i = 0; i < 2; ++i) {
    const BenchEvalRow& row = report.rows[i];
    EXPECT_EQ(row.length, options.works[i].length);
    EXPECT_EQ(row.members, options.works[i].members);
    EXPECT_EQ(row.samples, options.works[i].samples);
    EXPECT_GT(row.seconds, 0);
    EXPECT_GE(row.spread_pct, 0);
    EXPECT_GT(row.tokens_per_s, 0);
    EXPECT_NEAR(row.ns_per_token * row.tokens_per_s, 1e9, 1);
  }
}

}  // namespace
}  // namespace statelab
