// The scans and the convolution that are given targets: rows up to a sequence's last target have the bits, and gradients the values, of those without;
// what lies behind is finite forwards.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/cuda/op_agreement.h"
#include "tests/kernels/scan_at_cases.h"

namespace statelab {
namespace {

using namespace testing_support;  // NOLINT: a test

class CudaUsedTokens : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    const std::string reason = reason_to_skip();
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
};

INSTANTIATE_TEST_SUITE_P(Op, CudaUsedTokens, ::testing::Bool(),
                         [](const auto& p) { return p.param ? "mamba3_scan" : "mamba2_scan"; });

/// Heads of the size that kernels on tiles take, in one group or a group each, and others.
std::vector<ScanAtCase> cases(bool mamba3) {
  std::vector<ScanAtCase> out;
  for (const auto& [heads, groups, size] :
       {std::tuple{2, 1, 64}, {3, 3, 64}, {4, 1, 64}, {2, 1, 32}}) {
    for (const int seqlen : {17, 40, 64, 130, 161}) {
      if (mamba3) {
        Mamba3ScanAttrs a;
        a.nheads = heads, a.ngroups = groups, a.headdim = a.d_state = size, a.nangles = size / 4;
        out.push_back(mamba3_at_case("", a, 6, seqlen));
      } else {
        Mamba2ScanAttrs a;
        a.nheads = heads, a.ngroups = groups, a.headdim = a.d_state = size;
        out.push_back(mamba2_at_case(a, 6, seqlen));
      }
    }
  }
  return out;
}

/// Of each sequence's rows, those that are used.
std::vector<int> used(const OpArray& targets) {
  const int batch = targets.type.shape[0], seqlen = targets.type.shape[1];
  std::vector<int> out;
  for (int b = 0; b < batch; ++b) {
    int p = seqlen - 1;
    while (p > 0 && targets.data[static_cast<size_t>(b * seqlen + p)] < 0) --p;
    out.push_back(p + 1);
  }
  return out;
}

TEST_P(CudaUsedTokens, WhatIsReadIsAsWithoutTargets) {
  for (const ScanAtCase& c : cases(GetParam())) {
    for (const Precision precision : {Precision::kFp32, Precision::kTf32, Precision::kBf16}) {
      const double within = precision == Precision::kBf16 ? 1e-3 : 1e-5;
      const std::string where = c.name + " in " + precision_name(precision);
      const Arrays with = rounded(c.inputs(c.name)), without(with.begin(), with.end() - 1);
      const std::vector<int> lengths = used(with.back());
      const auto run = [&](Op op, const Arrays& in) {
        return run_op_cuda(op, c.attributes, {in}, precision)[0].outputs;
      };
      const Arrays whole = run(c.scan(), without), part = run(c.scan(), with);
      const auto row = static_cast<size_t>(c.d_inner), T = static_cast<size_t>(c.seqlen);
      OpArray dy = rounded({random_array(c.name + "dy", whole[0].type.shape)})[0];
      size_t different = 0, infinite = 0;
      for (size_t b = 0; b < lengths.size(); ++b) {
        for (size_t t = 0; t < T; ++t) {
          for (size_t i = (b * T + t) * row; i < (b * T + t + 1) * row; ++i) {
            const bool in = static_cast<int>(t) < lengths[b];
            different += in && part[0].data[i] != whole[0].data[i] ? 1 : 0;
            infinite += std::isfinite(part[0].data[i]) ? 0 : 1;
            if (!in) dy.data[i] = 0;
          }
        }
      }
      EXPECT_EQ(different, 0u) << where;
      EXPECT_EQ(infinite, 0u) << where;
      Arrays operands = scan_operands(dy, without, part);
      operands.push_back(with.back());
      const Arrays gradients = run(c.scan_backward(), operands),
                   expected = run(c.scan_backward(), scan_operands(dy, without, whole));
      for (size_t i = 0; i < expected.size(); ++i) {
        if (without[i].absent) continue;
        // Mamba-3's weight of the last used token looks ahead at the next step, or at none: it multiplies a zero.
        EXPECT_EQ(difference(gradients[i], expected[i], GetParam() ? within : 0, 0, false), "")
            << where << " " << i;
      }
    }
  }
}

struct ConvShape {
  int batch, seqlen, columns, begin, channels, width;
};

TEST(CudaUsedTokensOfConvolution, WhatIsReadIsAsWithoutTargets) {
  const std::string reason = reason_to_skip();
  if (!reason.empty()) GTEST_SKIP() << reason;
  for (const ConvShape& s : {ConvShape{6, 17, 40, 4, 32, 4},
                             {6, 161, 386, 128, 256, 4},
                             {64, 161, 386, 128, 256, 4},
                             {6, 40, 41, 5, 33, 3},
                             {23, 3, 9, 2, 5, 8},
                             {6, 1, 9, 0, 9, 4},
                             {6, 40, 1300, 128, 1100, 4},
                             {6, 40, 1301, 5, 700, 8}}) {
    const std::string where = extents({s.batch, s.seqlen, s.columns, s.begin, s.channels, s.width});
    const Shape rows{s.batch, s.seqlen, s.columns};
    const Arrays in = rounded({random_array(where + "x", rows, -2, 2),
                               random_array(where + "w", {s.channels, 1, s.width}, -0.5, 0.5),
                               random_array(where + "b", {s.channels}, -0.5, 0.5)});
    const OpArray targets = one_target(where, s.batch, s.seqlen);
    const std::vector<int> lengths = used(targets);
    const auto run = [&](Op op, Arrays operands, const OpArray& last) {
      operands.push_back(last);
      return run_op_cuda(op, CausalConv1dAttrs{s.begin, s.channels, s.width}, {operands},
                         Precision::kFp32)[0]
          .outputs;
    };
    const OpArray whole = run(Op::kCausalConv1d, in, absent_array())[0],
                  part = run(Op::kCausalConv1d, in, targets)[0];
    // What is behind is not read, so it may be anything there.
    Arrays zero = {rounded({random_array(where + "dy", rows)})[0], in[0], in[1], in[2]};
    Arrays unread = zero;
    size_t different = 0;
    const auto width = static_cast<size_t>(s.columns), T = static_cast<size_t>(s.seqlen);
    for (size_t i = 0; i < whole.data.size(); ++i) {
      const bool is_used = static_cast<int>(i / width % T) < lengths[i / width / T];
      different += part.data[i] != (is_used ? whole.data[i] : 0) ? 1 : 0;
      if (is_used) continue;
      zero[0].data[i] = 0;
      unread[0].data[i] = unread[1].data[i] = std::nan("");
    }
    EXPECT_EQ(different, 0u) << where;
    const Arrays gradients = run(Op::kCausalConv1dBwd, unread, targets),
                 expected = run(Op::kCausalConv1dBwd, zero, absent_array());
    for (size_t i = 0; i < expected.size(); ++i)
      EXPECT_TRUE(gradients[i].data == expected[i].data) << where << " " << i;
  }
}

}  // namespace
}  // namespace statelab
