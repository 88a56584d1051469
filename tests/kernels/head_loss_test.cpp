// head_loss on the CPU: the ops that it stands for one after the other, bits that no thread changes, and what it leaves unread.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/cpu/run_op.h"
#include "tests/kernels/op_cases.h"
#include "tests/support/tolerance.h"

namespace statelab {
namespace {

using namespace testing_support;  // NOLINT: a test

constexpr HeadLossAttrs kAttributes{1e-4, 5};

/// h (batch, seqlen, d), norm, a head of 5 classes and 2 rows that pad, targets of one position in `every` (0: of none), dloss.
Arrays inputs(int batch, int seqlen, int d, int every) {
  const std::string text = std::to_string(batch) + "x" + std::to_string(seqlen);
  std::vector<int32_t> targets = integers(text + "targets", static_cast<size_t>(batch * seqlen), 5);
  for (size_t i = 0; i < targets.size(); ++i) {
    if (every == 0 || static_cast<int>(i) % every != every - 1) targets[i] = -1;
  }
  return {random_array(text + "h", {batch, seqlen, d}, -2, 2),
          random_array(text + "norm", {d}, 0.5, 1.5), random_array(text + "head", {7, d}),
          integer_array({batch, seqlen}, targets), real_array({1}, {0.7})};
}

/// loss, accuracy, dh, dnorm, dhead by the ops of op.h's definition.
Arrays composed(const Arrays& in) {
  const RmsNormAttrs norm{kAttributes.eps};
  const CrossEntropyAttrs loss{kAttributes.classes};
  const auto run = [](Op op, const Attributes& attributes, const Arrays& operands) {
    return run_op<double>(op, attributes, operands).outputs;
  };
  const OpArray u = run(Op::kRmsNorm, norm, {in[0], in[1]})[0];
  const OpArray logits = run(Op::kLinear, {}, {u, in[2]})[0];
  Arrays out = run(Op::kCrossEntropy, loss, {logits, in[3]});
  const OpArray dlogits = run(Op::kCrossEntropyBwd, loss, {in[4], logits, in[3]})[0];
  const OpArray du = run(Op::kLinearBwdX, {}, {dlogits, in[2]})[0];
  for (const OpArray& gradient : run(Op::kRmsNormBwd, norm, {du, in[0], in[1]}))
    out.push_back(gradient);
  out.push_back(run(Op::kLinearBwdW, {}, {dlogits, u})[0]);
  return out;
}

TEST(HeadLoss, IsTheOpsThatItStandsFor) {
  // 1 to 2,100 rows: one block, several, and more than 128 blocks of 16 rows would hold
  for (const auto& [batch, seqlen, d, every] :
       {std::tuple{1, 1, 8, 1}, {3, 11, 7, 2}, {100, 21, 12, 1}, {20, 21, 33, 21}, {2, 9, 5, 0}}) {
    const Arrays in = inputs(batch, seqlen, d, every), expected = composed(in);
    const Arrays actual = run_op<double>(Op::kHeadLoss, kAttributes, in).outputs;
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); ++i) {
      ASSERT_EQ(actual[i].data.size(), expected[i].data.size());
      double largest = 1e-300, error = 0;
      for (size_t k = 0; k < actual[i].data.size(); ++k) {
        largest = std::max(largest, std::abs(expected[i].data[k]));
        error = std::max(error, std::abs(actual[i].data[k] - expected[i].data[k]));
        ASSERT_TRUE(std::isfinite(actual[i].data[k])) << batch << "x" << seqlen << " output " << i;
      }
      EXPECT_TRUE(error <= 1e-12 * largest) << batch << "x" << seqlen << " output " << i;
    }
    for (size_t k = static_cast<size_t>(5 * d); k < actual[4].data.size(); ++k)
      ASSERT_EQ(actual[4].data[k], 0) << "rows of dhead that pad";
    const Arrays threads = run_op<double>(Op::kHeadLoss, kAttributes, in, 3).outputs;
    for (size_t i = 0; i < actual.size(); ++i)
      EXPECT_TRUE(threads[i].data == actual[i].data) << "threads changed output " << i;
  }
}

TEST(HeadLoss, RowsWithoutATargetAreNotReadAndShowNoGradient) {
  Arrays in = inputs(2, 9, 8, 3);
  const Arrays clean = run_op<float>(Op::kHeadLoss, kAttributes, in).outputs;
  for (size_t row = 0; row < 18; ++row) {
    if (in[3].data[row] < 0) in[0].data[row * 8] = std::numeric_limits<double>::quiet_NaN();
  }
  const Arrays unread = run_op<float>(Op::kHeadLoss, kAttributes, in).outputs;
  for (size_t i = 0; i < clean.size(); ++i) EXPECT_TRUE(unread[i].data == clean[i].data) << i;
  for (size_t k = 0; k < clean[2].data.size(); ++k) {
    if (in[3].data[k / 8] < 0) {
      EXPECT_EQ(clean[2].data[k], 0) << k;
    }
  }
  in[0].data[2 * 8] = std::numeric_limits<double>::quiet_NaN();  // row 2 has one
  const Arrays read = run_op<float>(Op::kHeadLoss, kAttributes, in).outputs;
  for (const size_t i : {0, 3, 4}) EXPECT_TRUE(std::isnan(read[i].data[0])) << i;
}

}  // namespace
}  // namespace statelab
