#include "experiments/data_source.h"

#include <utility>

#include "kernels/cuda/kernel.h"
#include "tasks/cuda/draw.h"

namespace statelab {
namespace {

/// A task's draw on the device as the op of a program.
class TaskDraw final : public CudaDraw {
 public:
  TaskDraw(int device, const Task& task, const DeviceDraw::Plan& plan)
      : draw_(device, task.draw_spec(), plan) {}
  void launch(const Call& call, CUstream_st* stream) const override {
    DeviceDraw::Call rows;
    rows.step = call.step.data;
    rows.step_stride_bytes = call.step.stride_bytes;
    rows.tokens = call.tokens.data;
    rows.tokens_stride_bytes = call.tokens.stride_bytes;
    rows.targets = call.targets.data;
    rows.targets_stride_bytes = call.targets.stride_bytes;
    rows.members = call.members;
    rows.batch = call.batch;
    rows.seqlen = call.seqlen;
    draw_.launch(rows, stream);
  }

 private:
  DeviceDraw draw_;  // owns copies of the task's tables
};

}  // namespace

TrainData::TrainData(std::shared_ptr<const Task> task, std::vector<StageConfig> curriculum,
                     std::vector<uint32_t> seeds)
    : task_(std::move(task)), curriculum_(std::move(curriculum)), seeds_(std::move(seeds)) {}

void TrainData::draw(int member, uint32_t step, uint32_t sample, std::span<int32_t> tokens,
                     std::span<int32_t> targets) const {
  size_t stage = 0;
  for (int64_t end = curriculum_[0].steps; stage + 1 < curriculum_.size() && step >= end;) {
    end += curriculum_[++stage].steps;
  }
  task_->draw({seeds_[static_cast<size_t>(member)], Stream::kTrain}, step, sample,
              curriculum_[stage].length, tokens, targets);
}

std::unique_ptr<CudaDraw> TrainData::cuda_draw(int device,
                                               std::optional<uint32_t> data_step) const {
  DeviceDraw::Plan plan;
  for (const uint32_t seed : seeds_) plan.keys.push_back({seed, Stream::kTrain});
  int64_t end = 0;
  for (const StageConfig& stage : curriculum_) {
    end += stage.steps;
    plan.stages.push_back({end, stage.length});
  }
  plan.data_step = data_step;
  return std::make_unique<TaskDraw>(device, *task_, plan);
}

EvalData::EvalData(std::shared_ptr<const Task> task, RngKey key, LengthRange lengths)
    : task_(std::move(task)), key_(key), lengths_(lengths) {}

void EvalData::draw(int, uint32_t step, uint32_t sample, std::span<int32_t> tokens,
                    std::span<int32_t> targets) const {
  task_->draw(key_, step, sample, lengths_, tokens, targets);
}

std::unique_ptr<CudaDraw> EvalData::cuda_draw(int device, std::optional<uint32_t> data_step) const {
  DeviceDraw::Plan plan;
  plan.keys = {key_};
  plan.same_key = true;
  plan.stages = {{0, lengths_}};
  plan.data_step = data_step;
  return std::make_unique<TaskDraw>(device, *task_, plan);
}

uint32_t EvalData::data_step() const {
  return static_cast<uint32_t>(lengths_.min) << 16 | (static_cast<uint32_t>(lengths_.max) & 0xffff);
}

}  // namespace statelab
