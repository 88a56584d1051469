// Every op: gradients against central differences of its own forward with a fixed random cotangent, seqlens around chunk
// and packet borders, unwritten output (buffers start as NaN), and the refusals of its shape rule.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cpu/run_op.h"
#include "kernels/error.h"
#include "tests/kernels/numeric_gradient.h"
#include "tests/kernels/op_cases.h"
#include "tests/support/random.h"
#include "tests/support/tolerance.h"

namespace statelab {
namespace {

using testing_support::Arrays;
using testing_support::cotangent_then_inputs;
using testing_support::double_array;
using testing_support::integer_array;
using testing_support::numeric_gradient;
using testing_support::random_array;
using testing_support::relative_error;
using testing_support::scan_operands;
using testing_support::uniform;

struct Case {
  std::string name;
  Op forward, backward;
  Attributes attributes;
  Arrays in;
  std::vector<int> wrt;          ///< inputs with a gradient
  std::vector<int> gradient_at;  ///< output of the backward op that holds it
  /// Operands of the backward op from the cotangent, the inputs and the forward outputs.
  Arrays (*operands)(const OpArray& dy, const Arrays& in, const Arrays& out);
};

Case mamba3_case(const std::string& name, int seqlen, void (*change)(Mamba3ScanAttrs&, Arrays&)) {
  Mamba3ScanAttrs a;
  a.nheads = 2, a.headdim = 3, a.d_state = 6, a.nangles = 2, a.chunk_size = 4, a.a_floor = 1e-3;
  Arrays in(8);
  const int n = a.nheads;
  in[1] = random_array(name + "dt", {n});
  in[2] = random_array(name + "Bb", {n, 1, 6});
  in[3] = random_array(name + "Cb", {n, 1, 6});
  in[4] = random_array(name + "Bn", {6}, 0.5, 1.5);
  in[5] = random_array(name + "Cn", {6}, 0.5, 1.5);
  in[6] = random_array(name + "D", {n});
  in[7] = absent_array();
  change(a, in);
  in[0] = random_array(name + "proj", {2, seqlen, a.d_proj()}, -1.5, 1.5);
  Case c{name, Op::kMamba3Scan, Op::kMamba3ScanBwd, a, in, {}, {}, scan_operands};
  for (int i = 0; i < 8; ++i) {
    if (in[static_cast<size_t>(i)].absent) continue;
    c.wrt.push_back(i);
    c.gradient_at.push_back(i);
  }
  return c;
}

Case mamba2_case(const std::string& name, int seqlen, bool negative, bool chunked, int groups) {
  Mamba2ScanAttrs a;
  a.nheads = 2, a.headdim = 3, a.d_state = 5, a.chunk_size = 4;
  a.negative_eigenvalues = negative, a.chunked = chunked, a.ngroups = groups;
  const Arrays in = {random_array(name + "proj", {2, seqlen, a.d_proj()}, -1.5, 1.5),
                     random_array(name + "dt", {2}), random_array(name + "A", {2}),
                     random_array(name + "D", {2}), random_array(name + "norm", {6}, 0.5, 1.5)};
  return {name, Op::kMamba2Scan, Op::kMamba2ScanBwd, a,
          in,   {0, 1, 2, 3, 4}, {0, 1, 2, 3, 4},    scan_operands};
}

/// One with head dimension 3 of values, 5 of keys; the absent operands follow the attributes.
Case gated_delta_case(const std::string& name, int seqlen, void (*change)(GatedDeltaScanAttrs&)) {
  GatedDeltaScanAttrs a;
  a.nheads = 2, a.headdim = 3, a.d_state = 5, a.chunk_size = 4, a.beta_max = 2;
  change(a);
  const int n = a.nheads;
  const Arrays in = {random_array(name + "proj", {2, seqlen, a.d_proj()}, -1.5, 1.5),
                     a.decay ? random_array(name + "dt", {n}) : absent_array(),
                     a.decay ? random_array(name + "A", {n}) : absent_array(),
                     random_array(name + "norm", {a.headdim}, 0.5, 1.5)};
  const std::vector<int> wrt = a.decay ? std::vector{0, 1, 2, 3} : std::vector{0, 3};
  return {name, Op::kGatedDeltaScan, Op::kGatedDeltaScanBwd, a, in, wrt, wrt, scan_operands};
}

std::vector<Case> cases() {
  using A = Mamba3ScanAttrs;
  using D = GatedDeltaScanAttrs;
  std::vector<Case> out;
  out.push_back(
      {"Embedding",
       Op::kEmbedding,
       Op::kEmbeddingBwd,
       {},
       {integer_array({2, 5}, testing_support::integers("e", 10, 4)), random_array("w", {4, 3})},
       {1},
       {0},
       [](const OpArray& dy, const Arrays& in, const Arrays&) {
         return Arrays{in[0], dy, in[1]};
       }});
  out.push_back({"LinearX",
                 Op::kLinear,
                 Op::kLinearBwdX,
                 {},
                 {random_array("x", {2, 5, 7}), random_array("w", {3, 7})},
                 {0},
                 {0},
                 [](const OpArray& dy, const Arrays& in, const Arrays&) {
                   return Arrays{dy, in[1]};
                 }});
  out.push_back({"LinearW",
                 Op::kLinear,
                 Op::kLinearBwdW,
                 {},
                 {random_array("x", {2, 5, 7}), random_array("w", {3, 7})},
                 {1},
                 {0},
                 [](const OpArray& dy, const Arrays& in, const Arrays&) {
                   return Arrays{dy, in[0]};
                 }});
  out.push_back({"LinearXAndW",
                 Op::kLinear,
                 Op::kLinearBwd,
                 {},
                 {random_array("x", {2, 5, 7}), random_array("w", {3, 7})},
                 {0, 1},
                 {0, 1},
                 [](const OpArray& dy, const Arrays& in, const Arrays&) {
                   return Arrays{dy, in[1], in[0]};
                 }});
  out.push_back(
      {"NormLinear",  // dx is the gradient of the normed rows: only dW is of an operand
       Op::kNormLinear,
       Op::kNormLinearBwd,
       RmsNormAttrs{},
       {random_array("x", {2, 5, 7}), random_array("norm", {7}), random_array("w", {3, 7})},
       {2},
       {1},
       [](const OpArray& dy, const Arrays& in, const Arrays&) {
         return Arrays{dy, in[2], in[0], in[1]};
       }});
  out.push_back({"RmsNorm",
                 Op::kRmsNorm,
                 Op::kRmsNormBwd,
                 RmsNormAttrs{},
                 {random_array("x", {3, 7}), random_array("w", {7})},
                 {0, 1},
                 {0, 1},
                 cotangent_then_inputs});
  const Arrays with_addend = {random_array("x", {3, 7}), random_array("w", {2, 7}),
                              random_array("a", {3, 2})};
  out.push_back({"LinearAddend",
                 Op::kLinear,
                 Op::kAdd,
                 {},
                 with_addend,
                 {2},
                 {0},
                 [](const OpArray& dy, const Arrays&, const Arrays&) {
                   const std::vector<double> zeros(dy.data.size());
                   return Arrays{dy, real_array(dy.type.shape, zeros)};
                 }});
  out.push_back({"Swiglu",
                 Op::kSwiglu,
                 Op::kSwigluBwd,
                 {},
                 {random_array("x", {3, 10}, -3, 3)},
                 {0},
                 {0},
                 cotangent_then_inputs});
  out.push_back(
      {"CausalConv1d",
       Op::kCausalConv1d,
       Op::kCausalConv1dBwd,
       CausalConv1dAttrs{2, 5, 4},
       {random_array("x", {2, 7, 9}), random_array("w", {5, 1, 4}), random_array("b", {5})},
       {0, 1, 2},
       {0, 1, 2},
       cotangent_then_inputs});
  out.push_back({"CausalConv1dWithoutBias",
                 Op::kCausalConv1d,
                 Op::kCausalConv1dBwd,
                 CausalConv1dAttrs{0, 5, 4},
                 {random_array("x", {2, 7, 9}), random_array("w", {5, 1, 4}), absent_array()},
                 {0, 1},
                 {0, 1},
                 cotangent_then_inputs});
  std::vector<int32_t> targets = testing_support::integers("targets", 12, 4);
  targets[3] = targets[7] = -1;
  out.push_back({"CrossEntropy",
                 Op::kCrossEntropy,
                 Op::kCrossEntropyBwd,
                 CrossEntropyAttrs{4},
                 {random_array("l", {3, 4, 6}, -3, 3), integer_array({3, 4}, targets)},
                 {0},
                 {0},
                 [](const OpArray& dy, const Arrays& in, const Arrays&) {
                   return Arrays{dy, in[0], in[1]};
                 }});
  out.push_back(
      {"HeadLoss",
       Op::kHeadLoss,
       Op::kHeadLoss,
       HeadLossAttrs{1e-5, 4},
       {random_array("h", {3, 4, 7}), random_array("norm", {7}, 0.5, 1.5),
        random_array("head", {6, 7}), integer_array({3, 4}, targets), real_array({1}, {1})},
       {0, 1, 2},
       {2, 3, 4},
       [](const OpArray& dy, const Arrays& in, const Arrays&) {
         return Arrays{in[0], in[1], in[2], in[3], dy};
       }});
  out.push_back(
      {"OutProjLoss",
       Op::kOutProjLoss,
       Op::kOutProjLoss,
       HeadLossAttrs{1e-5, 4},
       {random_array("y", {3, 1, 5}), random_array("w", {7, 5}), random_array("x", {3, 4, 7}),
        random_array("norm", {7}, 0.5, 1.5), random_array("head", {6, 7}),
        integer_array({3, 4}, targets), real_array({1}, {1})},
       {0, 1, 2, 3, 4},
       {2, 3, 4, 5, 6},
       [](const OpArray& dy, const Arrays& in, const Arrays&) {
         return Arrays{in[0], in[1], in[2], in[3], in[4], in[5], dy};
       }});
  for (int seqlen : {1, 2, 4, 5, 11}) {
    out.push_back(mamba3_case("Mamba3Seqlen" + std::to_string(seqlen), seqlen, [](A&, Arrays&) {}));
    out.push_back(mamba2_case("Mamba2Seqlen" + std::to_string(seqlen), seqlen, false, true, 1));
  }
  out.push_back(mamba3_case("Mamba3Recurrent", 6, [](A& a, Arrays&) { a.chunked = false; }));
  out.push_back(mamba3_case("Mamba3RotatesAll", 6, [](A& a, Arrays&) { a.nangles = 3; }));
  out.push_back(mamba3_case("Mamba3Groups", 6, [](A& a, Arrays&) { a.ngroups = 2; }));
  out.push_back(mamba3_case("Mamba3StandardRotation", 6,
                            [](A& a, Arrays&) { a.rotation = A::Rotation::kStandard; }));
  out.push_back(
      mamba3_case("Mamba3NoRotation", 6, [](A& a, Arrays&) { a.rotation = A::Rotation::kNone; }));
  out.push_back(mamba3_case("Mamba3Euler", 6,
                            [](A& a, Arrays&) { a.discretization = A::Discretization::kEuler; }));
  out.push_back(mamba3_case("Mamba3Half", 6,
                            [](A& a, Arrays&) { a.discretization = A::Discretization::kHalf; }));
  out.push_back(mamba3_case("Mamba3HeavyTail", 6, [](A& a, Arrays&) { a.heavy_tail = true; }));
  out.push_back(mamba3_case("Mamba3Floor", 6, [](A& a, Arrays&) { a.a_floor = 0.7; }));
  out.push_back(
      mamba3_case("Mamba3NoNorm", 6, [](A&, Arrays& in) { in[4] = in[5] = absent_array(); }));
  out.push_back(
      mamba3_case("Mamba3NoBias", 6, [](A&, Arrays& in) { in[2] = in[3] = absent_array(); }));
  out.push_back(mamba3_case("Mamba3OutNorm", 6,
                            [](A&, Arrays& in) { in[7] = random_array("on", {6}, 0.5, 1.5); }));
  out.push_back(mamba2_case("Mamba2Signed", 6, true, true, 1));
  out.push_back(mamba2_case("Mamba2SignedRecurrentGroups", 6, true, false, 2));
  out.push_back(mamba2_case("Mamba2Recurrent", 6, false, false, 1));
  for (int seqlen : {1, 2, 4, 5, 11}) {
    out.push_back(gated_delta_case("GatedDeltaSeqlen" + std::to_string(seqlen), seqlen, [](D&) {}));
  }
  for (int seqlen : {31, 33, 65}) {  // around the borders of longer chunks, smaller otherwise
    out.push_back(gated_delta_case("GatedDeltaSeqlen" + std::to_string(seqlen), seqlen, [](D& a) {
      a.nheads = 1, a.headdim = 2, a.d_state = 2, a.chunk_size = 32;
    }));
  }
  out.push_back(gated_delta_case("GatedDeltaBetaUpTo1", 6, [](D& a) { a.beta_max = 1; }));
  out.push_back(gated_delta_case("GatedDeltaRecurrent", 6, [](D& a) { a.chunked = false; }));
  out.push_back(gated_delta_case("GatedDeltaChunkOfOneToken", 6, [](D& a) { a.chunk_size = 1; }));
  out.push_back(gated_delta_case("GatedDeltaGroups", 6, [](D& a) { a.nheads = 4, a.ngroups = 2; }));
  out.push_back(gated_delta_case("GatedDeltaRecurrentGroups", 6,
                                 [](D& a) { a.nheads = 4, a.ngroups = 2, a.chunked = false; }));
  out.push_back(gated_delta_case("GatedDeltaActivates", 6, [](D& a) { a.activate = true; }));
  out.push_back(gated_delta_case("GatedDeltaNoGate", 6, [](D& a) { a.gate = false; }));
  out.push_back(gated_delta_case("GatedDeltaNoDecay", 6, [](D& a) { a.decay = false; }));
  out.push_back(gated_delta_case("DeltaNet", 9, [](D& a) { a.decay = a.gate = false; }));
  out.push_back(gated_delta_case("DeltaNetRecurrentActivatesGroups", 9, [](D& a) {
    a.nheads = 4, a.ngroups = 2;
    a.decay = a.gate = a.chunked = false, a.activate = true;
  }));
  return out;
}

class OpGradient : public ::testing::TestWithParam<Case> {};

TEST_P(OpGradient, EqualsCentralDifferencesWithARandomCotangent) {
  const Case& c = GetParam();
  const Arrays out = run_op<double>(c.forward, c.attributes, c.in).outputs;
  for (const OpArray& o : out) {
    for (double v : o.data) ASSERT_TRUE(std::isfinite(v)) << "an output was not written";
  }
  const auto cotangent = uniform(c.name + "cotangent", out[0].data.size());
  const OpArray dy = real_array(out[0].type.shape, cotangent);
  const Arrays gradients =
      run_op<double>(c.backward, c.attributes, c.operands(dy, c.in, out)).outputs;
  double largest = 1;
  for (size_t k = 0; k < c.wrt.size(); ++k) {
    const auto& actual = gradients[static_cast<size_t>(c.gradient_at[k])].data;
    const auto expected =
        numeric_gradient(c.forward, c.attributes, c.in, static_cast<size_t>(c.wrt[k]), cotangent);
    ASSERT_EQ(actual.size(), expected.size());
    for (double x : expected) largest = std::max(largest, std::abs(x));
    for (size_t i = 0; i < actual.size(); ++i) {
      EXPECT_TRUE(std::abs(actual[i] - expected[i]) <= 1e-7 * largest)
          << c.name << ": input " << c.wrt[k] << " element " << i << ": " << actual[i]
          << " against " << expected[i];
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Op, OpGradient, ::testing::ValuesIn(cases()),
                         [](const auto& p) { return p.param.name; });

class ScanSeqlen : public ::testing::TestWithParam<int> {};

/// Chunked and recurrent are the same function, in both directions, at any length; float stays near double.
TEST_P(ScanSeqlen, ChunkedEqualsRecurrentForwardAndBackward) {
  const int T = GetParam();
  Mamba3ScanAttrs a;
  a.nheads = 2, a.headdim = 16, a.d_state = 16, a.nangles = 4;
  const std::string text = "T" + std::to_string(T);
  const Arrays in = {random_array(text, {1, T, a.d_proj()}, -1.5, 1.5),
                     random_array("dt", {2}, -3, -2),
                     random_array("Bb", {2, 1, 16}),
                     random_array("Cb", {2, 1, 16}),
                     random_array("Bn", {16}, .5, 1.5),
                     random_array("Cn", {16}, .5, 1.5),
                     random_array("D", {2}),
                     absent_array()};
  const OpArray dy = random_array(text + "dy", {1, T, 32});
  Mamba2ScanAttrs b;
  b.nheads = 2, b.headdim = 16, b.d_state = 16;
  const Arrays in2 = {random_array(text, {1, T, b.d_proj()}, -1.5, 1.5),
                      random_array("dt", {2}, -3, -2), random_array("A", {2}),
                      random_array("D", {2}), random_array("n", {32}, .5, 1.5)};
  auto compare = [&](Op forward, Op backward, auto attrs, const Arrays& inputs) {
    attrs.chunked = false;
    const Arrays exact = run_op<double>(forward, attrs, inputs).outputs;
    const Arrays exact_bwd =
        run_op<double>(backward, attrs, scan_operands(dy, inputs, exact)).outputs;
    attrs.chunked = true;
    for (const int chunk : {16, 64}) {
      attrs.chunk_size = chunk;
      const Arrays chunked = run_op<double>(forward, attrs, inputs, 2).outputs;
      EXPECT_LE(relative_error(chunked[0].data, exact[0].data), 1e-12) << "chunk " << chunk;
      const Arrays bwd =
          run_op<double>(backward, attrs, scan_operands(dy, inputs, chunked), 2).outputs;
      for (size_t i = 0; i < bwd.size(); ++i) {
        EXPECT_LE(relative_error(bwd[i].data, exact_bwd[i].data), 1e-11) << "gradient " << i;
      }
      const Arrays single = run_op<float>(forward, attrs, inputs).outputs;
      EXPECT_LE(relative_error(single[0].data, exact[0].data), 2e-5);
      const Arrays single_bwd =
          run_op<float>(backward, attrs, scan_operands(dy, inputs, single)).outputs;
      EXPECT_LE(relative_error(single_bwd[0].data, exact_bwd[0].data), 1e-4);
    }
  };
  compare(Op::kMamba3Scan, Op::kMamba3ScanBwd, a, in);
  compare(Op::kMamba2Scan, Op::kMamba2ScanBwd, b, in2);
  GatedDeltaScanAttrs g;
  g.nheads = 2, g.headdim = 16, g.d_state = 16, g.beta_max = 2;
  compare(Op::kGatedDeltaScan, Op::kGatedDeltaScanBwd, g,
          {random_array(text, {1, T, g.d_proj()}, -1.5, 1.5), random_array("dt", {2}, -3, -2),
           random_array("A", {2}), random_array("n", {16}, .5, 1.5)});
  g.decay = g.gate = false;  // nothing forgets: errors of all tokens stay in the state
  compare(Op::kGatedDeltaScan, Op::kGatedDeltaScanBwd, g,
          {random_array(text, {1, T, g.d_proj()}, -1.5, 1.5), absent_array(), absent_array(),
           random_array("n", {16}, .5, 1.5)});
}

INSTANTIATE_TEST_SUITE_P(Op, ScanSeqlen, ::testing::Values(1, 2, 31, 32, 33, 63, 65, 129, 151),
                         [](const auto& p) { return "T" + std::to_string(p.param); });

TEST(Mamba3Scan, FirstTokensDecayAndAngleHaveZeroGradient) {
  const Case c = mamba3_case("zero", 9, [](Mamba3ScanAttrs&, Arrays&) {});
  const auto& a = std::get<Mamba3ScanAttrs>(c.attributes);
  const Arrays out = run_op<double>(c.forward, c.attributes, c.in).outputs;
  const OpArray dy = random_array("dy", out[0].type.shape);
  const Arrays d = run_op<double>(c.backward, c.attributes, scan_operands(dy, c.in, out)).outputs;
  const int dd_A = 2 * a.d_inner() + 2 * a.d_state + a.nheads, ang = dd_A + 2 * a.nheads;
  for (int b = 0; b < 2; ++b) {
    const double* first = &d[0].data[static_cast<size_t>(b * 9 * a.d_proj())];
    for (int h = 0; h < a.nheads; ++h) EXPECT_EQ(first[dd_A + h], 0);
    for (int j = 0; j < a.nangles; ++j) EXPECT_NEAR(first[ang + j], 0, 1e-13);
  }
}

TEST(Mamba3Scan, NegatedAnglesWithSwappedPairsLeaveTheOutputUnchanged) {
  Case c = mamba3_case("swap", 7, [](Mamba3ScanAttrs&, Arrays&) {});
  const auto& a = std::get<Mamba3ScanAttrs>(c.attributes);
  const auto y = run_op<double>(c.forward, c.attributes, c.in).outputs[0].data;
  auto swap_pairs = [&](double* p) {
    for (int j = 0; j < a.nangles; ++j) std::swap(p[2 * j], p[2 * j + 1]);
  };
  const int B = 2 * a.d_inner(), ang = a.d_proj() - a.nangles;
  for (int r = 0; r < 2 * 7; ++r) {
    double* p = &c.in[0].data[static_cast<size_t>(r * a.d_proj())];
    swap_pairs(p + B);
    swap_pairs(p + B + a.d_state);
    for (int j = 0; j < a.nangles; ++j) p[ang + j] = -p[ang + j];
  }
  for (size_t i : {2, 3}) {
    for (int h = 0; h < a.nheads; ++h)
      swap_pairs(&c.in[i].data[static_cast<size_t>(h * a.d_state)]);
  }
  for (size_t i : {4, 5}) swap_pairs(c.in[i].data.data());
  EXPECT_LE(relative_error(run_op<double>(c.forward, c.attributes, c.in).outputs[0].data, y),
            1e-13);
}

TEST(Mamba3Scan, AnglesStayWrappedAndAccurateOver65536Tokens) {
  Mamba3ScanAttrs a;
  a.nheads = 1, a.headdim = 1, a.d_state = 4, a.nangles = 1;
  const int T = 65536;
  std::vector<double> proj(static_cast<size_t>(T) * static_cast<size_t>(a.d_proj()), 0.25);
  for (int t = 0; t < T; ++t)
    proj[static_cast<size_t>(t * a.d_proj() + a.d_proj() - 1)] = 0.3 * std::sin(0.1 * t) + 0.4;
  const Arrays in = {real_array({1, T, a.d_proj()}, proj),
                     real_array({1}, {0.5}),
                     absent_array(),
                     absent_array(),
                     absent_array(),
                     absent_array(),
                     real_array({1}, {1}),
                     absent_array()};
  const auto exact = run_op<double>(Op::kMamba3Scan, a, in).outputs[2].data;
  const auto single = run_op<float>(Op::kMamba3Scan, a, in).outputs[2].data;
  double worst = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    ASSERT_LE(std::abs(single[i]), 3.1415928);
    worst = std::max(worst, std::abs(std::remainder(single[i] - exact[i], 2 * 3.14159265358979)));
  }
  EXPECT_LE(
      worst,
      0.02);  // half an ulp of pi a token, were they all of one sign, is 0.008; the summands' own errors come on top
}

/// The answer to each position is its largest legal logit; rows 0 and 1 of pass 2 are the last two samples, row 2 is none.
TEST(Score, CountsAWorkedExample) {
  // (3 sequences, 3 positions, 4 columns); classes 3, legal 1..3
  const OpArray logits =
      real_array({3, 3, 4}, {9, 1, 2, 0, 9, 2, 2, 0, 0, 0, 1, 9,    // answers 2, 1 (first), 2
                             0, 3, 1, 0, 0, 1, 3, 0, 0, 1, 3, 0,    // 1, 2, 2
                             0, 3, 1, 0, 0, 1, 3, 0, 0, 1, 3, 0});  // left out
  const OpArray targets = integer_array({3, 3}, {2, 1, 0, -1, 1, 2, 1, 2, 2});
  std::vector<double> before(kScores + 9, 100);
  const ScoreAttrs a{.classes = 3, .legal_begin = 1, .legal_end = 3, .samples = 8};
  const auto counts = run_op<double>(Op::kScore, a,
                                     {logits, targets, integer_array({1}, {2}),
                                      double_array({kScores + 9}, before)})
                          .inputs[3]
                          .data;
  auto lse = [](double x, double y, double z) {
    return std::log(std::exp(x) + std::exp(y) + std::exp(z));
  };
  const double loss = (lse(9, 1, 2) - 2) + (lse(9, 2, 2) - 2) + (lse(0, 0, 1) - 0) +
                      (lse(0, 1, 3) - 1) + (lse(0, 1, 3) - 3);
  EXPECT_NEAR(counts[kScoreLoss], 100 + loss, 1e-12);
  std::vector<double> integers = counts;
  integers[kScoreLoss] = 0;
  EXPECT_EQ(integers,
            (std::vector<double>{102, 100, 105, 103, 0,  // sequences, right, tokens, right
                                 101, 102, 102,          // supervised per position
                                 101, 101, 101,          // right
                                 101, 101, 100}));       // right up to it
}

TEST(Score, ASequenceIsRightOnlyWhenItIsSupervised) {
  const OpArray logits = real_array({2, 1, 2}, {0, 1, 0, 1});
  const ScoreAttrs a{.classes = 2, .legal_begin = 0, .legal_end = 2, .samples = 2};
  const auto counts =
      run_op<double>(Op::kScore, a,
                     {logits, integer_array({2, 1}, {-1, 1}), integer_array({1}, {0}),
                      double_array({kScores + 3}, std::vector<double>(kScores + 3))})
          .inputs[3]
          .data;
  EXPECT_EQ(counts[kScoreSequences], 2);
  EXPECT_EQ(counts[kScoreSequencesCorrect], 1);
  EXPECT_EQ(counts[kScoreTokens], 1);
}

TEST(Score, PassesAddUpToOnePassOverAllSamples) {
  constexpr int kSamples = 7, kSeqlen = 5, kWidth = 6;
  const ScoreAttrs a{.classes = 5, .legal_begin = 1, .legal_end = 4, .samples = kSamples};
  auto targets = testing_support::integers("targets", 8 * kSeqlen, 5);
  for (size_t i = 0; i < targets.size(); i += 3) targets[i] = -1;
  const auto logits = uniform("logits", 8 * kSeqlen * kWidth, -3, 3);
  auto score = [&](int batch) {
    OpArray counts =
        double_array({kScores + 3 * kSeqlen}, std::vector<double>(kScores + 3 * kSeqlen));
    for (int pass = 0; pass * batch < kSamples; ++pass) {
      const auto first = static_cast<size_t>(pass * batch * kSeqlen),
                 n = static_cast<size_t>(batch * kSeqlen);
      const auto l = logits.begin() + static_cast<std::ptrdiff_t>(first * kWidth);
      const auto t = targets.begin() + static_cast<std::ptrdiff_t>(first);
      counts =
          run_op<double>(Op::kScore, a,
                         {real_array({batch, kSeqlen, kWidth},
                                     {l, l + static_cast<std::ptrdiff_t>(n * kWidth)}),
                          integer_array({batch, kSeqlen}, {t, t + static_cast<std::ptrdiff_t>(n)}),
                          integer_array({1}, {pass}), counts})
              .inputs[3];
    }
    return counts.data;
  };
  EXPECT_EQ(score(2), score(8));  // bits: the loss is one sum in sample order
  EXPECT_EQ(score(8)[kScoreSequences], kSamples);
}

TEST(Op, ShapeRulesRefuseWithTheActualShapes) {
  auto message = [](Op op, const Attributes& attributes, const Arrays& in) -> std::string {
    try {
      run_op<double>(op, attributes, in);
    } catch (const ShapeError& e) {
      return e.what();
    }
    return "";
  };
  const OpArray x = random_array("x", {2, 3, 7});
  EXPECT_EQ(message(Op::kAdd, {}, {x, random_array("y", {2, 3, 6})}),
            "[add] b must be (2, 3, 7), is (2, 3, 6)");
  EXPECT_EQ(message(Op::kRmsNorm, RmsNormAttrs{}, {x, random_array("w", {6})}),
            "[rms_norm] weight must be (7), is (6)");
  EXPECT_EQ(message(Op::kSwiglu, {}, {x}),
            "[swiglu] the last axis holds value and gate and must be even, is (2, 3, 7)");
  EXPECT_EQ(message(Op::kCausalConv1d, CausalConv1dAttrs{5, 3, 4}, {x, x, x}),
            "[causal_conv1d] channels 5..8 exceed x (2, 3, 7)");
  const OpArray taps = random_array("t", {7, 1, 4}), targets = integer_array({2, 2}, {0, 0, 0, 0});
  EXPECT_EQ(message(Op::kCausalConv1d, CausalConv1dAttrs{0, 7, 4}, {x, taps}),
            "[causal_conv1d] takes 3 or 4 operands, got 2");
  EXPECT_EQ(
      message(Op::kCausalConv1d, CausalConv1dAttrs{0, 7, 4}, {x, taps, absent_array(), targets}),
      "[causal_conv1d] targets must be (2, 3), is (2, 2)");
  EXPECT_EQ(
      message(Op::kCausalConv1dBwd, CausalConv1dAttrs{0, 7, 4}, {x, x, taps, absent_array(), x}),
      "[causal_conv1d_bwd] targets has the wrong element type");
  EXPECT_EQ(message(Op::kEmbedding, {}, {x, x}),
            "[embedding] tokens must be integers (batch, seqlen), is (2, 3, 7)");
  EXPECT_EQ(message(Op::kCrossEntropy, CrossEntropyAttrs{9}, {x, x}),
            "[cross_entropy] logits must be (batch, seqlen, >= 9), is (2, 3, 7)");
  EXPECT_EQ(message(Op::kScore, ScoreAttrs{7, 3, 8, 1}, {x, x, x, x}),
            "[score] answers 3..8 exceed logits (2, 3, 7)");
  Mamba3ScanAttrs a;
  a.ngroups = 2;
  EXPECT_EQ(message(Op::kMamba3Scan, a, {x, x, x, x, x, x, x, x}),
            "[mamba3_scan] ngroups must divide nheads: 2 and 1");
  GatedDeltaScanAttrs g;
  g.nheads = 3, g.ngroups = 2, g.headdim = 2, g.d_state = 2;
  const OpArray proj = random_array("p", {2, 3, g.d_proj()}), heads = random_array("h", {3}),
                norm = random_array("n", {2});
  EXPECT_EQ(message(Op::kGatedDeltaScan, g, {proj, heads, heads, norm}),
            "[gated_delta_scan] ngroups must divide nheads: 2 and 3");
  g.ngroups = 1;
  EXPECT_EQ(message(Op::kGatedDeltaScan, g, {proj, heads, heads, norm}),
            "[gated_delta_scan] proj must be (batch, seqlen, 22), is (2, 3, 26)");
  const OpArray fits = random_array("p", {2, 3, 22});
  EXPECT_EQ(message(Op::kGatedDeltaScan, g, {fits, absent_array(), heads, norm}),
            "[gated_delta_scan] operand dt_bias is missing");
  EXPECT_EQ(message(Op::kGatedDeltaScan, g, {fits, heads, heads, heads}),
            "[gated_delta_scan] norm must be (2), is (3)");
  g.decay = false;
  EXPECT_EQ(
      message(Op::kGatedDeltaScan, g, {random_array("p", {2, 3, 19}), absent_array(), heads, norm}),
      "[gated_delta_scan] A_log is given, but there is no decay");
}

}  // namespace
}  // namespace statelab
