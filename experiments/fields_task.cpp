// The `task:` part of the field table.
#include <algorithm>

#include "experiments/field_build.h"

namespace statelab {
namespace {

using Kind = Value::Kind;

std::string name_of(const Value& v) { return v.text.empty() ? v.shown() : v.text; }

std::vector<std::string> names_of(const Value& list) {
  std::vector<std::string> out;
  for (const Value& v : list.items) out.push_back(name_of(v));
  return out;
}

int index_of(const std::vector<std::string>& names, const std::string& name) {
  return static_cast<int>(std::find(names.begin(), names.end(), name) - names.begin());
}

Value text_list(const std::vector<std::string>& texts) {
  Value list = Value::list();
  for (const auto& t : texts) list.items.push_back(Value::of(t));
  return list;
}

Value integer_rows(const std::vector<std::vector<int>>& rows) {
  Value list = Value::list();
  for (const auto& row : rows) {
    Value items = Value::list();
    for (const int i : row) items.items.push_back(Value::of(static_cast<int64_t>(i)));
    list.items.push_back(std::move(items));
  }
  return list;
}

std::vector<std::vector<int>> rows_of(const Value& v) {
  std::vector<std::vector<int>> rows;
  for (const Value& row : v.items) {
    rows.emplace_back();
    for (const Value& i : row.items) rows.back().push_back(static_cast<int>(i.integer));
  }
  return rows;
}

/// State names become keys of a map; Value::put() would read a dot in them as a path.
void append(Value& map, const std::string& key, Value item) {
  map.keys.push_back(key);
  map.items.push_back(std::move(item));
}

Value automaton_value(const RunConfig& run) {
  const AutomatonConfig& a = run.task.automaton;
  if (a.states.empty()) return Value::null();
  Value map = Value::map();
  append(map, "states", text_list(a.states));
  append(map, "symbols", text_list(a.symbols));
  Value transitions = Value::map();
  for (size_t s = 0; s < a.transitions.size(); ++s) {
    Value row = Value::map();
    for (size_t i = 0; i < a.transitions[s].size(); ++i) {
      const int next = a.transitions[s][i];
      if (next >= 0) append(row, a.symbols[i], Value::of(a.states[static_cast<size_t>(next)]));
    }
    append(transitions, a.states[s], std::move(row));
  }
  append(map, "transitions", std::move(transitions));
  append(map, "start", Value::of(a.states[static_cast<size_t>(a.start)]));
  if (!a.outputs.empty()) append(map, "outputs", text_list(a.outputs));
  return map;
}

void set_automaton(RunConfig& run, const Value& v) {
  AutomatonConfig a;
  if (v.is(Kind::kNull)) {
    run.task.automaton = a;
    return;
  }
  a.states = names_of(*v.find("states"));
  a.symbols = names_of(*v.find("symbols"));
  a.transitions.assign(a.states.size(), std::vector<int>(a.symbols.size(), -1));
  const Value& transitions = *v.find("transitions");
  for (size_t s = 0; s < transitions.keys.size(); ++s) {
    auto& row = a.transitions[static_cast<size_t>(index_of(a.states, transitions.keys[s]))];
    const Value& items = transitions.items[s];
    for (size_t i = 0; i < items.keys.size(); ++i) {
      row[static_cast<size_t>(index_of(a.symbols, items.keys[i]))] =
          index_of(a.states, name_of(items.items[i]));
    }
  }
  if (const Value* start = v.find("start")) a.start = index_of(a.states, name_of(*start));
  if (const Value* outputs = v.find("outputs")) {
    if (outputs->is(Kind::kMap)) {
      for (const auto& state : a.states) a.outputs.push_back(name_of(*outputs->find(state)));
    } else {
      a.outputs = names_of(*outputs);
    }
  }
  run.task.automaton = std::move(a);
}

Value group_value(const RunConfig& run) {
  const GroupConfig& g = run.task.custom_group;
  if (g.generators.empty() && g.cayley_table.empty()) return Value::of(run.task.group);
  Value map = Value::map();
  if (!g.generators.empty()) append(map, "generators", integer_rows(g.generators));
  if (!g.cayley_table.empty()) append(map, "cayley_table", integer_rows(g.cayley_table));
  if (!g.elements.empty()) append(map, "elements", text_list(g.elements));
  return map;
}

void set_group(RunConfig& run, const Value& v) {
  run.task.group.clear();
  run.task.custom_group = {};
  if (v.is(Kind::kText)) run.task.group = v.text;
  if (!v.is(Kind::kMap)) return;
  if (const Value* rows = v.find("generators")) run.task.custom_group.generators = rows_of(*rows);
  if (const Value* rows = v.find("cayley_table"))
    run.task.custom_group.cayley_table = rows_of(*rows);
  if (const Value* names = v.find("elements")) run.task.custom_group.elements = names_of(*names);
}

}  // namespace

std::vector<Field> task_fields() {
  std::vector<Field> table;
  table.push_back(scalar_field("task.name", STATELAB_MEMBER(task.name),
                               "Which task; `statelab tasks` lists them."));
  table.push_back(choice_field("task.profile", STATELAB_MEMBER(task.profile),
                               {"xlstm", "slice", "chomsky", "word", "liu", "fflm"},
                               "Whose conventions for lengths, token ids, query tokens and "
                               "scoring. They decide what a reported length means, so "
                               "numbers of different profiles do not compare."));
  table.push_back(choice_field("task.supervision", STATELAB_MEMBER(task.supervision),
                               {"last", "all"},
                               "`last`: only the answer's position is trained and scored. `all`: "
                               "the running answer at every position, an easier task."));
  table.push_back(scalar_field("task.bos", STATELAB_MEMBER(task.bos),
                               "Starts every sequence with a BOS token: an anchor for models whose "
                               "state only sees relative rotation."));
  table.push_back(
      ranged_field("task.modulus", STATELAB_MEMBER(task.modulus), 2, 1000,
                   "Size of the cycle, or modulus of the arithmetic. 5 in the literature."));
  table.push_back(ranged_field("task.max_move", STATELAB_MEMBER(task.max_move), 1, 1000,
                               "Cycle navigation: the largest single move."));
  table.push_back(scalar_field("task.multiplication", STATELAB_MEMBER(task.multiplication),
                               "Arithmetic: whether `*` occurs. With brackets it moves the "
                               "constant answer's score by 13 points."));
  Field group;
  group.key = "task.group";
  group.type = FieldType::kGroup;
  group.doc =
      "Word problem: a named group (Z60, S3, A5, D8, products such as A4xZ5), or a group of your "
      "own by permutation "
      "generators in one-line form or by its Cayley table (row = left factor).";
  group.get = group_value;
  group.set = set_group;
  table.push_back(std::move(group));
  table.push_back(choice_field("task.alphabet", STATELAB_MEMBER(task.alphabet),
                               {"full", "swaps", "le3", "list"},
                               "Word problem: which elements occur as tokens: all, those moving at "
                               "most two points, at most three, or alphabet_list."));
  Field list;
  list.key = "task.alphabet_list";
  list.type = FieldType::kIntegerList;
  list.doc = "Element indices for `alphabet: list`.";
  list.min = 0;
  list.max = 1000000;
  list.get = [](const RunConfig& run) {
    Value v = Value::list();
    for (const int i : run.task.alphabet_list)
      v.items.push_back(Value::of(static_cast<int64_t>(i)));
    return v;
  };
  list.set = [](RunConfig& run, const Value& v) {
    run.task.alphabet_list.clear();
    for (const Value& i : v.items) run.task.alphabet_list.push_back(static_cast<int>(i.integer));
  };
  table.push_back(std::move(list));
  table.push_back(ranged_field("task.fillers", STATELAB_MEMBER(task.fillers), 1, 64,
                               "Word problem: tokens per element, the element itself included."));
  table.push_back(choice_field("task.filler", STATELAB_MEMBER(task.filler), {"token", "repeat"},
                               "Word problem: what fills an element's other tokens: a token of its "
                               "own, or the element repeated."));
  table.push_back(choice_field("task.variant", STATELAB_MEMBER(task.variant), {"plain", "hard"},
                               "Word problem. `hard`: elements are multiplied in blocks of four, "
                               "each shown as its product and three identities; targets come three "
                               "positions late."));
  table.push_back(scalar_field("task.machine", STATELAB_MEMBER(task.machine),
                               "Profile liu: name of the automaton, such as gridworld."));
  table.push_back(ranged_field("task.size", STATELAB_MEMBER(task.size), 0, 1000000,
                               "Profile liu: the automaton's n; 0 = its usual size."));
  Field ignore = ranged_field("task.ignore_prob", STATELAB_MEMBER(task.ignore_prob), 0, 1,
                              "Flip-flop language: probability that an instruction is `ignore`. "
                              "Published training uses 0.8.");
  ignore.max_open = true;
  table.push_back(std::move(ignore));
  Field automaton;
  automaton.key = "task.automaton";
  automaton.type = FieldType::kAutomaton;
  automaton.doc =
      "An automaton of your own: names of states and symbols, `transitions: { state: { symbol: "
      "next } }`, the start "
      "state (first one if left out) and, if the label is not the state itself, one output per "
      "state.";
  automaton.get = automaton_value;
  automaton.set = set_automaton;
  table.push_back(std::move(automaton));
  return table;
}

}  // namespace statelab
