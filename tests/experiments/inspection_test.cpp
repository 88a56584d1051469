// Learned transitions against the formulas, and the length at which a drifting phase breaks.
#include "experiments/inspection.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "experiments/field.h"
#include "experiments/run_check.h"
#include "models/model.h"
#include "tests/support/random.h"

namespace statelab {
namespace {

using Quantity = TransitionSeries::Quantity;

TEST(SymbolDistribution, GivesQuartilesBetweenOrderStatistics) {
  const SymbolDistribution d = distribution_of({4, 1, 3, 2}, false);
  EXPECT_EQ(d.count, 4);
  EXPECT_EQ(d.min, 1);
  EXPECT_EQ(d.q1, 1.75);
  EXPECT_EQ(d.median, 2.5);
  EXPECT_EQ(d.q3, 3.25);
  EXPECT_EQ(d.max, 4);
  EXPECT_EQ(d.mean, 2.5);
  EXPECT_DOUBLE_EQ(d.sd, std::sqrt(1.25));
  EXPECT_EQ(distribution_of({}, false).count, 0);
}

TEST(SymbolDistribution, MeansAreOfValuesOrOfDirections) {
  EXPECT_DOUBLE_EQ(arithmetic_mean(std::vector{0.75, -0.75, 0.6}), 0.2);
  EXPECT_EQ(arithmetic_mean({}), 0);
  EXPECT_NEAR(std::abs(circular_mean(std::vector{0.75, -0.75})), 1, 1e-15);
}

TEST(SymbolDistribution, OfAnglesAboutAHalfTurnIsNotTorn) {
  const SymbolDistribution d = distribution_of({0.98, -0.98, 1.0, -0.99, 0.99}, true);
  EXPECT_NEAR(std::abs(d.mean), 1, 1e-12);
  EXPECT_LT(d.sd, 0.02);
  EXPECT_NEAR(d.max - d.min, 0.04, 1e-12);
}

RunConfig parity_run(const std::string& mixer, int d_state) {
  RunConfig run = default_run();
  run.task.name = "parity";
  run.task.bos = false;
  run.model.mixer = mixer;
  run.model.d_model = 4;
  run.model.headdim = 4;
  run.model.d_state = d_state;
  run.model.chunk_size = 8;
  run.eval.samples = 16;
  EXPECT_TRUE(complete_and_check(run).empty());
  return run;
}

/// Weights that a test sets one by one; the rest is zero, norms one. The normed embedding of token v is 2 e_v (d_model 4).
class Weights {
 public:
  explicit Weights(const ModelConfig& config) {
    for (const ParameterSpec& spec : parameter_specs(config)) {
      const bool norm = spec.name.ends_with("norm.weight") || spec.name.ends_with("norm_f.weight");
      state_.weights.push_back(
          {spec.name,
           {spec.shape.extents().begin(), spec.shape.extents().end()},
           std::vector<float>(static_cast<size_t>(spec.shape.size()), norm ? 1.f : 0.f)});
    }
    for (int v = 0; v < 3; ++v) set("backbone.embedding.weight", v * 4 + v, 100);
  }
  void set(const std::string& name, int element, double value) {
    for (NamedTensor& t : state_.weights) {
      if (t.name == name) t.data.at(static_cast<size_t>(element)) = static_cast<float>(value);
    }
  }
  void mixer(const std::string& name, int element, double value) {
    set("backbone.layers.0.mixer." + name, element, value);
  }
  /// The input of a column of in_proj at token v.
  void input(int column, int v, double value) {
    mixer("in_proj.weight", column * 4 + v, value / 2);
  }
  const MemberState& state() const { return state_; }

