#include "experiments/runner.h"

#include <signal.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <set>
#include <thread>

#include "experiments/cohort_trainer.h"
#include "experiments/execution.h"
#include "store/failpoint.h"
#include "store/lease.h"
#include "store/run_store.h"

namespace statelab {
namespace {

using Clock = std::chrono::steady_clock;

class Runner {
 public:
  Runner(std::span<const NamedRun> runs, const RunnerOptions& options, ProgressSink& progress)
      : options_(options),
        progress_(progress),
        store_(options.database),
        owner_(new_lease_owner()),
        execution_record_(cpu_execution(options.threads, options.command_line)) {
    std::set<std::string> seen;
    for (const NamedRun& run : runs) {
      NewRun row;
      row.config = canonical_json(run.config);
      row.run_id = run_id(run.config);
      row.group_id = group_id(run.config);
      row.shape_key = shape_key(run.config);
      row.name = run.name;
      row.total_steps = total_steps(run.config);
      if (!seen.insert(row.run_id).second) continue;
      ids_.push_back(row.run_id);
      rows_.push_back(std::move(row));
    }
    max_members_ = options.max_members > 0 ? options.max_members : std::max(4, options.threads);
  }

  RunnerResult run(const std::optional<SweepRecord>& sweep) {
    if (on_network_filesystem(options_.database)) {
      progress_.on_message(
          "warning: " + options_.database.string() +
          " lies on a network file system, where SQLite's locks cannot be trusted");
    }
    store_.add_runs(rows_, sweep);
    prepare();
    store_.select_work(ids_);
    store_.sweep_orphans();
    try {
      work();
    } catch (...) {
      give_back();
      throw;
    }
    keeper_.reset();
    if (execution_ > 0) {
      store_.sweep_orphans();  // what a worker left that died meanwhile
      store_.end_execution(execution_, reason_text(), peak_memory_bytes());
    }
    count();
    if (result_.reason == RunnerResult::Reason::kTimeLimit) {
      progress_.on_message("time limit reached with " + std::to_string(result_.unfinished) +
                           " of " + std::to_string(result_.total) +
                           " runs unfinished: the same command goes on from here");
    }
    return result_;
  }

 private:
  // What may be taken up again, before anything is computed.
  void prepare() {
    if (options_.rerun) {
      store_.reset(ids_);
      return;
    }
    const auto foreign = store_.computed_elsewhere(ids_, execution_record_.origin);
    if (!foreign.empty() && options_.restart) {
      std::vector<std::string> ids;
      for (const auto& [id, origin] : foreign) ids.push_back(id);
      store_.reset(ids);
    } else if (!foreign.empty()) {
      refuse(foreign.begin()->first, foreign.begin()->second, foreign.size());
    }
    store_.retry_failed(ids_);
  }

  [[noreturn]] void refuse(const std::string& id, const Origin& there, size_t count) {
    const Origin& here = execution_record_.origin;
    throw ResumeRefused(std::to_string(count) + (count == 1 ? " run was" : " runs were") +
                        " begun elsewhere and would not get the same bits here; first run " +
                        id.substr(0, 12) + ": begun with " + there.backend + ", " + there.device +
                        ", build " + there.build + "; here " + here.backend + ", " + here.device +
                        ", build " + here.build + ". --restart computes such runs from step 0");
  }

  // Also with an exception on its way: the runs are free at once rather than when the lease ends.
  void give_back() {
    keeper_.reset();
    try {
      store_.release(owner_, ids_);
    } catch (const StoreError&) {
      // The lease ends with this process.
    }
  }

  bool should_stop() {
    if (options_.stop_signal && options_.stop_signal() != 0) {
      if (result_.reason != RunnerResult::Reason::kSignal) {
        progress_.on_message("stopping after checkpoints, again to kill");
      }
      result_.reason = RunnerResult::Reason::kSignal;
      result_.signal = options_.stop_signal();
      return true;
    }
    if (options_.time_limit &&
        std::chrono::duration<double>(Clock::now() - start_).count() >= *options_.time_limit) {
      result_.reason = RunnerResult::Reason::kTimeLimit;
      return true;
    }
    return false;
  }

