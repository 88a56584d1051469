// The identities that models/equivalence.md derives, and controls that must break them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/rng.h"
#include "models/reference/complex_ssm.h"
#include "models/reference/gated_delta_net.h"
#include "models/reference/orthogonal_ssm.h"
#include "models/reference/quaternion.h"
#include "models/reference/tape.h"

namespace statelab {
namespace {

using namespace reference;  // NOLINT: the whole file is about it

std::vector<double> uniform(uint32_t group, std::size_t size, double lo, double hi) {
  std::vector<double> x(size);
  for (std::size_t i = 0; i < size; ++i) {
    const RngBlock bits = philox({7, Stream::kVerify}, {static_cast<uint32_t>(i), group, 1, 0});
    x[i] = lo + (hi - lo) * uniform01(bits.v[0], bits.v[1]);
  }
  return x;
}

double relative_error(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0, error = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    largest = std::max(largest, std::abs(b[i]));
    error = std::max(error, std::abs(a[i] - b[i]));
  }
  return error / largest;
}

RotatingSystem<double> random_system(int T, int N, int P, int nangles, int sign,
                                     Discretization discretization) {
  return {T,
          N,
          P,
          nangles,
          sign,
          discretization,
          uniform(0, T * N, -1, 1),
          uniform(1, T * N, -1, 1),
          uniform(2, T * P, -1, 1),
          uniform(3, T, -0.3, 0),
          uniform(4, T, 0.1, 1.5),
          uniform(5, T, -2, 2),
          uniform(6, T * nangles, -2, 2)};
}

TEST(ComplexSsm, FourFormsAgreeForBothSignsAndRules) {
  for (int sign : {+1, -1}) {
    for (auto rule :
         {Discretization::kEuler, Discretization::kTrapezoidal, Discretization::kHalf}) {
      for (int nangles : {2, 4}) {
        const auto system = random_system(37, 8, 3, nangles, sign, rule);
        const auto literal = literal_complex(system);
        for (const auto& other :
             {block_rotation(system), rotated_scan(system), chunked_scan(system, 8),
              chunked_scan(system, 1), chunked_scan(system, 64)}) {
          EXPECT_LE(relative_error(other.y, literal.y), 1e-13);
          EXPECT_LE(relative_error(other.state, literal.state), 1e-13);
        }
      }
    }
  }
}

TEST(ComplexSsm, WrongPrefixRulesDoNotAgree) {
  const auto system = random_system(37, 8, 3, 4, +1, Discretization::kTrapezoidal);
  const auto literal = literal_complex(system);
  for (auto rule : {PrefixRule::kExclusive, PrefixRule::kUnrotatedPrevious,
                    PrefixRule::kSwappedPair, PrefixRule::kOppositeSign}) {
    EXPECT_GT(relative_error(rotated_scan(system, rule).y, literal.y), 0.05)
        << static_cast<int>(rule);
  }
}

TEST(ComplexSsm, CodeSignIsTheMamba3Scan) {
  const auto system = random_system(37, 8, 3, 2, -1, Discretization::kTrapezoidal);
  Mamba3Inputs<double> in{37,
                          8,
                          3,
                          2,
                          system.C,
                          system.B,
                          std::vector<double>(8, 0.0),
                          std::vector<double>(8, 0.0),
                          system.x,
                          system.a,
                          system.dt,
                          system.trap,
                          system.ang,
                          {},
                          0};
  const auto scan = mamba3_scan(in, Rotation::kDataDependent, Discretization::kTrapezoidal);
  EXPECT_LE(relative_error(scan.o, literal_complex(system).y), 1e-13);
  auto other = system;
  other.sign = +1;
  EXPECT_GT(relative_error(scan.o, literal_complex(other).y), 0.05);
  for (double& angle : other.ang) angle = -angle;  // the two signs are one model family
  EXPECT_LE(relative_error(scan.o, literal_complex(other).y), 1e-13);
}

TEST(Mamba3Scan, ASplitSequenceWithCarriedStateGivesTheSameOutputs) {
  for (auto rotation : {Rotation::kDataDependent, Rotation::kStandard, Rotation::kNone}) {
    const int T = 9, N = 4, P = 2, S = 2;
    const auto part = [&](int from, int to) {
      const auto rows = [&](uint32_t group, int width, double lo, double hi) {
        const auto all = uniform(group, std::size_t(T) * width, lo, hi);
        return std::vector<double>(all.begin() + from * width, all.begin() + to * width);
      };
      return Mamba3Inputs<double>{to - from,
                                  N,
                                  P,
                                  S,
                                  rows(0, N, -1, 1),
                                  rows(1, N, -1, 1),
                                  uniform(8, N, 0, 1),
                                  uniform(9, N, 0, 1),
                                  rows(2, P, -1, 1),
                                  rows(3, 1, -1, 0),
                                  rows(4, 1, .1, 1),
                                  rows(5, 1, -2, 2),
                                  rows(6, S, -2, 2),
                                  rows(7, P, -2, 2),
                                  0.5};
    };
    const auto whole = mamba3_scan(part(0, T), rotation, Discretization::kTrapezoidal);
    const auto head = mamba3_scan(part(0, 4), rotation, Discretization::kTrapezoidal);
    const auto tail = mamba3_scan(part(4, T), rotation, Discretization::kTrapezoidal, &head.last);
    auto joined = head.y;
    joined.insert(joined.end(), tail.y.begin(), tail.y.end());
    EXPECT_LE(relative_error(joined, whole.y), 1e-15);
    EXPECT_LE(relative_error(tail.last.state, whole.last.state), 1e-15);
  }
}

TEST(Mamba3Scan, CarriesParityExactlyWithHandMadeInputs) {
  const int T = 200;
  Mamba3Inputs<double> in;
  in.seqlen = T, in.d_state = 4, in.headdim = 1, in.nangles = 1;
  in.q_bias.assign(4, 0), in.k_bias.assign(4, 0);
  const double dt = 1 / std::tanh(3.0);  // pi tanh(3 bit) dt is exactly pi or 0
  std::vector<int> ones;
  int count = 0;
  for (int t = 0; t < T; ++t) {
    const int bit = philox({3, Stream::kVerify}, {static_cast<uint32_t>(t), 0, 0, 0}).v[0] & 1u;
    count += t > 0 ? bit : 0;  // a turn before the first value is common to all and cannot matter
    ones.push_back(count);
    for (int i = 0; i < 4; ++i) in.q.push_back(i == 0), in.k.push_back(i == 0);
    in.v.push_back(t == 0);
    in.a.push_back(0), in.dt.push_back(dt), in.trap.push_back(0), in.ang.push_back(3.0 * bit);
  }
  const auto out = mamba3_scan(in, Rotation::kDataDependent, Discretization::kEuler);
  for (int t = 0; t < T; ++t) EXPECT_NEAR(out.o[t] / dt, ones[t] % 2 ? -1 : 1, 1e-12) << t;
}

// Orthogonal matrices as products of random Givens rotations in all planes: they do not commute.
OrthogonalSystem<double> random_orthogonal(int T, int N) {
  OrthogonalSystem<double> in{T,
                              N,
                              {},
                              uniform(20, T * N, -1, 1),
                              uniform(21, T * N, -1, 1),
                              uniform(22, T, -1, 1),
                              uniform(23, T, .7, 1),
                              uniform(24, T, .1, 1),
                              uniform(25, T, .1, 1)};
  const auto angles = uniform(26, std::size_t(T) * N * N, -3, 3);
  for (int t = 0; t < T; ++t) {
    std::vector<double> R(std::size_t(N) * N, 0.0);
    for (int i = 0; i < N; ++i) R[i * N + i] = 1;
    for (int i = 0; i < N; ++i) {
      for (int j = i + 1; j < N; ++j) {
        const double c = std::cos(angles[(t * N + i) * N + j]),
                     s = std::sin(angles[(t * N + i) * N + j]);
        for (int k = 0; k < N; ++k) {
          const double u = R[i * N + k], v = R[j * N + k];
          R[i * N + k] = c * u - s * v;
          R[j * N + k] = s * u + c * v;
        }
      }
    }
    in.R.insert(in.R.end(), R.begin(), R.end());
  }
  return in;
}

TEST(OrthogonalSsm, PrefixProductsReproduceTheLiteralRecurrence) {
  const auto in = random_orthogonal(40, 5);
  EXPECT_LE(relative_error(prefix_orthogonal(in), literal_orthogonal(in)), 1e-13);
}

TEST(OrthogonalSsm, WrongProductsDoNotAgree) {
  const auto in = random_orthogonal(40, 5);
  const auto literal = literal_orthogonal(in);
  for (auto order :
       {ProductOrder::kRight, ProductOrder::kExclusive, ProductOrder::kUnrotatedPrevious}) {
    EXPECT_GT(relative_error(prefix_orthogonal(in, order), literal), 0.05)
        << static_cast<int>(order);
  }
}

QuaternionInputs<double> random_quaternions(int T, int blocks, int P, double axis_scale) {
  const int N = 4 * blocks;
  return {T,
          blocks,
          P,
          uniform(30, T * N, -1, 1),
          uniform(31, T * N, -1, 1),
          uniform(32, N, 0, 1),
          uniform(33, N, 0, 1),
          uniform(34, T * P, -1, 1),
          uniform(35, T, -.3, 0),
          uniform(36, T, .1, 1),
          uniform(37, T, -2, 2),
          uniform(38, std::size_t(T) * blocks * 3, -axis_scale, axis_scale),
          0.5};
}

TEST(QuaternionScan, EqualsTheLiteralRecurrenceAndNotTheOtherSide) {
  const auto in = random_quaternions(40, 3, 2, 2);
  const auto literal = literal_quaternion(in);
  EXPECT_LE(relative_error(quaternion_scan(in).o, literal), 1e-13);
  EXPECT_GT(relative_error(quaternion_scan(in, PrefixSide::kLeft).o, literal), 0.05);
}

TEST(QuaternionScan, AdjointMatchesTheTapeAlsoForTinyAxes) {
  for (double scale : {2.0, 1e-2, 1e-9}) {
    const auto in = random_quaternions(11, 2, 2, scale);
    const auto d_o = uniform(40, 22, -1, 1);
    const auto forward = quaternion_scan(in);
    const auto d = quaternion_scan_backward(in, forward, d_o);
    Recording tape({in.q, in.k, in.q_bias, in.k_bias, in.v, in.a, in.dt, in.trap, in.axis, {in.D}});
    const auto& x = tape.inputs;
    const QuaternionInputs<Var> var{11,   2,    2,    x[0], x[1], x[2],   x[3],
                                    x[4], x[5], x[6], x[7], x[8], x[9][0]};
    const Groups expected = tape.gradient(quaternion_scan(var).o, d_o);
    const Groups actual = {d.q, d.k, d.q_bias, d.k_bias, d.v, d.a, d.dt, d.trap, d.axis, {d.D}};
    for (std::size_t g = 0; g < actual.size(); ++g) {
      EXPECT_LE(relative_error(actual[g], expected[g]), 1e-12)
          << "group " << g << ", axes up to " << scale;
    }
  }
}

TEST(QuaternionScan, AnAxisAlongIIsTwoPlaneRotations) {
  auto in = random_quaternions(20, 1, 2, 2);
  RotatingSystem<double> system{
      20, 4, 2, 2, -1, Discretization::kTrapezoidal, {}, {}, in.v, in.a, in.dt, in.trap, {}};
  for (int t = 0; t < 20; ++t) {
    const double phi = in.dt[t] * kPi * std::tanh(in.axis[t * 3]);
    system.ang.insert(system.ang.end(), 2, in.axis[t * 3]);
    in.axis[t * 3] = phi, in.axis[t * 3 + 1] = 0, in.axis[t * 3 + 2] = 0;
    for (int i = 0; i < 4; ++i) {
      system.B.push_back(in.k[t * 4 + i] + in.k_bias[i]);
      system.C.push_back(in.q[t * 4 + i] + in.q_bias[i]);
    }
  }
  in.D = 0;
  EXPECT_LE(relative_error(quaternion_scan(in).o, literal_complex(system).y), 1e-13);
}

/// The authors' layer has a projection and a convolution each; the production model stacks them.
TEST(GatedDeltaNet, StackedProjectionsAndConvolutionsAreTheAuthorsLayer) {
  ModelConfig c;
  c.mixer = "gated_delta_net";
  c.d_model = 6, c.expand = 2, c.headdim = 3, c.ngroups = 4, c.d_state = 5;  // 4 heads
  c.conv = true;
  const int H = 4, d = 6, K = 5, V = 3, B = 2, T = 9;
  const std::vector<double> u = uniform(60, std::size_t(B) * T * d, -1, 1);
  for (const double beta_max : {1.0, 2.0}) {
    c.eigenvalue_min = beta_max == 2 ? -1 : 0;
    Parameters<double> theirs, ours;
    uint32_t group = 61;
    const auto stack = [&](const std::string& name, std::size_t size, const std::string& onto) {
      theirs[name] = uniform(group++, size, -1, 1);
      ours[onto].insert(ours[onto].end(), theirs[name].begin(), theirs[name].end());
    };
    for (const auto& [name, rows] :
         {std::pair{"q", H * K}, {"k", H * K}, {"v", H * V}, {"g", H * V}, {"a", H}, {"b", H}})
      stack(name + std::string("_proj.weight"), std::size_t(rows) * d, "in_proj.weight");
    for (const auto& [name, rows] : {std::pair{"q", H * K}, {"k", H * K}, {"v", H * V}})
      stack(name + std::string("_conv1d.weight"), std::size_t(rows) * kConvWidth, "conv1d.weight");
    stack("A_log", H, "A_log");
    stack("dt_bias", H, "dt_bias");
    stack("o_norm.weight", V, "norm.weight");
    stack("o_proj.weight", std::size_t(d) * H * V, "out_proj.weight");
    const auto expected =
        gated_delta_net_block<double>({d, H, K, V, beta_max}, theirs, "", u, B, T);
    EXPECT_LE(relative_error(delta_rule_block(c, ours, "", u, B, T), expected), 1e-14);
  }
}

}  // namespace
}  // namespace statelab