 private:
  MemberState state_;
};

const std::vector<int32_t> kTokens = {1, 2, 2, 1, 2}, kTargets = {-1, -1, -1, -1, 1};

std::vector<TransitionSeries> transitions_of(const ModelConfig& config, const MemberState& state) {
  return transitions(config, state, kTokens, kTargets, 1, 5);
}

double softplus(double x) { return std::log1p(std::exp(x)); }
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

TEST(Transitions, OfMamba3AreItsDecayAndAngles) {
  const RunConfig run = parity_run("mamba3", 4);  // 2 heads, one rotated pair
  Weights w(run.model);
  // columns: z 8 | x 8 | B 4 | C 4 | dd_dt 2 | dd_A 2 | trap 2 | ang 1
  w.mixer("dt_bias", 1, 0.3);
  w.input(24 + 1, 2, 0.5);
  w.input(26 + 1, 2, -2);
  w.input(30, 2, 0.7);
  const auto all = transitions_of(run.model, w.state());
  ASSERT_EQ(all.size(), 4u);  // per head decay, angle
  EXPECT_EQ(all[2].quantity, Quantity::kDecay);
  EXPECT_EQ(all[3].quantity, Quantity::kAngle);
  EXPECT_EQ(all[3].head, 1);
  EXPECT_EQ(all[3].pair, 0);
  const double dt = softplus(0.8);
  EXPECT_NEAR(all[2].values[1], std::exp(-softplus(-2) * dt), 1e-5);
  EXPECT_NEAR(all[2].values[0], std::exp(-softplus(0) * softplus(0.3)), 1e-5);
  EXPECT_NEAR(all[3].values[1], dt * std::tanh(0.7), 1e-5);
  EXPECT_NEAR(all[3].values[0], 0, 1e-6);
}

/// The angles add up to the phase that the scan itself used, for random weights and every rotation.
TEST(Transitions, AnglesAddUpToThePhaseOfTheScan) {
  RunConfig run = parity_run("mamba3", 8);
  run.model.dt_min = 0.5, run.model.dt_max = 2;
  Model<float> model(run.model, 1, 5, false, 1, {"backbone.layers.0.mixer.Phi"});
  model.initialise(7);
  MemberState state;
  for (const ParameterSpec& spec : model.parameters()) {
    const auto values = model.get(spec.name);
    state.weights.push_back({spec.name, {}, {values.begin(), values.end()}});
  }
  model.run(kTokens, kTargets);
  const auto Phi = model.observed("backbone.layers.0.mixer.Phi");  // (1, 5, 2 heads, 2 pairs)
  int seen = 0;
  for (const TransitionSeries& s : transitions_of(run.model, state)) {
    if (s.quantity != Quantity::kAngle) continue;
    double sum = 0;
    for (size_t t = 0; t < 5; ++t) {
      sum += s.values[t];
      const double phase = Phi[t * 4 + static_cast<size_t>(2 * s.head + s.pair)];
      EXPECT_NEAR(std::cos(std::numbers::pi * sum - phase), 1, 1e-5);
    }
    ++seen;
  }
  EXPECT_EQ(seen, 4);
}

TEST(Transitions, APairsWeightIsItsShareInTheScores) {
  RunConfig run = parity_run("mamba3", 4);
  run.model.bc_norm = false;
  Weights w(run.model);
  const double B[] = {3, 4, 1, 0},
               C[] = {0, 2, 5, 1};  // head 0's biases: |B|, |C| of the pair are 5 and 2
  for (int i = 0; i < 4; ++i) {
    w.mixer("B_bias", i, B[i]);
    w.mixer("C_bias", i, C[i]);
  }
  const auto all = transitions_of(run.model, w.state());
  EXPECT_NEAR(all[1].weight, 10. / (10 + 1 * 5 + 0 * 1), 1e-6);
}

TEST(Transitions, OfMamba2AreSigned) {
  RunConfig run = parity_run("mamba2", 4);
  for (const double low : {0., -1.}) {
    run.model.eigenvalue_min = low;
    Weights w(run.model);
    w.mixer("A_log", 0, std::log(3.));
    w.input(24, 2, 1.5);  // z 8 | x 8 | B 4 | C 4 | dd_dt 2
    const auto all = transitions_of(run.model, w.state());
    ASSERT_EQ(all.size(), 2u);
    const double alpha = std::exp(-3 * softplus(1.5));
    EXPECT_NEAR(all[0].values[1], low < 0 ? 2 * alpha - 1 : alpha, 1e-5);
  }
}

TEST(Transitions, OfTheDeltaRuleAreDecayAndEigenvalueAlongTheKey) {
  for (const bool gated : {true, false}) {
    RunConfig run = parity_run(gated ? "gated_delta_net" : "delta_net", 4);
    run.model.eigenvalue_min = -1;
    Weights w(run.model);
    // q 4 | k 4 | v 8 | gate 8 | a 2 | b 2, without gate and a where there is no gate
    w.input(4, 2, 3);
    if (gated) w.input(24, 2, -1);
    w.input(gated ? 26 : 16, 2, 2);
    const auto all = transitions_of(run.model, w.state());
    ASSERT_EQ(all.size(), gated ? 4u : 2u);
    const TransitionSeries& along = all[gated ? 1 : 0];
    EXPECT_EQ(along.quantity, Quantity::kEigenvalue);
    const double decay = gated ? std::exp(-softplus(-1)) : 1;
    EXPECT_NEAR(along.values[1], decay * (1 - 2 * sigmoid(2)), 1e-5);
    // token 1 has no key: nothing is taken away
    EXPECT_NEAR(along.values[0], gated ? std::exp(-softplus(0)) : 1, 1e-5);
    if (gated) {
      EXPECT_NEAR(all[0].values[1], decay, 1e-5);
    }
  }
}

TEST(Transitions, OfTheLstmAreItsForgetGates) {
  const RunConfig run = parity_run("lstm", 4);
  Weights w(run.model);
  w.mixer("bias", 8, -1);  // i 8 | f 8 | g 8 | o 8
  w.input(9, 2, 2);
  const auto all = transitions_of(run.model, w.state());
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].units, 8);
  EXPECT_NEAR(all[0].values[0], sigmoid(-1), 1e-6);
  EXPECT_NEAR(all[0].values[8 + 1], sigmoid(2), 1e-5);
}

