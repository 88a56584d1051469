// The command that looks into a trained model: inspect.
#include <fmt/core.h>

#include "experiments/commands.h"
#include "experiments/inspection.h"

namespace statelab {
namespace {

/// Test scores that belong to the checkpoint's step.
std::vector<EvaluationRecord> scores_of(RunStore& store, const std::string& id, int64_t step) {
  std::vector<EvaluationRecord> out;
  for (EvaluationRecord& row : store.evaluations(id, "test")) {
    if (row.step == step) out.push_back(std::move(row));
  }
  return out;
}

int inspect_run(const Arguments& arguments) {
  RunStore store(existing_database(arguments), Database::Access::kReadOnly);
  const std::string id = found_run(store.database(), arguments.words[0]);
  InspectOptions options;
  options.length = static_cast<int>(arguments.integer("--length", 0, 1, 65536));
  options.samples = static_cast<int>(arguments.integer("--samples", options.samples, 1, 65536));
  options.threads = thread_count(arguments);
  options.all_pairs = arguments.has("--all-pairs") || arguments.has("--json") ||
                      arguments.get("--format") == "json";
  if (arguments.has("--task-tokens"))
    options.symbols = comma_list("--task-tokens", arguments.get("--task-tokens"));
  const ChosenCheckpoint checkpoint = chosen_checkpoint(store, id, arguments);
  const MemberState state = from_safetensors(store.read_checkpoint(checkpoint.record));
  const RunConfig run = run_config_from_json(store.config(id).value());
  Inspection inspection;
  try {
    inspection = inspect(run, state, options, scores_of(store, id, state.step));
  } catch (const std::invalid_argument& e) {
    throw UsageError(std::string("inspect: ") + e.what());
  }
  inspection.transitions.title = fmt::format("run {} at step {}: {}", id.substr(0, 12), state.step,
                                             inspection.transitions.title);
  std::vector<Table> tables = {inspection.transitions};
  if (inspection.phase) {
    for (Table& table : phase_tables(*inspection.phase)) tables.push_back(std::move(table));
  }
  print_tables(tables, arguments);
  return kExitOk;
}

}  // namespace

std::vector<Command> inspect_commands() {
  std::vector<Command> out;
  out.push_back(
      {"inspect",
       "show what a trained model does to its state at each input symbol",
       "RUN",
       1,
       1,
       WordKind::kRun,
       {{"statelab inspect 3fa9c1d2", "decays, angles, eigenvalues by layer, head and symbol"},
        {"statelab inspect 3fa9c1d2 --task-tokens 1 --length 256 --json", "one symbol, as JSON"}},
       {database_option(),
        {"--task-tokens", "0,1", "only these input symbols"},
        {"--length", "N",
         "reported length of the sampled sequences, the longest trained by default"},
        {"--samples", "N", "sampled sequences, 64 by default"},
        {"--all-pairs", "",
         "all rotated pairs of a head, not only the one with the largest weight"},
        checkpoint_option(),
        threads_option(),
        format_option(),
        json_option()},
       inspect_run});
  return out;
}

}  // namespace statelab
