// A task: a pure function from (key, step, sample, lengths) to tokens and answers.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/rng.h"
#include "tasks/task_config.h"

namespace statelab {

/// An impossible task. `parameter` is the YAML key below `task.` ("" when no single key is at fault).
class TaskError : public std::invalid_argument {
 public:
  TaskError(std::string task_name, std::string parameter_key, const std::string& message)
      : std::invalid_argument(message), task(std::move(task_name)), parameter(std::move(parameter_key)) {}
  std::string task, parameter;
};

/// Both ends included; a *length* is what the profile reports, not the number of tokens (spec tasks.md section 1).
struct LengthRange {
  int min = 3, max = 40;
};

struct SampleInfo {
  int length = 0;   ///< reported length, after the profile's rounding
  int tokens = 0;   ///< positions used, up to and including the last supervised one
};

class Task {
 public:
  virtual ~Task() = default;
  virtual const TaskConfig& config() const = 0;

  /// Token ids 0..vocab_size()-1; inputs and answers share one vocabulary.
  virtual int vocab_size() const = 0;
  /// Answers counted by the score's argmax: ids [legal_begin, legal_end); (0, 0) = the whole vocabulary.
  virtual int legal_begin() const { return 0; }
  virtual int legal_end() const { return 0; }
  /// Positions that the longest sample of reported length <= `max_length` uses.
  virtual int seqlen(int max_length) const = 0;
  /// Throws TaskError (parameter "length") when no sample has a length in the range.
  virtual void check_lengths(LengthRange lengths) const = 0;

  /// Fills tokens and targets (-1 = not supervised; unused tail: token 0, target -1). Pure; safe from any thread.
  /// Errors: none after check_lengths(); spans of at least seqlen(lengths.max) entries.
  virtual SampleInfo draw(RngKey key, uint32_t step, uint32_t sample, LengthRange lengths, std::span<int32_t> tokens,
                          std::span<int32_t> targets) const = 0;

  /// r of the literature: 1 / number of legal answers (tasks.md section 9).
  virtual double chance() const = 0;
  /// Exact accuracy of the best constant answer over the lengths' mix, from the label distribution.
  virtual double constant_answer(LengthRange lengths) const = 0;

  /// What one token is called, e.g. "+", "3", "(1 2)".
  virtual std::string token_name(int32_t token) const = 0;
  /// One sample as a person would write it, answers and supervised positions marked.
  virtual std::string render(std::span<const int32_t> tokens, std::span<const int32_t> targets) const = 0;
};

/// Builds and checks a task. Throws TaskError.
std::shared_ptr<const Task> make_task(const TaskConfig& config);

/// For `statelab tasks`: what exists, in the order to be shown.
struct TaskSummary {
  std::string name;         ///< value of task.name
  std::string profiles;     ///< "xlstm, slice, chomsky"
  std::string description;  ///< one line
  std::vector<std::string> parameters;  ///< keys of TaskConfig that it reads besides name, profile, supervision, bos
};
std::vector<TaskSummary> list_tasks();

}  // namespace statelab
