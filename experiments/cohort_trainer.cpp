#include "experiments/cohort_trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <new>

#include "experiments/cohort_member.h"
#include "experiments/data_source.h"
#include "experiments/evaluation.h"
#include "experiments/execution.h"
#include "experiments/run_check.h"
#include "store/failpoint.h"

namespace statelab {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

int64_t row_interval(int64_t total) {
  return std::max<int64_t>(1, total / 200 / kReadInterval) * kReadInterval;
}

int64_t total_steps(const RunConfig& run) {
  int64_t total = 0;
  for (const StageConfig& stage : run.train.curriculum) total += stage.steps;
  return total;
}

struct CohortTrainer::Impl {
  RunStore& store;
  std::string owner;
  int64_t execution;
  TrainerOptions options;
  ProgressSink& progress;
  std::vector<Member> members;  // those that are not final, in the order of the cohort
  RunConfig config;             // of the first member: what all share
  std::vector<int64_t> stage_ends;
  int64_t total = 0, rows_every = 0, reads_every = kReadInterval;
  int64_t memory_bytes = 0;
  int started = 0, diverged = 0;
  std::unique_ptr<TrainData> data;
  std::unique_ptr<TrainCohort> cohort;
  int64_t from_step = 0, checkpoint_step = -1;
  Clock::time_point start = Clock::now(), last_checkpoint = Clock::now();
  double steps_per_second = 0;

  void take_up(std::vector<ClaimedRun> runs);
  std::unique_ptr<TrainCohort> build(std::vector<MemberState> states);

  int64_t next_read_point(int64_t step) const;
  void slice();
  void read_metrics(int64_t steps);
  void validate();
  bool validation_due(int64_t step) const;
  bool is_stage_end(int64_t step) const;
  bool ended(const Member& member) const;

