// A task: a pure function from (key, step, sample, lengths) to tokens and answers.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/rng.h"
#include "tasks/draw/draw.h"
#include "tasks/task_config.h"

namespace statelab {

/// An impossible task. `parameter` is the YAML key below `task.` ("" when no single key is at
/// fault).
class TaskError : public std::invalid_argument {
 public:
  TaskError(std::string task_name, std::string parameter_key, const std::string& message)
      : std::invalid_argument(message),
        task(std::move(task_name)),
        parameter(std::move(parameter_key)) {}
  std::string task, parameter;
};

class Task {
 public:
  virtual ~Task() = default;
  virtual const TaskConfig& config() const = 0;

  /// Token ids 0..vocab_size()-1; inputs and answers share one vocabulary.
  virtual int vocab_size() const = 0;
  /// Answers counted by the score's argmax: ids [legal_begin, legal_end); (0, 0) = the whole
  /// vocabulary.
  virtual int legal_begin() const { return 0; }
  virtual int legal_end() const { return 0; }
  /// Positions that the longest sample of reported length <= `max_length` uses.
  virtual int seqlen(int max_length) const = 0;
  /// Throws TaskError (parameter "length") when no sample has a length in the range.
  virtual void check_lengths(LengthRange lengths) const = 0;

  /// Fills tokens and targets (-1 = not supervised; unused tail: token 0, target -1). Pure; safe from
  /// any thread.
  /// Errors: none after check_lengths(); spans of at least seqlen(lengths.max) entries.
  virtual SampleInfo draw(RngKey key, uint32_t step, uint32_t sample, LengthRange lengths,
                          std::span<int32_t> tokens, std::span<int32_t> targets) const = 0;

  /// r of the literature: 1 / number of legal answers.
  virtual double chance() const = 0;
  /// Exact accuracy of the best constant answer over the lengths' mix, from the label distribution.
  virtual double constant_answer(LengthRange lengths) const = 0;

  /// What one token is called, e.g. "+", "3", "(1 2)".
  virtual std::string token_name(int32_t token) const = 0;
  /// What one answer is called; differs from token_name() where a profile numbers answers from 0
  /// again.
  virtual std::string answer_name(int32_t answer) const = 0;
  /// One sample as a person would write it, answers and supervised positions marked.
  /// `1 0 1 -> 0` for one answer at the last position; `1[1] 0[1] 1[0]` when more are supervised.
  virtual std::string render(std::span<const int32_t> tokens,
                             std::span<const int32_t> targets) const = 0;

  /// What is legal but probably not meant, e.g. a state that cannot be reached. One line each.
  virtual std::vector<std::string> warnings() const { return {}; }

  /// Has no sample more than one supervised position?
  bool one_target() const { return config().supervision == "last"; }

  /// What draw() computes from, for a device copy of the task; tables live as long as the task.
  virtual const DrawSpec& draw_spec() const = 0;
};

/// Builds and checks a task. Throws TaskError.
std::shared_ptr<const Task> make_task(const TaskConfig& config);

/// For `statelab tasks`: what exists, in the order to be shown.
struct TaskSummary {
  std::string name;         ///< value of task.name
  std::string profiles;     ///< "xlstm, slice, chomsky"
  std::string description;  ///< one line
  std::vector<std::string>
      parameters;  ///< keys of TaskConfig that it reads besides name, profile, supervision, bos
};
std::vector<TaskSummary> list_tasks();

/// The published configurations by name: `parity.xlstm`, `modarith-br-mul.xlstm`, `word.S5`,
/// `liu.abab`, `ffl`, ... Empty when there is none of that name; `word.` takes every group that
/// word_problem takes.
std::optional<TaskConfig> find_preset(std::string_view name);
/// Names for find_preset(), in the order to be shown.
std::vector<std::string> list_presets();

}  // namespace statelab
