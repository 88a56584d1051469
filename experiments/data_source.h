// A task as the source of a cohort's tokens. The model sees numbers only, the task sees no model.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "experiments/run_config.h"
#include "kernels/rng.h"
#include "models/cohort.h"
#include "tasks/task.h"

namespace statelab {

/// Training data. key = (seed of the member, Stream::kTrain); `step` counts the steps of all stages from 0 and decides
/// the stage, hence the lengths; `sample` is the row of the batch. Thread safe.
class TrainData final : public DataSource {
 public:
  /// Steps past the last stage have the last stage's lengths.
  TrainData(std::shared_ptr<const Task> task, std::vector<StageConfig> curriculum,
            std::vector<uint32_t> seeds);
  void draw(int member, uint32_t step, uint32_t sample, std::span<int32_t> tokens,
            std::span<int32_t> targets) const override;
  std::unique_ptr<CudaDraw> cuda_draw(int device, std::optional<uint32_t> data_step) const override;

 private:
  std::shared_ptr<const Task> task_;
  std::vector<StageConfig> curriculum_;
  std::vector<uint32_t> seeds_;
};

/// Validation or test data at one range of lengths, the same for every member. Thread safe.
class EvalData final : public DataSource {
 public:
  EvalData(std::shared_ptr<const Task> task, RngKey key, LengthRange lengths);
  void draw(int member, uint32_t step, uint32_t sample, std::span<int32_t> tokens,
            std::span<int32_t> targets) const override;
  std::unique_ptr<CudaDraw> cuda_draw(int device, std::optional<uint32_t> data_step) const override;
  /// The Philox step word of these lengths: samples of different lengths share no random bits, and asking for one more
  /// length leaves the others' samples alone.
  uint32_t data_step() const;

 private:
  std::shared_ptr<const Task> task_;
  RngKey key_;
  LengthRange lengths_;
};

}  // namespace statelab
