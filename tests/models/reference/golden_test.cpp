// The literal references against the golden vectors, values and complex-step gradients.
#include <gtest/gtest.h>

#include "models/reference/complex_step.h"
#include "models/reference/gated_delta_net.h"
#include "models/reference/lstm.h"
#include "models/reference/mamba2.h"
#include "models/reference/mamba3.h"
#include "models/reference/quaternion.h"
#include "tests/models/reference/golden_check.h"

namespace statelab {
namespace {

using golden::sine_fill;
using golden::weighted_sum;
using reference::gradient_by_complex_step;
using reference::Groups;

// Every function takes groups in the order of the golden table.
const auto mamba3_golden = [](const auto& x) {
  using S = typename std::decay_t<decltype(x)>::value_type::value_type;
  reference::Mamba3Inputs<S> in{7,    8,    3,    2,    x[0], x[1], x[7],    x[8],
                                x[2], x[4], x[5], x[6], x[9], x[3], x[10][0]};
  return reference::mamba3_scan(in, reference::Rotation::kDataDependent,
                                reference::Discretization::kTrapezoidal)
      .y;
};

Groups mamba3_inputs() {
  const int T = 7, N = 8, P = 3;
  return {sine_fill(.1, T * N),
          sine_fill(.2, T * N),
          sine_fill(.3, T * P),
          sine_fill(1.0, T * P),
          sine_fill(.4, T, .25, -.3),
          sine_fill(.5, T, .5, .6),
          sine_fill(.6, T),
          sine_fill(.7, N, .3, 1),
          sine_fill(.8, N, .3, 1),
          sine_fill(.9, T * 2),
          {0.5}};
}

TEST(Mamba3Scan, ReproducesGoldenOutputs) {
  golden::expect_output(mamba3_golden(mamba3_inputs()), golden::kMamba3Scan);
}

TEST(Mamba3Scan, ReproducesGoldenGradients) {
  const auto gradients = gradient_by_complex_step(
      [](const auto& x) { return weighted_sum(mamba3_golden(x)); }, mamba3_inputs());
  golden::expect_gradients(gradients, golden::kMamba3ScanGradients);
}

template <int eigenvalue_min>
const auto mamba2_golden = [](const auto& x) {
  using S = typename std::decay_t<decltype(x)>::value_type::value_type;
  reference::Mamba2Inputs<S> in{7,    4,       3,       x[0],           x[1], x[2],
                                x[3], x[4][0], x[5][0], eigenvalue_min, 1};
  return reference::mamba2_scan(in).o;
};

Groups mamba2_inputs(double A) {
  const int T = 7, N = 4, P = 3;
  return {sine_fill(.1, T * N),
          sine_fill(.2, T * N),
          sine_fill(.3, T * P),
          sine_fill(.5, T, .5, .6),
          {A},
          {0.5}};
}

TEST(Mamba2Scan, ReproducesGoldenOutputsInBothEigenvalueRanges) {
  golden::expect_output(mamba2_golden<0>(mamba2_inputs(-1.25)), golden::kMamba2Scan);
  golden::expect_output(mamba2_golden<-1>(mamba2_inputs(-2.5)), golden::kMamba2SignedScan);
}

TEST(Mamba2Scan, ReproducesGoldenGradientsInBothEigenvalueRanges) {
  golden::expect_gradients(
      gradient_by_complex_step([](const auto& x) { return weighted_sum(mamba2_golden<0>(x)); },
                               mamba2_inputs(-1.25)),
      golden::kMamba2ScanGradients);
  golden::expect_gradients(
      gradient_by_complex_step([](const auto& x) { return weighted_sum(mamba2_golden<-1>(x)); },
                               mamba2_inputs(-2.5)),
      golden::kMamba2SignedScanGradients);
}

template <int beta_max>
const auto delta_golden = [](const auto& x) {
  using S = typename std::decay_t<decltype(x)>::value_type::value_type;
  return reference::gated_delta_rule(
      reference::GatedDeltaInputs<S>{7, 4, 3, x[0], x[1], x[2], x[3], x[4], beta_max});
};

Groups delta_inputs() {
  const int T = 7, K = 4, V = 3;
  return {sine_fill(.1, T * K), sine_fill(.2, T * K), sine_fill(.3, T * V), sine_fill(.6, T),
          sine_fill(.4, T, .25, -.3)};
}

TEST(GatedDeltaRule, ReproducesGoldenOutputsForBothBetaRanges) {
  golden::expect_output(delta_golden<1>(delta_inputs()), golden::kGatedDelta);
  golden::expect_output(delta_golden<2>(delta_inputs()), golden::kGatedDeltaSigned);
}

TEST(GatedDeltaRule, ReproducesGoldenGradientsForBothBetaRanges) {
  golden::expect_gradients(
      gradient_by_complex_step([](const auto& x) { return weighted_sum(delta_golden<1>(x)); },
                               delta_inputs()),
      golden::kGatedDeltaGradients);
  golden::expect_gradients(
      gradient_by_complex_step([](const auto& x) { return weighted_sum(delta_golden<2>(x)); },
                               delta_inputs()),
      golden::kGatedDeltaSignedGradients);
}

ModelConfig golden_block_config() {
  ModelConfig config;
  config.d_model = 4;
  config.expand = 2;
  config.headdim = 4;
  config.d_state = 8;
  config.a_activation = "heavy_tail";
  return config;
}

Groups block_inputs() {
  return {sine_fill(.9, 24),        sine_fill(.1, 160, .8),   sine_fill(.2, 2, .3),
          sine_fill(.3, 16, .3, 1), sine_fill(.4, 16, .3, 1), sine_fill(.5, 8, .2, 1),
          sine_fill(.6, 8, .2, 1),  sine_fill(.7, 2),         sine_fill(.8, 32, .5)};
}

const auto block_output = [](const ModelConfig& config, const auto& x) {
  using S = typename std::decay_t<decltype(x)>::value_type::value_type;
  const reference::Parameters<S> parameters = {{"in_proj.weight", x[1]},
                                               {"dt_bias", x[2]},
                                               {"B_bias", x[3]},
                                               {"C_bias", x[4]},
                                               {"B_norm.weight", x[5]},
                                               {"C_norm.weight", x[6]},
                                               {"D", x[7]},
                                               {"out_proj.weight", x[8]}};
  return reference::mamba3_block(config, parameters, "", x[0], 1, 6);
};

TEST(Mamba3Block, ReproducesGoldenOutputs) {
  golden::expect_output(block_output(golden_block_config(), block_inputs()), golden::kMamba3Block);
}

TEST(Mamba3Block, ReproducesGoldenGradients) {
  const auto loss = [](const auto& x) {
    return weighted_sum(block_output(golden_block_config(), x));
  };
  golden::expect_gradients(gradient_by_complex_step(loss, block_inputs()),
                           golden::kMamba3BlockGradients);
}

TEST(Mamba3Block, ReproducesGoldenOutputsWithSoftplusA) {
  ModelConfig config = golden_block_config();
  config.a_activation = "softplus";
  const auto y = block_output(config, block_inputs());
  golden::expect_close(weighted_sum(y), golden::kMamba3BlockSoftplusLoss, "loss");
  golden::expect_close(std::accumulate(y.begin(), y.end(), 0.0), golden::kMamba3BlockSoftplusSum,
                       "sum");
  for (int i = 0; i < 3; ++i)
    golden::expect_close(y[21 + i], golden::kMamba3BlockSoftplusLast[i], "last");
}

template <class S>
reference::QuaternionInputs<S> quaternion_from(const std::vector<std::vector<S>>& x) {
  return {5, 2, 3, x[0], x[1], x[6], x[7], x[2], x[3], x[4], x[5], x[8], x[9][0]};
}

Groups quaternion_inputs() {
  const int T = 5, N = 8, P = 3;
  return {sine_fill(.1, T * N),     sine_fill(.2, T * N),
          sine_fill(.3, T * P),     sine_fill(.4, T, .25, -.3),
          sine_fill(.5, T, .5, .6), sine_fill(.6, T),
          sine_fill(.7, N, .3, 1),  sine_fill(.8, N, .3, 1),
          sine_fill(.9, T * 6, .8), {0.5}};
}

TEST(QuaternionScan, ReproducesGoldenOutputs) {
  golden::expect_output(reference::quaternion_scan(quaternion_from(quaternion_inputs())).o,
                        golden::kQuaternionScan);
}

TEST(QuaternionScan, LiteralRecurrenceReproducesGoldenOutputs) {
  golden::expect_output(reference::literal_quaternion(quaternion_from(quaternion_inputs())),
                        golden::kQuaternionScan);
}

TEST(QuaternionScan, ReproducesGoldenGradientsByComplexStepAndByItsAdjoint) {
  const auto loss = [](const auto& x) {
    return weighted_sum(reference::quaternion_scan(quaternion_from(x)).o);
  };
  golden::expect_gradients(gradient_by_complex_step(loss, quaternion_inputs()),
                           golden::kQuaternionScanGradients);

  const auto in = quaternion_from(quaternion_inputs());
  const auto forward = reference::quaternion_scan(in);
  std::vector<double> d_o;
  for (std::size_t i = 0; i < forward.o.size(); ++i) d_o.push_back(golden::loss_weight(i));
  const auto d = reference::quaternion_scan_backward(in, forward, d_o);
  golden::expect_gradients({d.q, d.k, d.v, d.a, d.dt, d.trap, d.q_bias, d.k_bias, d.axis, {d.D}},
                           golden::kQuaternionScanGradients);
}

const auto lstm_golden = [](const auto& x) { return reference::lstm(x[0], x[1], x[2], 2, 5, 3); };

Groups lstm_inputs() { return {sine_fill(.1, 120), sine_fill(.2, 36, .8), sine_fill(.3, 12, .5)}; }

TEST(Lstm, ReproducesGoldenOutputs) {
  golden::expect_output(lstm_golden(lstm_inputs()), golden::kLstm);
}

TEST(Lstm, ReproducesGoldenGradients) {
  const auto loss = [](const auto& x) { return weighted_sum(lstm_golden(x)); };
  golden::expect_gradients(gradient_by_complex_step(loss, lstm_inputs()), golden::kLstmGradients);
}

}  // namespace
}  // namespace statelab
