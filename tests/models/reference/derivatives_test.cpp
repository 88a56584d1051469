// Complex step and tape agree with each other and with hand-made derivatives, through every
// primitive and whole models.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/rng.h"
#include "models/reference/residual_model.h"
#include "models/reference/tape.h"

namespace statelab {
namespace {

using reference::Groups;

std::vector<double> random_values(uint32_t seed, std::size_t size, double scale) {
  std::vector<double> x(size);
  for (std::size_t i = 0; i < size; ++i) {
    const RngBlock bits = philox({seed, Stream::kVerify}, {static_cast<uint32_t>(i), 0, 0, 0});
    x[i] = scale * (2 * uniform01(bits.v[0], bits.v[1]) - 1);
  }
  return x;
}

void expect_same_gradients(const Groups& a, const Groups& b, double tolerance) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t g = 0; g < a.size(); ++g) {
    double largest = 1e-300, error = 0;
    for (std::size_t i = 0; i < a[g].size(); ++i) {
      largest = std::max(largest, std::abs(b[g][i]));
      error = std::max(error, std::abs(a[g][i] - b[g][i]));
    }
    EXPECT_TRUE(error <= tolerance * largest)
        << "group " << g << ": " << error << " of " << largest;
  }
}

TEST(ComplexStep, DifferentiatesElementaryFunctionsExactly) {
  const auto f = [](const auto& x) {
    using std::cos, std::exp, std::log, std::sin, std::sqrt, std::tanh;
    const auto& u = x[0];
    return exp(u[0]) * sin(u[1]) + tanh(u[2]) / u[3] + log(u[3]) * cos(u[1]) - sqrt(u[3]);
  };
  const Groups at = {{0.3, -1.1, 0.7, 2.5}};
  const double t = std::tanh(0.7);
  const Groups expected = {{std::exp(0.3) * std::sin(-1.1),
                            std::exp(0.3) * std::cos(-1.1) - std::log(2.5) * std::sin(-1.1),
                            (1 - t * t) / 2.5,
                            -t / 6.25 + std::cos(-1.1) / 2.5 - 0.5 / std::sqrt(2.5)}};
  expect_same_gradients(reference::gradient_by_complex_step(f, at), expected, 1e-15);
  expect_same_gradients(reference::gradient_by_tape(f, at), expected, 1e-15);
}

TEST(ComplexStep, DirectionalDerivativeIsTheGradientAlongIt) {
  const auto f = [](const auto& x) { return x[0][0] * x[1][0] * x[1][0] + x[1][1]; };
  EXPECT_DOUBLE_EQ(reference::directional_derivative(f, {{2}, {3, 4}}, 1, {0.5, -1}),
                   2 * 2 * 3 * 0.5 - 1);
}

TEST(Primitives, ActivationsMatchTheirDerivatives) {
  for (double x : {-30.0, -3.0, -1e-3, 0.0, 1e-3, 2.0, 19.9, 20.1, 40.0}) {
    const double s = 1 / (1 + std::exp(-x));
    const auto derivative = [x](const auto& f) {
      return reference::directional_derivative(f, {{x}}, 0, {1});
    };
    EXPECT_NEAR(derivative([](const auto& u) { return reference::softplus(u[0][0]); }),
                x > 20 ? 1 : s, 1e-15);
    EXPECT_NEAR(derivative([](const auto& u) { return reference::sigmoid(u[0][0]); }), s * (1 - s),
                1e-15);
    EXPECT_NEAR(derivative([](const auto& u) { return reference::silu(u[0][0]); }),
                reference::silu_derivative(x), 1e-14);
    EXPECT_NEAR(derivative([](const auto& u) { return reference::heavy_tail(u[0][0]); }),
                x >= 0 ? 1 : 1 / ((1 - x) * (1 - x)), 1e-15);
    EXPECT_NEAR(reference::softplus(x), x > 20 ? x : std::log1p(std::exp(x)),
                1e-15 * std::max(1.0, std::abs(x)));
  }
}

