#include "experiments/bench_column.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <string>

#include "experiments/bench_train.h"
#include "experiments/cohort_member.h"
#include "experiments/cohort_trainer.h"
#include "experiments/data_source.h"
#include "experiments/evaluation.h"
#include "experiments/run_check.h"
#include "experiments/worker.h"
#include "models/cohort.h"

namespace statelab {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// These runs as one cohort that trains on one stage only, for as long as it is asked to.
struct StageCohort {
  StageCohort(std::span<const RunConfig* const> runs, size_t stage, const ComputeDevice& device) {
    const RunConfig& first = *runs[0];
    constexpr int64_t kEndless = 1 << 20;  // more than any measurement takes
    CohortShape shape = shape_of(first);
    shape.stages = {{kEndless, shape.stages[stage].seqlen}};
    seqlen = shape.stages[0].seqlen;
    std::vector<MemberSettings> settings;
    std::vector<uint32_t> seeds;
    for (const RunConfig* run : runs) {
      settings.push_back(settings_of(*run));
      seeds.push_back(run->seed);
    }
    StageConfig only = first.train.curriculum[stage];
    only.steps = kEndless;
    data = std::make_unique<TrainData>(task_of(first), std::vector{only}, seeds);
    cohort = std::make_unique<TrainCohort>(shape, settings, *data, computing(first, device));
  }
  int seqlen = 0;
  std::unique_ptr<TrainData> data;
  std::unique_ptr<TrainCohort> cohort;
};

/// Steps per second, metrics read every `reads_every` steps as in training.
double step_rate(TrainCohort& cohort, int64_t reads_every, double seconds) {
  const auto slice = [&](int64_t steps) {
    cohort.run(steps);
    cohort.read_metrics();
  };
  slice(1);  // memory is touched, kernels are loaded
  slice(2);
  const Clock::time_point start = Clock::now();
  int64_t steps = 0;
  do {
    // A slow step must not make one slice as long as many seconds.
    const double each = steps == 0 ? 0 : seconds_since(start) / static_cast<double>(steps);
    const int64_t next =
        steps == 0 ? 1
                   : std::clamp<int64_t>(static_cast<int64_t>(seconds / std::max(each, 1e-9) / 4),
                                         1, reads_every);
    slice(next);
    steps += next;
  } while (seconds_since(start) < seconds);
  return static_cast<double>(steps) / seconds_since(start);
}

/// Evaluations per second of all members together.
double evaluation_rate(const RunConfig& config, const TrainCohort& cohort,
                       const ComputeDevice& device) {
  std::vector<MemberState> states;
  std::vector<const MemberState*> weights;
  for (int m = 0; m < cohort.members(); ++m) states.push_back(cohort.snapshot(m));
  for (const MemberState& state : states) weights.push_back(&state);
  const auto lengths = evaluated_lengths(config.eval);
  const auto time = [&](int samples) {
    RunConfig probe = config;
    probe.eval.samples = samples;
    const Clock::time_point start = Clock::now();
    evaluate_members(probe, weights, Stream::kValidation, lengths, device);
    return seconds_since(start);
  };
  const int all = config.eval.samples, few = device.is_cuda() ? 2048 : 64;
  time(1);
  if (all <= 2 * few) return 1 / time(all);
  const double once = time(few), twice = time(2 * few);
  const double per_sample = std::max(0.0, twice - once) / few;
  return 1 / (twice + per_sample * (all - 2 * few));
}

void measure(std::span<const RunConfig* const> runs, int members, int64_t cohorts,
             const BenchColumnOptions& options, const ComputeDevice& device,
             BenchColumnReport& report) {
  BenchColumnRow row;
  row.config = *runs[0];
  row.members = members;
  row.cohorts = cohorts;
  row.runs = cohorts * members;
  const auto add = [&](double per_second) {
    row.per_second = per_second;
    row.seconds = static_cast<double>(row.cohorts * row.count) / per_second;
    report.seconds += row.seconds;
    report.rows.push_back(row);
  };
  const std::vector<StageConfig>& stages = row.config.train.curriculum;
  const int64_t reads_every =
      device.is_cuda() ? row_interval(total_steps(row.config)) : kReadInterval;
  double evaluations = 0;
  for (size_t s = 0; s < stages.size(); ++s) {
    StageCohort stage(runs.first(static_cast<size_t>(members)), s, device);
    row.length = stages[s].length;
    row.seqlen = stage.seqlen;
    row.count = stages[s].steps;
    add(step_rate(*stage.cohort, reads_every, options.seconds));
    if (s + 1 == stages.size()) evaluations = evaluation_rate(row.config, *stage.cohort, device);
  }
  row.evaluation = true;
  row.seqlen = 0;
  const auto lengths = evaluated_lengths(row.config.eval);
  row.length = lengths[0];
  for (const LengthRange& l : lengths)
    row.length = {std::min(row.length.min, l.min), std::max(row.length.max, l.max)};
  row.count = evaluations_of(row.config);
  add(evaluations);
}

}  // namespace

int chosen_members(const RunConfig& config, int64_t runs, const ComputeDevice& device,
                   int max_members) {
  int64_t members = std::min<int64_t>(runs, members_at_most(device, max_members));
  if (device.is_cuda() && members > 1)
    members = std::min<int64_t>(members, members_that_fit(config, device));
  return static_cast<int>(members);
}

int64_t evaluations_of(const RunConfig& run) {
  const int64_t total = total_steps(run), every = run.eval.every;
  const int64_t validations = every == 0 ? 1 : total / every + (total % every != 0);
  return validations + 1;
}

BenchColumnReport bench_column(std::span<const RunConfig> runs, const BenchColumnOptions& options,
                               const ComputeDevice& device) {
  refuse_slow_builds();
  std::vector<std::vector<const RunConfig*>> shapes;
  std::map<std::string, size_t> index;
  for (const RunConfig& run : runs) {
    const auto [place, fresh] = index.try_emplace(shape_key(run), shapes.size());
    if (fresh) shapes.emplace_back();
    shapes[place->second].push_back(&run);
  }
  BenchColumnReport report;
  for (const auto& shape : shapes) {
    const auto count = static_cast<int64_t>(shape.size());
    const int members = chosen_members(*shape[0], count, device, options.max_members);
    measure(shape, members, count / members, options, device, report);
    if (count % members != 0)
      measure(shape, static_cast<int>(count % members), 1, options, device, report);
  }
  return report;
}

}  // namespace statelab
