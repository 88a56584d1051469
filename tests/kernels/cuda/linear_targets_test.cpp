// linear_bwd that is given targets: the gradients are those without, where dy is zero behind a sequence's last target.
#include <gtest/gtest.h>

#include <limits>

#include "tests/kernels/cuda/op_agreement.h"

namespace statelab {
namespace {

using namespace testing_support;  // NOLINT: a test

class CudaLinearTargets : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string reason = reason_to_skip();
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
};

/// Last targets anywhere, some sequences without one; and dy as whoever gives them promises.
Arrays with_targets(const std::string& text, int batch, int seqlen, int n, int k) {
  const auto T = static_cast<size_t>(seqlen), columns = static_cast<size_t>(n);
  std::vector<int32_t> targets(static_cast<size_t>(batch) * T, -1);
  OpArray dy = random_array(text + "dy", {batch, seqlen, n});
  const std::vector<int32_t> last =
      integers(text + "last", static_cast<size_t>(batch), static_cast<uint32_t>(2 * seqlen));
  for (size_t b = 0; b < last.size(); ++b) {
    const size_t at = static_cast<size_t>(last[b]) % T;
    if (last[b] < seqlen + seqlen / 2) targets[b * T + at] = 1, targets[b * T + at / 2] = 2;
    const size_t used = targets[b * T + at] < 0 ? 1 : at + 1;
    for (size_t i = (b * T + used) * columns; i < (b + 1) * T * columns; ++i) dy.data[i] = 0;
  }
  return rounded({dy, random_array(text + "w", {n, k}, -0.2, 0.2),
                  random_array(text + "x", {batch, seqlen, k}),
                  integer_array({batch, seqlen}, targets)});
}

struct Extents {
  int batch, seqlen, n, k;
};
/// Tiles within a sequence and of many sequences, blocks with nothing to do or with many parts, every variant at its widest and
/// narrower, widths that other kernels take.
const std::vector<Extents>& all_extents() {
  static const std::vector<Extents> all = {
      {1, 1, 406, 64},     {3, 33, 406, 64},   {13, 161, 406, 64},  {256, 41, 406, 64},
      {256, 161, 406, 64}, {2, 1000, 386, 64}, {700, 3, 386, 64},   {99, 1, 64, 64},
      {13, 161, 64, 128},  {13, 161, 64, 64},  {40, 50, 130, 60},   {40, 50, 42, 20},
      {40, 50, 31, 33},    {3, 70000, 64, 64}, {13, 161, 128, 128}, {20, 33, 100, 128},
      {90, 33, 416, 64},   {40, 50, 130, 64},  {40, 50, 16, 64}};
  return all;
}

TEST_F(CudaLinearTargets, GradientsAreThoseWithoutTargets) {
  for (const Extents& e : all_extents()) {
    const std::string name = extents({e.batch, e.seqlen, e.n, e.k});
    std::vector<Arrays> with, without;
    for (int m = 0; m < kMembers; ++m) {
      with.push_back(with_targets(name + std::to_string(m), e.batch, e.seqlen, e.n, e.k));
      without.emplace_back(with.back().begin(), with.back().end() - 1);
    }
    for (const Precision precision : {Precision::kFp32, Precision::kTf32, Precision::kBf16}) {
      const auto part = run_op_cuda(Op::kLinearBwd, {}, with, precision),
                 whole = run_op_cuda(Op::kLinearBwd, {}, without, precision),
                 alone = run_op_cuda(Op::kLinearBwd, {}, {with[1]}, precision);
      for (size_t m = 0; m < with.size(); ++m) {
        for (size_t i = 0; i < whole[m].outputs.size(); ++i)
          EXPECT_TRUE(part[m].outputs[i].data == whole[m].outputs[i].data)
              << name << " in " << precision_name(precision) << " member " << m << " output " << i;
      }
      EXPECT_EQ(different_bits(alone[0], part[1]), "") << name;
    }
  }
}

TEST_F(CudaLinearTargets, TilesBehindTheLastTargetAreNotRead) {
  const int seqlen = 161, n = 406;
  Arrays in = with_targets("unread", 2, seqlen, n, 64);
  in[3].data.assign(in[3].data.size(), -1);
  in[0].data.assign(in[0].data.size(), 0);
  const auto clean = run_op_cuda(Op::kLinearBwd, {}, {in}, Precision::kTf32);
  in[0].data[100 * n] = std::numeric_limits<double>::quiet_NaN();
  const auto unread = run_op_cuda(Op::kLinearBwd, {}, {in}, Precision::kTf32);
  for (size_t i = 0; i < clean[0].outputs.size(); ++i)
    EXPECT_TRUE(same_bits(unread[0].outputs[i], clean[0].outputs[i])) << i;
}

}  // namespace
}  // namespace statelab