TEST(Primitives, GateOrderMattersToTheGatedNorm) {
  const auto x = random_values(1, 8, 1), z = random_values(2, 8, 1), w = random_values(3, 8, 1);
  std::vector<double> after(8), before(8), expected(8);
  reference::gated_rms_norm_after(x.data(), z.data(), w.data(), 8, 4, after.data());
  reference::gated_rms_norm_before(x.data(), z.data(), w.data(), 8, 4, before.data());
  for (int i = 0; i < 8; ++i) {
    double squares = 0, gated = 0;
    for (int j = i / 4 * 4; j < i / 4 * 4 + 4; ++j) {
      squares += x[j] * x[j] / 4;
      gated += std::pow(x[j] * reference::silu(z[j]), 2) / 4;
    }
    EXPECT_NEAR(before[i], x[i] / std::sqrt(squares + 1e-5) * w[i] * reference::silu(z[i]), 1e-14);
    EXPECT_NEAR(after[i], x[i] * reference::silu(z[i]) / std::sqrt(gated + 1e-5) * w[i], 1e-14);
    EXPECT_GT(std::abs(before[i] - after[i]), 1e-9);
  }
}

TEST(Primitives, MaskedCrossEntropyAveragesSupervisedPositionsOnly) {
  const std::vector<double> logits = {0, 1, 2, 100, 0, 0, -1, 0, 1};
  const double first = std::log(1 + std::exp(1) + std::exp(2)) - 1,
               third = std::log(std::exp(-1) + 1 + std::exp(1)) - 1;
  EXPECT_NEAR(reference::masked_cross_entropy(logits, {1, -1, 2}, 3, 3), (first + third) / 2,
              1e-15);
  EXPECT_EQ(reference::masked_cross_entropy(logits, {-1, -1, -1}, 3, 3), 0);
  EXPECT_NEAR(reference::masked_cross_entropy(logits, {1, -1, -1}, 3, 2),
              std::log(1 + std::exp(1)) - 1, 1e-15);
}

TEST(Primitives, ConvolutionSeesThreeTokensBackAndNoneAhead) {
  std::vector<double> x(6, 0.0), w = {1, 2, 4, 8};
  x[1] = 1;
  const double bias = 0.5;
  const auto y = reference::causal_conv_silu(x, w.data(), &bias, 6, 1);
  const double expected[] = {0.5, 8.5, 4.5, 2.5, 1.5, 0.5};
  for (int t = 0; t < 6; ++t) EXPECT_DOUBLE_EQ(y[t], reference::silu(expected[t]));
}

TEST(Reference, AMissingOrMisshapenParameterIsNamed) {
  const reference::Parameters<double> parameters = {{"D", {1, 2}}};
  try {
    reference::parameter(parameters, "D", 3);
    FAIL();
  } catch (const std::invalid_argument& e) {
    EXPECT_STREQ(e.what(), "[reference] parameter D needs 3 elements, has 2");
  }
  EXPECT_THROW(reference::parameter(parameters, "E", 3), std::invalid_argument);
}

// Every parameter of a small model as one group, in the map's order.
std::map<std::string, std::size_t> parameter_sizes(const ModelConfig& c) {
  std::map<std::string, std::size_t> sizes;
  const std::size_t d = c.d_model, V = c.padded_vocab(), H = c.nheads(), N = c.d_state,
                    bc = c.ngroups * N;
  const std::size_t channels = c.d_inner() + 2 * bc;
  sizes["backbone.embedding.weight"] = V * d;
  sizes["backbone.norm_f.weight"] = d;
  if (!c.tie_embeddings) sizes["lm_head.weight"] = V * d;
  for (int l = 0; l < c.n_layers; ++l) {
    const std::string layer = "backbone.layers." + std::to_string(l) + ".", m = layer + "mixer.";
    sizes[layer + "norm.weight"] = d;
    sizes[m + "dt_bias"] = H;
    sizes[m + "D"] = H;
    sizes[m + "out_proj.weight"] = d * c.d_inner();
    if (c.mixer == "mamba2" || c.conv) {
      sizes[m + "conv1d.weight"] = channels * 4;
      sizes[m + "conv1d.bias"] = channels;
    }
    if (c.mixer == "mamba2") {
      sizes[m + "in_proj.weight"] = (c.d_inner() + channels + H) * d;
      sizes[m + "A_log"] = H;
      sizes[m + "norm.weight"] = c.d_inner();
    } else {
      const std::size_t angles = reference::rotation_angles(c.d_state, c.rope_fraction);
      sizes[m + "in_proj.weight"] = (c.d_inner() + channels + 3 * H + angles) * d;
      if (c.bc_bias) sizes[m + "B_bias"] = sizes[m + "C_bias"] = H * N;
      if (c.bc_norm) sizes[m + "B_norm.weight"] = sizes[m + "C_norm.weight"] = N;
      if (c.out_norm == "rms") sizes[m + "norm.weight"] = c.d_inner();
    }
    if (c.mlp == "swiglu") {
      sizes[layer + "norm2.weight"] = d;
      sizes[layer + "mlp.fc1.weight"] = 2 * 6 * d;
      sizes[layer + "mlp.fc2.weight"] = 6 * d;
    }
  }
  return sizes;
}

