// select and the scans at one position on the GPU: agreement with the double-precision CPU ops, and bits that are a member's own.
#include <gtest/gtest.h>

#include "kernels/cuda/kernel.h"
#include "tests/kernels/cuda/op_agreement.h"
#include "tests/kernels/scan_at_cases.h"

namespace statelab {
namespace {

using namespace testing_support;  // NOLINT: a test

Case forward_case(const ScanAtCase& c) { return {c.name, c.attributes, c.inputs, c.seqlen >= 300}; }

Case backward_case(const ScanAtCase& c) {
  return {c.name, c.attributes,
          [=](const std::string& text) {
            const Arrays in = rounded(c.inputs(text));
            Arrays operands = {random_array(text + "dy", {c.batch, 1, c.d_inner})};
            operands.insert(operands.end(), in.begin(), in.end());
            operands.push_back(cpu_outputs(c.forward(), c.attributes, in)[1]);
            return operands;
          },
          c.seqlen >= 300};
}

class CudaScanAt : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    const std::string reason = reason_to_skip();
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
  Op op(const ScanAtCase& c) const { return GetParam() ? c.backward() : c.forward(); }
  Case case_of(const ScanAtCase& c) const {
    return GetParam() ? backward_case(c) : forward_case(c);
  }
};

INSTANTIATE_TEST_SUITE_P(Op, CudaScanAt, ::testing::Bool(),
                         [](const auto& p) { return p.param ? "scan_at_bwd" : "scan_at"; });

TEST_P(CudaScanAt, AgreesWithDoublePrecision) {
  for (const ScanAtCase& c : scan_at_cases()) {
    for (const int members : {1, kMembers})
      ASSERT_NO_FATAL_FAILURE(expect_agreement(op(c), case_of(c), Precision::kFp32, members));
  }
}

TEST_P(CudaScanAt, AMemberHasTheSameBitsAloneInACohortAndInEveryPrecision) {
  for (const ScanAtCase& c : scan_at_cases()) {
    const auto in = inputs_of(op(c), case_of(c), kMembers);
    const auto cohort = run_op_cuda(op(c), c.attributes, in, Precision::kFp32);
    for (size_t m = 0; m < in.size(); ++m) {
      for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
        const auto alone = run_op_cuda(op(c), c.attributes, {in[m]}, precision);
        EXPECT_EQ(different_bits(alone[0], cohort[m]), "") << c.name << " member " << m;
      }
    }
  }
}

/// What fits under compute-sanitizer.
TEST_P(CudaScanAt, SmallCasesWriteEveryOutput) {
  const std::vector<ScanAtCase> cases = scan_at_cases();
  for (const size_t i :
       {size_t{0}, size_t{2}, size_t{24}, size_t{28}, size_t{29}, cases.size() - 3}) {
    const ScanAtCase& c = cases[i];
    for (const OpRun& run :
         run_op_cuda(op(c), c.attributes, inputs_of(op(c), case_of(c), 2), Precision::kFp32)) {
      for (size_t k = 0; k < run.outputs.size(); ++k) {
        const auto& data = run.outputs[k].data;
        if (GetParam() && case_of(c).inputs("absent")[k + 1].absent) continue;
        EXPECT_TRUE(std::none_of(data.begin(), data.end(), [](double x) { return std::isnan(x); }))
            << c.name << " leaves output " << k << " unwritten";
      }
    }
  }
}

TEST(CudaScanAtLimit, WhatDoesNotFitABlockIsRefusedInWords) {
  Mamba3ScanAttrs a;
  a.nheads = 8, a.headdim = 64, a.d_state = 64, a.nangles = 16;
  auto limit = [&](int seqlen) {
    const ValueType real[] = {{DType::kReal, {2, seqlen, a.d_proj()}}};
    const Attributes attributes = a;
    const std::vector<const ValueType*> in(9, &real[0]);
    return cuda_limit({Op::kMamba3ScanAt, &attributes, in, {}});
  };
  if (!built_with_cuda()) GTEST_SKIP() << "this build has no CUDA backend";
  EXPECT_EQ(limit(40), "");
  EXPECT_NE(limit(1000).find("1000 positions need"), std::string::npos) << limit(1000);
}

}  // namespace
}  // namespace statelab
