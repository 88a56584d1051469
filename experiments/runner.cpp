#include "experiments/runner.h"

#include <signal.h>

#include <exception>
#include <set>
#include <thread>

#include "experiments/cohort_trainer.h"
#include "experiments/execution.h"
#include "experiments/run_row.h"
#include "experiments/worker.h"
#include "store/run_store.h"

namespace statelab {
namespace {

class Runner {
 public:
  Runner(std::span<const NamedRun> runs, const RunnerOptions& options, ProgressSink& progress)
      : options_(options),
        devices_(options.devices.empty() ? std::vector<ComputeDevice>{options.threads}
                                         : options.devices),
        queue_(options, progress, static_cast<int>(devices_.size())),
        store_(options.database) {
    queue_.origin = execution_record(devices_[0], options.command_line).origin;
    std::set<std::string> seen;
    for (const NamedRun& run : runs) {
      NewRun row = run_row(run.config, run.name);
      if (!seen.insert(row.run_id).second) continue;
      queue_.ids.push_back(row.run_id);
      rows_.push_back(std::move(row));
    }
  }

  RunnerResult run(const std::optional<SweepRecord>& sweep) {
    if (on_network_filesystem(options_.database)) {
      queue_.message("warning: " + options_.database.string() +
                     " lies on a network file system, where SQLite's locks cannot be trusted");
    }
    store_.add_runs(rows_, sweep);
    prepare();
    store_.select_work(queue_.ids);
    store_.sweep_orphans();
    if (devices_.size() == 1) {
      Worker(queue_, devices_[0], store_, "").run();
    } else {
      work_on_all();
    }
    const RunnerResult result = queue_.count(store_);
    if (result.reason == RunnerResult::Reason::kTimeLimit) {
      queue_.message("time limit reached with " + std::to_string(result.unfinished) + " of " +
                     std::to_string(result.total) +
                     " runs unfinished: the same command goes on from here");
    }
    return result;
  }

 private:
  // What may be taken up again, before anything is computed.
  void prepare() {
    if (options_.rerun) {
      store_.reset(queue_.ids);
      return;
    }
    const auto foreign = store_.computed_elsewhere(queue_.ids, queue_.origin);
    if (!foreign.empty() && options_.restart) {
      std::vector<std::string> ids;
      for (const auto& [id, origin] : foreign) ids.push_back(id);
      store_.reset(ids);
    } else if (!foreign.empty()) {
      refuse_resume(queue_.origin, foreign.begin()->first, foreign.begin()->second, foreign.size());
    }
    store_.retry_failed(queue_.ids);
  }

  // One thread a device, each with a connection of its own. The first error ends all.
  void work_on_all() {
    std::vector<std::exception_ptr> errors(devices_.size());
    std::vector<std::thread> threads;
    for (size_t i = 0; i < devices_.size(); ++i) {
      threads.emplace_back([this, i, &errors] {
        try {
          const std::string place =
              (devices_[i].is_cuda() ? "cuda:" + std::to_string(devices_[i].index) : "cpu") + "  ";
          RunStore store(options_.database);
          store.select_work(queue_.ids);
          Worker(queue_, devices_[i], store, place).run();
        } catch (...) {
          errors[i] = std::current_exception();
          queue_.break_off();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const std::exception_ptr& error : errors) {
      if (error) std::rethrow_exception(error);
    }
  }

  const RunnerOptions& options_;
  std::vector<ComputeDevice> devices_;
  RunQueue queue_;
  RunStore store_;
  std::vector<NewRun> rows_;
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
