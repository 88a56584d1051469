// head_loss and out_proj_loss on the CPU: the ops that they stand for one after the other, bits that no thread changes, and what
// they leave unread.
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

/// Equal but for rounding in double; no thread changes a bit.
void expect_the_ops(Op op, const Arrays& in, const Arrays& expected, const std::string& name) {
  const Arrays actual = run_op<double>(op, kAttributes, in).outputs,
               threads = run_op<double>(op, kAttributes, in, 3).outputs;
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(actual[i].data.size(), expected[i].data.size());
    double largest = 1e-300, error = 0;
    for (size_t k = 0; k < actual[i].data.size(); ++k) {
      largest = std::max(largest, std::abs(expected[i].data[k]));
      error = std::max(error, std::abs(actual[i].data[k] - expected[i].data[k]));
      ASSERT_TRUE(std::isfinite(actual[i].data[k])) << name << " output " << i;
    }
    EXPECT_TRUE(error <= 1e-12 * largest) << name << " output " << i << ": " << error;
    EXPECT_TRUE(threads[i].data == actual[i].data) << "threads changed output " << i;
  }
  const OpArray &dhead = actual.back(), &head = expected.back();
  for (size_t k = static_cast<size_t>(5 * head.type.shape.last()); k < dhead.data.size(); ++k)
    ASSERT_EQ(dhead.data[k], 0) << "rows of dhead that pad";
}

TEST(HeadLoss, IsTheOpsThatItStandsFor) {
  // 1 to 2,100 rows: one block, several, and more than 128 blocks of 16 rows would hold
  for (const auto& [batch, seqlen, d, every] :
       {std::tuple{1, 1, 8, 1}, {3, 11, 7, 2}, {100, 21, 12, 1}, {20, 21, 33, 21}, {2, 9, 5, 0}}) {
    const Arrays in = inputs(batch, seqlen, d, every);
    expect_the_ops(Op::kHeadLoss, in, composed(in),
                   std::to_string(batch) + "x" + std::to_string(seqlen));
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

// ---- out_proj_loss

/// y (batch, 1, d_inner) and out_proj before x (batch, seqlen, d) and what follows h in inputs().
Arrays tail_inputs(int batch, int seqlen, int d, int d_inner, int every) {
  Arrays in = inputs(batch, seqlen, d, every);
  in.insert(in.begin(), {random_array("y", {batch, 1, d_inner}, -2, 2),
                         random_array("out_proj", {d, d_inner}, -0.5, 0.5)});
  return in;
}

/// loss, accuracy, dy, dout_proj, dx, dnorm, dhead by the ops of op.h's definition.
Arrays composed_tail(const Arrays& in) {
  const auto run = [](Op op, const Attributes& attributes, const Arrays& operands) {
    return run_op<double>(op, attributes, operands).outputs;
  };
  const OpArray row = run(Op::kSelect, {}, {in[2], in[5]})[0],
                targets = run(Op::kSelect, {}, {in[5], in[5]})[0],
                h = run(Op::kLinear, {}, {in[0], in[1], row})[0];
  const Arrays head = run(Op::kHeadLoss, kAttributes, {h, in[3], in[4], targets, in[6]});
  return {head[0],
          head[1],
          run(Op::kLinearBwdX, {}, {head[2], in[1]})[0],
          run(Op::kLinearBwdW, {}, {head[2], in[0]})[0],
          run(Op::kSelectBwd, {}, {head[2], in[5]})[0],
          head[3],
          head[4]};
}

TEST(OutProjLoss, IsTheOpsThatItStandsFor) {
  // one block, several, and more than 16 blocks of 16 sequences would hold; one target a sequence, several, none
  for (const auto& [batch, seqlen, d, d_inner, every] : {std::tuple{1, 1, 8, 8, 1},
                                                         {3, 11, 7, 12, 11},
                                                         {40, 5, 12, 24, 7},
                                                         {300, 6, 5, 9, 4},
                                                         {20, 21, 33, 66, 21},
                                                         {2, 9, 5, 10, 0}}) {
    const Arrays in = tail_inputs(batch, seqlen, d, d_inner, every);
    expect_the_ops(Op::kOutProjLoss, in, composed_tail(in),
                   std::to_string(batch) + "x" + std::to_string(seqlen));
  }
}

TEST(OutProjLoss, ReadsTheRowsWithATargetOnly) {
  constexpr size_t kBatch = 4, kSeqlen = 5, kD = 8, kInner = 6;
  Arrays in = tail_inputs(kBatch, kSeqlen, kD, kInner, 7);  // rows 6 and 13: sequences 1 and 2
  const Arrays clean = run_op<float>(Op::kOutProjLoss, kAttributes, in).outputs;
  const auto has_target = [&](size_t b) { return b == 1 || b == 2; };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (size_t b = 0; b < kBatch; ++b) {
    if (!has_target(b)) in[0].data[b * kInner] = nan;
    for (size_t t = 0; t < kSeqlen; ++t) {
      if (in[5].data[b * kSeqlen + t] < 0) in[2].data[(b * kSeqlen + t) * kD] = nan;
    }
  }
  const Arrays unread = run_op<float>(Op::kOutProjLoss, kAttributes, in).outputs;
  for (size_t i = 0; i < clean.size(); ++i) EXPECT_TRUE(unread[i].data == clean[i].data) << i;
  for (size_t k = 0; k < clean[2].data.size(); ++k)
    EXPECT_EQ(clean[2].data[k] == 0, !has_target(k / kInner)) << k;
  for (size_t k = 0; k < clean[4].data.size(); ++k)
    EXPECT_EQ(clean[4].data[k] == 0, in[5].data[k / kD] < 0) << k;
  for (const size_t operand : {0, 2}) {
    Arrays bad = in;
    bad[operand].data[operand == 0 ? kInner : 6 * kD] = nan;
    const Arrays read = run_op<float>(Op::kOutProjLoss, kAttributes, bad).outputs;
    for (const size_t i : {0, 3, 5, 6}) EXPECT_TRUE(std::isnan(read[i].data[0])) << i;
  }
}

}  // namespace
}  // namespace statelab
