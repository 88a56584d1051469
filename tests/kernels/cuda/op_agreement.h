// What the tests of the ops on a GPU share: a case is a shape and a set of switches; operands are rounded to float beforehand, and
// what the device computes is compared with the double-precision CPU op.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cpu/run_op.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/run_op.h"
#include "tests/kernels/op_cases.h"

namespace statelab {

/// How GoogleTest names an op in a list of tests.
inline void PrintTo(Op op, std::ostream* out) { *out << op_name(op); }

namespace testing_support {

constexpr int kSeqlens[] = {1, 2, 31, 33, 63, 65, 129, 151, 1000};
constexpr int kMembers = 3;

struct Case {
  std::string name;
  Attributes attributes;
  std::function<Arrays(const std::string&)> inputs;  ///< one member's, from a text
  bool is_long = false;                              ///< 1000 tokens: rounding adds up
};

inline int threads() {
  return static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 16u));
}

inline int batch_of(int seqlen) { return seqlen >= 1000 ? 2 : 3; }
inline bool is_long(int seqlen) { return seqlen >= 1000; }

/// As the device will hold them.
inline Arrays rounded(Arrays arrays) {
  for (OpArray& a : arrays) {
    if (a.absent || a.type.dtype != DType::kReal) continue;
    for (double& x : a.data) x = static_cast<double>(static_cast<float>(x));
  }
  return arrays;
}

inline Arrays cpu_outputs(Op op, const Attributes& attributes, const Arrays& in) {
  return run_op<double>(op, attributes, rounded(in), threads()).outputs;
}

inline std::string extents(std::initializer_list<int> values) {
  std::string out;
  for (int v : values) out += (out.empty() ? "" : "x") + std::to_string(v);
  return out;
}

inline bool is_backward(Op op) {
  return std::string(op_name(op)).find("_bwd") != std::string::npos;
}

/// Largest error that passes, relative to the largest element of the expected array: rounding of fp32 sums (about
/// sqrt(terms) * 6e-8 of the largest partial sum), or of the products' operands (2^-11 in tf32, 2^-8 in bf16) times a few.
inline double tolerance(Op op, Precision precision, bool long_sequence) {
  const bool backward = is_backward(op);
  switch (precision) {
    case Precision::kFp32:
      return long_sequence ? 1e-4 : backward ? 5e-5 : 2e-5;
    case Precision::kTf32:
      return backward ? 1e-2 : 4e-3;
    case Precision::kBf16:
      return backward ? 1e-1 : 4e-2;
  }
  return 0;
}

/// Linear layers whose operands keep 16 bits or more in tf32 and bf16: all up to 416 columns.
inline bool operands_are_kept(Op op, const Arrays& in) {
  if (op != Op::kLinear && op != Op::kLinearBwdX && op != Op::kLinearBwdW && op != Op::kLinearBwd)
    return false;
  const bool of_rows = op == Op::kLinearBwdW;
  const int n = of_rows ? in[0].type.shape.last() : in[1].type.shape[0],
            k = of_rows ? in[1].type.shape.last() : in[1].type.shape[1];
  return n <= 416 && k <= 416;
}

/// Outputs that the op leaves unwritten or that say nothing: gradients of absent operands, Phi without data-dependent angles.
inline bool is_compared(Op op, const Attributes& attributes, const Arrays& in, size_t output) {
  if (op == Op::kMamba3ScanBwd || op == Op::kGatedDeltaScanBwd || op == Op::kCausalConv1dBwd ||
      op == Op::kMamba3ScanAtBwd)
    return !in[output + 1].absent;
  if (op == Op::kMamba3Scan && output == 2) {
    const auto& a = std::get<Mamba3ScanAttrs>(attributes);
    return a.rotation == Mamba3ScanAttrs::Rotation::kDataDependent && a.nangles > 0;
  }
  return true;
}

inline double largest(const OpArray& a) {
  double out = 0;
  for (double x : a.data) out = std::max(out, std::isfinite(x) ? std::abs(x) : 0);
  return out;
}

