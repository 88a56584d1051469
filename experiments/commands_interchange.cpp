// Commands that take a run's weights to other programs and back: export, import.
#include <fmt/core.h>

#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "experiments/commands.h"
#include "experiments/run_file.h"
#include "experiments/sweep.h"
#include "models/interchange.h"

namespace statelab {
namespace {

using Json = nlohmann::ordered_json;
constexpr size_t kShownDigits = 12;

/// Lines that load the file, which a Python interpreter takes as they stand.
std::string python_lines(const Counterpart& counterpart, const std::string& layout,
                         const std::string& title, const std::string& path) {
  std::string text = "# " + title + '\n';
  if (layout == kOwnLayout) return text + "# `statelab import " + path + "` reads it back\n";
  for (const std::string& note : counterpart.notes) text += "# " + note + '\n';
  text += "from safetensors.torch import load_file\n";
  for (const std::string& line : counterpart.constructor) text += line + '\n';
  return text + "model.load_state_dict(load_file(" + Json(path).dump() + "), strict=True)\n";
}

int export_run(const Arguments& arguments) {
  RunStore store(existing_database(arguments), Database::Access::kReadOnly);
  const std::string id = found_run(store.database(), arguments.words[0]);
  const ChosenCheckpoint checkpoint = chosen_checkpoint(store, id, arguments);
  const std::string config = store.config(id).value();
  const ModelConfig model = run_config_from_json(config).model;
  const Counterpart counterpart = counterpart_of(model);
  const bool own = arguments.get("--layout", "official") == kOwnLayout;
  const std::string layout = own ? kOwnLayout : counterpart.layout;
  if (!own && !counterpart.missing.empty()) {
    std::string reasons;
    for (const ModelProblem& p : counterpart.missing)
      reasons += "\n  model." + p.field + ": " + p.message;
    throw UsageError(fmt::format("export: run {} has no counterpart in {}:{}",
                                 id.substr(0, kShownDigits), layout, reasons));
  }
  const MemberState state = from_safetensors(store.read_checkpoint(checkpoint.record));
  const RunSummary summary = store.summaries(std::vector{id}).at(0);
  const std::string bytes =
      write_run_file({id, summary.name, config}, state, checkpoint.kind, layout);
  const std::string path = arguments.get("--output", id.substr(0, kShownDigits) + ".safetensors");
  const std::string text =
      python_lines(counterpart, layout,
                   fmt::format("{}: run {}, {} weights, step {}, names of {}", path,
                               id.substr(0, kShownDigits), checkpoint.kind, state.step, layout),
                   path);
  if (path == "-") {
    std::cout.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    std::cout.flush();
    fmt::print(stderr, "{}", text);
    return std::cout ? kExitOk : kExitFailure;
  }
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  if (!file) throw std::runtime_error("export: cannot write " + path);
  if (!arguments.has("--json")) {
    fmt::print("{}", text);
    return kExitOk;
  }
  const Json out = {{"file", path},
                    {"run", id},
                    {"checkpoint", checkpoint.kind},
                    {"step", state.step},
                    {"layout", layout},
                    {"constructor", own ? std::vector<std::string>() : counterpart.constructor},
                    {"notes", own ? std::vector<std::string>() : counterpart.notes}};
  fmt::print("{}\n", out.dump());
  return kExitOk;
}

std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file.is_open() || file.bad()) throw UsageError("import: cannot read " + path);
  return bytes;
}

/// The one run that a sweep file describes.
GivenRun run_of(const std::string& path) {
  const SweepConfig sweep = load_sweep(path, {});
  if (sweep.runs.size() != 1) {
    throw UsageError(
        fmt::format("--config: {} describes {} runs, import takes one: leave out parameters and "
                    "all seeds but one",
                    path, sweep.runs.size()));
  }
  return {sweep.runs[0], sweep.run_names[0]};
}

int import_run(const Arguments& arguments) {
  const std::string& path = arguments.words[0];
  std::optional<GivenRun> given;
  if (arguments.has("--config")) given = run_of(arguments.get("--config"));
  try {
    const RunFile file = read_run_file(bytes_of(path), given);
    RunStore store(database_path(arguments), Database::Access::kCreate);
    const bool added = store_run_file(store, file, path, command_line()) == ImportOutcome::kAdded;
    for (const std::string& note : file.notes) fmt::print(stderr, "statelab: {}\n", note);
    if (arguments.has("--json")) {
      const Json out = {{"run", file.identity.run_id},
                        {"name", file.identity.name},
                        {"step", file.state.step},
                        {"layout", file.layout},
                        {"added", added},
                        {"notes", file.notes}};
      fmt::print("{}\n", out.dump());
      return kExitOk;
    }
    const std::string id = file.identity.run_id.substr(0, kShownDigits),
                      database = arguments.has("--db") ? " --db " + arguments.get("--db") : "";
    fmt::print(
        "run {} ({}), step {}: {}\n", id, file.identity.name, file.state.step,
        added ? "imported; `statelab eval " + id + " --lengths 40,80" + database + "` scores it"
              : "already there with these weights, nothing was written");
    return kExitOk;
  } catch (const ImportRefused& e) {
    throw UsageError("import: " + path + ": " + e.what());
  }
}

}  // namespace

std::vector<Command> interchange_commands() {
  std::vector<Command> out;
  out.push_back(
      {"export",
       "write a run's weights as safetensors under the names of the authors' module",
       "RUN",
       1,
       1,
       WordKind::kRun,
       {{"statelab export 3fa9c1d2 --output parity.safetensors",
         "prints the Python lines that load it with strict=True"},
        {"statelab export 3fa9c1d2 --layout statelab",
         "the project's own names, for models that have no counterpart"}},
       {database_option(),
        {"--output", "FILE", "the file, ID.safetensors by default; - writes to standard output"},
        checkpoint_option(),
        {"--layout",
         "",
         "names and shapes of the authors' module (default) or of this project",
         {"official", "statelab"}},
        json_option()},
       export_run});
  out.push_back(
      {"import",
       "make a safetensors file a run of the database",
       "FILE",
       1,
       1,
       WordKind::kNone,
       {{"statelab import parity.safetensors", "a file that export wrote"},
        {"statelab import trained.safetensors --config run.yaml",
         "a file from PyTorch, with the run that it stands for"}},
       {database_option(),
        {"--config", "RUN.yaml", "a sweep file of one run, for files that carry no configuration"},
        json_option()},
       import_run});
  return out;
}

}  // namespace statelab
