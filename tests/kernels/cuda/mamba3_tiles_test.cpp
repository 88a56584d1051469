// mamba3_scan on bf16 tiles, the kernels for heads of 64 channels with 64 states in tf32 and bf16: against the double-precision
// CPU op at their own boundaries (chunks, tiles of 16 tokens, rows at odd offsets, every switch), and their bits.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <thread>

#include "kernels/cpu/run_op.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/kernel.h"
#include "kernels/cuda/run_op.h"
#include "tests/kernels/op_cases.h"

namespace statelab {
namespace {

using namespace testing_support;  // NOLINT: a test
using A = Mamba3ScanAttrs;
using Change = std::function<void(A&, Arrays&)>;

struct Case {
  std::string name;
  A attributes;
  int batch, seqlen;
  Change change;  ///< absent or other operands
};

int threads() { return static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 16u)); }

A attrs(int nheads, int ngroups, int nangles) {
  A a;
  a.nheads = nheads, a.headdim = 64, a.ngroups = ngroups, a.d_state = 64, a.nangles = nangles;
  a.chunk_size = 64;
  return a;
}

OpArray absent() {
  OpArray out;
  out.absent = true;
  return out;
}

std::vector<Case> cases() {
  std::vector<Case> out;
  auto add = [&](const std::string& name, A a, int batch, int seqlen, const Change& change = {}) {
    if (change) {
      Arrays none(8);
      change(a, none);
    }
    out.push_back({name + "_T" + std::to_string(seqlen) + "_H" + std::to_string(a.nheads) + "_G" +
                       std::to_string(a.ngroups) + "_S" + std::to_string(a.nangles) + "_Q" +
                       std::to_string(a.chunk_size),
                   a, batch, seqlen, change});
  };
  for (const int seqlen : {1, 2, 15, 16, 17, 33, 40, 63, 64, 65, 81, 128, 129, 151, 1000})
    add("", attrs(2, 1, 16), 2, seqlen);
  for (const int seqlen : {1, 40, 65, 151}) {
    add("OddRows", attrs(1, 1, 16), 2, seqlen);
    add("Groups", attrs(4, 2, 16), 1, seqlen);
    add("ManyHeads", attrs(5, 1, 8), 1, seqlen);
  }
  for (const int nangles : {1, 5, 31, 32}) add("", attrs(2, 1, nangles), 2, 100);
  for (const int chunk : {16, 32, 48}) {
    A a = attrs(2, 1, 16);
    a.chunk_size = chunk;
    add("", a, 2, 100);
  }
  const std::vector<std::pair<std::string, Change>> switches = {
      {"StandardRotation", [](A& a, Arrays&) { a.rotation = A::Rotation::kStandard; }},
      {"NoRotation", [](A& a, Arrays&) { a.rotation = A::Rotation::kNone; }},
      {"NoAngles",
       [](A& a, Arrays&) {
         a.rotation = A::Rotation::kNone;
         a.nangles = 0;
       }},
      {"Euler", [](A& a, Arrays&) { a.discretization = A::Discretization::kEuler; }},
      {"Half", [](A& a, Arrays&) { a.discretization = A::Discretization::kHalf; }},
      {"HeavyTail", [](A& a, Arrays&) { a.heavy_tail = true; }},
      {"Floor", [](A& a, Arrays&) { a.a_floor = 0.7; }},
      {"NoNorm", [](A&, Arrays& in) { in[4] = in[5] = absent(); }},
      {"NoBias", [](A&, Arrays& in) { in[2] = in[3] = absent(); }},
      {"OnlyBNormAndCBias", [](A&, Arrays& in) { in[2] = in[5] = absent(); }},
      {"OutNorm",
       [](A& a, Arrays& in) { in[7] = random_array("tiles norm", {a.d_inner()}, 0.5, 1.5); }},
      {"LargeSteps",
       [](A& a, Arrays& in) { in[1] = random_array("tiles steps", {a.nheads}, 1, 4); }}};
  for (const auto& [name, change] : switches) {
    add(name, attrs(2, 1, 16), 2, 40, change);
    add(name, attrs(2, 2, 16), 2, 97, change);
  }
  return out;
}

Arrays rounded(Arrays arrays) {
  for (OpArray& a : arrays) {
    for (double& x : a.data) x = static_cast<double>(static_cast<float>(x));
  }
  return arrays;
}

