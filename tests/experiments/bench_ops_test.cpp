// What `statelab bench ops` times, and that it refuses wrong results, without a GPU: the CPU's float ops stand in for the device.
#include "experiments/bench_ops.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/cpu/run_op.h"
#include "models/model.h"

namespace statelab {
namespace {

using testing::HasSubstr;

TEST(BenchOps, WorksAreTheOpsOfTrainingAtTheirShapes) {
  const std::vector<BenchWork> works = bench_works(ComputeDevice{}, 256);
  EXPECT_EQ(works.size(), 67u);
  size_t rows = 0;
  for (const BenchWork& w : works) {
    rows += w.members.size();
    const bool large = &w == &works.front(),
               optimizer = w.op == Op::kGlobalNorm || w.op == Op::kAdamW;
    EXPECT_EQ(w.batch, large ? 64 : optimizer ? 0 : 256) << w.work;
    EXPECT_EQ(w.members.size(), w.seqlen <= 40 ? 2u : 1u) << w.work;
    if (w.op == Op::kMamba3Scan) {
      const auto& a = std::get<Mamba3ScanAttrs>(w.attributes);
      EXPECT_EQ(a.d_proj(), 406);
      EXPECT_EQ(a.nangles, 16);
    }
  }
  EXPECT_EQ(rows, 101u);
}

/// bench train counts the same operations for whole steps: its weights, less the head's, are in_proj and out_proj.
TEST(BenchOps, OperationsAddUpToThoseOfATrainingStep) {
  ModelConfig model;
  model.vocab_size = 16;
  const double head = 6.0 * 16 * 64;
  ModelConfig delta = model;
  delta.mixer = "gated_delta_net", delta.headdim = delta.d_inner();
  const double delta_weights = 6.0 * 64 * (gated_delta_attrs(delta).d_proj() + delta.d_inner());
  for (const int seqlen : {40, 160}) {
    double flop = 0, delta_flop = 0;
    for (const BenchWork& w : bench_works(ComputeDevice{}, 256)) {
      const bool others = w.op == Op::kMamba2Scan || w.op == Op::kMamba2ScanBwd ||
                          w.op == Op::kLstm || w.op == Op::kLstmBwd;
      const bool again =  // what stands for others of these ops
          w.op == Op::kLinearBwd || w.op == Op::kNormLinear || w.op == Op::kNormLinearBwd ||
          w.op == Op::kMamba3ScanAt || w.op == Op::kMamba3ScanAtBwd || w.op == Op::kMamba2ScanAt ||
          w.op == Op::kMamba2ScanAtBwd;
      if (w.seqlen != seqlen || others || again) continue;
      const bool of_delta = w.op == Op::kGatedDeltaScan || w.op == Op::kGatedDeltaScanBwd;
      (of_delta ? delta_flop : flop) += w.flop;
    }
    EXPECT_NEAR(flop / (256.0 * seqlen), train_flop_per_token(model, seqlen) - head, 1e-6)
        << seqlen;
    EXPECT_NEAR(delta_flop / (256.0 * seqlen),
                train_flop_per_token(delta, seqlen) - head - delta_weights, 1e-6)
        << seqlen;
  }
}

TEST(BenchOps, OperandsAreExactInFloatAndChecksPassOnTheCpu) {
  for (const BenchWork& w : bench_works(ComputeDevice{}, 256)) {
    const std::vector<OpArray> operands = w.operands(2, 2);
    for (const OpArray& a : operands) {
      if (a.type.dtype == DType::kFloat64) continue;
      for (const double x : a.data) ASSERT_EQ(x, static_cast<double>(static_cast<float>(x)));
    }
    const OpRun expected = run_op<double>(w.op, w.attributes, operands, 2);
    const OpRun actual = run_op<float>(w.op, w.attributes, operands, 2);
    EXPECT_NO_THROW(check_op_result(w, operands, actual, expected, Precision::kFp32))
        << op_name(w.op) << " " << w.work << " " << w.seqlen;
  }
}

TEST(BenchOps, AWrongElementIsRefusedWithTheOpsName) {
  for (const BenchWork& w : bench_works(ComputeDevice{}, 256)) {
    if (w.seqlen > 40) continue;
    const std::vector<OpArray> operands = w.operands(2, 2);
    const OpRun expected = run_op<double>(w.op, w.attributes, operands, 2);
    for (const double error : {0.2, std::numeric_limits<double>::quiet_NaN()}) {
      OpRun wrong = expected;
      const auto states = updated_inputs(w.op, static_cast<int>(operands.size()));
      OpArray& array =
          states.empty() ? wrong.outputs[0] : wrong.inputs[static_cast<size_t>(states[0])];
      double largest = 0;
      for (const double x : array.data) largest = std::max(largest, std::abs(x));
      array.data.back() += error * largest;
      try {
        check_op_result(w, operands, wrong, expected, Precision::kBf16);
        ADD_FAILURE() << op_name(w.op) << " off by " << error << " passed";
      } catch (const BenchRefused& e) {
        EXPECT_THAT(e.what(), HasSubstr(op_name(w.op)));
      }
    }
  }
}

}  // namespace
}  // namespace statelab
