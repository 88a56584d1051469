#include "tasks/registry.h"

#include <algorithm>

namespace statelab {
namespace {

struct Entry {
  TaskSummary summary;
  std::shared_ptr<const Task> (*make)(const TaskConfig&);
};

const std::vector<Entry>& entries() {
  static const std::vector<Entry> all = {
      {{"parity", "xlstm, slice, chomsky", "Is the number of ones odd?", {}}, make_parity},
      {{"even_pairs", "xlstm, slice, chomsky", "Do first and last symbol differ?", {}},
       make_even_pairs},
      {{"cycle_navigation",
        "xlstm, slice, chomsky",
        "Where on a cycle do the moves end?",
        {"modulus", "max_move"}},
       make_cycle_navigation},
      {{"modular_arithmetic",
        "xlstm, slice, chomsky",
        "Value of digits and + - *, mod m",
        {"modulus", "multiplication"}},
       make_modular_arithmetic},
      {{"modular_arithmetic_brackets",
        "xlstm, slice, chomsky",
        "Value of a bracketed expression, mod m",
        {"modulus", "multiplication"}},
       make_modular_arithmetic_brackets},
      {{"word_problem",
        "word",
        "Running product in a finite group",
        {"group", "alphabet", "alphabet_list", "fillers", "filler", "variant"}},
       make_word_problem},
      {{"flip_flop", "fflm", "The bit written last, among ignored ones", {"ignore_prob"}},
       make_flip_flop},
      {{"liu", "liu", "State of a named automaton after each token", {"machine", "size"}},
       make_liu},
      {{"automaton",
        "xlstm, slice, chomsky, liu",
        "Output of a user's own automaton",
        {"automaton"}},
       make_automaton},
  };
  return all;
}

/// A key that a task does not read must keep its default: it would change nothing but the run's
/// identity.
void check_unused(const TaskConfig& config, const TaskSummary& summary) {
  const TaskConfig defaults;
  const auto check = [&](const char* key, bool changed) {
    const auto& read = summary.parameters;
    if (!changed || std::find(read.begin(), read.end(), key) != read.end()) return;
    std::string names = "name, profile, supervision, bos";
    for (const std::string& name : read) names += ", " + name;
    throw TaskError(
        config.name, key,
        "[" + config.name + "] " + key + " is not read by this task, which reads " + names);
  };
  const AutomatonConfig& a = config.automaton;
  const GroupConfig& g = config.custom_group;
  check("modulus", config.modulus != defaults.modulus);
  check("max_move", config.max_move != defaults.max_move);
  check("multiplication", config.multiplication != defaults.multiplication);
  check("group", !config.group.empty() || !g.generators.empty() || !g.cayley_table.empty() ||
                     !g.elements.empty());
  check("alphabet", config.alphabet != defaults.alphabet);
  check("alphabet_list", !config.alphabet_list.empty());
  check("fillers", config.fillers != defaults.fillers);
  check("filler", config.filler != defaults.filler);
  check("variant", config.variant != defaults.variant);
  check("machine", !config.machine.empty());
  check("size", config.size != defaults.size);
  check("ignore_prob", config.ignore_prob != defaults.ignore_prob);
  check("automaton",
        !a.states.empty() || !a.symbols.empty() || !a.transitions.empty() || !a.outputs.empty());
}

}  // namespace

void check_range(const TaskConfig& config, const char* key, int value, int lo, int hi) {
  if (value >= lo && value <= hi) return;
  throw TaskError(config.name, key,
                  "[" + config.name + "] " + key + " must be in " + std::to_string(lo) + ".." +
                      std::to_string(hi) + ": " + std::to_string(value));
}

std::shared_ptr<const Task> make_task(const TaskConfig& config) {
  std::string names;
  for (const Entry& entry : entries()) {
    names += (names.empty() ? "" : ", ") + entry.summary.name;
    if (entry.summary.name != config.name) continue;
    if (config.supervision != "last" && config.supervision != "all") {
      throw TaskError(
          config.name, "supervision",
          "[" + config.name + "] supervision must be last or all: " + config.supervision);
    }
    check_unused(config, entry.summary);
    return entry.make(config);
  }
  throw TaskError(config.name, "name", "task name must be one of " + names + ": " + config.name);
}

std::vector<TaskSummary> list_tasks() {
  std::vector<TaskSummary> summaries;
  for (const Entry& entry : entries()) summaries.push_back(entry.summary);
  return summaries;
}

}  // namespace statelab