Arrays operands(const Case& c, const std::string& text) {
  const A& a = c.attributes;
  const int H = a.nheads, N = a.d_state;
  Arrays in = {random_array(text + "proj", {c.batch, c.seqlen, a.d_proj()}, -1.5, 1.5),
               random_array(text + "dt", {H}, -4, -1.5),
               random_array(text + "Bb", {H, 1, N}, -0.5, 1.5),
               random_array(text + "Cb", {H, 1, N}, -0.5, 1.5),
               random_array(text + "Bn", {N}, 0.5, 1.5),
               random_array(text + "Cn", {N}, 0.5, 1.5),
               random_array(text + "D", {H}, 0.5, 1.5),
               absent()};
  A same = a;
  if (c.change) c.change(same, in);
  return rounded(in);
}
Arrays backward_operands(const Case& c, const Arrays& in, const OpRun& forward) {
  const Shape inner{c.batch, c.seqlen, c.attributes.d_inner()};
  return rounded(scan_operands(random_array(c.name + "dy", inner), in, forward.outputs));
}

/// "" or what is wrong; NaN is. `floor`: the scale is at least this.
std::string difference(const OpArray& actual, const OpArray& expected, double tolerated,
                       double floor, bool angles) {
  double scale = floor, worst = 0;
  size_t at = 0;
  for (size_t i = 0; i < expected.data.size(); ++i) {
    scale = std::max(scale, std::abs(expected.data[i]));
    double d = actual.data[i] - expected.data[i];
    if (angles) d = std::remainder(d, 2 * 3.14159265358979323846);
    const double error = std::isfinite(d) ? std::abs(d) : HUGE_VAL;
    if (error > worst) worst = error, at = i;
  }
  if (worst <= tolerated * scale) return {};
  return "element " + std::to_string(at) + ": " + std::to_string(actual.data[at]) + " for " +
         std::to_string(expected.data[at]) + ", off by " + std::to_string(worst / scale * 1e6) +
         "e-6 of the largest, tolerated " + std::to_string(tolerated * 1e6) + "e-6";
}

/// Compares the outputs that the op writes. A gradient of few elements may be a sum that happens to cancel: its terms are like
/// those of the other gradients.
void expect_close(const Case& c, const Arrays& in, const OpRun& actual, const OpRun& expected,
                  bool backward, double tolerated, const std::string& where) {
  const bool phi = c.attributes.rotation == A::Rotation::kDataDependent && c.attributes.nangles > 0;
  auto compared = [&](size_t i) { return backward ? i == 0 || !in[i].absent : i != 2 || phi; };
  double scale = 0;
  for (size_t i = 0; i < expected.outputs.size(); ++i) {
    if (!compared(i)) continue;
    for (const double x : expected.outputs[i].data) scale = std::max(scale, std::abs(x));
  }
  for (size_t i = 0; i < expected.outputs.size(); ++i) {
    if (!compared(i)) continue;
    const bool few = backward && expected.outputs[i].data.size() < 16;
    EXPECT_EQ(difference(actual.outputs[i], expected.outputs[i], few ? 4 * tolerated : tolerated,
                         few ? 0.1 * scale : 0, !backward && i == 2),
              "")
        << where << " output " << i;
  }
}

bool same_bits(const OpRun& a, const OpRun& b) {
  for (size_t i = 0; i < a.outputs.size(); ++i) {
    const auto &x = a.outputs[i].data, &y = b.outputs[i].data;
    if (x.size() != y.size() || std::memcmp(x.data(), y.data(), x.size() * sizeof(double)) != 0)
      return false;
  }
  return true;
}

class Mamba3Tiles : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string reason;
    const auto devices = cuda_devices(&reason);
    if (!devices.empty()) reason = devices[0].problem;
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
};

TEST_F(Mamba3Tiles, InTf32AgreeWithDoublePrecisionNearlyAsFp32Does) {
  for (const Case& c : cases()) {
    const Arrays in = operands(c, c.name);
    const double longer = c.seqlen >= 1000 ? 4 : 1;
    const OpRun forward = run_op<double>(Op::kMamba3Scan, c.attributes, in, threads());
    expect_close(c, in, run_op_cuda(Op::kMamba3Scan, c.attributes, {in}, Precision::kTf32)[0],
                 forward, false, 4e-5 * longer, c.name);
    const Arrays back = backward_operands(c, in, forward);
    expect_close(c, in, run_op_cuda(Op::kMamba3ScanBwd, c.attributes, {back}, Precision::kTf32)[0],
                 run_op<double>(Op::kMamba3ScanBwd, c.attributes, back, threads()), true,
                 1e-4 * longer, c.name + " backward");
  }
}

TEST_F(Mamba3Tiles, InBf16AgreeAsFarAsTheirOperandsDo) {
  for (const Case& c : cases()) {
    const Arrays in = operands(c, c.name);
    const OpRun forward = run_op<double>(Op::kMamba3Scan, c.attributes, in, threads());
    expect_close(c, in, run_op_cuda(Op::kMamba3Scan, c.attributes, {in}, Precision::kBf16)[0],
                 forward, false, 2e-2, c.name);
    const Arrays back = backward_operands(c, in, forward);
    expect_close(c, in, run_op_cuda(Op::kMamba3ScanBwd, c.attributes, {back}, Precision::kBf16)[0],
                 run_op<double>(Op::kMamba3ScanBwd, c.attributes, back, threads()), true, 5e-2,
                 c.name + " backward");
  }
}

