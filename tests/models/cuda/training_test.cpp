// Training on a CUDA device: the bits are a member's own affair, as on the CPU, and the numbers are the CPU's within fp32.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "kernels/error.h"
#include "models/model.h"
#include "models/numerics.h"
#include "tests/models/cohort_runs.h"
#include "tests/support/cuda.h"

namespace statelab {
namespace {

class OnCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string reason;
    const auto found = testing_support::usable_cuda_device(&reason);
    if (!found) GTEST_SKIP() << reason;
    device_ = ComputeDevice::cuda(found->index);
    name_ = found->name;
  }
  ComputeDevice device_;
  std::string name_;
};

/// Sixteen runs.
std::vector<Recipe> runs_of_sixteen() {
  std::vector<Recipe> runs = kRuns;
  for (uint32_t i = 8; i < 16; ++i) runs.push_back({i, 0.002 * i});
  return runs;
}

class CudaBits : public OnCuda, public ::testing::WithParamInterface<const char*> {};

TEST_P(CudaBits, AreTheSameTwice) {
  const CohortShape shape = shape_of(GetParam());
  const std::vector<Recipe> runs = {kRuns[0], kRuns[3]};
  EXPECT_TRUE(trained_bytes(shape, runs, device_) == trained_bytes(shape, runs, device_));
}

TEST_P(CudaBits, AreTheSameForAnyMembersAndPositions) {
  const CohortShape shape = shape_of(GetParam());
  const std::vector<Recipe> all = runs_of_sixteen();
  std::vector<std::string> alone;
  for (const Recipe& r : all) alone.push_back(trained_bytes(shape, {r}, device_)[0]);
  ASSERT_FALSE(alone[0] == alone[4]);
  std::vector<size_t> forward(16), backward(16), mixed(16);
  std::iota(forward.begin(), forward.end(), 0);
  std::reverse_copy(forward.begin(), forward.end(), backward.begin());
  for (size_t i = 0; i < 16; ++i) mixed[i] = (5 * i + 3) % 16;
  for (const auto& place :
       {std::vector<size_t>{2, 0, 1}, std::vector<size_t>{9, 15, 4}, forward, backward, mixed}) {
    std::vector<Recipe> runs;
    for (size_t i : place) runs.push_back(all[i]);
    const auto bytes = trained_bytes(shape, runs, device_);
    for (size_t i = 0; i < place.size(); ++i) {
      EXPECT_TRUE(bytes[i] == alone[place[i]])
          << "run " << place[i] << " at place " << i << " of " << place.size();
    }
  }
}

TEST_P(CudaBits, AreTheSameAfterAnyInterruption) {
  const CohortShape shape = shape_of(GetParam());
  const std::vector<Recipe> runs = {kRuns[0], kRuns[3]};
  const auto whole = trained_bytes(shape, runs, device_);
  for (const int64_t cut : {1, 5, 6, 7, 13}) {
    Built first = build(shape, runs, device_);
    first.cohort->run(cut);
    std::vector<MemberState> states;
    for (int m = 0; m < 2; ++m)
      states.push_back(from_safetensors(to_safetensors(first.cohort->snapshot(m), {})));
    Built second = build(shape, runs, device_);
    second.cohort->restore(states);
    EXPECT_EQ(second.cohort->step(), cut);
    second.cohort->run(100);
    EXPECT_EQ(second.cohort->step(), 14);
    for (int m = 0; m < 2; ++m)
      EXPECT_TRUE(to_safetensors(second.cohort->snapshot(m), {}) == whole[size_t(m)])
          << "cut at " << cut;
  }
}

TEST_P(CudaBits, DoNotDependOnWhenMetricsAreRead) {
  const CohortShape shape = shape_of(GetParam());
  const auto whole = trained_bytes(shape, {kRuns[1]}, device_);
  Built b = build(shape, {kRuns[1]}, device_);
  for (int i = 0; i < 14; ++i) {
    b.cohort->run(1);
    const std::vector<TrainMetrics> metrics = b.cohort->read_metrics();
    EXPECT_EQ(metrics[0].step, i + 1);
    EXPECT_TRUE(std::isfinite(metrics[0].loss));
    EXPECT_GT(metrics[0].loss, 0);
  }
  EXPECT_TRUE(to_safetensors(b.cohort->snapshot(0), {}) == whole[0]);
}

