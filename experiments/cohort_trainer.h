// Trains one claimed cohort from its checkpoint to its end, recording as it goes.
//
// Steps are done in slices that end where the configuration says, never where the clock says:
//   read points   every kReadInterval steps, on a CUDA device every row_interval() steps, for reading makes it wait; and
//                 at validations, stage ends and the end. Metrics are read, and checkpoints may be written, here and
//                 nowhere else.
//   rows          every row_interval() steps, at stage ends and at a member's end: means over the read points since.
// A partly filled row travels in the checkpoint's metadata (key "window"), so that a resumed run writes the same row.
// Wall time decides only at which read points a checkpoint is written.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "experiments/progress.h"
#include "experiments/run_config.h"
#include "models/cohort.h"
#include "store/run_store.h"

namespace statelab {

inline constexpr int64_t kReadInterval = 10;

/// Steps between two rows of metrics: about 200 rows a run.
int64_t row_interval(int64_t total_steps);
int64_t total_steps(const RunConfig& run);

/// All members do not fit into memory together; the caller may try fewer.
class CohortTooLarge : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct TrainerOptions {
  ComputeDevice device = 1;        ///< on a CUDA device the precision is that of the runs
  double checkpoint_seconds = 30;  ///< wall time between checkpoints; 0 = at every read point
  double lease_seconds = RunStore::kLeaseSeconds;
  std::function<bool()> should_stop;  ///< asked at read points
};

class CohortTrainer {
 public:
  /// `runs` are held by `owner`, have one shape and are at one step.
  /// Errors: std::invalid_argument or std::runtime_error when they cannot be trained, CohortTooLarge.
  CohortTrainer(RunStore& store, std::string owner, int64_t execution, std::vector<ClaimedRun> runs,
                const TrainerOptions& options, ProgressSink& progress);
  ~CohortTrainer();

  /// Trains to the end of all members (true), or to the first read point after should_stop() (false): then the members
  /// that are not final have a checkpoint there and are still held.
  /// Errors: StoreError, LeaseLost, CohortTooLarge, CudaError.
  bool run();

  /// Most memory that the cohort took on its device so far, evaluations left out.
  int64_t memory_bytes() const;

  /// Called once per run that became final, after its rows are durable.
  std::function<void(const FinishedRun&)> on_final;

 private:
  bool train();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace statelab