TEST_F(Mamba3Tiles, OfAMemberHaveTheSameBitsAloneInACohortAndAgain) {
  for (const Case& c : cases()) {
    if (c.seqlen >= 1000) continue;
    std::vector<Arrays> in, back;
    for (const char* text : {"a", "b", "c"}) {
      in.push_back(operands(c, text + c.name));
      back.push_back(backward_operands(
          c, in.back(), run_op<double>(Op::kMamba3Scan, c.attributes, in.back(), threads())));
    }
    for (const Precision precision : {Precision::kTf32, Precision::kBf16}) {
      for (const auto& [op, all] : {std::pair{Op::kMamba3Scan, in}, {Op::kMamba3ScanBwd, back}}) {
        const auto cohort = run_op_cuda(op, c.attributes, all, precision);
        for (size_t m = 0; m < all.size(); ++m) {
          EXPECT_TRUE(same_bits(run_op_cuda(op, c.attributes, {all[m]}, precision)[0], cohort[m]))
              << op_name(op) << " " << c.name << " member " << m << " in "
              << precision_name(precision);
        }
      }
    }
  }
}

/// Rows that were read before their copies had arrived made trainings without rotation end in NaN: nothing between the copy and
/// the reading took long enough to hide it. Full of blocks the device is slow enough to show it.
TEST_F(Mamba3Tiles, WaitForTheirRowsWhenTheDeviceIsBusy) {
  for (const auto rotation :
       {A::Rotation::kNone, A::Rotation::kStandard, A::Rotation::kDataDependent}) {
    Case c{"busy" + std::to_string(static_cast<int>(rotation)), attrs(2, 1, 16), 256, 41, {}};
    c.attributes.rotation = rotation;
    const Arrays in = operands(c, c.name);
    const auto run = [&](Precision precision) {
      return run_op_cuda(Op::kMamba3Scan, c.attributes, std::vector<Arrays>(8, in), precision);
    };
    const auto expected = run_op<double>(Op::kMamba3Scan, c.attributes, in, threads());
    const Arrays gradient_in = backward_operands(c, in, expected);
    const auto gradient = run_op<double>(Op::kMamba3ScanBwd, c.attributes, gradient_in, threads());
    for (const Precision precision : {Precision::kTf32, Precision::kBf16}) {
      const auto cohort = run(precision);
      expect_close(c, in, cohort[0], expected, false, precision == Precision::kTf32 ? 4e-5 : 2e-2,
                   c.name);
      for (size_t m = 1; m < cohort.size(); ++m)
        EXPECT_TRUE(same_bits(cohort[0], cohort[m])) << c.name << " member " << m;
      const auto back = run_op_cuda(Op::kMamba3ScanBwd, c.attributes,
                                    std::vector<Arrays>(8, gradient_in), precision);
      expect_close(c, in, back[0], gradient, true, precision == Precision::kTf32 ? 1e-4 : 5e-2,
                   c.name + " backward");
      for (size_t m = 1; m < back.size(); ++m)
        EXPECT_TRUE(same_bits(back[0], back[m])) << c.name << " backward, member " << m;
    }
  }
}

/// Few blocks that pass every barrier, for tools that watch each access; outputs are poisoned with NaN before.
TEST_F(Mamba3Tiles, SmallCasesWriteEveryOutput) {
  std::vector<Case> small = {{"small", attrs(2, 1, 16), 1, 81, {}},
                             {"small", attrs(1, 1, 32), 1, 33, {}}};
  small.push_back(small[0]);
  small.back().attributes.rotation = A::Rotation::kNone;
  for (const Case& c : small) {
    const Arrays in = operands(c, c.name);
    const OpRun forward = run_op<double>(Op::kMamba3Scan, c.attributes, in, threads());
    for (const Precision precision : {Precision::kTf32, Precision::kBf16}) {
      for (const auto& [op, operands_of_op] :
           {std::pair{Op::kMamba3Scan, in},
            {Op::kMamba3ScanBwd, backward_operands(c, in, forward)}}) {
        const OpRun run = run_op_cuda(op, c.attributes, {operands_of_op}, precision)[0];
        for (const OpArray& out : run.outputs)
          EXPECT_TRUE(std::ranges::all_of(out.data, [](double x) { return std::isfinite(x); }))
              << op_name(op) << " in " << precision_name(precision);
      }
    }
  }
}

}  // namespace
}  // namespace statelab
