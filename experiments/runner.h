// Computes what a list of runs still lacks: the engine behind `statelab run`.
//
// Running again is how one resumes. Interrupted at any instruction and run again, the metrics, evaluations and
// checkpoints are those of an undisturbed run. Several processes may run the same list on one local database.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "experiments/progress.h"
#include "experiments/run_config.h"
#include "models/backend.h"
#include "store/records.h"

namespace statelab {

struct NamedRun {
  RunConfig config;  ///< complete and checked (run_check.h)
  std::string name;
};

struct RunnerOptions {
  std::filesystem::path database = "statelab.db";
  int threads = 1;                     ///< of the CPU, where `devices` is empty
  std::vector<ComputeDevice> devices;  ///< of one model, one worker thread each; empty = the CPU
  int max_members = 0;  ///< runs per cohort; 0 = as many as keep the device busy and fit into its
                        ///< memory. No number depends on it
  double checkpoint_seconds = 30;
  double lease_seconds = 60;
  std::optional<double> time_limit;  ///< seconds, from the start of run_all()
  bool fail_fast = false;            ///< stop at the first failed cohort
  bool rerun = false;                ///< compute everything again, finished runs too
  bool restart = false;  ///< runs begun on another backend, device model or build: from step 0
  std::string command_line;
  std::function<int()> stop_signal;  ///< number of the signal that asks to stop, 0 = none
};

/// Runs were begun by another backend, device model or build, and would not get the bits of an undisturbed run.
/// Exit code 4.
class ResumeRefused : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct RunnerResult {
  enum class Reason { kComplete, kTimeLimit, kSignal, kFailFast, kBlocked };
  Reason reason = Reason::kComplete;
  int signal = 0;                                                             ///< with kSignal
  int64_t total = 0, finished = 0, diverged = 0, failed = 0, unfinished = 0;  ///< of the list, now
  int64_t computed = 0;  ///< runs that became final in this call
};

/// 0 complete or out of time; 3 some runs failed; 130 SIGINT, 143 other signals.
int exit_code(const RunnerResult& result);

/// Adds missing runs, then claims and trains cohorts until nothing is left, a signal or the time limit comes, or, with
/// fail_fast, a cohort fails. A failing cohort's error is stored with its runs and the others go on; runs that failed in
/// an earlier call are tried again. Waits for runs that other processes hold.
/// Every device takes cohorts from the same list; `progress` is called by one thread at a time.
/// Errors: ResumeRefused before anything is computed; StoreError; CudaError when a device stopped working.
RunnerResult run_all(std::span<const NamedRun> runs, const std::optional<SweepRecord>& sweep,
                     const RunnerOptions& options, ProgressSink& progress);

}  // namespace statelab