ModelConfig small_model() {
  ModelConfig c;
  c.vocab_size = 3;
  c.pad_vocab_multiple = 4;
  c.d_model = 4;
  c.headdim = 4;
  c.d_state = 4;
  return c;
}

class WholeModel : public testing::TestWithParam<int> {};

ModelConfig variant(int which) {
  ModelConfig c = small_model();
  switch (which) {
    case 0:
      break;
    case 1:
      c.mlp = "swiglu", c.tie_embeddings = true, c.n_layers = 2;
      break;
    case 2:
      c.conv = true, c.out_norm = "rms", c.ngroups = 2, c.rope_fraction = 1;
      break;
    case 3:
      c.rotation = "standard", c.discretization = "half", c.a_activation = "heavy_tail";
      break;
    case 4:
      c.rotation = "none", c.discretization = "euler", c.bc_bias = false, c.bc_norm = false;
      break;
    case 5:
      c.mixer = "mamba2", c.ngroups = 2;
      break;
    default:
      c.mixer = "mamba2", c.eigenvalue_min = -1;
      break;
  }
  return c;
}

TEST_P(WholeModel, TapeAndComplexStepGiveTheSameGradientOfTheLoss) {
  const ModelConfig config = variant(GetParam());
  std::vector<std::string> names;
  Groups at;
  for (const auto& [name, size] : parameter_sizes(config)) {
    names.push_back(name);
    at.push_back(random_values(static_cast<uint32_t>(names.size()), size, 0.8));
    if (name.ends_with("norm.weight") || name.ends_with("norm_f.weight")) {
      for (double& x : at.back()) x += 1;
    }
  }
  const std::vector<int32_t> tokens = {0, 1, 2, 2, 1, 1, 0, 2, 0, 1},
                             targets = {1, -1, 0, 2, 1, -1, -1, 2, 2, 0};
  const auto loss = [&](const auto& x) {
    using S = typename std::decay_t<decltype(x)>::value_type::value_type;
    reference::Parameters<S> parameters;
    for (std::size_t i = 0; i < names.size(); ++i) parameters[names[i]] = x[i];
    return reference::model_loss(config, parameters, tokens, targets, 2, 5);
  };
  EXPECT_GT(loss(at), 0.5);
  const Groups by_step = reference::gradient_by_complex_step(loss, at);
  expect_same_gradients(reference::gradient_by_tape(loss, at), by_step, 1e-11);
  // Switched off means that nothing depends on it: angles matter exactly when the rotation is data
  // dependent.
  if (config.mixer == "mamba3") {
    const auto in_proj =
        std::find(names.begin(), names.end(), "backbone.layers.0.mixer.in_proj.weight") -
        names.begin();
    const std::size_t angles =
        reference::rotation_angles(config.d_state, config.rope_fraction) * config.d_model;
    double largest = 0;
    for (std::size_t i = by_step[in_proj].size() - angles; i < by_step[in_proj].size(); ++i) {
      largest = std::max(largest, std::abs(by_step[in_proj][i]));
    }
    EXPECT_EQ(largest > 0, config.rotation == "data_dependent");
  }
}

INSTANTIATE_TEST_SUITE_P(Switches, WholeModel, testing::Range(0, 7));

}  // namespace
}  // namespace statelab
