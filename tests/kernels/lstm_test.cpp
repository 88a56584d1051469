// lstm on the CPU: values against loops written here, gradients against central differences, bits that no thread changes,
// saturated gates that count for ever, and the refusals of its shape rule.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/cpu/run_op.h"
#include "kernels/error.h"
#include "tests/kernels/numeric_gradient.h"
#include "tests/kernels/op_cases.h"
#include "tests/support/tolerance.h"

namespace statelab {
namespace {

using namespace testing_support;  // NOLINT: a test

struct Dims {
  int batch, seqlen, hidden;
  std::string text() const {
    return "B" + std::to_string(batch) + "T" + std::to_string(seqlen) + "H" +
           std::to_string(hidden);
  }
};

Arrays inputs(const Dims& d) {
  const double scale = 1 / std::sqrt(d.hidden);
  return {random_array(d.text() + "proj", {d.batch, d.seqlen, 4 * d.hidden}, -2, 2),
          random_array(d.text() + "weight", {4 * d.hidden, d.hidden}, -2 * scale, 2 * scale),
          random_array(d.text() + "bias", {4 * d.hidden})};
}

/// One sequence after the other, one unit after the other.
std::vector<double> literal(const Dims& d, const Arrays& in) {
  const int H = d.hidden;
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  std::vector<double> y;
  for (int b = 0; b < d.batch; ++b) {
    std::vector<double> h(static_cast<size_t>(H)), c(h.size()), next(h.size());
    for (int t = 0; t < d.seqlen; ++t) {
      for (int u = 0; u < H; ++u) {
        double a[4];
        for (int q = 0; q < 4; ++q) {
          const int n = q * H + u;
          a[q] = in[0].data[static_cast<size_t>((b * d.seqlen + t) * 4 * H + n)] +
                 in[2].data[static_cast<size_t>(n)];
          for (int k = 0; k < H; ++k)
            a[q] += in[1].data[static_cast<size_t>(n * H + k)] * h[static_cast<size_t>(k)];
        }
        const auto at = static_cast<size_t>(u);
        c[at] = sigmoid(a[1]) * c[at] + sigmoid(a[0]) * std::tanh(a[2]);
        next[at] = sigmoid(a[3]) * std::tanh(c[at]);
      }
      h = next;
      y.insert(y.end(), h.begin(), h.end());
    }
  }
  return y;
}

class Lstm : public ::testing::TestWithParam<Dims> {};

TEST_P(Lstm, EqualsItsRecurrence) {
  const Dims d = GetParam();
  const Arrays in = inputs(d);
  const std::vector<double> expected = literal(d, in);
  EXPECT_LE(relative_error(run_op<double>(Op::kLstm, LstmAttrs{d.hidden}, in, 2).outputs[0].data,
                           expected),
            1e-13);
  EXPECT_LE(relative_error(run_op<float>(Op::kLstm, LstmAttrs{d.hidden}, in, 2).outputs[0].data,
                           expected),
            2e-5);
}

TEST_P(Lstm, ThreadsChangeNoBitInEitherDirection) {
  const Dims d = GetParam();
  const LstmAttrs a{d.hidden};
  const Arrays in = inputs(d);
  const Arrays out = run_op<float>(Op::kLstm, a, in, 1).outputs;
  const Arrays back = lstm_operands(random_array(d.text() + "dy", out[0].type.shape), in, out);
  const Arrays gradients = run_op<float>(Op::kLstmBwd, a, back, 1).outputs;
  for (const int threads : {2, 3}) {
    const Arrays again = run_op<float>(Op::kLstm, a, in, threads).outputs,
                 gradients_again = run_op<float>(Op::kLstmBwd, a, back, threads).outputs;
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(again[i].data, out[i].data) << "output " << i;
      EXPECT_EQ(gradients_again[i].data, gradients[i].data) << "gradient " << i;
    }
  }
}

TEST_P(Lstm, FloatGradientsFollowDouble) {
  const Dims d = GetParam();
  const LstmAttrs a{d.hidden};
  const Arrays in = inputs(d);
  const Arrays out = run_op<double>(Op::kLstm, a, in).outputs;
  const Arrays back = lstm_operands(random_array(d.text() + "dy", out[0].type.shape), in, out);
  const Arrays exact = run_op<double>(Op::kLstmBwd, a, back).outputs,
               single = run_op<float>(Op::kLstmBwd, a, back).outputs;
  for (size_t i = 0; i < 3; ++i)
    EXPECT_LE(relative_error(single[i].data, exact[i].data), 1e-4) << "gradient " << i;
}

// Batches below, at and above one block of 16 sequences; units around packets.
INSTANTIATE_TEST_SUITE_P(Op, Lstm,
                         ::testing::Values(Dims{1, 1, 1}, Dims{3, 2, 1}, Dims{2, 31, 7},
                                           Dims{16, 33, 16}, Dims{17, 5, 9}, Dims{35, 12, 8},
                                           Dims{300, 3, 4}, Dims{2, 151, 20}),
                         [](const auto& p) { return p.param.text(); });

class LstmGradient : public ::testing::TestWithParam<Dims> {};

TEST_P(LstmGradient, EqualsCentralDifferencesWithARandomCotangent) {
  const Dims d = GetParam();
  const LstmAttrs a{d.hidden};
  const Arrays in = inputs(d);
  const Arrays out = run_op<double>(Op::kLstm, a, in).outputs;
  const OpArray dy = random_array(d.text() + "dy", out[0].type.shape);
  const Arrays gradients = run_op<double>(Op::kLstmBwd, a, lstm_operands(dy, in, out), 2).outputs;
  ASSERT_EQ(gradients.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    const std::vector<double> expected = numeric_gradient(Op::kLstm, a, in, i, dy.data);
    ASSERT_EQ(gradients[i].data.size(), expected.size());
    for (size_t e = 0; e < expected.size(); ++e) {
      EXPECT_TRUE(std::abs(gradients[i].data[e] - expected[e]) <= 1e-8)
          << "input " << i << " element " << e << ": " << gradients[i].data[e] << " against "
          << expected[e];
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Op, LstmGradient,
                         ::testing::Values(Dims{1, 1, 1}, Dims{2, 1, 3}, Dims{2, 2, 3},
                                           Dims{1, 11, 2}, Dims{18, 3, 2}, Dims{2, 5, 5}),
                         [](const auto& p) { return p.param.text(); });

TEST(LstmOp, SaturatedGatesHoldACellFor100000Tokens) {
  // Unit 0 takes its input at the first token only and keeps it: i follows the input, f is open, o is open.
  const int T = 100000;
  std::vector<double> proj(static_cast<size_t>(T) * 4);
  for (int t = 0; t < T; ++t) {
    double* p = &proj[static_cast<size_t>(t) * 4];
    p[0] = t == 0 ? 100 : -200, p[1] = 100, p[2] = 1, p[3] = 100;
  }
  const Arrays in = {real_array({1, T, 4}, proj), real_array({4, 1}, {0, 0, 0, 0}),
                     real_array({4}, {0, 0, 0, 0})};
  const OpRun run = run_op<float>(Op::kLstm, LstmAttrs{1}, in);
  EXPECT_NEAR(run.outputs[2].data.front(), std::tanh(1.0), 1e-6);
  EXPECT_EQ(run.outputs[2].data.back(), run.outputs[2].data.front());
}

TEST(LstmOp, NanReachesTheOutputsAndTheGradients) {
  // A member that diverges must be noticed: no clamp of exp or tanh may turn NaN into a number. Token 1 of sequence 0 has it.
  const Dims d{2, 4, 9};
  for (const int unit : {0, 8, 17, 20, 35}) {
    Arrays in = inputs(d);
    in[0].data[static_cast<size_t>(36 + unit)] = std::numeric_limits<double>::quiet_NaN();
    const Arrays out = run_op<float>(Op::kLstm, LstmAttrs{d.hidden}, in).outputs;
    EXPECT_TRUE(std::isnan(out[0].data[static_cast<size_t>(9 + unit % 9)])) << unit;
    const Arrays back = run_op<float>(Op::kLstmBwd, LstmAttrs{d.hidden},
                                      lstm_operands(random_array("dy", out[0].type.shape), in, out))
                            .outputs;
    EXPECT_TRUE(std::isnan(back[1].data[0])) << unit;
  }
}

TEST(LstmOp, RefusesShapesThatDoNotFit) {
  auto message = [](const Arrays& in, int hidden) -> std::string {
    try {
      run_op<double>(Op::kLstm, LstmAttrs{hidden}, in);
    } catch (const ShapeError& e) {
      return e.what();
    }
    return "";
  };
  Arrays in = inputs({2, 3, 5});
  EXPECT_EQ(message(in, 5), "");
  EXPECT_EQ(message(in, 4), "[lstm] proj must be (batch, seqlen, 16), is (2, 3, 20)");
  EXPECT_EQ(message(in, 0), "[lstm] hidden must be at least 1, is 0");
  in[1] = random_array("w", {5, 20});
  EXPECT_EQ(message(in, 5), "[lstm] weight_hh must be (20, 5), is (5, 20)");
  in = inputs({2, 3, 5});
  in[2] = random_array("b", {5});
  EXPECT_EQ(message(in, 5), "[lstm] bias must be (20), is (5)");
}

}  // namespace
}  // namespace statelab
