#include "experiments/commands.h"

#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <thread>

#include "experiments/field.h"
#include "experiments/run_config.h"
#include "reports/render.h"
#include "reports/run_lookup.h"
#include "store/database.h"
#include "store/results_file.h"
#include "tasks/task.h"

namespace statelab {
namespace {

std::string& stored_command_line() {
  static std::string line;
  return line;
}

/// One word as a shell would need it.
std::string quoted(const std::string& word) {
  const bool plain =
      !word.empty() &&
      word.find_first_not_of(
          "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./=,:+@%") ==
          std::string::npos;
  if (plain) return word;
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

}  // namespace

CommandOption database_option() {
  return {"--db", "FILE",
          "the database, statelab.db in this folder by default; to read, also a results file"};
}
CommandOption json_option() { return {"--json", "", "one JSON document on standard output"}; }
CommandOption threads_option() {
  return {"--threads", "N", "processor threads, all by default; no number depends on it"};
}
CommandOption format_option() {
  return {"--format",
          "",
          "how the table is written, text by default",
          {"text", "md", "tex", "csv", "json"}};
}

std::string database_path(const Arguments& arguments) {
  return arguments.get("--db", "statelab.db");
}

std::string existing_database(const Arguments& arguments) {
  const std::string path = database_path(arguments);
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    throw UsageError("no database " + path +
                     " yet: `statelab run SWEEP` makes one, --db FILE names another");
  }
  return path;
}

std::string readable_database(const Arguments& arguments) {
  const std::string path = existing_database(arguments);
  if (!is_results_file(path)) return path;
  // A folder of its own in the temporary folder, removed when the process ends.
  struct Scratch {
    std::filesystem::path folder;
    ~Scratch() {
      std::error_code ignored;
      if (!folder.empty()) std::filesystem::remove_all(folder, ignored);
    }
  };
  static Scratch scratch;
  std::string name = (std::filesystem::temp_directory_path() / "statelab-results-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr)
    throw std::runtime_error("cannot make a folder for the database of " + path + " in " +
                             std::filesystem::temp_directory_path().string());
  scratch.folder = name;
  const std::filesystem::path file = scratch.folder / "results.db";
  Database database(file, Database::Access::kCreate);
  read_results(database, path);
  return file.string();
}

SweepWords sweep_words(const std::string& command, const std::vector<std::string>& words) {
  SweepWords out;
  for (const std::string& word : words) {
    std::error_code error;
    const bool setting =
        word.find('=') != std::string::npos && !std::filesystem::exists(word, error);
    (setting ? out.overrides : out.files).push_back(word);
  }
  if (out.files.empty())
    throw UsageError(command + ": expects a sweep file; `statelab " +
                     command.substr(0, command.find(' ')) + " --help` shows examples");
  return out;
}

int thread_count(const Arguments& arguments) {
  const auto all = static_cast<int64_t>(std::max(1u, std::thread::hardware_concurrency()));
  return static_cast<int>(arguments.integer("--threads", all, 1, 1024));
}

std::vector<std::string> comma_list(const std::string& option, const std::string& text) {
  std::vector<std::string> out(1);
  for (const char c : text) {
    if (c == ',') {
      out.emplace_back();
    } else {
      out.back() += c;
    }
  }
  for (const std::string& part : out) {
    if (part.empty())
      throw UsageError(option + ": must be a comma list without empty parts, is `" + text + "`");
  }
  return out;
}

std::vector<ScoredLength> lengths_of(const std::string& option, const std::string& text) {
  std::vector<ScoredLength> out;
  const auto number = [&](const std::string& digits) {
    if (digits.empty() || digits.size() > 8 ||
        digits.find_first_not_of("0123456789") != std::string::npos || std::stoll(digits) < 1) {
      throw UsageError(option + ": must be lengths such as 40,80,40..256, is `" + text + "`");
    }
    return static_cast<int64_t>(std::stoll(digits));
  };
  for (const std::string& part : comma_list(option, text)) {
    const size_t dots = part.find("..");
    ScoredLength length;
    length.min = number(part.substr(0, dots));
    length.max = dots == std::string::npos ? length.min : number(part.substr(dots + 2));
    if (length.min > length.max) throw UsageError(option + ": the range " + part + " is empty");
    out.push_back(length);
  }
  return out;
}

int terminal_columns() {
  winsize size{};
  if (!isatty(STDOUT_FILENO) || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0) return 0;
  return size.ws_col;
}

void print_tables(const std::vector<Table>& tables, const Arguments& arguments) {
  const std::string format = arguments.has("--json") ? "json" : arguments.get("--format", "text");
  if (format == "json") {
    std::string out = tables.size() == 1 ? "" : "[";
    for (size_t i = 0; i < tables.size(); ++i) out += (i ? ",\n" : "") + render_json(tables[i]);
    while (!out.empty() && out.back() == '\n') out.pop_back();
    fmt::print("{}{}\n", out, tables.size() == 1 ? "" : "]");
    return;
  }
  for (size_t i = 0; i < tables.size(); ++i) {
    std::string text = format == "md"    ? render_markdown(tables[i])
                       : format == "tex" ? render_latex(tables[i])
                       : format == "csv" ? render_csv(tables[i])
                                         : render_text(tables[i], colour_on_stdout());
    if (text.empty() || text.back() != '\n') text += '\n';
    fmt::print("{}{}", i ? "\n" : "", text);
  }
}

std::string found_run(Database& database, const std::string& text) {
  try {
    return find_run(database, text);
  } catch (const RunLookupError& e) {
    throw UsageError(e.what());
  }
}

CommandOption checkpoint_option() {
  return {"--checkpoint",
          "",
          "which weights; those that the run's scores belong to by default",
          {"last", "best"}};
}

ChosenCheckpoint chosen_checkpoint(RunStore& store, const std::string& run_id,
                                   const Arguments& arguments) {
  const auto config = store.config(run_id);
  const std::string selected =
      config && run_config_from_json(*config).eval.select == "best" ? "best" : "last";
  const std::string kind = arguments.get("--checkpoint", selected);
  const auto record = store.checkpoint(run_id, kind);
  if (!record)
    throw UsageError(fmt::format("run {} has no {} checkpoint; `statelab show {}` tells its state",
                                 run_id.substr(0, 12), kind, run_id.substr(0, 12)));
  return {kind, *record};
}

void remember_command_line(int argc, const char* const* argv) {
  std::string& line = stored_command_line();
  line = "statelab";
  for (int i = 1; i < argc; ++i) line += ' ' + quoted(argv[i]);
}

const std::string& command_line() { return stored_command_line(); }

std::vector<std::string> complete_word(WordKind kind, const std::string& database) {
  std::vector<std::string> out;
  try {
    if (kind == WordKind::kTask) {
      for (const TaskSummary& t : list_tasks()) out.push_back(t.name);
      for (const std::string& name : list_presets()) out.push_back(name);
    } else if (kind == WordKind::kShell) {
      out = {"bash", "zsh", "fish"};
    } else if (kind == WordKind::kBench) {
      out = {"train", "eval", "ops", "column"};
    } else if (kind == WordKind::kVerification) {
      out = {"rope", "discretization", "gradients", "backends", "exact"};
    } else if (kind == WordKind::kConfig || kind == WordKind::kDatabase) {
      for (const auto& entry : std::filesystem::directory_iterator(".")) {
        const std::string extension = entry.path().extension().string();
        const bool fits = kind == WordKind::kDatabase ? extension == ".db"
                                                      : extension == ".yaml" || extension == ".yml";
        if (fits) out.push_back(entry.path().filename().string());
      }
      if (kind == WordKind::kConfig) {
        for (const Field& field : fields()) out.push_back(field.key + '=');
        out.push_back("seeds=");
      }
    } else if (kind == WordKind::kRun && std::filesystem::exists(database)) {
      Database db(database, Database::Access::kReadOnly);
      Statement names(db, "SELECT name FROM v_runs ORDER BY name LIMIT 1000");
      while (names.step()) out.push_back(names.text(0));
    }
  } catch (const std::exception&) {
    out.clear();  // a completion that fails offers nothing
  }
  return out;
}

}  // namespace statelab
