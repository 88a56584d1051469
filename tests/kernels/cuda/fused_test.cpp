// Fused ops on the GPU: an addend gives the bits of the op and `add` after it, in every precision and wherever results leave a
// block; head_loss, out_proj_loss and linear_bwd agree with the double-precision CPU op, and their bits are a member's own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/cuda/kernel.h"
#include "kernels/cuda/runtime.h"
#include "tests/kernels/cuda/op_agreement.h"

namespace statelab {
namespace {

using namespace testing_support;  // NOLINT: a test

constexpr Precision kPrecisions[] = {Precision::kFp32, Precision::kTf32, Precision::kBf16};

class CudaFused : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string reason = reason_to_skip();
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
};

/// The op with an addend against the op and then add, of several members.
void expect_addend_is_add(Op op, const Attributes& attributes, const std::vector<Arrays>& without,
                          const std::string& name) {
  for (const Precision precision : kPrecisions) {
    const std::vector<OpRun> apart = run_op_cuda(op, attributes, without, precision);
    std::vector<Arrays> with, sums;
    for (size_t m = 0; m < without.size(); ++m) {
      const OpArray& y = apart[m].outputs[0];
      const OpArray addend =
          rounded({random_array(name + std::to_string(m) + "addend", y.type.shape)})[0];
      with.push_back(without[m]);
      with[m].push_back(addend);
      sums.push_back({addend, y});
    }
    const std::vector<OpRun> expected = run_op_cuda(Op::kAdd, {}, sums, precision),
                             fused = run_op_cuda(op, attributes, with, precision),
                             alone = run_op_cuda(op, attributes, {with[1]}, precision);
    for (size_t m = 0; m < without.size(); ++m) {
      EXPECT_TRUE(same_bits(fused[m].outputs[0], expected[m].outputs[0]))
          << op_name(op) << " " << name << " in " << precision_name(precision) << " member " << m;
      for (size_t i = 1; i < fused[m].outputs.size(); ++i)
        EXPECT_TRUE(same_bits(fused[m].outputs[i], apart[m].outputs[i])) << name << " " << i;
    }
    EXPECT_EQ(different_bits(alone[0], fused[1]), "") << op_name(op) << " " << name;
  }
}

TEST_F(CudaFused, LinearWithAnAddendHasTheBitsOfLinearAndAdd) {
  for (const auto& [rows, in, to] : {std::tuple{99, 128, 64},
                                     {1, 128, 64},
                                     {10304, 128, 64},
                                     {2093, 100, 60},
                                     {99, 64, 406},
                                     {20000, 64, 96},
                                     {99, 64, 90},
                                     {99, 160, 96},
                                     {99, 160, 98},
                                     {2093, 406, 66},
                                     {99, 20, 40},
                                     {99, 20, 42},
                                     {99, 30, 100},
                                     {99, 7, 3},
                                     {33, 33, 31},
                                     {99, 64, 8},
                                     {99, 64, 1},
                                     {1, 1, 1},
                                     {40960, 128, 64},
                                     {17, 66, 50}}) {
    const std::string name = extents({rows, in, to});
    std::vector<Arrays> members;
    for (int m = 0; m < 2; ++m) {
      const std::string text = name + "/" + std::to_string(m);
      members.push_back(rounded({random_array(text + "x", {1, rows, in}),
                                 random_array(text + "w", {to, in}, -0.2, 0.2)}));
    }
    expect_addend_is_add(Op::kLinear, {}, members, name);
  }
}

TEST_F(CudaFused, RmsNormBwdWithAnAddendHasTheBitsOfItAndAdd) {
  for (const int n : {1, 2, 7, 12, 33, 64, 65, 128, 132, 260, 512, 516, 1100}) {
    const std::string name = std::to_string(n);
    std::vector<Arrays> members;
    for (int m = 0; m < 2; ++m) {
      const std::string text = name + "/" + std::to_string(m);
      members.push_back(rounded({random_array(text + "dy", {3, 33, n}),
                                 random_array(text + "x", {3, 33, n}, -2, 2),
                                 random_array(text + "w", {n}, 0.5, 1.5)}));
    }
    expect_addend_is_add(Op::kRmsNormBwd, RmsNormAttrs{}, members, name);
  }
}

// ---- linear_bwd

Case gradients_case(int rows, int out, int in) {
  return {extents({rows, out, in}),
          {},
          [=](const std::string& text) {
            return Arrays{random_array(text + "dy", {1, rows, out}),
                          random_array(text + "w", {out, in}, -0.2, 0.2),
                          random_array(text + "x", {1, rows, in})};
          },
          rows >= 1000};
}

/// Full and awkward widths; rows that fill no tile, several tiles, many runs.
std::vector<Case> gradients_cases() {
  std::vector<Case> out;
  for (const int rows : {1, 33, 99, 2093}) {
    for (const auto& [n, k] : {std::pair{406, 64},
                               {386, 64},
                               {64, 128},
                               {66, 64},
                               {98, 160},
                               {90, 64},
                               {42, 20},
                               {8, 8},
                               {64, 416},
                               {130, 60},
                               {3, 7},
                               {31, 33},
                               {64, 30},
                               {516, 64}})
      out.push_back(gradients_case(rows, n, k));
  }
  for (const int rows : {10304, 40960}) {
    for (const auto& [n, k] : {std::pair{406, 64}, {64, 128}})
      out.push_back(gradients_case(rows, n, k));
  }
  return out;
}

TEST_F(CudaFused, LinearBwdAgreesWithDoublePrecision) {
  for (const Case& c : gradients_cases()) {
    for (const Precision precision : kPrecisions) {
      for (const int members : {1, kMembers})
        ASSERT_NO_FATAL_FAILURE(expect_agreement(Op::kLinearBwd, c, precision, members));
    }
  }
}

TEST_F(CudaFused, LinearBwdHasTheSameBitsAloneAndInACohort) {
  for (const Case& c : gradients_cases()) {
    const auto in = inputs_of(Op::kLinearBwd, c, kMembers);
    for (const Precision precision : kPrecisions) {
      const auto cohort = run_op_cuda(Op::kLinearBwd, c.attributes, in, precision);
      for (size_t m = 0; m < in.size(); ++m) {
        const auto alone = run_op_cuda(Op::kLinearBwd, c.attributes, {in[m]}, precision);
        EXPECT_EQ(different_bits(alone[0], cohort[m]), "")
            << c.name << " member " << m << " in " << precision_name(precision);
      }
    }
  }
}

// ---- norm_linear

/// Operands of norm_linear_bwd; the last targets of some sequences, behind which dy is zero.
Arrays normed_layer(const std::string& text, int batch, int seqlen, int n) {
  constexpr int kColumns = 64;
  const auto T = static_cast<size_t>(seqlen), columns = static_cast<size_t>(n);
  std::vector<int32_t> targets(static_cast<size_t>(batch) * T, -1);
  OpArray dy = random_array(text + "dy", {batch, seqlen, n});
  for (size_t b = 0; b < static_cast<size_t>(batch); ++b) {
    const size_t last = b * 7 % T;
    targets[b * T + last] = 1;
    for (size_t i = (b * T + last + 1) * columns; i < (b + 1) * T * columns; ++i) dy.data[i] = 0;
  }
  return rounded({dy, random_array(text + "w", {n, kColumns}, -0.2, 0.2),
                  random_array(text + "x", {batch, seqlen, kColumns}, -2, 2),
                  random_array(text + "norm", {kColumns}, 0.5, 1.5),
                  integer_array({batch, seqlen}, targets)});
}

struct NormedExtents {
  int batch, seqlen, n;
};
constexpr NormedExtents kNormedLayers[] = {{1, 1, 406},    {3, 11, 406},   {13, 161, 406},
                                           {13, 161, 386}, {20, 33, 130},  {70, 33, 416},
                                           {256, 41, 406}, {256, 161, 406}};

bool takes_normed_layers() {
  const ValueType x{DType::kReal, {1, 1, 64}}, norm{DType::kReal, {64}}, w{DType::kReal, {406, 64}},
      y{DType::kReal, {1, 1, 406}};
  const Attributes attributes = RmsNormAttrs{};
  const std::vector<const ValueType*> in = {&x, &norm, &w};
  return cuda_limit({Op::kNormLinear, &attributes, in, {&y, 1}}).empty();
}

TEST_F(CudaFused, NormLinearHasTheBitsOfBothOps) {
  if (!takes_normed_layers()) GTEST_SKIP() << "no such kernel on this device";
  const Attributes norm = RmsNormAttrs{};
  for (const NormedExtents& e : kNormedLayers) {
    std::vector<Arrays> one, first;
    for (int m = 0; m < kMembers; ++m) {
      const Arrays all = normed_layer(std::to_string(m), e.batch, e.seqlen, e.n);
      one.push_back({all[2], all[3], all[1]}), first.push_back({all[2], all[3]});
    }
    for (const Precision precision : kPrecisions) {
      const auto y = run_op_cuda(Op::kNormLinear, norm, one, precision),
                 u = run_op_cuda(Op::kRmsNorm, norm, first, precision),
                 alone = run_op_cuda(Op::kNormLinear, norm, {one[1]}, precision);
      std::vector<Arrays> second;
      for (size_t m = 0; m < one.size(); ++m) second.push_back({u[m].outputs[0], one[m][2]});
      const auto expected = run_op_cuda(Op::kLinear, {}, second, precision);
      for (size_t m = 0; m < one.size(); ++m)
        EXPECT_TRUE(y[m].outputs[0].data == expected[m].outputs[0].data)
            << e.batch << " " << e.seqlen << " " << e.n << " in " << precision_name(precision);
      EXPECT_EQ(different_bits(alone[0], y[1]), "");
    }
  }
}

TEST_F(CudaFused, NormLinearBwdHasTheBitsOfBothOpsWithTargetsAndWithout) {
  if (!takes_normed_layers()) GTEST_SKIP() << "no such kernel on this device";
  const Attributes norm = RmsNormAttrs{};
  for (const NormedExtents& e : kNormedLayers) {
    std::vector<Arrays> with, without, first;
    for (int m = 0; m < kMembers; ++m) {
      with.push_back(normed_layer(std::to_string(m), e.batch, e.seqlen, e.n));
      without.emplace_back(with.back().begin(), with.back().end() - 1);
      first.push_back({with.back()[2], with.back()[3]});
    }
    for (const Precision precision : kPrecisions) {
      const auto u = run_op_cuda(Op::kRmsNorm, norm, first, precision);
      std::vector<Arrays> second;
      for (size_t m = 0; m < with.size(); ++m)
        second.push_back({with[m][0], with[m][1], u[m].outputs[0]});
      const auto expected = run_op_cuda(Op::kLinearBwd, {}, second, precision),
                 all = run_op_cuda(Op::kNormLinearBwd, norm, without, precision),
                 part = run_op_cuda(Op::kNormLinearBwd, norm, with, precision),
                 alone = run_op_cuda(Op::kNormLinearBwd, norm, {with[1]}, precision);
      for (size_t m = 0; m < with.size(); ++m) {
        for (size_t i = 0; i < 2; ++i) {
          EXPECT_TRUE(all[m].outputs[i].data == expected[m].outputs[i].data)
              << e.batch << " " << e.seqlen << " " << e.n << " output " << i << " in "
              << precision_name(precision);
          EXPECT_TRUE(part[m].outputs[i].data == expected[m].outputs[i].data)
              << e.batch << " " << e.seqlen << " " << e.n << " output " << i << " in "
              << precision_name(precision) << ", targets given";
        }
      }
      EXPECT_EQ(different_bits(alone[0], part[1]), "");
    }
  }
}

/// One output of linear_bwd of one member where nobody wants the other.
OpArray gradient_alone(const Arrays& in, size_t wanted, Precision precision) {
  CudaStream stream(0);
  std::vector<CudaBuffer> memory;
  const auto allocate = [&](const Shape& shape) {
    const int64_t bytes = member_stride_bytes(shape, DType::kReal, sizeof(float));
    memory.emplace_back(0, bytes);
    stream.fill(memory.back().data(), 0xFF, bytes);
    return Operand{memory.back().data(), bytes, &shape};
  };
  std::vector<const ValueType*> types;
  std::vector<Operand> operands;
  for (const OpArray& a : in) {
    types.push_back(&a.type);
    operands.push_back(allocate(a.type.shape));
    std::vector<std::byte> bytes(static_cast<size_t>(operands.back().stride_bytes));
    store_array<float>(a, bytes.data());
    stream.to_device(operands.back().data, bytes.data(), operands.back().stride_bytes);
  }
  const Attributes attributes;
  const std::vector<ValueType> out = infer(Op::kLinearBwd, attributes, types);
  std::vector<Operand> results = {{nullptr, 0, &out[0].shape}, {nullptr, 0, &out[1].shape}};
  results[wanted] = allocate(out[wanted].shape);
  const CudaKernel& kernel = cuda_kernel(Op::kLinearBwd);
  const int64_t floats = kernel.workspace_bytes({Op::kLinearBwd, &attributes, types, out}) / 4;
  const Shape workspace{static_cast<int>(floats)};
  kernel.launch({Op::kLinearBwd, &attributes, operands, results, allocate(workspace), 1, precision},
                stream.handle());
  std::vector<std::byte> bytes(static_cast<size_t>(results[wanted].stride_bytes));
  stream.to_host(bytes.data(), results[wanted].data, results[wanted].stride_bytes);
  return load_array<float>(out[wanted], bytes.data());
}

TEST_F(CudaFused, LinearBwdOfWhichOneResultIsWantedHasTheBitsOfTheOpForIt) {
  for (const Case& c : {gradients_case(99, 406, 64), gradients_case(2093, 64, 128),
                        gradients_case(33, 31, 33), gradients_case(33000, 42, 20)}) {
    const Arrays in = inputs_of(Op::kLinearBwd, c, 1)[0];
    for (const Precision precision : kPrecisions) {
      const auto dx = run_op_cuda(Op::kLinearBwdX, {}, {Arrays{in[0], in[1]}}, precision),
                 dw = run_op_cuda(Op::kLinearBwdW, {}, {Arrays{in[0], in[2]}}, precision);
      EXPECT_TRUE(same_bits(gradient_alone(in, 0, precision), dx[0].outputs[0])) << c.name;
      EXPECT_TRUE(same_bits(gradient_alone(in, 1, precision), dw[0].outputs[0])) << c.name;
    }
  }
}

// ---- head_loss

/// One of `every` positions has a target, none where that is 0.
Case head_case(int batch, int seqlen, int d, int classes, int width, int every) {
  return {extents({batch, seqlen, d, classes, width, every}), HeadLossAttrs{1e-5, classes},
          [=](const std::string& text) {
            const auto n = static_cast<size_t>(batch * seqlen);
            std::vector<int32_t> targets =
                integers(text + "targets", n, static_cast<uint32_t>(classes));
            for (size_t i = 0; i < n; ++i) {
              if (every == 0 || static_cast<int>(i) % every != every - 1) targets[i] = -1;
            }
            const double scale = 2 / std::sqrt(d);
            return Arrays{random_array(text + "h", {batch, seqlen, d}, -2, 2),
                          random_array(text + "norm", {d}, 0.5, 1.5),
                          random_array(text + "head", {width, d}, -scale, scale),
                          integer_array({batch, seqlen}, targets),
                          random_array(text + "dloss", {1}, 0.5, 2)};
          },
          seqlen >= 1000};
}

std::vector<Case> head_cases() {
  std::vector<Case> out;
  for (const int seqlen : kSeqlens) out.push_back(head_case(3, seqlen, 64, 3, 16, 1));
  // Not d = 1, where dh is what rounding leaves of a difference.
  for (const int d : {2, 7, 12, 31, 32, 34, 48, 62, 64, 100, 128, 136, 256})
    out.push_back(head_case(3, 33, d, 5, 7, 2));
  for (const auto& [classes, width] :
       {std::pair{1, 1}, {2, 3}, {8, 8}, {9, 9}, {16, 24}, {17, 17}, {31, 33}, {32, 64}, {3, 130}})
    out.push_back(head_case(3, 33, 64, classes, width, 3));
  out.push_back(head_case(3, 33, 128, 16, 16, 1));
  out.push_back(head_case(256, 41, 64, 3, 16, 41));
  out.push_back(head_case(256, 161, 64, 3, 16, 1));
  out.push_back(head_case(256, 161, 64, 3, 16, 161));
  out.push_back(head_case(3, 33, 64, 3, 16, 0));
  return out;
}

/// The bits of members of a cohort in fp32 are those of each alone in every precision.
void expect_own_bits(Op op, const Case& c) {
  const auto in = inputs_of(op, c, kMembers);
  const auto cohort = run_op_cuda(op, c.attributes, in, Precision::kFp32);
  for (const Precision precision : kPrecisions) {
    for (size_t m = 0; m < in.size(); ++m) {
      const auto alone = run_op_cuda(op, c.attributes, {in[m]}, precision);
      EXPECT_EQ(different_bits(alone[0], cohort[m]), "")
          << c.name << " member " << m << " in " << precision_name(precision);
    }
  }
}

std::string limit_of(Op op, const Case& c) {
  const Arrays in = c.inputs("");
  std::vector<const ValueType*> types;
  for (const OpArray& a : in) types.push_back(&a.type);
  const std::vector<ValueType> out = infer(op, c.attributes, types);
  return cuda_limit({op, &c.attributes, types, out});
}

TEST_F(CudaFused, HeadLossAgreesWithDoublePrecision) {
  for (const Case& c : head_cases()) {
    for (const int members : {1, kMembers})
      ASSERT_NO_FATAL_FAILURE(expect_agreement(Op::kHeadLoss, c, Precision::kFp32, members));
  }
}

TEST_F(CudaFused, HeadLossHasTheSameBitsAloneInACohortAndInEveryPrecision) {
  for (const Case& c : head_cases()) expect_own_bits(Op::kHeadLoss, c);
}

TEST_F(CudaFused, HeadLossDoesNotReadRowsWithoutATargetAndShowsNaNOfTheOthers) {
  const Case c = head_case(2, 33, 64, 3, 16, 3);
  Arrays in = inputs_of(Op::kHeadLoss, c, 1)[0];
  const auto clean = run_op_cuda(Op::kHeadLoss, c.attributes, {in}, Precision::kTf32);
  in[0].data[0] = std::numeric_limits<double>::quiet_NaN();  // row 0 has none
  const auto unread = run_op_cuda(Op::kHeadLoss, c.attributes, {in}, Precision::kTf32);
  for (size_t i = 0; i < clean[0].outputs.size(); ++i)
    EXPECT_TRUE(same_bits(unread[0].outputs[i], clean[0].outputs[i])) << i;
  in[0].data[2 * 64] = std::numeric_limits<double>::quiet_NaN();
  const auto read = run_op_cuda(Op::kHeadLoss, c.attributes, {in}, Precision::kTf32);
  EXPECT_TRUE(std::isnan(read[0].outputs[0].data[0]));
  EXPECT_TRUE(std::isnan(read[0].outputs[4].data[0]));
}

/// Needs no GPU: shapes alone decide.
TEST(CudaHeadLoss, RefusesWhatDoesNotFitAWarp) {
  if (!built_with_cuda()) GTEST_SKIP() << "this build has no CUDA backend";
  auto refusal = [](int d, int classes) {
    return limit_of(Op::kHeadLoss, head_case(1, 2, d, classes, classes, 1));
  };
  EXPECT_EQ(refusal(64, 32), "");
  EXPECT_EQ(refusal(256, 8), "");
  for (const auto& [d, classes] : {std::pair{64, 33}, {128, 17}, {256, 9}, {33, 2}, {260, 2}})
    EXPECT_THAT(refusal(d, classes), ::testing::HasSubstr("does not fit a warp"));
}

// ---- out_proj_loss

/// Every `every`-th sequence has targets (none where that is 0): the odd ones up to some position, the even ones at it.
Case out_proj_case(int batch, int seqlen, int d, int d_inner, int classes, int width, int every) {
  return {extents({batch, seqlen, d, d_inner, classes, width, every}), HeadLossAttrs{1e-5, classes},
          [=](const std::string& text) {
            Arrays in = head_case(batch, seqlen, d, classes, width, 1).inputs(text);
            const auto last =
                integers(text + "at", static_cast<size_t>(batch), static_cast<uint32_t>(seqlen));
            for (int i = 0; i < batch * seqlen; ++i) {
              const int b = i / seqlen, t = i % seqlen, at = last[static_cast<size_t>(b)];
              if (every == 0 || b % every != every - 1 || t > at || (t < at && b % 2 == 0))
                in[3].data[static_cast<size_t>(i)] = -1;
            }
            const double scale = 1 / std::sqrt(d_inner);
            in.insert(in.begin(), {random_array(text + "y", {batch, 1, d_inner}),
                                   random_array(text + "w", {d, d_inner}, -scale, scale)});
            return in;
          },
          false};
}

std::vector<Case> out_proj_cases() {
  std::vector<Case> out;
  for (const int seqlen : {1, 2, 33, 161, 300})
    out.push_back(out_proj_case(3, seqlen, 64, 128, 3, 16, 1));
  for (const int d : {4, 32, 36, 60, 64, 68, 128}) {
    for (const int d_inner : {4, 64, 100, 128, 136, 256})
      out.push_back(out_proj_case(5, 7, d, d_inner, 5, 7, 2));
  }
  for (const auto& [classes, width] : {std::pair{1, 1},
                                       {2, 3},
                                       {8, 8},
                                       {16, 24},
                                       {17, 17},
                                       {32, 64},
                                       {33, 33},
                                       {120, 130},
                                       {128, 128},
                                       {3, 130}})
    out.push_back(out_proj_case(9, 5, 64, 128, classes, width, 1));
  out.push_back(out_proj_case(9, 5, 128, 256, 120, 128, 1));
  out.push_back(out_proj_case(256, 40, 64, 128, 16, 16, 1));
  out.push_back(out_proj_case(259, 160, 64, 128, 16, 16, 3));
  out.push_back(out_proj_case(1100, 2, 32, 64, 16, 16, 2));  // several passes over the sequences
  out.push_back(out_proj_case(5, 9, 64, 128, 3, 16, 0));
  return out;
}

TEST_F(CudaFused, OutProjLossAgreesWithDoublePrecision) {
  for (const Case& c : out_proj_cases()) {
    for (const int members : {1, kMembers})
      ASSERT_NO_FATAL_FAILURE(expect_agreement(Op::kOutProjLoss, c, Precision::kFp32, members));
  }
}

TEST_F(CudaFused, OutProjLossHasTheSameBitsAloneInACohortAndInEveryPrecision) {
  for (const Case& c : out_proj_cases()) expect_own_bits(Op::kOutProjLoss, c);
}

TEST_F(CudaFused, OutProjLossReadsTheRowsWithATargetOnlyAndShowsTheirNaN) {
  constexpr size_t kBatch = 9, kSeqlen = 5, kD = 64, kInner = 128;
  const Case c = out_proj_case(kBatch, kSeqlen, kD, kInner, 3, 16, 2);
  Arrays in = inputs_of(Op::kOutProjLoss, c, 1)[0];
  const auto clean = run_op_cuda(Op::kOutProjLoss, c.attributes, {in}, Precision::kTf32);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  size_t first = 0;  // row of x that is read first
  for (size_t b = 0; b < kBatch; ++b) {
    int at = -1;
    for (size_t t = 0; t < kSeqlen; ++t) at = in[5].data[b * kSeqlen + t] >= 0 ? int(t) : at;
    if (b == 1) first = b * kSeqlen + static_cast<size_t>(at);
    if (at < 0) in[0].data[b * kInner] = nan;
    for (size_t t = 0; t < kSeqlen; ++t) {
      if (static_cast<int>(t) != at) in[2].data[(b * kSeqlen + t) * kD] = nan;
    }
  }
  const auto unread = run_op_cuda(Op::kOutProjLoss, c.attributes, {in}, Precision::kTf32);
  for (size_t i = 0; i < clean[0].outputs.size(); ++i)
    EXPECT_TRUE(same_bits(unread[0].outputs[i], clean[0].outputs[i])) << i;
  in[2].data[first * kD] = nan;
  const auto read = run_op_cuda(Op::kOutProjLoss, c.attributes, {in}, Precision::kTf32);
  for (const size_t i : {0, 3, 5, 6}) EXPECT_TRUE(std::isnan(read[0].outputs[i].data[0])) << i;
}

/// Needs no GPU: shapes alone decide.
TEST(CudaOutProjLoss, RefusesWhatDoesNotFitABlock) {
  if (!built_with_cuda()) GTEST_SKIP() << "this build has no CUDA backend";
  const auto refusal = [](int d, int d_inner, int classes) {
    return limit_of(Op::kOutProjLoss, out_proj_case(1, 2, d, d_inner, classes, classes, 1));
  };
  EXPECT_EQ(refusal(64, 128, 16), "");
  EXPECT_EQ(refusal(128, 256, 128), "");
  for (const auto& [d, d_inner, classes] : {std::tuple{132, 256, 8},
                                            {64, 264, 8},
                                            {64, 128, 129},
                                            {62, 128, 8},
                                            {64, 126, 8},
                                            {64, 132, 8}})
    EXPECT_THAT(refusal(d, d_inner, classes), ::testing::HasSubstr("do not fit a block"));
}

}  // namespace
}  // namespace statelab
