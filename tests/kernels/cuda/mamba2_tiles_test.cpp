// mamba2_scan on bf16 tiles, the kernels for heads of 64 channels with 64 states and positive decays in tf32 and bf16: against the
// double-precision CPU op at their own boundaries (chunks, tiles of 16 tokens, rows at odd offsets, groups), and their bits.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <thread>
#include <tuple>

#include "kernels/cpu/run_op.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/kernel.h"
#include "kernels/cuda/run_op.h"
#include "tests/kernels/op_cases.h"

namespace statelab {
namespace {

using namespace testing_support;  // NOLINT: a test
using A = Mamba2ScanAttrs;
using Change = std::function<void(A&, Arrays&)>;

struct Case {
  std::string name;
  A attributes;
  int batch, seqlen;
  Change change;  ///< absent or other operands
};

int threads() { return static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 16u)); }

A attrs(int nheads, int ngroups) {
  A a;
  a.nheads = nheads, a.headdim = 64, a.ngroups = ngroups, a.d_state = 64;
  a.chunk_size = 64;
  return a;
}

std::vector<Case> cases() {
  std::vector<Case> out;
  auto add = [&](const std::string& name, A a, int batch, int seqlen, const Change& change = {}) {
    out.push_back({name + "_T" + std::to_string(seqlen) + "_H" + std::to_string(a.nheads) + "_G" +
                       std::to_string(a.ngroups) + "_Q" + std::to_string(a.chunk_size),
                   a, batch, seqlen, change});
  };
  for (const int seqlen : {1, 2, 15, 16, 17, 33, 40, 63, 64, 65, 81, 128, 129, 151, 160, 1000})
    add("", attrs(2, 1), 2, seqlen);
  for (const int seqlen : {1, 40, 65, 151}) {
    add("OneHead", attrs(1, 1), 2, seqlen);  // odd rows
    add("Groups", attrs(4, 2), 1, seqlen);
    add("GroupOfFour", attrs(4, 1), 1, seqlen);
    add("GroupAHead", attrs(3, 3), 1, seqlen);  // odd rows
    add("ManyHeads", attrs(5, 1), 1, seqlen);   // odd rows, a gate of another width
    add("ManyMore", attrs(6, 2), 1, seqlen);
  }
  for (const int chunk : {16, 32, 48}) {
    for (const int seqlen : {chunk, 100}) {
      A a = attrs(2, 1);
      a.chunk_size = chunk;
      add("", a, 2, seqlen);
    }
  }
  const std::vector<std::pair<std::string, Change>> switches = {
      {"LargeSteps", [](A& a, Arrays& in) { in[1] = random_array("steps", {a.nheads}, 1, 4); }},
      {"TinySteps", [](A& a, Arrays& in) { in[1] = random_array("steps", {a.nheads}, -40, -30); }},
      {"SlowDecay", [](A& a, Arrays& in) { in[2] = random_array("slow", {a.nheads}, -9, -6); }},
      {"FastDecay", [](A& a, Arrays& in) { in[2] = random_array("fast", {a.nheads}, 3, 4); }}};
  for (const auto& [name, change] : switches) {
    add(name, attrs(2, 1), 2, 40, change);
    add(name, attrs(2, 2), 2, 161, change);
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
  Arrays in = {random_array(text + "proj", {c.batch, c.seqlen, a.d_proj()}, -1.5, 1.5),
               random_array(text + "dt", {a.nheads}, -4, -1.5),
               random_array(text + "A", {a.nheads}, 0, 2.7),
               random_array(text + "D", {a.nheads}, 0.5, 1.5),
               random_array(text + "norm", {a.d_inner()}, 0.5, 1.5)};
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
                       double floor) {
  double scale = floor, worst = 0;
  size_t at = 0;
  for (size_t i = 0; i < expected.data.size(); ++i) {
    scale = std::max(scale, std::abs(expected.data[i]));
    const double d = actual.data[i] - expected.data[i];
    const double error = std::isfinite(d) ? std::abs(d) : HUGE_VAL;
    if (error > worst) worst = error, at = i;
  }
  if (worst <= tolerated * scale) return {};
  return "element " + std::to_string(at) + ": " + std::to_string(actual.data[at]) + " for " +
         std::to_string(expected.data[at]) + ", off by " + std::to_string(worst / scale * 1e6) +
         "e-6 of the largest, tolerated " + std::to_string(tolerated * 1e6) + "e-6";
}

/// Compares all outputs. A gradient of few elements may be a sum that happens to cancel: its terms are like those of the other
/// gradients.
void expect_close(const OpRun& actual, const OpRun& expected, bool backward, double tolerated,
                  const std::string& where) {
  double scale = 0;
  for (const OpArray& output : expected.outputs) {
    for (const double x : output.data) scale = std::max(scale, std::abs(x));
  }
  for (size_t i = 0; i < expected.outputs.size(); ++i) {
    const bool few = backward && expected.outputs[i].data.size() < 16;
    EXPECT_EQ(difference(actual.outputs[i], expected.outputs[i], few ? 4 * tolerated : tolerated,
                         few ? 0.1 * scale : 0),
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

class Mamba2Tiles : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string reason;
    const auto devices = cuda_devices(&reason);
    if (!devices.empty()) reason = devices[0].problem;
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
};

TEST_F(Mamba2Tiles, InTf32AgreeWithDoublePrecisionNearlyAsFp32Does) {
  for (const Case& c : cases()) {
    const Arrays in = operands(c, c.name);
    const double longer = c.seqlen >= 1000 ? 4 : 1;
    const OpRun forward = run_op<double>(Op::kMamba2Scan, c.attributes, in, threads());
    expect_close(run_op_cuda(Op::kMamba2Scan, c.attributes, {in}, Precision::kTf32)[0], forward,
                 false, 4e-5 * longer, c.name);
    const Arrays back = backward_operands(c, in, forward);
    expect_close(run_op_cuda(Op::kMamba2ScanBwd, c.attributes, {back}, Precision::kTf32)[0],
                 run_op<double>(Op::kMamba2ScanBwd, c.attributes, back, threads()), true,
                 2e-4 * longer, c.name + " backward");
  }
}

TEST_F(Mamba2Tiles, InBf16AgreeAsFarAsTheirOperandsDo) {
  for (const Case& c : cases()) {
    const Arrays in = operands(c, c.name);
    const OpRun forward = run_op<double>(Op::kMamba2Scan, c.attributes, in, threads());
    expect_close(run_op_cuda(Op::kMamba2Scan, c.attributes, {in}, Precision::kBf16)[0], forward,
                 false, 2e-2, c.name);
    const Arrays back = backward_operands(c, in, forward);
    expect_close(run_op_cuda(Op::kMamba2ScanBwd, c.attributes, {back}, Precision::kBf16)[0],
                 run_op<double>(Op::kMamba2ScanBwd, c.attributes, back, threads()), true, 5e-2,
                 c.name + " backward");
  }
}

TEST_F(Mamba2Tiles, OfAMemberHaveTheSameBitsAloneInACohortAndAgain) {
  for (const Case& c : cases()) {
    if (c.seqlen >= 1000) continue;
    std::vector<Arrays> in, back;
    for (const char* text : {"a", "b", "c"}) {
      in.push_back(operands(c, text + c.name));
      back.push_back(backward_operands(
          c, in.back(), run_op<double>(Op::kMamba2Scan, c.attributes, in.back(), threads())));
    }
    for (const Precision precision : {Precision::kTf32, Precision::kBf16}) {
      for (const auto& [op, all] : {std::pair{Op::kMamba2Scan, in}, {Op::kMamba2ScanBwd, back}}) {
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

/// Rows read before their copies have arrived show only where the device is full of blocks.
TEST_F(Mamba2Tiles, WaitForTheirRowsWhenTheDeviceIsBusy) {
  for (const int seqlen : {41, 131}) {
    const Case c{"busy" + std::to_string(seqlen), attrs(2, 1), 256, seqlen, {}};
    const Arrays in = operands(c, c.name);
    const OpRun forward = run_op<double>(Op::kMamba2Scan, c.attributes, in, threads());
    const Arrays back = backward_operands(c, in, forward);
    const OpRun backward = run_op<double>(Op::kMamba2ScanBwd, c.attributes, back, threads());
    for (const Precision precision : {Precision::kTf32, Precision::kBf16}) {
      for (const auto& [op, operand, expected] :
           {std::tuple{Op::kMamba2Scan, &in, &forward}, {Op::kMamba2ScanBwd, &back, &backward}}) {
        const auto cohort =
            run_op_cuda(op, c.attributes, std::vector<Arrays>(4, *operand), precision);
        const bool is_backward = op == Op::kMamba2ScanBwd;
        expect_close(cohort[0], *expected, is_backward,
                     precision == Precision::kTf32 ? (is_backward ? 2e-4 : 4e-5)
                                                   : (is_backward ? 5e-2 : 2e-2),
                     c.name);
        for (size_t m = 1; m < cohort.size(); ++m)
          EXPECT_TRUE(same_bits(cohort[0], cohort[m])) << c.name << " member " << m;
      }
    }
  }
}

/// Few blocks that pass every barrier, for tools that watch each access; outputs are poisoned with NaN before.
TEST_F(Mamba2Tiles, SmallCasesWriteEveryOutput) {
  for (const Case& c :
       {Case{"small", attrs(2, 1), 1, 81, {}}, Case{"small", attrs(1, 1), 1, 33, {}},
        Case{"small", attrs(4, 2), 1, 17, {}}}) {
    const Arrays in = operands(c, c.name);
    const OpRun forward = run_op<double>(Op::kMamba2Scan, c.attributes, in, threads());
    for (const Precision precision : {Precision::kTf32, Precision::kBf16}) {
      for (const auto& [op, operands_of_op] :
           {std::pair{Op::kMamba2Scan, in},
            {Op::kMamba2ScanBwd, backward_operands(c, in, forward)}}) {
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
