// Sequences of a run's test stream, for looking at single positions.
#pragma once

#include <cstdint>
#include <vector>

#include "experiments/run_config.h"

namespace statelab {

struct TaskSample {
  LengthRange lengths;
  int samples = 0, seqlen = 0;
  std::vector<int32_t> tokens, targets;  ///< (samples, seqlen)
  std::vector<char> used;  ///< likewise: the position belongs to its sequence, not to padding
};

/// The first `samples` test sequences of these reported lengths, those that `eval` scores.
/// Errors: TaskError for lengths that the task does not have.
TaskSample draw_test_sample(const RunConfig& run, LengthRange lengths, int samples);

}  // namespace statelab
