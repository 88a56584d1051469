// lstm on the GPU: agreement with the double-precision CPU op in all precisions, bits of a member, outputs that nobody wants,
// refusals. Operands of the backward op come from the CPU's forward op.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cuda/kernel.h"
#include "kernels/cuda/op_memory.h"
#include "kernels/error.h"
#include "tests/kernels/cuda/op_agreement.h"

namespace statelab {
namespace {

using namespace testing_support;  // NOLINT: a test

constexpr Precision kPrecisions[] = {Precision::kFp32, Precision::kTf32, Precision::kBf16};

Case lstm_case(int batch, int seqlen, int hidden, bool backward) {
  const LstmAttrs a{hidden};
  return {extents({batch, seqlen, hidden}), a,
          [=](const std::string& text) {
            const double scale = 1.5 / std::sqrt(hidden);
            const Arrays in =
                rounded({random_array(text + "proj", {batch, seqlen, 4 * hidden}, -2, 2),
                         random_array(text + "weight", {4 * hidden, hidden}, -scale, scale),
                         random_array(text + "bias", {4 * hidden})});
            if (!backward) return in;
            return lstm_operands(random_array(text + "dy", {batch, seqlen, hidden}), in,
                                 cpu_outputs(Op::kLstm, a, in));
          },
          seqlen >= 1000};
}

/// Blocks of 8 sequences, warps of 16 units: extents at, below and above both; more units than the warps of a block take at once.
std::vector<Case> lstm_cases(bool backward) {
  std::vector<Case> out;
  const int batches[] = {1, 3, 8, 9, 17, 24}, seqlens[] = {1, 2, 31, 33, 65, 151},
            hiddens[] = {1, 7, 16, 64, 128, 200};
  for (size_t i = 0; i < 6; ++i) {
    for (const size_t shift : {0, 1, 3})
      out.push_back(
          lstm_case(batches[(i + shift) % 6], seqlens[i], hiddens[(i + 2 * shift) % 6], backward));
  }
  for (const int hidden : hiddens) out.push_back(lstm_case(11, 33, hidden, backward));
  out.push_back(lstm_case(9, 5, 256, backward));
  out.push_back(lstm_case(3, 7, 272, backward));
  out.push_back(lstm_case(9, 3, 1000, backward));
  out.push_back(lstm_case(2, 4, 1024, backward));
  out.push_back(lstm_case(2, 1000, 16, backward));
  out.push_back(lstm_case(64, 40, 32, backward));  // several runs of rows in dW and db
  return out;
}

class CudaLstm : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    const std::string reason = reason_to_skip();
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
  Op op() const { return GetParam() ? Op::kLstmBwd : Op::kLstm; }
  std::vector<Case> cases() const { return lstm_cases(GetParam()); }
};

INSTANTIATE_TEST_SUITE_P(Op, CudaLstm, ::testing::Bool(),
                         [](const auto& p) { return p.param ? "lstm_bwd" : "lstm"; });

TEST_P(CudaLstm, AgreesWithDoublePrecision) {
  for (const Case& c : cases()) {
    for (const int members : {1, kMembers})
      ASSERT_NO_FATAL_FAILURE(expect_agreement(op(), c, Precision::kFp32, members));
  }
}

TEST_P(CudaLstm, AgreesWithDoublePrecisionAsFarAsTheProductsOperandsDo) {
  for (const Case& c : cases()) {
    for (const Precision precision : {Precision::kTf32, Precision::kBf16})
      ASSERT_NO_FATAL_FAILURE(expect_agreement(op(), c, precision, 1));
  }
}

TEST_P(CudaLstm, AMemberHasTheSameBitsAloneAndInACohortAndAgain) {
  for (const Case& c : cases()) {
    const auto in = inputs_of(op(), c, kMembers);
    for (const Precision precision : kPrecisions) {
      const auto cohort = run_op_cuda(op(), c.attributes, in, precision);
      const auto again = run_op_cuda(op(), c.attributes, in, precision);
      for (size_t m = 0; m < in.size(); ++m) {
        const auto alone = run_op_cuda(op(), c.attributes, {in[m]}, precision);
        EXPECT_EQ(different_bits(alone[0], cohort[m]), "")
            << c.name << " in " << precision_name(precision) << " member " << m;
        EXPECT_EQ(different_bits(again[m], cohort[m]), "")
            << c.name << " in " << precision_name(precision) << " member " << m << " again";
      }
    }
  }
}

/// What fits under compute-sanitizer; the tests above take the same code through larger shapes.
TEST_P(CudaLstm, SmallCasesWriteEveryOutput) {
  for (const auto& [batch, seqlen, hidden] :
       {std::tuple{1, 1, 1}, {2, 3, 7}, {9, 2, 17}, {1, 2, 272}}) {
    const Case c = lstm_case(batch, seqlen, hidden, GetParam());
    for (const Precision precision : kPrecisions) {
      for (const OpRun& run : run_op_cuda(op(), c.attributes, inputs_of(op(), c, 2), precision)) {
        for (size_t i = 0; i < run.outputs.size(); ++i) {
          EXPECT_TRUE(std::none_of(run.outputs[i].data.begin(), run.outputs[i].data.end(),
                                   [](double x) { return std::isnan(x); }))
              << c.name << " in " << precision_name(precision) << " leaves output " << i
              << " unwritten";
        }
      }
    }
  }
}

/// As an evaluation, which keeps neither gates nor cells, or a cohort whose recurrent weights are not trained.
TEST_P(CudaLstm, OutputsThatNobodyWantsChangeNoOther) {
  const Case c = lstm_case(9, 33, 40, GetParam());
  const auto in = inputs_of(op(), c, 1);
  const Arrays all = run_op_cuda(op(), c.attributes, in, Precision::kFp32)[0].outputs;
  for (const size_t absent : {0, 1, 2}) {
    if (GetParam() && absent == 0) continue;  // dproj carries the other two
    CudaStream stream(0);
    const std::vector<OpArray>* members[] = {&in[0]};
    const cuda::OpMemory memory(stream, op(), c.attributes, members);
    CudaCall call = memory.call(Precision::kFp32);
    std::vector<Operand> out(call.out.begin(), call.out.end());
    out[absent].data = nullptr;
    call.out = out;
    cuda_kernel(op()).launch(call, stream.handle());
    const Arrays some = memory.read(stream, 0).outputs;
    for (size_t i = 0; i < all.size(); ++i) {
      if (i == absent) {
        EXPECT_TRUE(std::isnan(some[i].data[0])) << "output " << i << " was written";
      } else {
        EXPECT_TRUE(same_bits(some[i], all[i])) << "output " << i << " without " << absent;
      }
    }
  }
}

TEST_P(CudaLstm, NanReachesItsOutputs) {
  const Case c = lstm_case(3, 4, 20, GetParam());
  for (const Precision precision : kPrecisions) {
    auto in = inputs_of(op(), c, 2);
    in[1][GetParam() ? 0 : 2].data[0] = std::nan("");  // dy, or the bias
    const auto runs = run_op_cuda(op(), c.attributes, in, precision);
    EXPECT_TRUE(std::isnan(runs[1].outputs[0].data[0])) << precision_name(precision);
    EXPECT_FALSE(std::isnan(runs[0].outputs[0].data[0])) << precision_name(precision);
  }
}

/// Needs no GPU: shapes alone decide.
TEST(CudaLstmLimits, RefuseMoreUnitsThanABlockHolds) {
  if (!built_with_cuda()) GTEST_SKIP() << "this build has no CUDA backend";
  auto refusal = [](int hidden, bool backward) {
    const Shape rows{1, 2, hidden}, gates{1, 2, 4 * hidden}, weight{4 * hidden, hidden};
    auto real = [](const Shape& shape) { return ValueType{DType::kReal, shape}; };
    std::vector<ValueType> in = {real(gates), real(weight), real({4 * hidden})};
    if (backward) {
      in.insert(in.begin(), real(rows));
      in.insert(in.end(), {real(rows), real(gates), real(rows)});
    }
    std::vector<const ValueType*> types;
    for (const ValueType& type : in) types.push_back(&type);
    const Op op = backward ? Op::kLstmBwd : Op::kLstm;
    const Attributes attributes = LstmAttrs{hidden};
    const std::vector<ValueType> out = infer(op, attributes, types);
    return cuda_limit({op, &attributes, types, out});
  };
  for (const bool backward : {false, true}) {
    EXPECT_EQ(refusal(1, backward), "");
    EXPECT_EQ(refusal(512, backward), "");
    EXPECT_EQ(refusal(1025, backward), "hidden must be at most 1024 on a CUDA device, is 1025");
  }
}

}  // namespace
}  // namespace statelab
