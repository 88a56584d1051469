// Commands that take results out of a database or change it: eval, export-results, merge, rm.
#include <fmt/core.h>
#include <unistd.h>

#include <fstream>
#include <iostream>
#include <sstream>

#include "experiments/commands.h"
#include "experiments/device.h"
#include "experiments/evaluation.h"
#include "experiments/run_check.h"
#include "kernels/error.h"
#include "models/checkpoint.h"
#include "reports/run_list.h"
#include "store/merge.h"
#include "store/results_file.h"
#include "store/run_store.h"

namespace statelab {
namespace {

int eval(const Arguments& arguments) {
  const ComputeDevice device =
      compute_devices(arguments.get("--device", "auto"), thread_count(arguments))[0];
  RunStore store(existing_database(arguments), Database::Access::kReadWrite);
  const std::string id = found_run(store.database(), arguments.words[0]);
  if (!arguments.has("--lengths"))
    throw UsageError("eval: needs --lengths, such as --lengths 512,1024 or --lengths 40..256");
  RunConfig run = run_config_from_json(store.config(id).value());
  run.eval.lengths.clear();
  run.eval.ranges.clear();
  for (const ScoredLength& l : lengths_of("--lengths", arguments.get("--lengths"))) {
    const LengthRange range{static_cast<int>(l.min), static_cast<int>(l.max)};
    if (l.exact()) {
      run.eval.lengths.push_back(range.min);
    } else {
      run.eval.ranges.push_back(range);
    }
  }
  run.eval.samples = static_cast<int>(arguments.integer("--samples", run.eval.samples, 1, 1 << 26));
  run.eval.stop_at.reset();
  for (const RunProblem& p : complete_and_check(run)) throw UsageError("--lengths: " + p.message);
  const CheckpointRecord checkpoint = chosen_checkpoint(store, id, arguments).record;
  const MemberState state = from_safetensors(store.read_checkpoint(checkpoint));
  const MemberState* weights[] = {&state};
  const auto lengths = evaluated_lengths(run.eval);
  std::vector<EvaluationRecord> rows;
  try {
    rows = evaluate_members(run, weights, Stream::kTest, lengths, device)[0];
  } catch (const UnsupportedOp& e) {
    if (arguments.get("--device", "auto") != "auto") {
      throw MissingFeature(fmt::format("{}: {}; use --device cpu", device_text(device), e.what()));
    }
    fmt::print(stderr, "statelab: computing on the CPU: {}\n", e.what());
    rows = evaluate_members(run, weights, Stream::kTest, lengths, thread_count(arguments))[0];
  }
  Table table;
  table.key = "eval";
  table.title = fmt::format("run {} at step {}, {} samples each", id.substr(0, 12), checkpoint.step,
                            run.eval.samples);
  table.columns = {{"length", "length"},
                   {"accuracy", "accuracy", ColumnType::kPercent},
                   {"standard_error", "se", ColumnType::kPercent},
                   {"sequence_accuracy", "sequences", ColumnType::kPercent},
                   {"chance", "chance", ColumnType::kPercent},
                   {"constant_answer", "constant", ColumnType::kPercent}};
  for (EvaluationRecord& r : rows) {
    r.configured = false;
    const std::string length = ScoredLength{r.length_min, r.length_max}.text();
    table.rows.push_back(
        {{length},
         {r.accuracy()},
         {r.standard_error()},
         {static_cast<double>(r.sequences_correct) / static_cast<double>(r.sequences)},
         {r.chance},
         {r.constant_answer}});
  }
  store.add_evaluations(id, rows);
  print_tables({table}, arguments);
  return kExitOk;
}

int export_results(const Arguments& arguments) {
  Database db(existing_database(arguments), Database::Access::kReadOnly);
  const std::string path = arguments.get("--output", "results.jsonl");
  std::ostringstream text;  // a file appears only when all of it could be read
  const ResultCounts counts = write_results(db, arguments.get("--sweep"), text);
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text.str();
  file.close();
  if (!file) throw std::runtime_error("export-results: cannot write " + path);
  fmt::print("{}: {} runs with {} evaluations of {} sweeps, {:.2f} MB\n", path, counts.runs,
             counts.evaluations, counts.sweeps, static_cast<double>(text.str().size()) / 1e6);
  return kExitOk;
}

int merge_command(const Arguments& arguments) {
  Database target(arguments.words[0], Database::Access::kCreate);
  MergeCounts total;
  for (size_t i = 1; i < arguments.words.size(); ++i) {
    if (is_results_file(arguments.words[i])) {
      const ResultCounts c = read_results(target, arguments.words[i]);
      total.added += c.runs;
      total.kept += c.kept;
      continue;
    }
    const MergeCounts c = merge(target, arguments.words[i]);
    total.added += c.added;
    total.replaced += c.replaced;
    total.kept += c.kept;
    total.files += c.files;
  }
  if (arguments.has("--json")) {
    fmt::print("{{\"added\":{},\"replaced\":{},\"kept\":{},\"files\":{}}}\n", total.added,
               total.replaced, total.kept, total.files);
  } else {
    fmt::print(
        "{}: {} runs added, {} replaced by further ones, {} kept, {} checkpoint files copied\n",
        arguments.words[0], total.added, total.replaced, total.kept, total.files);
  }
  return kExitOk;
}

int remove(const Arguments& arguments) {
  RunStore store(existing_database(arguments), Database::Access::kReadWrite);
  ListOptions list;
  for (const std::string& word : arguments.words)
    list.filter.run_ids.push_back(found_run(store.database(), word));
  const Table table = list_runs(store.database(), list);
  print_tables({table}, arguments);
  if (arguments.has("--dry-run")) return kExitOk;
  if (!arguments.has("--yes")) {
    if (!isatty(STDIN_FILENO))
      throw UsageError("rm: needs --yes where nobody can be asked; nothing was removed");
    fmt::print(stderr, "Remove {} run{} with metrics, scores and checkpoints? [y/N] ",
               table.rows.size(), table.rows.size() == 1 ? "" : "s");
    std::string answer;
    std::getline(std::cin, answer);
    if (answer != "y" && answer != "Y" && answer != "yes") {
      fmt::print(stderr, "nothing was removed\n");
      return kExitOk;
    }
  }
  const int64_t removed = store.remove(list.filter.run_ids);
  fmt::print(stderr, "{} run{} removed\n", removed, removed == 1 ? "" : "s");
  return kExitOk;
}

}  // namespace

std::vector<Command> store_commands() {
  std::vector<Command> out;
  out.push_back(
      {"eval",
       "score a trained run at other lengths, and keep the scores",
       "RUN",
       1,
       1,
       WordKind::kRun,
       {{"statelab eval 3fa9c1d2 --lengths 512,1024,40..256", "single lengths and a pooled range"}},
       {database_option(),
        {"--lengths", "40,80,40..256", "reported lengths and ranges"},
        {"--samples", "N", "sequences per length, as configured by default"},
        checkpoint_option(),
        {"--device", "D", "auto (default), cpu, cuda or cuda:INDEX"},
        threads_option(),
        format_option(),
        json_option()},
       eval});
  out.push_back({"export-results",
                 "write scores as text, without weights and curves, for a repository or a paper",
                 "",
                 0,
                 0,
                 WordKind::kNone,
                 {{"statelab export-results --db parity.db --output parity.jsonl",
                   "`statelab compare --db parity.jsonl` reads it on any machine"}},
                 {database_option(),
                  {"--sweep", "NAME", "only runs of this sweep"},
                  {"--output", "FILE", "the file, results.jsonl by default"}},
                 export_results});
  out.push_back(
      {"merge",
       "copy the runs of other databases into the first",
       "TARGET.db SOURCE.db...",
       2,
       -1,
       WordKind::kDatabase,
       {{"statelab merge all.db node1.db node2.db", "by run id; doing it again changes nothing"},
        {"statelab merge all.db results.jsonl", "the results of export-results as well"}},
       {json_option()},
       merge_command});
  out.push_back({"rm",
                 "remove runs with all that was computed",
                 "RUN...",
                 1,
                 -1,
                 WordKind::kRun,
                 {{"statelab rm 3fa9c1d2", "shows the run and asks"},
                  {"statelab rm 3fa9c1d2 --yes", "does not ask"}},
                 {database_option(),
                  {"--yes", "", "do not ask"},
                  {"--dry-run", "", "only show what would be removed"},
                  format_option(),
                  json_option()},
                 remove});
  return out;
}

}  // namespace statelab