/// "" or what is wrong. `floor`: the scale is at least this. Angles agree up to whole turns.
inline std::string difference(const OpArray& actual, const OpArray& expected, double tolerated,
                              double floor, bool angles) {
  if (actual.data.size() != expected.data.size()) return "another number of elements";
  const bool exact = expected.type.dtype == DType::kInt32;
  const double scale = std::max(largest(expected), floor);
  size_t worst = 0;
  double worst_error = -1;
  for (size_t i = 0; i < actual.data.size(); ++i) {
    double d = actual.data[i] - expected.data[i];
    if (angles) d = std::remainder(d, 2 * 3.14159265358979323846);
    const double error = std::isfinite(actual.data[i]) && std::isfinite(expected.data[i])
                             ? std::abs(d)
                             : std::numeric_limits<double>::infinity();
    if (error > worst_error) worst_error = error, worst = i;
  }
  if (worst_error <= (exact ? 0 : tolerated * scale)) return {};
  std::ostringstream out;
  out.precision(9);
  out << expected.type.shape.text() << " element " << worst << ": " << actual.data[worst] << " for "
      << expected.data[worst] << ", off by " << (scale > 0 ? worst_error / scale : worst_error)
      << " of the largest " << scale << ", tolerated " << (exact ? 0 : tolerated);
  return out.str();
}

inline bool same_bits(const OpArray& a, const OpArray& b) {
  return a.absent == b.absent && a.data.size() == b.data.size() &&
         (a.data.empty() ||
          std::memcmp(a.data.data(), b.data.data(), a.data.size() * sizeof(double)) == 0);
}

inline std::string different_bits(const OpRun& a, const OpRun& b) {
  for (size_t i = 0; i < a.outputs.size(); ++i) {
    if (!same_bits(a.outputs[i], b.outputs[i])) return "output " + std::to_string(i);
  }
  for (size_t i = 0; i < a.inputs.size(); ++i) {
    if (!same_bits(a.inputs[i], b.inputs[i])) return "input " + std::to_string(i);
  }
  return {};
}

inline std::vector<Arrays> inputs_of(Op op, const Case& c, int members) {
  std::vector<Arrays> out;
  for (int m = 0; m < members; ++m)
    out.push_back(
        rounded(c.inputs(std::string(op_name(op)) + "/" + c.name + "/" + std::to_string(m))));
  return out;
}

/// Compares all that the op wrote for all members with the double-precision CPU op.
inline void expect_agreement(Op op, const Case& c, Precision precision, int members) {
  const std::string where =
      std::string(op_name(op)) + " " + c.name + " in " + precision_name(precision);
  const std::vector<Arrays> in = inputs_of(op, c, members);
  const std::vector<OpRun> actual = run_op_cuda(op, c.attributes, in, precision);
  ASSERT_EQ(actual.size(), in.size()) << where;
  double tolerated = tolerance(op, precision, c.is_long);
  if (precision != Precision::kFp32 && operands_are_kept(op, in[0])) tolerated = 1e-4;
  if (op == Op::kSchedule || op == Op::kScore || op == Op::kMetrics) tolerated = 1e-9;  // double
  if (op == Op::kAdamW) tolerated = 2e-6;  // elementwise: a few roundings
  for (int m = 0; m < members; ++m) {
    const auto at = static_cast<size_t>(m);
    const OpRun expected = run_op<double>(op, c.attributes, in[at], threads());
    const std::string member = " member " + std::to_string(m);
    // A gradient of few elements may be a sum that happens to cancel: its terms are like those of the other gradients.
    double scale = 0;
    for (size_t i = 0; i < expected.outputs.size(); ++i) {
      if (is_compared(op, c.attributes, in[at], i))
        scale = std::max(scale, largest(expected.outputs[i]));
    }
    for (size_t i = 0; i < expected.outputs.size(); ++i) {
      if (!is_compared(op, c.attributes, in[at], i)) continue;
      const bool few = is_backward(op) && expected.outputs[i].data.size() < 16;
      const std::string text = difference(actual[at].outputs[i], expected.outputs[i], tolerated,
                                          few ? 0.1 * scale : 0, op == Op::kMamba3Scan && i == 2);
      EXPECT_EQ(text, "") << where << member << " output " << i;
    }
    for (const int i : updated_inputs(op, static_cast<int>(in[at].size()))) {
      const auto k = static_cast<size_t>(i);
      const std::string text =
          difference(actual[at].inputs[k], expected.inputs[k], tolerated, 0, false);
      EXPECT_EQ(text, "") << where << member << " state " << i;
    }
  }
}

inline std::string op_test_name(const ::testing::TestParamInfo<Op>& p) { return op_name(p.param); }

inline std::string reason_to_skip() {
  std::string reason;
  const auto devices = cuda_devices(&reason);
  return devices.empty() ? reason : devices[0].problem;
}

/// Of one op; skips where there is no GPU.
class OpOnCuda : public ::testing::TestWithParam<Op> {
 protected:
  void SetUp() override {
    const std::string reason = reason_to_skip();
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
};

}  // namespace testing_support
}  // namespace statelab
