#include "experiments/data_source.h"

namespace statelab {

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

EvalData::EvalData(std::shared_ptr<const Task> task, RngKey key, LengthRange lengths)
    : task_(std::move(task)), key_(key), lengths_(lengths) {}

void EvalData::draw(int, uint32_t step, uint32_t sample, std::span<int32_t> tokens,
                    std::span<int32_t> targets) const {
  task_->draw(key_, step, sample, lengths_, tokens, targets);
}

uint32_t EvalData::data_step() const {
  return static_cast<uint32_t>(lengths_.min) << 16 | (static_cast<uint32_t>(lengths_.max) & 0xffff);
}

}  // namespace statelab