/// A half turn at a one that is off by 2 % of pi: 25 ones, 50 random bits, make a quarter turn of error, past the trained length.
TEST(Inspection, PredictsTheBreakFromTheDistanceToAHalfTurn) {
  RunConfig run = parity_run("mamba3", 4);
  run.train.curriculum = {{100, {3, 17}}};
  Weights w(run.model);
  const double dt = 1.0, turn = 0.98;
  for (int h = 0; h < 2; ++h) w.mixer("dt_bias", h, std::log(std::expm1(dt)));
  w.input(30, 2, std::atanh(turn));
  for (int i = 0; i < 8; ++i) {
    w.mixer("B_bias", i, 1);
    w.mixer("C_bias", i, 1);
  }
  for (int v = 1; v < 3; ++v) w.input(26, v, -7);  // head 0 remembers
  std::vector<EvaluationRecord> measured(3);
  const int lengths[] = {256, 16, 60};
  for (size_t i = 0; i < 3; ++i) {
    measured[i].length_min = measured[i].length_max = lengths[i];
    measured[i].sequences = measured[i].tokens = 100;
    measured[i].tokens_correct = i == 0 ? 40 : i == 1 ? 100 : 60;
  }
  InspectOptions options;
  options.samples = 128;
  options.length = 64;
  const Phase phase = inspect(run, w.state(), options, measured).phase.value();
  ASSERT_EQ(phase.clocks.size(), 2u);
  const PhaseClock& clock = phase.clocks[0];
  EXPECT_EQ(clock.head, 0);
  EXPECT_GT(clock.memory, 50);
  EXPECT_EQ(phase.break_length, clock.break_length);
  EXPECT_NEAR(clock.flip_angle, turn, 1e-4);
  EXPECT_NEAR(clock.keep_angle, 0, 1e-4);
  EXPECT_NEAR(phase.trained_length, 10, 0.4);
  // xlstm's lengths count the answer, and the first bit turns nothing
  EXPECT_NEAR(phase.trained_bits, 8, 0.4);
  EXPECT_NEAR(clock.drift, -0.01, 0.0003);  // the share of ones is that of the sample
  EXPECT_NEAR(clock.break_length, 60, 2);
  ASSERT_EQ(phase.lengths.size(), 3u);
  EXPECT_EQ(phase.lengths[0].length, 16);
  EXPECT_EQ(phase.lengths[0].predicted, 1);
  EXPECT_NEAR(phase.lengths[1].error, -0.5, 0.03);
  EXPECT_NEAR(phase.lengths[1].predicted, 0.5, 0.2);
  EXPECT_NEAR(phase.lengths[2].error, -2.46, 0.06);
  // 100 % at 16, 60 % at 60
  EXPECT_NEAR(crossing(phase.lengths, 0.75).value(), 16 + 44 * 0.25 / 0.4, 1e-9);
  EXPECT_EQ(phase_tables(phase).size(), 2u);
}

TEST(Inspection, ClocksOfOneHeadBreakTogetherWhereTheirCosinesCancel) {
  PhaseClock slow, fast;
  slow.weight = fast.weight = 0.5;
  slow.drift = 0.01, fast.drift = -0.03;
  slow.break_length = 10 + 50, fast.break_length = 10 + 0.5 / 0.03;
  EXPECT_EQ(joint_break({slow}, 10), 60);
  // cos(a) + cos(3 a) = 2 cos(2 a) cos(a) vanishes at a = pi / 4
  EXPECT_NEAR(joint_break({slow, fast}, 10), 10 + 25, 0.1);
  fast.weight = 0;
  EXPECT_NEAR(joint_break({slow, fast}, 10), 60, 0.1);
  slow.drift = 0;
  EXPECT_TRUE(std::isinf(joint_break({slow, fast}, 10)));
}

TEST(Inspection, SaysSoWhenNoPairHoldsTheParity) {
  const RunConfig run = parity_run("mamba3", 4);
  const Phase phase = inspect(run, Weights(run.model).state(), {}, {}).phase.value();
  EXPECT_TRUE(phase.clocks.empty());
  const auto tables = phase_tables(phase);
  ASSERT_EQ(tables.size(), 1u);
  EXPECT_NE(tables[0].notes.at(0).text.find("no pair does so"), std::string::npos);
  const RunConfig other = parity_run("mamba2", 4);
  EXPECT_FALSE(inspect(other, Weights(other.model).state(), {}, {}).phase.has_value());
}

TEST(Model, ObservingAValueThatIsNotThereIsRefused) {
  const RunConfig run = parity_run("mamba2", 4);
  EXPECT_THROW(Model<float>(run.model, 1, 4, false, 1, {"backbone.layers.0.mixer.Phi"}),
               std::invalid_argument);
  const Model<float> model(run.model, 1, 4, false);
  EXPECT_THROW(model.observed("backbone.layers.0.mixer.proj"), std::invalid_argument);
}

}  // namespace
}  // namespace statelab
