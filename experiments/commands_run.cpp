// Commands that compute: run and quickstart.
#include <fmt/core.h>
#include <unistd.h>

#include <chrono>
#include <climits>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "experiments/cohort_trainer.h"
#include "experiments/commands.h"
#include "experiments/device.h"
#include "experiments/evaluation.h"
#include "experiments/runner.h"
#include "experiments/stop_signal.h"
#include "experiments/sweep.h"
#include "kernels/error.h"
#include "reports/comparison.h"
#include "store/run_store.h"

namespace statelab {
namespace {

namespace fs = std::filesystem;

/// "90", "90s", "9m", "1h30m" as seconds.
double duration(const std::string& text) {
  double total = 0;
  size_t at = 0;
  bool good = !text.empty();
  while (good && at < text.size()) {
    size_t end = at;
    while (end < text.size() && ((text[end] >= '0' && text[end] <= '9') || text[end] == '.')) ++end;
    good = end > at &&
           text.find('.', text.find('.', at) == std::string::npos ? text.size()
                                                                  : text.find('.', at) + 1) >= end;
    const char unit = end < text.size() ? text[end] : 's';
    const double factor = unit == 's'   ? 1
                          : unit == 'm' ? 60
                          : unit == 'h' ? 3600
                          : unit == 'd' ? 86400
                                        : 0;
    good = good && factor > 0;
    if (good) total += std::strtod(text.substr(at, end - at).c_str(), nullptr) * factor;
    at = end + 1;
  }
  if (!good || total <= 0)
    throw UsageError("--time-limit: must be a duration such as 90s, 9m or 1h30m, is `" + text +
                     "`");
  return total;
}

ProgressMode progress_mode(const Arguments& arguments) {
  static const std::map<std::string, ProgressMode> modes = {{"auto", ProgressMode::kAuto},
                                                            {"bar", ProgressMode::kBar},
                                                            {"plain", ProgressMode::kPlain},
                                                            {"none", ProgressMode::kNone}};
  return modes.at(arguments.get("--progress", "auto"));
}

std::vector<NamedRun> named(const SweepConfig& sweep) {
  std::vector<NamedRun> out;
  for (size_t i = 0; i < sweep.runs.size(); ++i) out.push_back({sweep.runs[i], sweep.run_names[i]});
  return out;
}

std::vector<std::string> ids_of(const SweepConfig& sweep) {
  std::vector<std::string> out;
  for (const RunConfig& run : sweep.runs) out.push_back(run_id(run));
  return out;
}

/// What would be computed: every run with its state in the database.
int dry_run(const std::vector<SweepConfig>& sweeps, const Arguments& arguments) {
  const std::string path = database_path(arguments);
  std::unique_ptr<RunStore> store;
  if (fs::exists(path)) store = std::make_unique<RunStore>(path, Database::Access::kReadOnly);
  std::vector<Table> tables;
  for (const SweepConfig& sweep : sweeps) {
    const auto ids = ids_of(sweep);
    std::map<std::string, RunSummary> known;
    if (store) {
      for (RunSummary& s : store->summaries(ids)) known[s.run_id] = s;
    }
    Table table;
    table.key = "dry-run";
    table.columns = {{"state", "state"},
                     {"run", "run"},
                     {"name", "name"},
                     {"steps_done", "steps", ColumnType::kInteger},
                     {"total_steps", "of", ColumnType::kInteger}};
    std::map<std::string, int> counts;
    for (size_t i = 0; i < ids.size(); ++i) {
      const auto it = known.find(ids[i]);
      std::string state = "new";
      int64_t steps = 0;
      if (it != known.end()) {
        const RunSummary& s = it->second;
        steps = s.steps_done;
        state = s.status == "finished" || s.status == "diverged" ? "done"
                : s.status == "failed"                           ? "failed"
                : steps > 0                                      ? "partial"
                                                                 : "new";
      }
      ++counts[state];
      table.rows.push_back({{state},
                            {ids[i].substr(0, 12)},
                            {sweep.run_names[i]},
                            {steps},
                            {total_steps(sweep.runs[i])}});
    }
    std::string summary;
    for (const char* state : {"new", "partial", "failed", "done"}) {
      if (counts[state])
        summary += (summary.empty() ? "" : ", ") + std::to_string(counts[state]) + ' ' + state;
    }
    table.title =
        fmt::format("{}: {} runs ({}); nothing was computed", sweep.name, ids.size(), summary);
    tables.push_back(std::move(table));
  }
  print_tables(tables, arguments);
  return kExitOk;
}

/// The devices that --device names. Where a run has a shape that a CUDA device cannot compute, the sweeps go to the CPU, unless
/// the device was asked for by name. Errors: UsageError, MissingFeature; nothing is written before.
std::vector<ComputeDevice> devices_for(const std::vector<SweepConfig>& sweeps,
                                       const Arguments& arguments) {
  const std::string word = arguments.get("--device", "auto");
  const int threads = thread_count(arguments);
  std::vector<ComputeDevice> devices = compute_devices(word, threads);
  if (!devices[0].is_cuda()) return devices;
  std::set<std::string> seen;
  for (const SweepConfig& sweep : sweeps) {
    for (size_t i = 0; i < sweep.runs.size(); ++i) {
      if (!seen.insert(shape_key(sweep.runs[i])).second) continue;
      try {
        check_computable(sweep.runs[i], devices[0]);
      } catch (const UnsupportedOp& e) {
        const std::string text = sweep.run_names[i] + ": " + e.what();
        if (word != "auto")
          throw MissingFeature("--device " + word + ": " + text + "; use --device cpu");
        fmt::print(stderr, "statelab: computing on the CPU: {}\n", text);
        return {threads};
      }
    }
  }
  return devices;
}

Table comparison(const std::string& database, const SweepConfig& sweep) {
  Database db(database, Database::Access::kReadOnly);
  CompareOptions options;
  options.filter.run_ids = ids_of(sweep);
  const int columns = terminal_columns();
  return columns > 0 ? compare_for_width(db, options, columns) : compare(db, options);
}

/// Computes all sweeps, one after the other, and prints their tables. Returns the worst exit code.
int compute(const std::vector<SweepConfig>& sweeps, const std::vector<std::string>& overrides,
            const std::string& database, const Arguments& arguments) {
  const std::vector<ComputeDevice> devices = devices_for(sweeps, arguments);
  const auto start = std::chrono::steady_clock::now();
  const auto progress = terminal_progress(stderr, progress_mode(arguments));
  RunnerOptions options;
  options.database = database;
  options.threads = thread_count(arguments);
  options.devices = devices;
  options.max_members = static_cast<int>(arguments.integer("--max-members", 0, 1, 4096));
  options.checkpoint_seconds =
      static_cast<double>(arguments.integer("--checkpoint-seconds", 30, 1, 86400));
  options.fail_fast = arguments.has("--fail-fast");
  options.rerun = arguments.has("--rerun");
  options.restart = arguments.has("--restart");
  options.command_line = command_line();
  const StopSignals signals;
  options.stop_signal = [] { return StopSignals::received(); };
  std::optional<double> limit;
  if (arguments.has("--time-limit")) limit = duration(arguments.get("--time-limit"));
  int code = kExitOk;
  for (const SweepConfig& sweep : sweeps) {
    if (limit) {
      const double spent =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      options.time_limit = std::max(0.0, *limit - spent);
    }
    const SweepRecord record{sweep.name, sweep.resolved, nlohmann::json(overrides).dump(),
                             command_line()};
    const RunnerResult result = run_all(named(sweep), record, options, *progress);
    if (const int own = exit_code(result);
        code == kExitOk || own == kExitInterrupted || own == kExitTerminated)
      code = own;
    std::string text = fmt::format("{}: {} of {} runs done", sweep.name,
                                   result.finished + result.diverged, result.total);
    if (result.diverged) text += fmt::format(", {} of them diverged", result.diverged);
    if (result.failed) text += fmt::format(", {} failed", result.failed);
    if (result.unfinished)
      text +=
          fmt::format(", {} unfinished: run the same command again to go on", result.unfinished);
    progress->on_message(text);
    if (result.reason == RunnerResult::Reason::kSignal) break;
    if (result.finished + result.diverged > 0)
      print_tables({comparison(database, sweep)}, arguments);
    if (result.reason == RunnerResult::Reason::kFailFast ||
        result.reason == RunnerResult::Reason::kTimeLimit)
      break;
  }
  return code;
}

void print_warnings(const std::vector<SweepConfig>& sweeps) {
  for (const SweepConfig& sweep : sweeps) {
    for (const std::string& warning : sweep.warnings)
      fmt::print(stderr, "statelab: warning: {}\n", warning);
  }
}

int run(const Arguments& arguments) {
  const auto [files, overrides] = sweep_words("run", arguments.words);
  if (arguments.has("--rerun") && arguments.has("--restart")) {
    throw UsageError(
        "run: --rerun computes everything again, --restart what was begun elsewhere: choose one");
  }
  if (arguments.has("--time-limit")) duration(arguments.get("--time-limit"));
  if (arguments.has("--device")) compute_devices(arguments.get("--device"), 1);
  const auto sweeps = load_sweeps(files, overrides);
  print_warnings(sweeps);
  if (arguments.has("--dry-run")) return dry_run(sweeps, arguments);
  return compute(sweeps, overrides, database_path(arguments), arguments);
}

/// The folder that holds experiments/configs: that of the script, or the one that this program was built in.
fs::path home_folder() {
  if (const char* home = std::getenv("STATELAB_HOME"); home && *home) return home;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  for (fs::path folder = program.parent_path(); !error && folder.has_relative_path();
       folder = folder.parent_path()) {
    if (fs::exists(folder / "experiments/configs/quickstart/sweep.yaml")) return folder;
  }
  throw UsageError(
      "quickstart: experiments/configs/quickstart/sweep.yaml is not above this program: set "
      "STATELAB_HOME to the folder of the sources");
}

int quickstart(const Arguments& arguments) {
  const fs::path home = home_folder();
  const auto sweeps =
      load_sweeps({(home / "experiments/configs/quickstart/sweep.yaml").string()}, arguments.words);
  print_warnings(sweeps);
  const std::string database = arguments.get("--db", (home / "runs/quickstart.db").string());
  return compute(sweeps, arguments.words, database, arguments);
}

}  // namespace

std::vector<Command> run_commands() {
  const CommandOption device{"--device", "D",
                             "auto (default: the GPUs, else the CPU), cpu, cuda or "
                             "cuda:INDEX"};
  const CommandOption progress{"--progress",
                               "",
                               "what standard error shows, auto by default",
                               {"auto", "bar", "plain", "none"}};
  const CommandOption limit{"--time-limit", "9m",
                            "stop after a checkpoint when this much time is over, exit code 0"};
  const CommandOption rerun{"--rerun", "", "compute finished runs again as well"};
  const CommandOption restart{"--restart", "",
                              "start anew what another backend, device model or build had begun"};
  const CommandOption members{"--max-members", "N",
                              "runs that train together at most; no number depends on it"};
  const CommandOption every{"--checkpoint-seconds", "N",
                            "time between checkpoints, 30; no number depends on it"};
  const CommandOption fast{"--fail-fast", "", "stop at the first failed run"};
  std::vector<Command> out;
  out.push_back({"run",
                 "compute what a sweep still lacks, then compare",
                 "CONFIG... [key=value]...",
                 1,
                 -1,
                 WordKind::kConfig,
                 {{"statelab run sweep.yaml",
                   "runs that are done are left alone: running again is how one resumes"},
                  {"statelab run sweep.yaml --dry-run", "list the runs: new, partial, done"},
                  {"statelab run sweep.yaml train.batch=128 train.optimizer.lr=0.001,0.002 seeds=5",
                   "with other settings; a comma list sweeps"},
                  {"statelab run sweep.yaml --time-limit 9m --db results.db",
                   "as much as fits into nine minutes"}},
                 {database_option(),
                  device,
                  threads_option(),
                  {"--dry-run", "", "list the runs, compute and write nothing"},
                  limit,
                  fast,
                  rerun,
                  restart,
                  members,
                  every,
                  progress,
                  format_option(),
                  json_option()},
                 run});
  out.push_back(
      {"quickstart",
       "train small models on parity and compare them",
       "[key=value]...",
       0,
       -1,
       WordKind::kNone,
       {{"statelab quickstart", "a few minutes on two cores; results in runs/quickstart.db"}},
       {database_option(), device, threads_option(), limit, fast, rerun, restart, members, every,
        progress, format_option(), json_option()},
       quickstart});
  return out;
}

}  // namespace statelab
