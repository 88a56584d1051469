// What the tests of the scans on bf16 tiles share, the kernels for heads of 64 channels with 64 states in tf32 and bf16: against the
// double-precision CPU op at their own boundaries (chunks, tiles of 16 tokens, rows at odd offsets, every switch), and their bits.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>

#include "tests/kernels/cuda/op_agreement.h"

namespace statelab::testing_support {

template <class A>
struct TiledCase {
  std::string name;
  A attributes;
  int batch, seqlen;
  std::function<void(A&, Arrays&)> change;  ///< absent or other operands
};

/// A scan's two ops, and the operands of the forward one, which a text tells apart.
template <class A>
struct TiledScan {
  Op forward, backward;
  std::function<Arrays(const TiledCase<A>&, const std::string&)> operands;

  /// Rounded as the device will hold them, here and below.
  Arrays in(const TiledCase<A>& c, const std::string& text) const {
    Arrays out = operands(c, text);
    A same = c.attributes;
    if (c.change) c.change(same, out);
    return rounded(std::move(out));
  }
  Arrays backward_in(const TiledCase<A>& c, const Arrays& in, const OpRun& run) const {
    const Shape inner{c.batch, c.seqlen, c.attributes.d_inner()};
    return rounded(scan_operands(random_array(c.name + "dy", inner), in, run.outputs));
  }
};

/// Compares the outputs that the op writes. A gradient of few elements may be a sum that happens to cancel: its terms are like
/// those of the other gradients.
inline void expect_close(Op op, const Attributes& attributes, const Arrays& in, const OpRun& actual,
                         const OpRun& expected, double tolerated, const std::string& where) {
  double scale = 0;
  for (size_t i = 0; i < expected.outputs.size(); ++i) {
    if (is_compared(op, attributes, in, i)) scale = std::max(scale, largest(expected.outputs[i]));
  }
  for (size_t i = 0; i < expected.outputs.size(); ++i) {
    if (!is_compared(op, attributes, in, i)) continue;
    const bool few = is_backward(op) && expected.outputs[i].data.size() < 16;
    EXPECT_EQ(difference(actual.outputs[i], expected.outputs[i], few ? 4 * tolerated : tolerated,
                         few ? 0.1 * scale : 0, op == Op::kMamba3Scan && i == 2),
              "")
        << op_name(op) << " " << where << " output " << i;
  }
}

/// Every case forward and backward; `tolerated`: of either. In tf32 rounding adds up in long sequences.
template <class A>
void expect_cases_agree(const TiledScan<A>& scan, const std::vector<TiledCase<A>>& cases,
                        Precision precision, std::pair<double, double> tolerated) {
  for (const TiledCase<A>& c : cases) {
    const double longer = precision == Precision::kTf32 && c.seqlen >= 1000 ? 4 : 1;
    const std::string where = c.name + " in " + precision_name(precision);
    const Arrays in = scan.in(c, c.name);
    const OpRun forward = run_op<double>(scan.forward, c.attributes, in, threads());
    expect_close(scan.forward, c.attributes, in,
                 run_op_cuda(scan.forward, c.attributes, {in}, precision)[0], forward,
                 tolerated.first * longer, where);
    const Arrays back = scan.backward_in(c, in, forward);
    expect_close(scan.backward, c.attributes, back,
                 run_op_cuda(scan.backward, c.attributes, {back}, precision)[0],
                 run_op<double>(scan.backward, c.attributes, back, threads()),
                 tolerated.second * longer, where);
  }
}

/// f(op, operands) for the forward op and the backward one.
template <class A, class F>
void for_both(const TiledScan<A>& scan, const TiledCase<A>& c, const std::string& text, F&& f) {
  const Arrays in = scan.in(c, text);
  f(scan.forward, in);
  f(scan.backward,
    scan.backward_in(c, in, run_op<double>(scan.forward, c.attributes, in, threads())));
}

template <class A>
void expect_bits_of_members(const TiledScan<A>& scan, const std::vector<TiledCase<A>>& cases) {
  for (const TiledCase<A>& c : cases) {
    if (c.seqlen >= 1000) continue;
    std::vector<std::pair<Op, std::vector<Arrays>>> ops(2);
    for (const char* text : {"a", "b", "c"}) {
      size_t at = 0;
      for_both(scan, c, text + c.name, [&](Op op, const Arrays& in) {
        ops[at].first = op;
        ops[at++].second.push_back(in);
      });
    }
    for (const Precision precision : {Precision::kTf32, Precision::kBf16}) {
      for (const auto& [op, members] : ops) {
        const auto cohort = run_op_cuda(op, c.attributes, members, precision);
        for (size_t m = 0; m < members.size(); ++m) {
          const OpRun alone = run_op_cuda(op, c.attributes, {members[m]}, precision)[0];
          EXPECT_EQ(different_bits(alone, cohort[m]), "")
              << op_name(op) << " " << c.name << " member " << m << " in "
              << precision_name(precision);
        }
      }
    }
  }
}

/// Rows that were read before their copies had arrived show only where the device is full of blocks: nothing between copy and
/// reading takes long enough to hide it elsewhere. `tolerated`: forward and backward, in tf32, then in bf16.
template <class A>
void expect_agreement_when_busy(const TiledScan<A>& scan, const TiledCase<A>& c, size_t members,
                                const std::pair<double, double> (&tolerated)[2]) {
  for_both(scan, c, c.name, [&](Op op, const Arrays& in) {
    const OpRun expected = run_op<double>(op, c.attributes, in, threads());
    for (const Precision precision : {Precision::kTf32, Precision::kBf16}) {
      const auto& [forward, backward] = tolerated[precision == Precision::kTf32 ? 0 : 1];
      const auto cohort =
          run_op_cuda(op, c.attributes, std::vector<Arrays>(members, in), precision);
      expect_close(op, c.attributes, in, cohort[0], expected, is_backward(op) ? backward : forward,
                   c.name);
      for (size_t m = 1; m < cohort.size(); ++m)
        EXPECT_EQ(different_bits(cohort[0], cohort[m]), "") << c.name << " member " << m;
    }
  });
}

/// Few blocks that pass every barrier, for tools that watch each access; outputs are poisoned with NaN before.
template <class A>
void expect_every_output_written(const TiledScan<A>& scan, const std::vector<TiledCase<A>>& cases) {
  for (const TiledCase<A>& c : cases) {
    for_both(scan, c, c.name, [&](Op op, const Arrays& in) {
      for (const Precision precision : {Precision::kTf32, Precision::kBf16}) {
        const OpRun run = run_op_cuda(op, c.attributes, {in}, precision)[0];
        for (const OpArray& out : run.outputs)
          EXPECT_TRUE(std::ranges::all_of(out.data, [](double x) { return std::isfinite(x); }))
              << op_name(op) << " " << c.name << " in " << precision_name(precision);
      }
    });
  }
}

/// Skips where there is no GPU.
class OnTiles : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string reason = reason_to_skip();
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
};

}  // namespace statelab::testing_support