TEST_P(CudaBits, OfNeighboursSurviveADivergedMember) {
  const CohortShape shape = shape_of(GetParam());
  const auto alone = trained_bytes(shape, {kRuns[1]}, device_);
  Built b = build(shape, {{9, 1e30}, kRuns[1]}, device_);
  b.cohort->run(14);
  const std::vector<TrainMetrics> metrics = b.cohort->read_metrics();
  EXPECT_GE(metrics[0].diverged_at, 1);
  EXPECT_EQ(metrics[1].diverged_at, -1);
  EXPECT_TRUE(std::isfinite(metrics[0].loss));
  EXPECT_TRUE(to_safetensors(b.cohort->snapshot(1), {}) == alone[0]);
  const MemberState frozen = b.cohort->snapshot(0);
  const MemberState before =
      from_safetensors(trained_bytes(shape, {{9, 1e30}}, device_, frozen.diverged_at)[0]);
  for (size_t i = 0; i < frozen.weights.size(); ++i)
    EXPECT_TRUE(frozen.weights[i].data == before.weights[i].data) << frozen.weights[i].name;
}

INSTANTIATE_TEST_SUITE_P(Training, CudaBits,
                         ::testing::Values("mamba3", "mamba2", "gated_delta_net", "delta_net",
                                           "lstm"),
                         [](const auto& p) { return std::string(p.param); });

struct Variant {
  std::string name;
  std::function<void(ModelConfig&)> change;
};

void PrintTo(const Variant& variant, std::ostream* out) { *out << variant.name; }

class CudaLosses : public OnCuda, public ::testing::WithParamInterface<Variant> {};

