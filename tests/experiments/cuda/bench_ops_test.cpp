// `statelab bench ops` on a GPU: every op passes its check and gets a row of positive numbers. How large they are is not tested.
#include "experiments/bench_ops.h"

#include <gtest/gtest.h>

#include "experiments/build_info.h"
#include "tests/support/cuda.h"

namespace statelab {
namespace {

class CudaBenchOps : public testing::TestWithParam<Precision> {};

TEST_P(CudaBenchOps, ReportsPositiveNumbersForEveryOp) {
  std::string reason;
  const auto found = testing_support::usable_cuda_device(&reason);
  if (!found) GTEST_SKIP() << reason;
  const ComputeDevice device = ComputeDevice::cuda(found->index, GetParam());
  BenchOpsOptions options;
  options.batch = 4;
  const std::string& build = build_info().build_type;
  if (build != "Release" && build != "RelWithDebInfo") {
    EXPECT_THROW(bench_ops(options, device), BenchRefused);
    return;
  }
  const BenchOpsReport report = bench_ops(options, device);
  EXPECT_EQ(report.device, found->name);
  EXPECT_EQ(report.precision, precision_name(GetParam()));
  EXPECT_GT(report.copy_bytes_per_s, 0);
  EXPECT_GT(report.product_flop_per_s, 0);
  size_t at = 0;
  for (const BenchWork& w : bench_works(device, options.batch)) {
    for (const int members : w.members) {
      ASSERT_LT(at, report.rows.size());
      const BenchOpsRow& row = report.rows[at++];
      SCOPED_TRACE(row.op + " " + row.work + " " + std::to_string(members));
      EXPECT_EQ(row.op, op_name(w.op));
      EXPECT_EQ(row.work, w.work);
      EXPECT_EQ(row.precision, w.flop > 0 ? report.precision : "fp32");
      EXPECT_EQ(row.seqlen, w.seqlen);
      EXPECT_EQ(row.members, members);
      EXPECT_GT(row.cold_us, 0);
      EXPECT_GT(row.hot_us, 0);
      EXPECT_GT(row.member_us, 0);
      EXPECT_GE(row.spread_pct, 0);
      EXPECT_GT(row.bytes_per_s, 0);
      EXPECT_GT(row.share_of_copy_pct, 0);
      EXPECT_EQ(row.flop_per_s > 0, w.flop > 0);
      EXPECT_EQ(row.share_of_product_pct > 0, w.flop > 0);
    }
  }
  EXPECT_EQ(at, report.rows.size());
}

INSTANTIATE_TEST_SUITE_P(Precisions, CudaBenchOps,
                         testing::Values(Precision::kFp32, Precision::kTf32, Precision::kBf16),
                         [](const auto& p) { return std::string(precision_name(p.param)); });

}  // namespace
}  // namespace statelab
