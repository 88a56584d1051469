#include "experiments/run_check.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "experiments/field.h"
#include "experiments/suggestion.h"

namespace statelab {
namespace {

std::string task_text(const RunConfig& run) {
  std::string text;
  for (const Field& field : fields()) {
    if (field.key.rfind("task.", 0) == 0) text += to_canonical_json(field.get(run)) + '\n';
  }
  return text;
}

std::string shown(LengthRange range) {
  return range.min == range.max
             ? "length " + std::to_string(range.min)
             : "lengths " + std::to_string(range.min) + ".." + std::to_string(range.max);
}

void check_lengths(const Task& task, const RunConfig& run, std::vector<RunProblem>& out) {
  const auto check = [&](const std::string& key, size_t item, LengthRange range) {
    try {
      task.check_lengths(range);
    } catch (const TaskError& e) {
      out.push_back({key, static_cast<int>(item), shown(range) + ": " + e.what()});
    }
  };
  for (size_t i = 0; i < run.train.curriculum.size(); ++i)
    check("train.curriculum", i, run.train.curriculum[i].length);
  for (size_t i = 0; i < run.eval.lengths.size(); ++i)
    check("eval.lengths", i, {run.eval.lengths[i], run.eval.lengths[i]});
  for (size_t i = 0; i < run.eval.ranges.size(); ++i) check("eval.ranges", i, run.eval.ranges[i]);
}

void check_evaluation(const RunConfig& run, std::vector<RunProblem>& out) {
  const EvalConfig& eval = run.eval;
  if (eval.lengths.empty() && eval.ranges.empty()) {
    out.push_back(
        {"eval.lengths", -1,
         "eval.lengths and eval.ranges are both empty: give at least one length to score"});
  }
  for (size_t i = 0; i < eval.lengths.size(); ++i) {
    if (std::find(eval.lengths.begin(), eval.lengths.begin() + static_cast<ptrdiff_t>(i),
                  eval.lengths[i]) != eval.lengths.begin() + static_cast<ptrdiff_t>(i)) {
      out.push_back({"eval.lengths", static_cast<int>(i),
                     "length " + std::to_string(eval.lengths[i]) + " occurs twice"});
    }
  }
  if (eval.stop_at) {
    const bool any = std::any_of(eval.lengths.begin(), eval.lengths.end(),
                                 [&](int l) { return l <= longest_trained(run); });
    if (eval.every == 0)
      out.push_back(
          {"eval.stop_at", -1, "needs validations during training: set eval.every > 0, is 0"});
    if (!any) {
      out.push_back({"eval.stop_at", -1,
                     "looks at evaluated lengths up to the longest trained one, " +
                         std::to_string(longest_trained(run)) + ", and eval.lengths has none"});
    }
  }
  if (eval.select == "best" && eval.every == 0) {
    out.push_back(
        {"eval.select", -1, "best needs validations during training: set eval.every > 0, is 0"});
  }
}

}  // namespace

int longest_trained(const RunConfig& run) {
  int longest = 0;
  for (const StageConfig& stage : run.train.curriculum)
    longest = std::max(longest, stage.length.max);
  return longest;
}

std::shared_ptr<const Task> task_of(const RunConfig& run) {
  static std::mutex mutex;
  static std::map<std::string, std::shared_ptr<const Task>> known;
  const std::string text = task_text(run);
  const std::lock_guard lock(mutex);
  auto& task = known[text];
  if (!task) {
    try {
      task = make_task(run.task);
    } catch (...) {
      known.erase(text);
      throw;
    }
  }
  return task;
}

std::vector<RunProblem> complete_and_check(RunConfig& run) {
  std::vector<RunProblem> out;
  std::shared_ptr<const Task> task;
  try {
    task = task_of(run);
    run.model.vocab_size = task->vocab_size();
  } catch (const TaskError& e) {
    std::string message = e.what();
    if (e.parameter == "name" && message.find("did you mean") == std::string::npos) {
      std::vector<std::string> names;
      std::string all;
      for (const TaskSummary& t : list_tasks()) {
        names.push_back(t.name);
        all += (all.empty() ? "" : ", ") + t.name;
      }
      if (message.find(all) == std::string::npos) message += "; known are " + all;
      for (const std::string& preset : list_presets()) names.push_back(preset);
      message += did_you_mean(run.task.name, names);
    }
    const std::string parameter =
        e.parameter.rfind("custom_group", 0) == 0 ? "group" + e.parameter.substr(12) : e.parameter;
    out.push_back({parameter.empty() ? "task" : "task." + parameter, -1, message});
  }
  for (const ModelProblem& p : validate(run.model)) {
    const std::string field = p.field == "dt_min" || p.field == "dt_max" ? "dt_range"
                              : p.field == "eigenvalue_min" || p.field == "eigenvalue_max"
                                  ? "eigenvalue_range"
                                  : p.field;
    out.push_back({"model." + field, -1, p.message});
  }
  if (task) check_lengths(*task, run, out);
  check_evaluation(run, out);
  return out;
}

}  // namespace statelab
