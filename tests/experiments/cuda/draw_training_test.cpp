// Where the rows are drawn changes no bit of training or evaluation.
#include <gtest/gtest.h>

#include "experiments/data_source.h"
#include "models/cohort.h"
#include "tests/support/cuda.h"

namespace statelab {
namespace {

/// A source that can draw on this machine only.
class HostOnly final : public DataSource {
 public:
  explicit HostOnly(const DataSource& source) : source_(source) {}
  void draw(int member, uint32_t step, uint32_t sample, std::span<int32_t> tokens,
            std::span<int32_t> targets) const override {
    source_.draw(member, step, sample, tokens, targets);
  }

 private:
  const DataSource& source_;
};

class CudaDrawnTraining : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    std::string reason;
    const auto found = testing_support::usable_cuda_device(&reason);
    if (!found) GTEST_SKIP() << reason;
    device_ = ComputeDevice::cuda(found->index);
  }
  ComputeDevice device_;
};

std::vector<std::string> trained(const CohortShape& shape, const DataSource& data,
                                 const ComputeDevice& device, std::vector<MemberState>* states) {
  std::vector<MemberSettings> members(3);
  for (uint32_t m = 0; m < 3; ++m) members[m].init_seed = 10 + m;
  TrainCohort cohort(shape, members, data, device);
  cohort.run(cohort.total_steps());
  std::vector<std::string> bytes;
  for (int m = 0; m < 3; ++m) {
    states->push_back(cohort.snapshot(m));
    bytes.push_back(to_safetensors(states->back(), {}));
  }
  return bytes;
}

TEST_P(CudaDrawnTraining, AndEvaluationHaveTheBitsOfHostDrawnOnes) {
  TaskConfig config;
  config.name = GetParam();
  const std::shared_ptr<const Task> task = make_task(config);
  const std::vector<StageConfig> curriculum = {{6, {3, 9}}, {7, {5, 15}}};
  CohortShape shape;
  shape.model.vocab_size = task->vocab_size();
  shape.model.d_model = 16;
  shape.model.headdim = 16;
  shape.model.d_state = 8;
  shape.batch = 20;
  for (const StageConfig& stage : curriculum)
    shape.stages.push_back({stage.steps, (task->seqlen(stage.length.max) + 7) / 8 * 8});
  const TrainData data(task, curriculum, {1, 2, 3});
  ASSERT_NE(data.cuda_draw(device_.index, std::nullopt), nullptr);
  std::vector<MemberState> on_device, on_host;
  EXPECT_TRUE(trained(shape, data, device_, &on_device) ==
              trained(shape, HostOnly(data), device_, &on_host));

  const LengthRange lengths{4, 20};
  const EvalData test(task, {0, Stream::kTest}, lengths);
  EvalShape es;
  es.model = shape.model;
  es.seqlen = task->seqlen(lengths.max);
  es.legal_begin = task->legal_begin();
  es.legal_end = task->legal_end();
  const MemberState* weights[] = {&on_device[0], &on_device[1], &on_device[2]};
  const auto device_counts = evaluate(es, weights, test, test.data_step(), 500, device_);
  const auto host_counts = evaluate(es, weights, HostOnly(test), test.data_step(), 500, device_);
  for (size_t m = 0; m < 3; ++m) {
    EXPECT_EQ(device_counts[m].tokens, host_counts[m].tokens);
    EXPECT_EQ(device_counts[m].tokens_correct, host_counts[m].tokens_correct);
    EXPECT_EQ(device_counts[m].loss_sum, host_counts[m].loss_sum);
    EXPECT_EQ(device_counts[m].position_total, host_counts[m].position_total);
    EXPECT_EQ(device_counts[m].prefix_correct, host_counts[m].prefix_correct);
  }
}

INSTANTIATE_TEST_SUITE_P(Tasks, CudaDrawnTraining,
                         testing::Values("parity", "modular_arithmetic", "cycle_navigation"),
                         [](const auto& p) { return std::string(p.param); });

}  // namespace
}  // namespace statelab
