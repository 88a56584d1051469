#include "experiments/worker.h"

#include <algorithm>
#include <thread>

#include "experiments/cohort_member.h"
#include "experiments/cohort_trainer.h"
#include "experiments/execution.h"
#include "store/failpoint.h"

namespace statelab {
namespace {

constexpr int kCudaMembers =
    64;  // beyond that a device is busy with any model, and checkpoints take long

std::string reason_text(const RunnerResult& result) {
  switch (result.reason) {
    case RunnerResult::Reason::kComplete:
      return "complete";
    case RunnerResult::Reason::kTimeLimit:
      return "time limit";
    case RunnerResult::Reason::kSignal:
      return "signal " + std::to_string(result.signal);
    case RunnerResult::Reason::kFailFast:
      return "failed run";
    case RunnerResult::Reason::kBlocked:
      return "blocked";
  }
  return "";
}

size_t fitting_members(const ClaimedRun& run, const ComputeDevice& device) {
  try {
    return static_cast<size_t>(members_that_fit(run_config_from_json(run.config), device));
  } catch (const std::invalid_argument&) {
    return 1;  // such a run cannot be built: training it says so
  }
}

}  // namespace

int members_at_most(const ComputeDevice& device, int max_members) {
  if (max_members > 0) return max_members;
  return device.is_cuda() ? kCudaMembers : std::max(4, device.threads);
}

int64_t members_that_fit(const RunConfig& run, const ComputeDevice& device) {
  const int64_t one = cohort_bytes(shape_of(run), 1, device);
  const int64_t room = cuda_memory_info(device.index).free_bytes / 10 * 8;
  return std::max<int64_t>(1, room / one);
}

void refuse_resume(const Origin& here, const std::string& id, const Origin& there, size_t count) {
  throw ResumeRefused(std::to_string(count) + (count == 1 ? " run was" : " runs were") +
                      " begun elsewhere and would not get the same bits here; first run " +
                      id.substr(0, 12) + ": begun with " + there.backend + ", " + there.device +
                      ", build " + there.build + "; here " + here.backend + ", " + here.device +
                      ", build " + here.build + ". --restart computes such runs from step 0");
}

// ---- queue

bool RunQueue::should_stop() {
  const std::lock_guard lock(mutex_);
  if (broken_) return true;
  if (options.stop_signal && options.stop_signal() != 0) {
    if (result_.reason != RunnerResult::Reason::kSignal) {
      progress_.on_message("stopping after checkpoints, again to kill");
    }
    result_.reason = RunnerResult::Reason::kSignal;
    result_.signal = options.stop_signal();
    return true;
  }
  if (options.time_limit &&
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count() >=
          *options.time_limit) {
    result_.reason = RunnerResult::Reason::kTimeLimit;
    return true;
  }
  return result_.reason == RunnerResult::Reason::kFailFast;
}

RunnerResult RunQueue::count(RunStore& store) {
  std::map<std::string, int64_t> by_status = store.work_by_status();
  const std::lock_guard lock(mutex_);
  result_.total = static_cast<int64_t>(ids.size());
  result_.finished = by_status["finished"];
  result_.diverged = by_status["diverged"];
  result_.failed = by_status["failed"];
  result_.unfinished = by_status["pending"] + by_status["running"];
  return result_;
}

// ---- worker

Worker::Worker(RunQueue& queue, const ComputeDevice& device, RunStore& store,
               const std::string& place)
    : queue_(queue),
      options_(queue.options),
      device_(device),
      store_(store),
      progress_(queue, place),
      owner_(new_lease_owner()) {
  max_members_ = members_at_most(device, options_.max_members);
}

void Worker::run() {
  try {
    work();
  } catch (...) {
    give_back();
    throw;
  }
  keeper_.reset();
  if (executions_.empty()) return;
  store_.sweep_orphans();  // what a worker left that died meanwhile
  const std::string reason = reason_text(queue_.result());
  for (const auto& [precision, execution] : executions_) {
    store_.end_execution(execution, reason,
                         device_.is_cuda() ? device_bytes_ : peak_memory_bytes());
  }
}

// Also with an exception on its way: the runs are free at once rather than when the lease ends.
void Worker::give_back() {
  keeper_.reset();
  try {
    store_.release(owner_, queue_.ids);
  } catch (const StoreError&) {
    // The lease ends with this process.
  }
}

void Worker::work() {
  bool waiting = false;
  while (!queue_.should_stop()) {
    if (queue_.count(store_).unfinished == 0) return;
    std::vector<ClaimedRun> claimed;
    bool others = false;
    {
      const std::lock_guard lock(queue_.claiming);
      claimed = claim();
      others = queue_.others_are_busy();
      if (!claimed.empty()) {
        --queue_.idle;
      } else if (!others && !others_are_at_work()) {
        return;
      }
    }
    if (!claimed.empty()) {
      waiting = false;
      const bool go_on = train(std::move(claimed));
      const std::lock_guard lock(queue_.claiming);
      ++queue_.idle;
      if (!go_on) return;
      continue;
    }
    if (!waiting && !others) queue_.message("waiting for runs that another process computes");
    waiting = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
}

// As many runs as fit into the device's memory, and not more than its share while other devices have nothing to do.
std::vector<ClaimedRun> Worker::claim() {
  if (keeper_ == nullptr)
    keeper_ = std::make_unique<LeaseKeeper>(options_.database, owner_, options_.lease_seconds);
  int64_t most = max_members_;
  if (queue_.idle > 1) {
    const int64_t pending = store_.work_by_status()["pending"];
    most = std::clamp<int64_t>((pending + queue_.idle - 1) / queue_.idle, 1, most);
  }
  std::vector<ClaimedRun> claimed =
      store_.claim(owner_, queue_.origin, static_cast<int>(most), options_.lease_seconds);
  if (claimed.size() < 2 || !device_.is_cuda()) return claimed;
  const size_t fitting = std::min(claimed.size(), fitting_members(claimed[0], device_));
  std::vector<std::string> surplus;
  for (size_t i = fitting; i < claimed.size(); ++i) surplus.push_back(claimed[i].run_id);
  if (!surplus.empty()) store_.release(owner_, surplus);
  claimed.resize(fitting);
  return claimed;
}

int64_t Worker::execution_of(const RunConfig& run) {
  const ComputeDevice device = computing(run, device_);
  const auto [at, fresh] = executions_.try_emplace(device.precision, 0);
  if (fresh) at->second = store_.begin_execution(execution_record(device, options_.command_line));
  return at->second;
}

// Nothing could be claimed: who has the rest?
bool Worker::others_are_at_work() {
  std::map<std::string, int64_t> by_status = store_.work_by_status();
  const int64_t pending = by_status["pending"];
  if (by_status["running"] > 0 || pending == 0)
    return true;  // or the last one ended just now; the loop sees it
  const auto foreign = store_.computed_elsewhere(queue_.ids, queue_.origin);
  if (!foreign.empty())
    refuse_resume(queue_.origin, foreign.begin()->first, foreign.begin()->second, foreign.size());
  if (queue_.result().reason != RunnerResult::Reason::kBlocked) {
    queue_.message(std::to_string(pending) +
                   " runs wait for the run that train.init_from names, which is not "
                   "finished and not part of this list");
  }
  queue_.end_with(RunnerResult::Reason::kBlocked);
  return false;
}

// One cohort. False = leave.
bool Worker::train(std::vector<ClaimedRun> claimed) {
  std::vector<std::string> ids;
  std::vector<std::string> names;
  for (const ClaimedRun& run : claimed) {
    ids.push_back(run.run_id);
    names.push_back(run.name);
  }
  TrainerOptions trainer_options;
  trainer_options.device = device_;
  trainer_options.checkpoint_seconds = options_.checkpoint_seconds;
  trainer_options.lease_seconds = options_.lease_seconds;
  trainer_options.should_stop = [this] { return queue_.should_stop(); };
  std::string error;
  bool device_works = true;
  try {
    const int64_t execution = execution_of(run_config_from_json(claimed[0].config));
    CohortTrainer trainer(store_, owner_, execution, std::move(claimed), trainer_options,
                          progress_);
    trainer.on_final = [this](FinishedRun run) {
      queue_.computed_one();
      announce(std::move(run));
    };
    const bool complete = trainer.run();
    device_bytes_ = std::max(device_bytes_, trainer.memory_bytes());
    if (!complete) store_.release(owner_, ids);
    failpoint("cohort.finished");
    return complete;
  } catch (const LeaseLost& e) {
    queue_.message(std::string("warning: ") + e.what());
    store_.release(owner_, ids);
    return true;
  } catch (const CohortTooLarge& e) {
    if (names.size() > 1) {
      max_members_ = std::max(1, static_cast<int>(names.size()) / 2);
      queue_.message(std::string(e.what()) + "; going on with cohorts of " +
                     std::to_string(max_members_));
      store_.release(owner_, ids);
      return true;
    }
    error = e.what();
  } catch (const StoreError& e) {
    // A damaged checkpoint is the run's trouble; anything else means that nothing can be recorded any more.
    if (e.code != StoreError::kMismatch) throw;
    error = std::string(e.what()) + "; --rerun computes the run again";
  } catch (const CudaError& e) {
    error = e.what();
    device_works = responds();
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
  // After some errors nothing runs on the device any more in this process: the other runs are not to blame.
  if (!device_works) throw CudaError("the device stopped working: " + error);
  if (options_.fail_fast) queue_.end_with(RunnerResult::Reason::kFailFast);
  return !options_.fail_fast;
}

bool Worker::responds() const {
  try {
    CudaStream(device_.index).synchronize();
    return true;
  } catch (const CudaError&) {
    return false;
  }
}

void Worker::announce(FinishedRun run) {
  const RunnerResult now = queue_.count(store_);
  run.done = now.finished + now.diverged + now.failed;
  run.total = now.total;
  progress_.on_run_finished(run);
}

}  // namespace statelab