TEST_P(CudaLosses, OfFiftyStepsAreTheCpusWithinAThousandth) {
  CohortShape shape;
  shape.model.vocab_size = 3;
  shape.model.d_model = 32;
  shape.model.headdim = 32;
  shape.model.d_state = 16;
  GetParam().change(shape.model);
  shape.batch = 32;
  shape.stages = {{50, 41}};  // more than two chunks of 16 tokens
  const std::vector<Recipe> runs = {{3, 0.001}};
  for (const bool one_target : {false, true}) {
    shape.one_target = one_target;
    Built cpu = build(shape, runs, 2), cuda = build(shape, runs, device_);
    for (int step = 0; step < 50; ++step) {
      cpu.cohort->run(1);
      cuda.cohort->run(1);
      const TrainMetrics a = cpu.cohort->read_metrics(0), b = cuda.cohort->read_metrics(0);
      ASSERT_TRUE(std::abs(b.loss - a.loss) <= 1e-3 * std::abs(a.loss))
          << "step " << step << ": " << b.loss << " and " << a.loss << ", " << one_target;
      ASSERT_TRUE(std::abs(b.grad_norm - a.grad_norm) <= 1e-2 * a.grad_norm)
          << "step " << step << ": " << b.grad_norm << " and " << a.grad_norm << ", " << one_target;
      ASSERT_DOUBLE_EQ(a.lr, b.lr) << step;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Training, CudaLosses,
    ::testing::Values(
        Variant{"Mamba3", [](ModelConfig&) {}},
        Variant{"NoRotation", [](ModelConfig& c) { c.rotation = "none"; }},
        Variant{"StandardRotation", [](ModelConfig& c) { c.rotation = "standard"; }},
        Variant{"WholeStateRotates", [](ModelConfig& c) { c.rope_fraction = 1; }},
        Variant{"Euler", [](ModelConfig& c) { c.discretization = "euler"; }},
        Variant{"HalfLambda", [](ModelConfig& c) { c.discretization = "half"; }},
        Variant{"HeavyTail", [](ModelConfig& c) { c.a_activation = "heavy_tail"; }},
        Variant{"Conv", [](ModelConfig& c) { c.conv = true; }},
        Variant{"OutNorm", [](ModelConfig& c) { c.out_norm = "rms"; }},
        Variant{"Bare", [](ModelConfig& c) { c.bc_norm = false, c.bc_bias = false; }},
        Variant{"Mlp", [](ModelConfig& c) { c.mlp = "swiglu"; }},
        Variant{"Tied", [](ModelConfig& c) { c.tie_embeddings = true; }},
        Variant{"OneHead", [](ModelConfig& c) { c.headdim = 64; }},
        Variant{"FourHeadsTwoGroups", [](ModelConfig& c) { c.headdim = 16, c.ngroups = 2; }},
        Variant{"TwoLayersSmallChunks", [](ModelConfig& c) { c.n_layers = 2, c.chunk_size = 16; }},
        Variant{"Recurrent", [](ModelConfig& c) { c.scan = "recurrent"; }},
        Variant{"PaddedVocabulary", [](ModelConfig& c) { c.pad_vocab_multiple = 16; }},
        Variant{"Mamba2", [](ModelConfig& c) { c.mixer = "mamba2"; }},
        Variant{"Mamba2Negative",
                [](ModelConfig& c) { c.mixer = "mamba2", c.eigenvalue_min = -1; }},
        Variant{"Mamba2FourHeadsTwoGroups",
                [](ModelConfig& c) { c.mixer = "mamba2", c.headdim = 16, c.ngroups = 2; }},
        Variant{"Lstm", [](ModelConfig& c) { c.mixer = "lstm"; }},
        Variant{"LstmTwoLayersOfAnyWidth",
                [](ModelConfig& c) { c.mixer = "lstm", c.n_layers = 2, c.d_model = 23; }}),
    [](const auto& p) { return p.param.name; });

class CudaTraining : public OnCuda {};

TEST_F(CudaTraining, InLowerPrecisionStaysNearFp32) {
  CohortShape shape = shape_of("mamba3");
  shape.stages = {{10, 41}};
  const std::vector<Recipe> runs = {{3, 0.001}};
  std::vector<double> loss;
  std::vector<std::string> bytes;
  for (const Precision precision : {Precision::kFp32, Precision::kTf32, Precision::kBf16}) {
    Built b = build(shape, runs, ComputeDevice::cuda(device_.index, precision));
    b.cohort->run(10);
    loss.push_back(b.cohort->read_metrics(0).loss);
    bytes.push_back(to_safetensors(b.cohort->snapshot(0), {}));
  }
  EXPECT_TRUE(std::abs(loss[1] - loss[0]) <= 5e-3 * loss[0]) << loss[1] << " and " << loss[0];
  EXPECT_TRUE(std::abs(loss[2] - loss[0]) <= 3e-2 * loss[0]) << loss[2] << " and " << loss[0];
  EXPECT_FALSE(bytes[0] == bytes[1]);
  EXPECT_FALSE(bytes[1] == bytes[2]);
}

TEST_F(CudaTraining, BytesAreKnownBeforeTheCohortIsBuilt) {
  CohortShape shape = shape_of("mamba3");
  Built b = build(shape, {kRuns[0], kRuns[1]}, device_);
  b.cohort->run(14);
  EXPECT_EQ(b.cohort->arena_bytes(), cohort_bytes(shape, 2, device_));
  EXPECT_LE(2 * cohort_bytes(shape, 1, device_), cohort_bytes(shape, 2, device_) + (1 << 16));
}

TEST_F(CudaTraining, TooLargeCohortsAreOutOfMemoryAndLeaveTheDeviceUsable) {
  CohortShape shape = shape_of("mamba3");
  shape.stages = {{1, 4096}};
  shape.batch = 1 << 10;
  const int64_t one = cohort_bytes(shape, 1, device_);
  const auto many = static_cast<size_t>(2 * cuda_memory_info(device_.index).total_bytes / one + 1);
  const Bits data(std::vector<uint32_t>(many, 0));
  EXPECT_THROW(TrainCohort(shape, std::vector<MemberSettings>(many), data, device_),
               CudaOutOfMemory);
  EXPECT_FALSE(trained_bytes(shape_of("mamba3"), {kRuns[0]}, device_, 1)[0].empty());
}

TEST_F(CudaTraining, AShapeThatDoesNotFitIsRefusedByNameBeforeAnythingIsAllocated) {
  CohortShape shape = shape_of("mamba3");
  shape.model.d_model = shape.model.headdim = 4096;
  shape.model.d_state = 4096;
  try {
    cohort_bytes(shape, 1, device_);
    FAIL() << "heads of 4096 by 4096 cannot fit into shared memory";
  } catch (const UnsupportedOp& e) {
    EXPECT_NE(std::string(e.what()).find("mamba3_scan"), std::string::npos) << e.what();
  }
}

TEST_F(CudaTraining, ModelsInDoubleAreRefused) {
  const ModelConfig config = shape_of("mamba3").model;
  EXPECT_THROW(Model<double>(config, 1, 4, false, device_), std::invalid_argument);
}

/// The bits of 20 training steps on one device model. A change that moves them must raise kNumericsVersion and pin the
/// new ones.
TEST_F(CudaTraining, PinsTheBitsOfTwentySteps) {
  constexpr const char* kDevice = "NVIDIA H100";
  const std::string expected =
      "version 5\n"
      "mamba3 fp32 9416165741235682712\n"
      "mamba3 tf32 17882537915979152498\n"
      "mamba3 bf16 10307664032786592407\n"
      "mamba2 fp32 3038514176333042935\n"
      "mamba2 tf32 10049684554377388052\n"
      "mamba2 bf16 11411681254807678497\n"
      "gated_delta_net fp32 7291842806022265918\n"
      "gated_delta_net tf32 9455578768203534292\n"
      "gated_delta_net bf16 17626706364128384665\n"
      "lstm fp32 1846198145747202474\n"
      "lstm tf32 17390263939225297954\n"
      "lstm bf16 15968800210412096532\n"
      "mamba3 64 x 64 tf32 16877437352207201415\n"
      "mamba3 64 x 64 bf16 9135191165231140774\n"
      "mamba2 64 x 64 tf32 2477167089450450881\n"
      "mamba2 64 x 64 bf16 4895621693298004647\n";
  std::string pinned;
  for (const char* mixer : {"mamba3", "mamba2", "gated_delta_net", "lstm"}) {
    for (const Precision precision : {Precision::kFp32, Precision::kTf32, Precision::kBf16}) {
      CohortShape shape = shape_of(mixer);
      shape.stages = {{10, 7}, {10, 13}};
      const auto device = ComputeDevice::cuda(device_.index, precision);
      pinned += std::string(mixer) + " " + precision_name(precision) + " " +
                digest(trained_bytes(shape, {kRuns[0]}, device, 20)[0]) + "\n";
    }
  }
  // The kernels for heads of 64 channels with 64 states.
  for (const char* mixer : {"mamba3", "mamba2"}) {
    CohortShape tiled = shape_of(mixer);
    tiled.model.d_model = 32, tiled.model.headdim = tiled.model.d_state = 64;
    tiled.stages = {{20, 70}};
    for (const Precision precision : {Precision::kTf32, Precision::kBf16}) {
      const auto device = ComputeDevice::cuda(device_.index, precision);
      pinned += std::string(mixer) + " 64 x 64 " + precision_name(precision) + " " +
                digest(trained_bytes(tiled, {kRuns[0]}, device, 20)[0]) + "\n";
    }
  }
  pinned = "version " + std::to_string(kNumericsVersion) + "\n" + pinned;
  if (name_.rfind(kDevice, 0) != 0)
    GTEST_SKIP() << "bits are pinned for " << kDevice << ", this is " << name_ << ":\n" << pinned;
  EXPECT_EQ(pinned, expected);
}

class CudaEvaluation : public OnCuda {
 protected:
  static std::vector<MemberState> trained(const CohortShape& shape) {
    Built b = build(shape, {kRuns[0], kRuns[1], kRuns[6]}, 2);
    b.cohort->run(14);
    return {b.cohort->snapshot(0), b.cohort->snapshot(1), b.cohort->snapshot(2)};
  }
};

TEST_F(CudaEvaluation, CountsAreTheCpusButForTies) {
  for (const char* mixer : {"mamba3", "mamba2"}) {
    const CohortShape shape = shape_of(mixer);
    const std::vector<MemberState> states = trained(shape);
    const MemberState* all[] = {&states[0], &states[1], &states[2]};
    const Bits data({3, 4, 5});
    constexpr int64_t kSamples = 3000;
    const EvalShape es{shape.model, 29, 64, 1, 3};
    const auto cpu = evaluate(es, all, data, 0, kSamples, 2),
               cuda = evaluate(es, all, data, 0, kSamples, device_);
    for (size_t m = 0; m < 3; ++m) {
      EXPECT_EQ(cuda[m].sequences, kSamples);
      EXPECT_EQ(cuda[m].tokens, cpu[m].tokens);
      EXPECT_EQ(cuda[m].position_total, cpu[m].position_total);
      EXPECT_LE(std::abs(cuda[m].tokens_correct - cpu[m].tokens_correct), kSamples / 1000) << m;
      EXPECT_LE(std::abs(cuda[m].sequences_correct - cpu[m].sequences_correct), kSamples / 1000);
      EXPECT_NEAR(cuda[m].loss_sum, cpu[m].loss_sum, 1e-4 * cpu[m].loss_sum);
      int64_t prefix = 0;
      for (size_t t = 0; t < 29; ++t)
        prefix += std::abs(cuda[m].prefix_correct[t] - cpu[m].prefix_correct[t]);
      EXPECT_LE(prefix, kSamples / 1000);
    }
  }
}

TEST_F(CudaEvaluation, PredictionsAreTheCpus) {
  const CohortShape shape = shape_of("mamba3");
  const MemberState state = trained(shape)[0];
  constexpr int kBatch = 200, kLength = 50;
  Model<float> cpu(shape.model, kBatch, kLength, false, 2),
      cuda(shape.model, kBatch, kLength, false, device_);
  for (const NamedTensor& t : state.weights) {
    const std::vector<double> values(t.data.begin(), t.data.end());
    cpu.set(t.name, values);
    cuda.set(t.name, values);
    EXPECT_EQ(cuda.get(t.name), values);
  }
  const Bits data({3});
  std::vector<int32_t> tokens(kBatch * kLength), targets(tokens.size());
  for (size_t b = 0; b < kBatch; ++b) {
    data.draw(0, 0, static_cast<uint32_t>(b), std::span(tokens).subspan(b * kLength, kLength),
              std::span(targets).subspan(b * kLength, kLength));
  }
  const double loss = cpu.run(tokens, targets);
  EXPECT_NEAR(cuda.run(tokens, targets), loss, 1e-4 * loss);
  const std::vector<double> a = cpu.logits(), b = cuda.logits();
  ASSERT_EQ(a.size(), b.size());
  const size_t width = a.size() / tokens.size();
  int equal = 0;
  for (size_t t = 0; t < tokens.size(); ++t) {
    const auto first = static_cast<std::ptrdiff_t>(t * width),
               last = first + static_cast<std::ptrdiff_t>(width);
    equal += std::max_element(a.begin() + first, a.begin() + last) - a.begin() ==
             std::max_element(b.begin() + first, b.begin() + last) - b.begin();
  }
  EXPECT_GE(equal, static_cast<int>(0.999 * static_cast<double>(tokens.size())));
}

/// 1000 samples of 600 positions: one member takes them in one pass, three in two.
TEST_F(CudaEvaluation, CountsAndLossDependNeitherOnNeighboursNorOnPasses) {
  const CohortShape shape = shape_of("mamba3");
  const std::vector<MemberState> states = trained(shape);
  const MemberState* all[] = {&states[1], &states[0], &states[2]};
  const MemberState* one[] = {&states[0]};
  const Bits data({7, 7, 7});
  const EvalShape es{shape.model, 600, 8, 0, 0};
  const auto together = evaluate(es, all, data, 5, 1000, device_);
  const auto alone = evaluate(es, one, data, 5, 1000, device_);
  EXPECT_EQ(together[1].tokens_correct, alone[0].tokens_correct);
  EXPECT_EQ(together[1].loss_sum, alone[0].loss_sum);
  EXPECT_EQ(together[1].position_correct, alone[0].position_correct);
  EXPECT_EQ(together[1].prefix_correct, alone[0].prefix_correct);
}

}  // namespace
}  // namespace statelab
