// The delta rule's scan on the GPU, in all three precisions: agreement with the double-precision CPU op for every kind of shape and
// switch, bits that do not depend on the cohort or on the run, absent outputs, refusals.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cuda/kernel.h"
#include "kernels/cuda/runtime.h"
#include "tests/kernels/cuda/op_agreement.h"

namespace statelab {
namespace {

using namespace testing_support;  // NOLINT: a test

constexpr Precision kPrecisions[] = {Precision::kFp32, Precision::kTf32, Precision::kBf16};

GatedDeltaScanAttrs attrs(int nheads, int headdim, int groups, int d_state) {
  GatedDeltaScanAttrs a;
  a.nheads = nheads, a.headdim = headdim, a.ngroups = groups, a.d_state = d_state;
  a.chunk_size = cuda_delta_chunk_size(headdim, d_state, 64);
  return a;
}

Arrays forward_operands(const GatedDeltaScanAttrs& a, int batch, int seqlen,
                        const std::string& text) {
  OpArray dt_bias = random_array(text + "dt", {a.nheads}, -4, -1.5),
          A_log = random_array(text + "A", {a.nheads}, -1, 2.7);
  return rounded({random_array(text + "proj", {batch, seqlen, a.d_proj()}, -1.5, 1.5),
                  a.decay ? dt_bias : absent_array(), a.decay ? A_log : absent_array(),
                  random_array(text + "norm", {a.headdim}, 0.5, 1.5)});
}

Case scan_case(Op op, const GatedDeltaScanAttrs& a, int batch, int seqlen,
               const std::string& name = "") {
  return {extents({batch, seqlen, a.nheads, a.headdim, a.ngroups, a.d_state, a.chunk_size}) + name,
          a,
          [=](const std::string& text) {
            const Arrays in = forward_operands(a, batch, seqlen, text);
            if (op == Op::kGatedDeltaScan) return in;
            return scan_operands(random_array(text + "dy", {batch, seqlen, a.d_inner()}), in,
                                 cpu_outputs(Op::kGatedDeltaScan, a, in));
          },
          is_long(seqlen)};
}

std::vector<Case> scan_cases(Op op) {
  std::vector<Case> out;
  for (const int headdim : {64, 128}) {  // the shapes that have kernels of their own
    for (const int seqlen : kSeqlens)
      out.push_back(scan_case(op, attrs(1, headdim, 1, 64), batch_of(seqlen), seqlen));
  }
  out.push_back(
      scan_case(op, attrs(1, 128, 1, 64), 128, 40));  // enough blocks for 128 columns each
  out.push_back(scan_case(op, attrs(4, 128, 2, 64), 33, 40));
  for (const int chunk : {16, 32, 48, 64, 5}) {
    GatedDeltaScanAttrs a = attrs(2, 32, 1, 64);
    a.chunk_size = chunk;
    out.push_back(scan_case(op, a, 2, 151));
  }
  out.push_back(scan_case(op, attrs(4, 16, 2, 32), 2, 1000));
  out.push_back(scan_case(op, attrs(4, 64, 2, 64), 2, 151));
  int turn = 0;
  for (const int headdim : {16, 32, 64, 128}) {
    for (const int d_state : {16, 32, 64, 128}) {
      const int nheads = 1 + turn % 4, groups = nheads % 2 == 0 && turn % 3 != 0 ? 2 : 1;
      out.push_back(
          scan_case(op, attrs(nheads, headdim, groups, d_state), 2, turn % 3 == 0 ? 151 : 65));
      ++turn;
    }
  }
  for (const auto& [headdim, d_state] :
       {std::pair{8, 24}, {80, 48}, {24, 8}, {1, 4}, {5, 7}, {99, 33}, {127, 65}}) {
    out.push_back(scan_case(op, attrs(2, headdim, 1, d_state), 2, 129));
    out.push_back(scan_case(op, attrs(4, headdim, 2, d_state), 2, 40));
  }
  for (const auto& [headdim, d_state] : {std::pair{64, 64}, {128, 64}, {32, 16}, {5, 7}}) {
    for (int bits = 1; bits < 16; ++bits) {
      if (headdim == 128 && bits != 6 && bits != 9)
        continue;  // large: enough blocks for 128 columns each
      GatedDeltaScanAttrs a = attrs(2, headdim, 1, d_state);
      a.beta_max = bits & 1 ? 2 : 1, a.decay = !(bits & 2), a.gate = !(bits & 4);
      a.activate = bits & 8;
      const int batch = headdim == 128 ? 64 : 2;
      out.push_back(scan_case(op, a, batch, batch == 64 ? 36 : 97,
                              std::string(bits & 1 ? "_Signed" : "") + (a.decay ? "" : "_NoDecay") +
                                  (a.gate ? "" : "_NoGate") + (a.activate ? "_Activate" : "")));
    }
  }
  return out;
}

class CudaGatedDelta : public OpOnCuda {};

TEST_P(CudaGatedDelta, AgreesWithDoublePrecisionInEveryPrecision) {
  for (const Case& c : scan_cases(GetParam())) {
    // The norm divides by the length of a row, which may be near zero where a row is short: rounded products are not asked there.
    const bool short_rows = std::get<GatedDeltaScanAttrs>(c.attributes).headdim < 16;
    for (const Precision precision : kPrecisions) {
      if (short_rows && precision != Precision::kFp32) continue;
      ASSERT_NO_FATAL_FAILURE(expect_agreement(GetParam(), c, precision, 1));
    }
    ASSERT_NO_FATAL_FAILURE(expect_agreement(GetParam(), c, Precision::kFp32, kMembers));
  }
}

TEST_P(CudaGatedDelta, AMemberHasTheSameBitsAloneInACohortAndTwice) {
  for (const Case& c : scan_cases(GetParam())) {
    const auto in = inputs_of(GetParam(), c, kMembers);
    for (const Precision precision : kPrecisions) {
      const std::string where = c.name + " in " + precision_name(precision) + " member ";
      const auto cohort = run_op_cuda(GetParam(), c.attributes, in, precision);
      const auto again = run_op_cuda(GetParam(), c.attributes, in, precision);
      for (size_t m = 0; m < in.size(); ++m) {
        const auto alone = run_op_cuda(GetParam(), c.attributes, {in[m]}, precision);
        EXPECT_EQ(different_bits(alone[0], cohort[m]), "") << where << m << " alone";
        EXPECT_EQ(different_bits(again[m], cohort[m]), "") << where << m << " twice";
      }
    }
  }
}

/// One case a path, in every precision: what fits under compute-sanitizer.
TEST_P(CudaGatedDelta, SmallCasesWriteEveryOutput) {
  GatedDeltaScanAttrs odd = attrs(2, 5, 2, 7), large_chunks = attrs(1, 16, 1, 16);
  large_chunks.chunk_size = 64;
  for (const GatedDeltaScanAttrs& a : {attrs(1, 128, 1, 64), odd, large_chunks}) {
    const Case c = scan_case(GetParam(), a, 2, 67);
    const auto in = inputs_of(GetParam(), c, 2);
    for (const Precision precision : kPrecisions) {
      for (const OpArray& out : run_op_cuda(GetParam(), c.attributes, in, precision)[1].outputs) {
        EXPECT_TRUE(
            std::none_of(out.data.begin(), out.data.end(), [](double x) { return std::isnan(x); }))
            << c.name << " in " << precision_name(precision) << " " << out.type.shape.text();
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Op, CudaGatedDelta,
                         ::testing::Values(Op::kGatedDeltaScan, Op::kGatedDeltaScanBwd),
                         op_test_name);

/// Device memory of a call's operands; those whose `wanted` is false are absent.
class DeviceCall {
 public:
  DeviceCall(CudaStream& stream, Op op, const Attributes& attributes, const Arrays& in,
             const std::vector<bool>& wanted)
      : attributes_(attributes) {
    std::vector<const ValueType*> types;
    for (const OpArray& a : in) {
      types.push_back(a.absent ? nullptr : &a.type);
      std::vector<float> data(a.data.begin(), a.data.end());
      in_.push_back(a.absent ? Operand{} : allocate(stream, a.type.shape));
      if (!a.absent)
        stream.to_device(in_.back().data, data.data(), static_cast<int64_t>(data.size()) * 4);
    }
    out_types_ = infer(op, attributes_, types);
    for (size_t i = 0; i < out_types_.size(); ++i)
      out_.push_back(wanted[i] ? allocate(stream, out_types_[i].shape) : Operand{});
    const int64_t bytes = cuda_kernel(op).workspace_bytes({op, &attributes_, types, out_types_});
    const Shape floats{static_cast<int>(bytes / 4)};
    const Operand workspace = allocate(stream, floats);
    cuda_kernel(op).launch({op, &attributes_, in_, out_, workspace, 1, Precision::kFp32},
                           stream.handle());
    for (size_t i = 0; i < out_.size(); ++i) {
      results.emplace_back(wanted[i] ? static_cast<size_t>(out_types_[i].shape.size()) : 0);
      if (wanted[i])
        stream.to_host(results[i].data(), out_[i].data,
                       static_cast<int64_t>(results[i].size()) * 4);
    }
    stream.synchronize();
  }
  std::vector<std::vector<float>> results;

 private:
  Operand allocate(CudaStream& stream, const Shape& shape) {
    const int64_t stride = member_stride_bytes(shape, DType::kReal, sizeof(float));
    memory_.emplace_back(stream.device(), stride);
    stream.fill(memory_.back().data(), 0xFF, stride);
    return {static_cast<std::byte*>(memory_.back().data()), stride, &shape};
  }
  Attributes attributes_;
  std::vector<ValueType> out_types_;
  std::vector<Operand> in_, out_;
  std::vector<CudaBuffer> memory_;
};

TEST(CudaGatedDeltaOutputs, MayEachBeAbsentWithoutChangingTheOthers) {
  const std::string reason = reason_to_skip();
  if (!reason.empty()) GTEST_SKIP() << reason;
  CudaStream stream(0);
  for (const Op op : {Op::kGatedDeltaScan, Op::kGatedDeltaScanBwd}) {
    for (const GatedDeltaScanAttrs& a : {attrs(1, 128, 1, 64), attrs(2, 5, 1, 7)}) {
      const Case c = scan_case(op, a, 2, 67);
      const Arrays in = inputs_of(op, c, 1)[0];
      const size_t count = op == Op::kGatedDeltaScan ? 3 : 4;
      const DeviceCall all(stream, op, a, in, std::vector<bool>(count, true));
      for (size_t absent = 0; absent < count; ++absent) {
        std::vector<bool> wanted(count, true);
        wanted[absent] = false;
        const DeviceCall some(stream, op, a, in, wanted);
        for (size_t i = 0; i < count; ++i) {
          if (i == absent) continue;
          EXPECT_EQ(some.results[i], all.results[i]) << op_name(op) << " " << i;
        }
      }
    }
  }
}

/// Needs no GPU: shapes alone decide.
TEST(CudaGatedDeltaLimits, RefuseWithAReason) {
  if (!built_with_cuda()) GTEST_SKIP() << "this build has no CUDA backend";
  auto refusal = [](int headdim, int d_state, int chunk) {
    GatedDeltaScanAttrs a = attrs(1, headdim, 1, d_state);
    a.chunk_size = chunk;
    const Attributes attributes = a;
    auto reason = [&](Op op) {
      const Arrays in = scan_case(op, a, 1, 2).inputs("refused");
      std::vector<const ValueType*> types;
      for (const OpArray& x : in) types.push_back(x.absent ? nullptr : &x.type);
      const std::vector<ValueType> results = infer(op, attributes, types);
      return cuda_limit({op, &attributes, types, results});
    };
    EXPECT_EQ(reason(Op::kGatedDeltaScanBwd), reason(Op::kGatedDeltaScan));
    return reason(Op::kGatedDeltaScan);
  };
  EXPECT_EQ(refusal(136, 16, 16), "headdim must be at most 128 on a CUDA device, is 136");
  EXPECT_EQ(refusal(16, 136, 16), "d_state must be at most 128 on a CUDA device, is 136");
  EXPECT_THAT(refusal(16, 16, 128), ::testing::HasSubstr("chunk_size must be at most 64"));
  EXPECT_EQ(refusal(128, 64, 64), "");
  for (const int size : {16, 64, 128}) EXPECT_EQ(refusal(size, size, 32), "") << size;
}

TEST(CudaGatedDeltaLimits, ChunksOf32FitHopperForEverySize) {
  if (!built_with_cuda()) GTEST_SKIP() << "this build has no CUDA backend";
  const auto devices = cuda_devices();
  if (!devices.empty() && devices[0].compute_major != 9)
    GTEST_SKIP() << devices[0].name << " has another amount";
  for (const int headdim : {16, 64, 128}) {
    for (const int d_state : {16, 64, 128})
      EXPECT_EQ(cuda_delta_chunk_size(headdim, d_state, 64), 32) << headdim << " by " << d_state;
  }
  EXPECT_EQ(cuda_delta_chunk_size(64, 64, 31), 16);
  EXPECT_EQ(cuda_delta_chunk_size(64, 64, 1), 16);
}

}  // namespace
}  // namespace statelab
