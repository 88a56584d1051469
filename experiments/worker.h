// One device at work on a list of runs; a runner has one worker for each.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "experiments/progress.h"
#include "experiments/runner.h"
#include "models/backend.h"
#include "store/lease.h"
#include "store/run_store.h"

namespace statelab {

/// Runs per cohort that a worker asks for: `max_members`, or where that is 0 as many as keep the device busy.
int members_at_most(const ComputeDevice& device, int max_members);

/// Members of this run's shape that fit into the free memory of a CUDA device; at least 1.
/// Errors: std::invalid_argument, UnsupportedOp: such a run cannot be built.
int64_t members_that_fit(const RunConfig& run, const ComputeDevice& device);

/// What the workers of one call share. Thread safe where it says so.
class RunQueue {
 public:
  RunQueue(const RunnerOptions& runner_options, ProgressSink& progress, int workers)
      : options(runner_options), idle(workers), progress_(progress) {}

  const RunnerOptions& options;
  std::vector<std::string> ids;
  Origin origin;  // of all devices alike

  // A claim, and what follows from it, happens at one time for all workers: no worker sees what another one gives back.
  std::mutex claiming;
  int idle;  // workers without a cohort; guarded by `claiming`
  bool others_are_busy() const { return idle < workers_; }

  // ---- thread safe

  bool should_stop();
  /// A worker ends with an error: the others stop at their next read point.
  void break_off() {
    const std::lock_guard lock(mutex_);
    broken_ = true;
  }
  void end_with(RunnerResult::Reason reason) {
    const std::lock_guard lock(mutex_);
    result_.reason = reason;
  }

  /// Counts the runs of the list by status.
  RunnerResult count(RunStore& store);
  void computed_one() {
    const std::lock_guard lock(mutex_);
    ++result_.computed;
  }
  RunnerResult result() {
    const std::lock_guard lock(mutex_);
    return result_;
  }

  void message(const std::string& text) {
    const std::lock_guard lock(mutex_);
    progress_.on_message(text);
  }
  template <class Call>
  void tell(const Call& call) {
    const std::lock_guard lock(mutex_);
    call(progress_);
  }

 private:
  std::mutex mutex_;
  ProgressSink& progress_;
  const int workers_ = idle;
  RunnerResult result_;
  bool broken_ = false;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// A worker's view of the sink: one thread at a time, and with several devices each cohort says where it trains.
class WorkerProgress final : public ProgressSink {
 public:
  WorkerProgress(RunQueue& queue, std::string place) : queue_(queue), place_(std::move(place)) {}
  void on_cohort_start(const CohortProgress& p) override {
    queue_.tell([&](ProgressSink& sink) { sink.on_cohort_start(placed(p)); });
  }
  void on_progress(const CohortProgress& p) override {
    queue_.tell([&](ProgressSink& sink) { sink.on_progress(placed(p)); });
  }
  void on_run_finished(const FinishedRun& r) override {
    queue_.tell([&](ProgressSink& sink) { sink.on_run_finished(r); });
  }
  void on_message(const std::string& text) override { queue_.message(text); }

 private:
  CohortProgress placed(CohortProgress p) const {
    p.name = place_ + p.name;
    return p;
  }
  RunQueue& queue_;
  std::string place_;
};

/// Claims and trains cohorts on one device until nothing is left. Belongs to one thread, as its store does.
class Worker {
 public:
  /// `place`: before the names of cohorts, "" = nothing.
  Worker(RunQueue& queue, const ComputeDevice& device, RunStore& store, const std::string& place);

  /// Errors: ResumeRefused, StoreError, CudaError; what it held is given back first.
  void run();

 private:
  void work();
  void give_back();
  std::vector<ClaimedRun> claim();
  bool others_are_at_work();
  bool train(std::vector<ClaimedRun> claimed);
  int64_t execution_of(const RunConfig& run);
  bool responds() const;
  void announce(FinishedRun run);

  RunQueue& queue_;
  const RunnerOptions& options_;
  ComputeDevice device_;
  RunStore& store_;
  WorkerProgress progress_;
  std::string owner_;
  int max_members_ = 1;
  std::map<Precision, int64_t> executions_;  // a run's row names the precision it was computed with
  int64_t device_bytes_ = 0;
  std::unique_ptr<LeaseKeeper> keeper_;
};

/// Throws ResumeRefused: `count` runs were begun `there`, the first of them `id`.
[[noreturn]] void refuse_resume(const Origin& here, const std::string& id, const Origin& there,
                                size_t count);

}  // namespace statelab
