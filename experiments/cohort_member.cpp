#include "experiments/cohort_member.h"

#include <stdexcept>

#include "experiments/evaluation.h"
#include "experiments/run_check.h"

namespace statelab {

Member take_up_member(RunStore& store, ClaimedRun run, std::optional<MemberState>& state) {
  Member m;
  m.config = run_config_from_json(run.config);
  m.run = std::move(run);
  const int64_t step = m.run.steps_done;
  if (step == 0) return m;
  if (!m.run.last)
    throw std::runtime_error("the checkpoint of step " + std::to_string(step) + " is missing");
  Metadata metadata;
  state = from_safetensors(store.read_checkpoint(*m.run.last), &metadata);
  m.diverged_at = state->diverged_at;
  if (const auto it = metadata.find("window"); it != metadata.end())
    m.window = MetricWindow::from_text(it->second);
  for (const EvaluationRecord& row : store.evaluations(m.run.run_id, "validation")) {
    if (!m.validation.empty() && m.validation[0].step != row.step) {
      remember_best(m, nullptr);
      m.validation.clear();
    }
    m.validation.push_back(row);
  }
  remember_best(m, nullptr);
  if (!m.validation.empty() && m.validation[0].step != step) m.validation.clear();
  return m;
}

void remember_best(Member& member, const MemberState* state) {
  if (member.config.eval.select != "best" || member.validation.empty()) return;
  const double accuracy = accuracy_at(member.validation, selecting_length(member.config.eval));
  if (!(accuracy > member.best_accuracy)) return;
  member.best_accuracy = accuracy;
  member.best_step = member.validation[0].step;
  if (state != nullptr) member.best = *state;
}

CohortShape shape_of(const RunConfig& run) {
  CohortShape shape;
  shape.model = run.model;
  shape.batch = run.train.batch;
  shape.schedule = run.train.schedule;
  const std::shared_ptr<const Task> task = task_of(run);
  shape.one_target = task->one_target();
  for (const StageConfig& stage : run.train.curriculum) {
    const int positions = task->seqlen(stage.length.max), multiple = run.train.bucket_multiple;
    shape.stages.push_back({stage.steps, (positions + multiple - 1) / multiple * multiple});
  }
  return shape;
}

ComputeDevice computing(const RunConfig& run, ComputeDevice device) {
  if (!device.is_cuda()) return device;
  for (const Precision precision : {Precision::kFp32, Precision::kTf32, Precision::kBf16}) {
    if (run.train.precision == precision_name(precision)) device.precision = precision;
  }
  return device;
}

MemberSettings settings_of(const RunConfig& run) {
  const OptimizerConfig& o = run.train.optimizer;
  MemberSettings settings;
  settings.init_seed = run.seed;
  settings.lr = o.lr;
  settings.beta1 = o.beta1;
  settings.beta2 = o.beta2;
  settings.eps = o.eps;
  settings.weight_decay = o.weight_decay;
  settings.clip_norm = o.clip_norm;
  return settings;
}

double accuracy_at(const std::vector<EvaluationRecord>& rows, LengthRange lengths) {
  for (const EvaluationRecord& row : rows) {
    if (row.length_min == lengths.min && row.length_max == lengths.max) return row.accuracy();
  }
  return -1;
}

bool solved(const RunConfig& run, const std::vector<EvaluationRecord>& validation) {
  if (!run.eval.stop_at || validation.empty()) return false;
  const int longest = longest_trained(run);
  for (const bool exact : {true, false}) {
    bool any = false, all = true;
    for (const EvaluationRecord& row : validation) {
      if ((row.length_min == row.length_max) != exact || row.length_max > longest) continue;
      any = true;
      all = all && row.accuracy() >= *run.eval.stop_at;
    }
    if (any) return all;
  }
  return false;
}

std::string last_bytes(const Member& member, const MemberState& state) {
  Metadata metadata{{"run_id", member.run.run_id}, {"config", member.run.config}};
  if (!member.window.empty()) metadata["window"] = member.window.to_text();
  return to_safetensors(state, metadata);
}

std::string best_bytes(const Member& member) {
  return to_safetensors(member.best.value(),
                        {{"run_id", member.run.run_id}, {"config", member.run.config}});
}

MemberState read_best(RunStore& store, const Member& member) {
  const std::optional<CheckpointRecord> best = store.checkpoint(member.run.run_id, "best");
  if (!best)
    throw std::runtime_error("the checkpoint of the best step " + std::to_string(member.best_step) +
                             " is missing");
  return from_safetensors(store.read_checkpoint(*best));
}

MemberState with_weights_of(RunStore& store, const std::string& source, MemberState fresh) {
  const std::optional<std::string> source_config = store.config(source);
  if (!source_config)
    throw std::runtime_error("train.init_from: no run " + source + " in this database");
  const RunSummary summary = store.summaries(std::vector{source}).at(0);
  if (summary.status != "finished") {
    throw std::runtime_error("train.init_from: run " + source + " must be finished, is " +
                             summary.status);
  }
  const std::string kind = run_config_from_json(*source_config).eval.select;
  const std::optional<CheckpointRecord> record = store.checkpoint(source, kind);
  if (!record) throw std::runtime_error("train.init_from: run " + source + " has no checkpoint");
  const MemberState trained = from_safetensors(store.read_checkpoint(*record));
  if (trained.weights.size() != fresh.weights.size()) {
    throw std::runtime_error("train.init_from: run " + source + " must have " +
                             std::to_string(fresh.weights.size()) + " parameters, has " +
                             std::to_string(trained.weights.size()));
  }
  for (size_t i = 0; i < fresh.weights.size(); ++i) {
    const NamedTensor &from = trained.weights[i], &to = fresh.weights[i];
    if (from.name != to.name || from.shape != to.shape) {
      throw std::runtime_error("train.init_from: parameter " + to.name +
                               " has another name or shape in run " + source);
    }
  }
  fresh.weights = trained.weights;
  return fresh;
}

}  // namespace statelab