  MemberCommit commit_of(Member& member) const;
  void write_checkpoint();
  void finish_ended(const std::function<void(const FinishedRun&)>& on_final);
  void compact(const std::vector<bool>& keep);
  CohortProgress report() const;
};

// ---- building

std::unique_ptr<TrainCohort> CohortTrainer::Impl::build(std::vector<MemberState> states) {
  std::vector<MemberSettings> settings;
  std::vector<uint32_t> seeds;
  for (const Member& m : members) {
    settings.push_back(settings_of(m.config));
    seeds.push_back(m.config.seed);
  }
  cohort.reset();  // before the next one takes its memory
  data = std::make_unique<TrainData>(task_of(config), config.train.curriculum, seeds);
  std::unique_ptr<TrainCohort> built;
  const ComputeDevice device = computing(config, options.device);
  const int64_t available = device.is_cuda() ? 0 : available_memory_bytes();
  try {
    built = std::make_unique<TrainCohort>(shape_of(config), settings, *data, device);
  } catch (const std::bad_alloc& e) {
    throw CohortTooLarge("a cohort of " + std::to_string(members.size()) +
                         " does not fit into memory" +
                         (device.is_cuda() ? std::string(": ") + e.what() : ""));
  }
  memory_bytes = std::max(memory_bytes, built->arena_bytes());
  if (members.size() > 1 && available > 0 && built->arena_bytes() > available / 2) {
    throw CohortTooLarge("a cohort of " + std::to_string(members.size()) + " needs " +
                         std::to_string(built->arena_bytes() >> 20) +
                         " MiB, more than half of the " + std::to_string(available >> 20) +
                         " MiB available");
  }
  if (!states.empty()) built->restore(states);
  return built;
}

void CohortTrainer::Impl::take_up(std::vector<ClaimedRun> runs) {
  std::vector<MemberState> states;
  for (ClaimedRun& run : runs) {
    std::optional<MemberState> state;
    members.push_back(take_up_member(store, std::move(run), state));
    if (state) states.push_back(std::move(*state));
  }
  config = members[0].config;
  total = total_steps(config);
  rows_every = row_interval(total);
  if (options.device.is_cuda()) reads_every = rows_every;
  for (int64_t end = 0; const StageConfig& stage : config.train.curriculum)
    stage_ends.push_back(end += stage.steps);
  started = static_cast<int>(members.size());
  cohort = build(states);
  if (states.empty() && config.train.init_from != "none") {
    for (int m = 0; m < cohort->members(); ++m) {
      states.push_back(with_weights_of(store, config.train.init_from, cohort->snapshot(m)));
    }
    cohort->restore(states);
  }
  from_step = cohort->step();
  checkpoint_step = from_step > 0 ? from_step : -1;
  failpoint("cohort.after_build");
}

// ---- training

int64_t CohortTrainer::Impl::next_read_point(int64_t step) const {
  int64_t next = (step / reads_every + 1) * reads_every;
  if (config.eval.every > 0)
    next = std::min(next, (step / config.eval.every + 1) * config.eval.every);
  for (const int64_t end : stage_ends) {
    if (end > step) next = std::min(next, end);
  }
  return next;
}

bool CohortTrainer::Impl::is_stage_end(int64_t step) const {
  return std::find(stage_ends.begin(), stage_ends.end(), step) != stage_ends.end();
}

bool CohortTrainer::Impl::validation_due(int64_t step) const {
  return step == total || (config.eval.every > 0 && step % config.eval.every == 0);
}

bool CohortTrainer::Impl::ended(const Member& member) const {
  return member.diverged_at >= 0 || cohort->step() == total || solved(config, member.validation);
}

void CohortTrainer::Impl::read_metrics(int64_t steps) {
  const int64_t step = cohort->step();
  const std::vector<TrainMetrics> all = cohort->read_metrics();
  for (size_t i = 0; i < members.size(); ++i) {
    Member& m = members[i];
    const TrainMetrics& metrics = all[i];
    m.window.add(metrics, steps);
    m.accuracy = metrics.accuracy;
    m.diverged_at = metrics.diverged_at;
    if (step % rows_every == 0 || is_stage_end(step) || m.diverged_at >= 0)
      m.metrics.push_back(m.window.close(step));
  }
}

void CohortTrainer::Impl::validate() {
  std::vector<MemberState> states;
  std::vector<const MemberState*> weights;
  std::vector<Member*> scored;
  for (size_t i = 0; i < members.size(); ++i) {
    members[i].validation.clear();
    if (members[i].diverged_at >= 0) continue;
    states.push_back(cohort->snapshot(static_cast<int>(i)));
    scored.push_back(&members[i]);
  }
  if (scored.empty()) return;
  for (const MemberState& state : states) weights.push_back(&state);
  const auto rows = evaluate_members(config, weights, Stream::kValidation,
                                     evaluated_lengths(config.eval), options.device);
  for (size_t i = 0; i < scored.size(); ++i) {
    Member& m = *scored[i];
    m.validation = rows[i];
    m.evaluations.insert(m.evaluations.end(), rows[i].begin(), rows[i].end());
    remember_best(m, &states[i]);
    if (solved(config, m.validation) && !m.window.empty())
      m.metrics.push_back(m.window.close(cohort->step()));
  }
  failpoint("cohort.after_validation");
}

void CohortTrainer::Impl::slice() {
  const int64_t before = cohort->step();
  const Clock::time_point slice_start = Clock::now();
  cohort->run(next_read_point(before) - before);
  failpoint("cohort.after_slice");
  const int64_t steps = cohort->step() - before;
  read_metrics(steps);
  failpoint("cohort.after_metrics");
  const double rate = static_cast<double>(steps) / std::max(seconds_since(slice_start), 1e-9);
  steps_per_second = steps_per_second == 0 ? rate : 0.8 * steps_per_second + 0.2 * rate;
  if (validation_due(cohort->step())) validate();
}

// ---- recording

MemberCommit CohortTrainer::Impl::commit_of(Member& member) const {
  MemberCommit c;
  c.run_id = member.run.run_id;
  c.steps_done = cohort->step();
  c.parameters = cohort->parameter_count();
  c.metrics = std::move(member.metrics);
  c.evaluations = std::move(member.evaluations);
  member.metrics.clear();
  member.evaluations.clear();
  c.from_step = from_step;
  c.wall_seconds = seconds_since(start);
  c.members = started;
  return c;
}

void CohortTrainer::Impl::write_checkpoint() {
  if (checkpoint_step == cohort->step()) return;
  std::vector<MemberCommit> commits;
  for (size_t i = 0; i < members.size(); ++i) {
    Member& m = members[i];
    MemberCommit c = commit_of(m);
    c.last = last_bytes(m, cohort->snapshot(static_cast<int>(i)));
    if (m.best) {
      c.best = best_bytes(m);
      c.best_step = m.best_step;
    }
    commits.push_back(std::move(c));
  }
  store.commit(owner, execution, commits, options.lease_seconds);
  for (Member& m : members) m.best.reset();
  checkpoint_step = cohort->step();
  last_checkpoint = Clock::now();
  failpoint("cohort.after_checkpoint");
}

// All of a cohort's members have a checkpoint at this step; those that ended get their test scores and become final.
void CohortTrainer::Impl::finish_ended(const std::function<void(const FinishedRun&)>& on_final) {
  failpoint("cohort.before_test");
  std::vector<bool> keep;
  std::vector<MemberState> states;
  std::vector<const MemberState*> weights;
  for (size_t i = 0; i < members.size(); ++i) {
    keep.push_back(!ended(members[i]));
    if (keep[i] || members[i].diverged_at >= 0) continue;
    const bool current = members[i].best_step < 0 || members[i].best_step == cohort->step();
    states.push_back(current ? cohort->snapshot(static_cast<int>(i))
                             : read_best(store, members[i]));
  }
  for (const MemberState& state : states) weights.push_back(&state);
  std::vector<std::vector<EvaluationRecord>> rows;
  if (!weights.empty()) {
    rows = evaluate_members(config, weights, Stream::kTest, evaluated_lengths(config.eval),
                            options.device);
  }
  failpoint("cohort.after_test");
  std::vector<MemberCommit> commits;
  std::vector<FinishedRun> finished;
  size_t scored = 0;
  for (size_t i = 0; i < members.size(); ++i) {
    if (keep[i]) continue;
    Member& m = members[i];
    MemberCommit c = commit_of(m);
    FinishedRun f;
    f.name = m.run.name;
    f.steps = c.steps_done;
    if (m.diverged_at >= 0) {
      c.status = "diverged";
      c.diverged_at = m.diverged_at;
      ++diverged;
    } else {
      c.status = "finished";
      c.selected_step = states[scored].step;
      c.stopped_early = c.steps_done < total;
      c.evaluations = rows[scored++];
      f.length = selecting_length(config.eval).max;
      f.accuracy = accuracy_at(c.evaluations, selecting_length(config.eval));
    }
    f.status = c.status;
    commits.push_back(std::move(c));
    finished.push_back(std::move(f));
  }
  store.commit(owner, execution, commits, options.lease_seconds);
  for (const FinishedRun& f : finished) {
    if (on_final) on_final(f);
  }
  failpoint("cohort.before_compaction");
  compact(keep);
}

void CohortTrainer::Impl::compact(const std::vector<bool>& keep) {
  std::vector<Member> kept;
  std::vector<MemberState> states;
  for (size_t i = 0; i < members.size(); ++i) {
    if (!keep[i]) continue;
    kept.push_back(std::move(members[i]));
    states.push_back(cohort->snapshot(static_cast<int>(i)));
  }
  members = std::move(kept);
  if (members.empty()) return;
  cohort = build(std::move(states));
  failpoint("cohort.after_compaction");
}

CohortProgress CohortTrainer::Impl::report() const {
  CohortProgress p;
  p.name = members[0].run.name;
  p.members = static_cast<int>(members.size());
  p.diverged = diverged;
  p.step = cohort->step();
  p.total_steps = total;
  p.steps_per_second = steps_per_second;
  if (p.step > from_step) {
    p.seconds_left = seconds_since(start) / static_cast<double>(p.step - from_step) *
                     static_cast<double>(total - p.step);
  }
  std::vector<double> accuracies;
  for (const Member& m : members) {
    if (m.diverged_at < 0) accuracies.push_back(m.accuracy);
  }
  if (!accuracies.empty()) {
    std::sort(accuracies.begin(), accuracies.end());
    p.best_accuracy = accuracies.back();
    p.median_accuracy =
        0.5 * (accuracies[(accuracies.size() - 1) / 2] + accuracies[accuracies.size() / 2]);
  }
  return p;
}

CohortTrainer::CohortTrainer(RunStore& store, std::string owner, int64_t execution,
                             std::vector<ClaimedRun> runs, const TrainerOptions& options,
                             ProgressSink& progress)
    : impl_(std::make_unique<Impl>(Impl{.store = store,
                                        .owner = std::move(owner),
                                        .execution = execution,
                                        .options = options,
                                        .progress = progress,
                                        .members = {},
                                        .config = {},
                                        .stage_ends = {},
                                        .data = nullptr,
                                        .cohort = nullptr})) {
  impl_->take_up(std::move(runs));
}
CohortTrainer::~CohortTrainer() = default;

int64_t CohortTrainer::memory_bytes() const { return impl_->memory_bytes; }

bool CohortTrainer::run() {
  try {
    return train();
  } catch (const std::bad_alloc& e) {  // an evaluation, or a stage with longer sequences
    throw CohortTooLarge("a cohort of " + std::to_string(impl_->members.size()) +
                         " ran out of memory: " + e.what());
  }
}

bool CohortTrainer::train() {
  Impl& self = *impl_;
  self.progress.on_cohort_start(self.report());
  while (true) {
    const bool any_ended = std::any_of(self.members.begin(), self.members.end(),
                                       [&](const Member& m) { return self.ended(m); });
    const bool stop = self.options.should_stop && self.options.should_stop();
    const int64_t step = self.cohort->step();
    const bool due = self.is_stage_end(step) ||
                     seconds_since(self.last_checkpoint) >= self.options.checkpoint_seconds;
    if (step > self.from_step && (any_ended || stop || due)) self.write_checkpoint();
    if (any_ended) self.finish_ended(on_final);
    if (self.members.empty()) return true;
    if (stop) return false;
    self.slice();
    self.progress.on_progress(self.report());
  }
}

}  // namespace statelab
