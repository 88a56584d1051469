// `statelab bench column`: how long a whole sweep takes on a device, projected from the measured speed of its cohorts.
//
//   seconds = sum over cohort shapes of  cohorts * ( sum over stages of  steps / (steps per second)
//                                                    + evaluations / (evaluations per second) )
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "experiments/run_config.h"
#include "models/backend.h"

namespace statelab {

struct BenchColumnOptions {
  double seconds = 1;   ///< of measurement per stage, after warming up
  int max_members = 0;  ///< runs per cohort; 0 = as the runner chooses
};

/// One kind of work of the cohorts of one shape and size.
struct BenchColumnRow {
  RunConfig config;  ///< of the first of these runs
  int64_t runs = 0;  ///< in all these cohorts
  int members = 1;   ///< runs per cohort
  int64_t cohorts = 0;
  bool evaluation =
      false;           ///< a row of evaluations: all of eval.lengths and eval.ranges of all members
  LengthRange length;  ///< of the stage; of evaluations: smallest and longest
  int seqlen = 0;      ///< positions of the stage; 0 in a row of evaluations
  int64_t count = 0;   ///< steps of the stage, or evaluations, of one cohort
  double per_second = 0;  ///< measured, one cohort at work
  double seconds = 0;     ///< cohorts * count / per_second
};

struct BenchColumnReport {
  std::vector<BenchColumnRow>
      rows;  ///< in the order of the runs; per shape and size the stages, then the evaluations
  double seconds = 0;  ///< of all rows, on one device
};

/// Runs per cohort that the runner would choose for `runs` runs of this shape on this device, by default or at most
/// `max_members`: as many as keep it busy and fit into its memory.
int chosen_members(const RunConfig& config, int64_t runs, const ComputeDevice& device,
                   int max_members = 0);

/// Evaluations of one run: eval.every's validations, the one at the end, and the test.
int64_t evaluations_of(const RunConfig& run);

/// Measures each distinct cohort of the runs on one device: each stage for options.seconds, reading metrics as training
/// does, and the evaluations at two numbers of samples, from which those of the configuration follow linearly. Nothing
/// is recorded. Checkpoints and the building of programs are not counted.
/// Errors: BenchRefused in a build that is not optimised; std::invalid_argument, UnsupportedOp, std::bad_alloc,
///         CudaError as when training.
BenchColumnReport bench_column(std::span<const RunConfig> runs, const BenchColumnOptions& options,
                               const ComputeDevice& device);

}  // namespace statelab