  void work() {
    bool waiting = false;
    while (!should_stop()) {
      count();
      if (result_.unfinished == 0) return;
      begin();
      std::vector<ClaimedRun> claimed =
          store_.claim(owner_, execution_record_.origin, max_members_, options_.lease_seconds);
      if (!claimed.empty()) {
        waiting = false;
        if (!train(std::move(claimed))) return;
        continue;
      }
      if (!others_are_at_work()) return;
      if (!waiting) progress_.on_message("waiting for runs that another process computes");
      waiting = true;
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
  }

  void begin() {
    if (execution_ > 0) return;
    execution_ = store_.begin_execution(execution_record_);
    keeper_ = std::make_unique<LeaseKeeper>(options_.database, owner_, options_.lease_seconds);
  }

  // Nothing could be claimed: who has the rest?
  bool others_are_at_work() {
    std::map<std::string, int64_t> by_status = store_.work_by_status();
    const int64_t pending = by_status["pending"];
    if (by_status["running"] > 0 || pending == 0)
      return true;  // or the last one ended just now; the loop sees it
    const auto foreign = store_.computed_elsewhere(ids_, execution_record_.origin);
    if (!foreign.empty()) refuse(foreign.begin()->first, foreign.begin()->second, foreign.size());
    progress_.on_message(std::to_string(pending) +
                         " runs wait for the run that train.init_from names, which is not "
                         "finished and not part of this list");
    result_.reason = RunnerResult::Reason::kBlocked;
    return false;
  }

  // One cohort. False = leave.
  bool train(std::vector<ClaimedRun> claimed) {
    std::vector<std::string> ids;
    std::vector<std::string> names;
    for (const ClaimedRun& run : claimed) {
      ids.push_back(run.run_id);
      names.push_back(run.name);
    }
    TrainerOptions trainer_options;
    trainer_options.threads = options_.threads;
    trainer_options.checkpoint_seconds = options_.checkpoint_seconds;
    trainer_options.lease_seconds = options_.lease_seconds;
    trainer_options.should_stop = [this] { return should_stop(); };
    std::string error;
    try {
      CohortTrainer trainer(store_, owner_, execution_, std::move(claimed), trainer_options,
                            progress_);
      trainer.on_final = [this](FinishedRun run) {
        ++result_.computed;
        announce(std::move(run));
      };
      const bool complete = trainer.run();
      if (!complete) store_.release(owner_, ids);
      failpoint("cohort.finished");
      return complete;
    } catch (const LeaseLost& e) {
      progress_.on_message(std::string("warning: ") + e.what());
      store_.release(owner_, ids);
      return true;
    } catch (const CohortTooLarge& e) {
      if (names.size() > 1) {
        max_members_ = std::max(1, static_cast<int>(names.size()) / 2);
        progress_.on_message(std::string(e.what()) + "; going on with cohorts of " +
                             std::to_string(max_members_));
        store_.release(owner_, ids);
        return true;
      }
      error = e.what();
    } catch (const StoreError& e) {
      // A damaged checkpoint is the run's trouble; anything else means that nothing can be recorded any more.
      if (e.code != StoreError::kMismatch) throw;
      error = std::string(e.what()) + "; --rerun computes the run again";
    } catch (const std::exception& e) {
      error = e.what();
    }
    // Members that became final before the error are no longer held and keep their results.
    store_.fail(owner_, ids, error);
    for (const RunSummary& run : store_.summaries(ids)) {
      if (run.status != "failed") continue;
      FinishedRun f;
      f.name = run.name;
      f.status = run.status;
      f.steps = run.steps_done;
      f.error = error;
      announce(std::move(f));
    }
    if (options_.fail_fast) result_.reason = RunnerResult::Reason::kFailFast;
    return !options_.fail_fast;
  }

  void announce(FinishedRun run) {
    count();
    run.done = result_.finished + result_.diverged + result_.failed;
    run.total = result_.total;
    progress_.on_run_finished(run);
  }

  void count() {
    std::map<std::string, int64_t> by_status = store_.work_by_status();
    result_.total = static_cast<int64_t>(ids_.size());
    result_.finished = by_status["finished"];
    result_.diverged = by_status["diverged"];
    result_.failed = by_status["failed"];
    result_.unfinished = by_status["pending"] + by_status["running"];
  }

  std::string reason_text() const {
    switch (result_.reason) {
      case RunnerResult::Reason::kComplete:
        return "complete";
      case RunnerResult::Reason::kTimeLimit:
        return "time limit";
      case RunnerResult::Reason::kSignal:
        return "signal " + std::to_string(result_.signal);
      case RunnerResult::Reason::kFailFast:
        return "failed run";
      case RunnerResult::Reason::kBlocked:
        return "blocked";
    }
    return "";
  }

  const RunnerOptions& options_;
  ProgressSink& progress_;
  RunStore store_;
  std::string owner_;
  ExecutionRecord execution_record_;
  std::vector<NewRun> rows_;
  std::vector<std::string> ids_;
  int max_members_ = 1;
  int64_t execution_ = 0;
  std::unique_ptr<LeaseKeeper> keeper_;
  RunnerResult result_;
  Clock::time_point start_ = Clock::now();
};

}  // namespace

int exit_code(const RunnerResult& result) {
  if (result.reason == RunnerResult::Reason::kSignal) return result.signal == SIGINT ? 130 : 143;
  return result.failed > 0 || result.reason == RunnerResult::Reason::kBlocked ? 3 : 0;
}

RunnerResult run_all(std::span<const NamedRun> runs, const std::optional<SweepRecord>& sweep,
                     const RunnerOptions& options, ProgressSink& progress) {
  return Runner(runs, options, progress).run(sweep);
}

}  // namespace statelab
