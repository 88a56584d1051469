// bench column: how long a whole sweep takes, per task and model.
#include <fmt/core.h>

#include <map>

#include "experiments/bench_column.h"
#include "experiments/build_info.h"
#include "experiments/commands.h"
#include "experiments/device.h"
#include "experiments/evaluation.h"
#include "experiments/execution.h"
#include "experiments/sweep.h"
#include "kernels/error.h"
#include "reports/flat_config.h"
#include "reports/scores.h"

namespace statelab {
namespace {

std::string label_of(const RunConfig& run) {
  return model_label(flatten_config(canonical_json(run)));
}

Table measured(const BenchColumnReport& report, const SweepConfig& sweep,
               const std::string& device) {
  Table table;
  table.key = "bench-column";
  table.title = fmt::format("{}: {} runs on {}, commit {}", sweep.name, sweep.runs.size(), device,
                            build_info().commit.substr(0, 12));
  table.columns = {
      {.key = "task", .title = "task"},
      {.key = "model", .title = "model"},
      {.key = "n_layers", .title = "layers", .type = ColumnType::kInteger},
      {.key = "d_model", .title = "d_model", .type = ColumnType::kInteger},
      {.key = "members", .title = "members", .type = ColumnType::kInteger},
      {.key = "cohorts", .title = "cohorts", .type = ColumnType::kInteger},
      {.key = "work", .title = "work"},
      {.key = "lengths", .title = "lengths", .align = Align::kRight},
      {.key = "count", .title = "times", .type = ColumnType::kInteger},
      {.key = "per_second", .title = "per second", .type = ColumnType::kNumber},
      {.key = "member_ms",
       .title = "each, per run",
       .type = ColumnType::kNumber,
       .unit = "ms",
       .digits = 3},
      {.key = "seconds", .title = "column", .type = ColumnType::kNumber, .unit = "s", .digits = 1}};
  for (const BenchColumnRow& row : report.rows) {
    table.rows.push_back({{row.config.task.name},
                          {label_of(row.config)},
                          {static_cast<int64_t>(row.config.model.n_layers)},
                          {static_cast<int64_t>(row.config.model.d_model)},
                          {static_cast<int64_t>(row.members)},
                          {row.cohorts},
                          {std::string(row.evaluation ? "evaluation" : "steps")},
                          {ScoredLength{row.length.min, row.length.max}.text()},
                          {row.count},
                          {row.per_second},
                          {1e3 / row.per_second / row.members},
                          {row.seconds}});
  }
  table.notes = {
      {"", "column = cohorts x times / (per second): all members of a cohort take a step together"},
      {"",
       "evaluations are of all lengths and samples of the configuration, extrapolated from fewer "
       "samples; checkpoints and the building of programs are not counted"}};
  return table;
}

Table totals(const BenchColumnReport& report) {
  struct Sum {
    double training = 0, evaluation = 0;
    int64_t runs = 0;
  };
  std::vector<std::pair<std::string, std::string>> order;
  std::map<std::pair<std::string, std::string>, Sum> sums;
  for (const BenchColumnRow& row : report.rows) {
    const std::pair<std::string, std::string> key{row.config.task.name, label_of(row.config)};
    const auto [place, fresh] = sums.try_emplace(key);
    if (fresh) order.push_back(key);
    (row.evaluation ? place->second.evaluation : place->second.training) += row.seconds;
    if (row.evaluation) place->second.runs += row.runs;
  }
  using enum ColumnType;
  Table table;
  table.key = "bench-column-totals";
  table.title = "time of the whole column on one device";
  table.columns = {
      {.key = "task", .title = "task"},
      {.key = "model", .title = "model"},
      {.key = "runs", .title = "runs", .type = kInteger},
      {.key = "training_seconds", .title = "training", .type = kNumber, .unit = "s", .digits = 1},
      {.key = "evaluation_seconds",
       .title = "evaluation",
       .type = kNumber,
       .unit = "s",
       .digits = 1},
      {.key = "seconds", .title = "all", .type = kNumber, .unit = "s", .digits = 1},
      {.key = "minutes", .title = "all", .type = kNumber, .unit = "min", .digits = 2}};
  Sum all;
  const auto add = [&](const std::string& task, const std::string& model, const Sum& sum) {
    const double seconds = sum.training + sum.evaluation;
    table.rows.push_back(
        {{task}, {model}, {sum.runs}, {sum.training}, {sum.evaluation}, {seconds}, {seconds / 60}});
  };
  for (const auto& key : order) {
    const Sum& sum = sums[key];
    add(key.first, key.second, sum);
    all.training += sum.training;
    all.evaluation += sum.evaluation;
    all.runs += sum.runs;
  }
  add("all", "all", all);
  return table;
}

}  // namespace

int bench_column_command(const Arguments& arguments) {
  if (arguments.has("--precision"))
    throw UsageError(
        "--precision: belongs to bench train, eval and ops; bench column takes that of the sweep "
        "(train.precision=tf32 overrides it)");
  const auto [files, overrides] =
      sweep_words("bench column", {arguments.words.begin() + 1, arguments.words.end()});
  BenchColumnOptions options;
  options.seconds = static_cast<double>(
      arguments.integer("--seconds", static_cast<int64_t>(options.seconds), 1, 3600));
  options.max_members = static_cast<int>(arguments.integer("--max-members", 0, 1, 4096));
  const std::vector<SweepConfig> sweeps = load_sweeps(files, overrides);
  const ComputeDevice device =
      compute_devices(arguments.get("--device", "auto"), thread_count(arguments))[0];
  for (const SweepConfig& sweep : sweeps) {
    for (size_t i = 0; i < sweep.runs.size(); ++i) {
      try {
        check_computable(sweep.runs[i], device);
      } catch (const UnsupportedOp& e) {
        throw MissingFeature(device_text(device) + ": " + sweep.run_names[i] + ": " + e.what());
      }
    }
  }
  const std::string place = device_title(device);
  std::vector<Table> tables;
  for (const SweepConfig& sweep : sweeps) {
    const BenchColumnReport report = bench_column(sweep.runs, options, device);
    tables.push_back(measured(report, sweep, place));
    tables.push_back(totals(report));
  }
  print_tables(tables, arguments);
  return kExitOk;
}

}  // namespace statelab
