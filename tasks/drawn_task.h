// What all tasks share: one DrawSpec, names for ids, and an exact label distribution.
#pragma once

#include <string>
#include <vector>

#include "tasks/task.h"

namespace statelab {

/// How ids are shown. Index = id.
struct TaskNames {
  std::vector<std::string> tokens;
  std::vector<std::string> answers;  ///< empty = the tokens' names
  std::string separator = " ";       ///< between tokens when rendered
};

/// Probability of each label id at data position t, for rows of n data tokens.
struct LabelMarginals {
  std::vector<std::vector<double>> running;  ///< running[t]: position t of a longer row
  std::vector<std::vector<double>> last;     ///< last[n - 1]: the final answer of n data tokens
};

/// A task whose rows come from draw_sample(). A derived class fills spec_ (without BOS, see
/// add_bos) and names_ in its constructor and says how labels are distributed.
class DrawnTask : public Task {
 public:
  explicit DrawnTask(TaskConfig config) : config_(std::move(config)) {}
  DrawnTask(const DrawnTask&) = delete;  // spec_ points into the derived class's tables
  DrawnTask& operator=(const DrawnTask&) = delete;

  const TaskConfig& config() const override { return config_; }
  int vocab_size() const override { return static_cast<int>(names_.tokens.size()); }
  int legal_begin() const override { return legal_begin_; }
  int legal_end() const override { return legal_end_; }
  int seqlen(int max_length) const override;
  void check_lengths(LengthRange lengths) const override;
  SampleInfo draw(RngKey key, uint32_t step, uint32_t sample, LengthRange lengths,
                  std::span<int32_t> tokens, std::span<int32_t> targets) const override;
  double chance() const override { return chance_; }
  double constant_answer(LengthRange lengths) const override;
  std::string token_name(int32_t token) const override;
  std::string answer_name(int32_t answer) const override;
  std::string render(std::span<const int32_t> tokens,
                     std::span<const int32_t> targets) const override;
  const DrawSpec& draw_spec() const override { return spec_; }

 protected:
  /// Label distributions up to `max_data` data tokens, BOS and end token not counted.
  virtual LabelMarginals label_marginals(int max_data) const = 0;

  /// Applies config().supervision and config().bos (a new last id, unless the layout names one).
  /// Call once, when spec_ and names_ are otherwise complete.
  void finish();

  const TaskConfig config_;
  DrawSpec spec_;
  TaskNames names_;
  double chance_ = 0;
  int min_data_ = 1;  ///< data tokens below which there is no answer
  int legal_begin_ = 0, legal_end_ = 0;
};

}  // namespace statelab
