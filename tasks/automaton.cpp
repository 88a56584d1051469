// A user's own automaton: states, symbols, a transition table, a start state and outputs.
//
// Symbols are drawn uniformly; the answer is the output of the state reached (the state itself when
// no outputs are given). Equal outputs are one label, numbered by first appearance. Ids, xlstm and
// slice: 0 PAD, symbols, labels; scored over the whole vocabulary.
//      chomsky and liu: symbols and labels both from 0, scored over the labels; chomsky adds a
//      query.
#include <algorithm>
#include <set>
#include <utility>

#include "tasks/profile.h"
#include "tasks/registry.h"
#include "tasks/walk_task.h"

namespace statelab {
namespace {

constexpr int kMaxStates = 4096;
constexpr int kMaxSymbols = 1024;

[[noreturn]] void fail(const TaskConfig& config, const std::string& key,
                       const std::string& message) {
  throw TaskError(config.name, key, "[" + config.name + "] " + key + " " + message);
}

void check_names(const TaskConfig& config, const std::string& key,
                 const std::vector<std::string>& names, int most) {
  if (names.empty()) fail(config, key, "must not be empty");
  if (static_cast<int>(names.size()) > most) {
    fail(config, key,
         "must hold at most " + std::to_string(most) + " names: " + std::to_string(names.size()));
  }
  std::set<std::string> seen;
  for (const std::string& name : names) {
    if (!seen.insert(name).second) fail(config, key, "must hold each name once: " + name);
  }
}

void check_automaton(const TaskConfig& config) {
  const AutomatonConfig& a = config.automaton;
  check_names(config, "automaton.states", a.states, kMaxStates);
  check_names(config, "automaton.symbols", a.symbols, kMaxSymbols);
  const int nstates = static_cast<int>(a.states.size());
  if (a.start < 0 || a.start >= nstates) {
    fail(config, "automaton.start",
         "must be one of the " + std::to_string(nstates) + " states: index " +
             std::to_string(a.start));
  }
  if (!a.outputs.empty() && a.outputs.size() != a.states.size()) {
    fail(config, "automaton.outputs",
         "must hold one output per state, " + std::to_string(nstates) + ": " +
             std::to_string(a.outputs.size()));
  }
  if (a.transitions.size() > a.states.size()) {
    fail(config, "automaton.transitions",
         "must have one row per state, " + std::to_string(nstates) + ": " +
             std::to_string(a.transitions.size()));
  }
  for (size_t q = 0; q < a.states.size(); ++q) {
    const bool has_row = q < a.transitions.size();
    if (has_row && a.transitions[q].size() > a.symbols.size()) {
      fail(config, "automaton.transitions",
           "must have one entry per symbol, " + std::to_string(a.symbols.size()) + ": state " +
               a.states[q] + " has " + std::to_string(a.transitions[q].size()));
    }
    for (size_t x = 0; x < a.symbols.size(); ++x) {
      const int to = has_row && x < a.transitions[q].size() ? a.transitions[q][x] : -1;
      if (to == -1) {
        fail(config, "automaton.transitions",
             "must name a next state for every symbol: state " + a.states[q] + ", symbol " +
                 a.symbols[x] + " has none");
      }
      if (to < 0 || to >= nstates) {
        fail(config, "automaton.transitions",
             "must lead to one of the " + std::to_string(nstates) + " states: state " +
                 a.states[q] + ", symbol " + a.symbols[x] + " leads to index " +
                 std::to_string(to));
      }
    }
  }
}

}  // namespace

std::shared_ptr<const Task> make_automaton(const TaskConfig& config) {
  const Profile profile =
      parse_profile(config, {Profile::kXlstm, Profile::kSlice, Profile::kChomsky, Profile::kLiu});
  check_automaton(config);
  const AutomatonConfig& a = config.automaton;
  const int nstates = static_cast<int>(a.states.size());
  const int nsymbols = static_cast<int>(a.symbols.size());
  const bool from_zero = answers_from_zero(profile);
  const int first_answer = from_zero ? 0 : 1 + nsymbols;

  WalkTable table = make_walk_table(nstates, nsymbols);
  table.start = a.start;
  std::vector<std::string> labels;
  const auto& outputs = a.outputs.empty() ? a.states : a.outputs;
  for (int q = 0; q < nstates; ++q) {
    const auto state = static_cast<size_t>(q);
    const auto at = std::find(labels.begin(), labels.end(), outputs[state]) - labels.begin();
    if (at == static_cast<long>(labels.size())) labels.push_back(outputs[state]);
    table.label_of_state[state] = first_answer + static_cast<int>(at);
    for (int x = 0; x < nsymbols; ++x) {
      table.set_next(q, x, a.transitions[state][static_cast<size_t>(x)]);
    }
  }

  WalkTraits traits;
  traits.layout = symbol_layout(profile, nsymbols);
  traits.first_token = first_symbol(profile);
  traits.chance = 1.0 / static_cast<double>(labels.size());
  TaskNames& names = traits.names;
  if (from_zero) {
    traits.legal_end = static_cast<int>(labels.size());
    names.tokens = a.symbols;
    if (profile == Profile::kChomsky) names.tokens.push_back("?");
    names.answers = labels;
    const size_t vocab = std::max(names.tokens.size(), labels.size());
    names.tokens.resize(vocab, "<class>");
    names.answers.resize(vocab);
  } else {
    names.tokens = {"<pad>"};
    names.tokens.insert(names.tokens.end(), a.symbols.begin(), a.symbols.end());
    names.tokens.insert(names.tokens.end(), labels.begin(), labels.end());
  }
  for (const int q : unreachable_states(table)) {
    traits.warnings.push_back("[" + config.name + "] state " + a.states[static_cast<size_t>(q)] +
                              " cannot be reached from " + a.states[static_cast<size_t>(a.start)]);
  }
  return std::make_shared<WalkTask>(config, std::move(table), std::move(traits));
}

}  // namespace statelab
