// The part of verify rope that goes beyond plane rotations: block-orthogonal prefix products and
// quaternions.
#include <cmath>

#include "experiments/verify/findings.h"
#include "models/reference/orthogonal_ssm.h"
#include "models/reference/quaternion.h"
#include "models/reference/tape.h"

namespace statelab::verify {
namespace {

using namespace reference;  // NOLINT: the literal forms are what this file is about

constexpr uint32_t kSystem = 1u << 21;

/// Random orthogonal matrices: products of one rotation in every coordinate plane.
OrthogonalSystem<double> random_orthogonal(uint32_t seed, uint32_t system, int T, int N) {
  const auto draw = [&](uint32_t group, std::size_t size, double lo, double hi) {
    return uniform_values(seed, kSystem + system, group, size, lo, hi);
  };
  OrthogonalSystem<double> in{T,
                              N,
                              {},
                              draw(0, std::size_t(T) * N, -1, 1),
                              draw(1, std::size_t(T) * N, -1, 1),
                              draw(2, T, -1, 1),
                              draw(3, T, 0.7, 1),
                              draw(4, T, 0.1, 1),
                              draw(5, T, 0.1, 1)};
  const std::vector<double> angles = draw(6, std::size_t(T) * N * N, -3, 3);
  for (int t = 0; t < T; ++t) {
    std::vector<double> R(std::size_t(N) * N, 0.0);
    for (int i = 0; i < N; ++i) R[std::size_t(i) * N + i] = 1;
    for (int i = 0; i < N; ++i) {
      for (int j = i + 1; j < N; ++j) {
        const double angle = angles[(std::size_t(t) * N + i) * N + j], c = std::cos(angle),
                     s = std::sin(angle);
        for (int k = 0; k < N; ++k) {
          const double u = R[std::size_t(i) * N + k], v = R[std::size_t(j) * N + k];
          R[std::size_t(i) * N + k] = c * u - s * v;
          R[std::size_t(j) * N + k] = s * u + c * v;
        }
      }
    }
    in.R.insert(in.R.end(), R.begin(), R.end());
  }
  return in;
}

Groups random_quaternion_groups(uint32_t seed, uint32_t system, int T, int blocks, int P) {
  const std::size_t N = 4 * std::size_t(blocks);
  const auto draw = [&](uint32_t group, std::size_t size, double lo, double hi) {
    return uniform_values(seed, kSystem + 100 + system, group, size, lo, hi);
  };
  return {draw(0, T * N, -1, 1),
          draw(1, T * N, -1, 1),
          draw(2, N, 0, 1),
          draw(3, N, 0, 1),
          draw(4, std::size_t(T) * P, -1, 1),
          draw(5, T, -0.3, 0),
          draw(6, T, 0.1, 1),
          draw(7, T, -2, 2),
          draw(8, std::size_t(T) * blocks * 3, -2, 2),
          draw(9, 1, -1, 1)};
}

template <class S>
QuaternionInputs<S> quaternions_of(const std::vector<std::vector<S>>& x, int T, int blocks, int P) {
  return {T, blocks, P, x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], x[8], x[9][0]};
}

}  // namespace

Findings noncommuting_findings(const SuiteOptions& options) {
  Findings found;
  const std::string reason = "fp64 rounding, 1e5 ulp", far = "must be far off";
  for (uint32_t i = 0; i < 12; ++i) {
    const int T = options.quick ? 16 : 16 << (i % 4), N = 3 + static_cast<int>(i % 5);
    const std::string where = "T=" + std::to_string(T) + " N=" + std::to_string(N);
    const auto in = random_orthogonal(options.seed, i, T, N);
    const auto literal = literal_orthogonal(in);
    const auto error = [&](ProductOrder order) {
      return relative_error(prefix_orthogonal(in, order), literal);
    };
    found.push_back({"orthogonal recurrence = prefix products", error(ProductOrder::kLeft), 1e-11,
                     where, reason, "", false});
    found.push_back({"control: new factor on the right", error(ProductOrder::kRight), 1e-2, where,
                     far, "", true});
    found.push_back({"control: orthogonal product up to t-1", error(ProductOrder::kExclusive), 1e-2,
                     where, far, "", true});
    found.push_back({"control: orthogonal, unrotated previous term",
                     error(ProductOrder::kUnrotatedPrevious), 1e-2, where, far, "", true});
  }
  const std::vector<std::string> names = {"q", "k",  "q_bias", "k_bias", "v",
                                          "a", "dt", "trap",   "axis",   "D"};
  for (uint32_t i = 0; i < 6; ++i) {
    const int T = options.quick ? 16 : 16 << (i % 4), blocks = 1 + static_cast<int>(i % 3), P = 3;
    const std::string where = "T=" + std::to_string(T) + " N=" + std::to_string(4 * blocks);
    const Groups x = random_quaternion_groups(options.seed, i, T, blocks, P);
    const auto in = quaternions_of(x, T, blocks, P);
    const auto literal = literal_quaternion(in);
    const auto scan = quaternion_scan(in);
    found.push_back({"quaternion recurrence = prefix products", relative_error(scan.o, literal),
                     1e-11, where, reason, "", false});
    found.push_back({"control: quaternion factor on the left",
                     relative_error(quaternion_scan(in, PrefixSide::kLeft).o, literal), 1e-2, where,
                     far, "", true});

    const auto d_o = uniform_values(options.seed, kSystem + 100 + i, 20, literal.size(), -1, 1);
    const auto d = quaternion_scan_backward(in, scan, d_o);
    Recording tape(x);
    const Groups expected =
        tape.gradient(literal_quaternion(quaternions_of(tape.inputs, T, blocks, P)), d_o);
    std::string worst;
    const double error =
        gradient_error({d.q, d.k, d.q_bias, d.k_bias, d.v, d.a, d.dt, d.trap, d.axis, {d.D}},
                       expected, 1e-3, &worst, &names);
    found.push_back({"quaternion adjoint = derivative of the recurrence", error, 1e-11,
                     where + " d" + worst, reason, "", false});
  }
  return found;
}

}  // namespace statelab::verify
