// Whether a run can be computed at all: its task exists, its lengths are possible, its model can be built.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "experiments/run_config.h"

namespace statelab {

/// A broken rule. `key` is the field at fault ("eval.lengths", or deeper: "task.automaton.start"); `item` the element of
/// its list, -1 = all of it.
struct RunProblem {
  std::string key;
  int item = -1;
  std::string message;
};

/// The task of a run; equal configurations share one object. Thread safe. Throws TaskError.
std::shared_ptr<const Task> task_of(const RunConfig& run);

/// Fills in what follows from the task (model.vocab_size) and returns every broken rule; empty when the run can start.
std::vector<RunProblem> complete_and_check(RunConfig& run);

/// The longest reported length of the curriculum.
int longest_trained(const RunConfig& run);

}  // namespace statelab
