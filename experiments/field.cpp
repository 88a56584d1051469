#include "experiments/field.h"

#include <algorithm>
#include <map>
#include <unordered_map>

#include "tasks/task.h"

namespace statelab {
namespace {

using Kind = Value::Kind;
constexpr double kMaxInt = 2147483647.0;

FieldProblem problem(const Field& field, const Value& at, std::string message) {
  return {at.place, field.key, std::move(message)};
}

std::string but_is(const std::string& expected, const Value& value) {
  std::string text = "must be " + expected + ", is " + value.shown();
  if (value.is(Kind::kText) && value.quoted && plain_scalar(value.text).is_number()) {
    text += ": remove the quotation marks";
  } else if (value.is(Kind::kText) && !value.quoted && value.text.find('_') != std::string::npos &&
             value.text.find_first_not_of("0123456789_") == std::string::npos) {
    text += ": write the digits without _";
  } else if (value.is(Kind::kText) && value.text.size() > 1 && value.text[0] == '0' &&
             value.text.find_first_not_of("0123456789") == std::string::npos) {
    text += ": write it without leading zeros";
  }
  return text;
}

std::string range_text(const Field& f) {
  const bool low = f.min > -std::numeric_limits<double>::infinity();
  const bool high = f.max < std::numeric_limits<double>::infinity() && f.max != kMaxInt;
  if (!low && !high) return "";
  if (low && high)
    return " in " + std::string(f.min_open ? "(" : "[") + shortest(f.min) + ", " + shortest(f.max) +
           (f.max_open ? ")" : "]");
  if (low) return (f.min_open ? " > " : " >= ") + shortest(f.min);
  return (f.max_open ? " < " : " <= ") + shortest(f.max);
}

bool in_range(const Field& f, double v) {
  return (f.min_open ? v > f.min : v >= f.min) && (f.max_open ? v < f.max : v <= f.max);
}

/// Both ends of a pair of reported lengths.
void check_length_range(const Field& f, const Value& v, std::vector<FieldProblem>& out) {
  if (!v.is(Kind::kList) || v.items.size() != 2 || !v.items[0].is(Kind::kInteger) ||
      !v.items[1].is(Kind::kInteger)) {
    out.push_back(problem(f, v, but_is("two integers [min, max]", v)));
    return;
  }
  const int64_t low = v.items[0].integer, high = v.items[1].integer;
  if (low < 1 || low > high || high > (1 << 24)) {
    out.push_back(problem(f, v,
                          "lengths must satisfy 1 <= min <= max <= 16777216, are [" +
                              std::to_string(low) + ", " + std::to_string(high) + "]"));
  }
}

void check_stages(const Field& f, const Value& v, std::vector<FieldProblem>& out) {
  if (!v.is(Kind::kList) || v.items.empty()) {
    out.push_back(
        problem(f, v, but_is("a list of stages such as [{ steps: 1000, length: [3, 40] }]", v)));
    return;
  }
  for (const Value& stage : v.items) {
    if (!stage.is(Kind::kMap)) {
      out.push_back(problem(f, stage, but_is("a stage { steps, length }", stage)));
      continue;
    }
    for (size_t i = 0; i < stage.keys.size(); ++i) {
      if (stage.keys[i] != "steps" && stage.keys[i] != "length") {
        out.push_back({stage.items[i].key_place, f.key + '.' + stage.keys[i],
                       "unknown key, a stage has steps and length"});
      }
    }
    const Value* steps = stage.find("steps");
    const Value* length = stage.find("length");
    if (!steps || !length) {
      out.push_back(problem(f, stage, std::string("stage lacks ") + (steps ? "length" : "steps")));
      continue;
    }
    if (!steps->is(Kind::kInteger) || steps->integer < 1 || steps->integer > 1000000000) {
      out.push_back(
          {steps->place, f.key + ".steps", but_is("an integer in [1, 1000000000]", *steps)});
    }
    check_length_range(f, *length, out);
  }
}

bool text_list(const Value* v) {
  return v && v->is(Kind::kList) && !v->items.empty() &&
         std::all_of(v->items.begin(), v->items.end(),
                     [](const Value& i) { return i.is_scalar() && !i.is(Kind::kNull); });
}

void check_known(const Field& f, const Value& map, std::initializer_list<std::string_view> known,
                 std::vector<FieldProblem>& out) {
  for (size_t i = 0; i < map.keys.size(); ++i) {
    if (std::find(known.begin(), known.end(), map.keys[i]) == known.end()) {
      std::string all;
      for (const auto k : known) all += (all.empty() ? "" : ", ") + std::string(k);
      out.push_back(
          {map.items[i].key_place, f.key + '.' + map.keys[i], "unknown key, known are " + all});
    }
  }
}

/// Name of a state or symbol: scalars of any kind, as they were written.
std::string name_of(const Value& v) {
  if (v.is(Kind::kText)) return v.text;
  return v.text.empty() ? v.shown() : v.text;
}

std::vector<std::string> names_of(const Value& list) {
  std::vector<std::string> out;
  for (const Value& v : list.items) out.push_back(name_of(v));
  return out;
}

int index_of(const std::vector<std::string>& names, const std::string& name) {
  const auto it = std::find(names.begin(), names.end(), name);
  return it == names.end() ? -1 : static_cast<int>(it - names.begin());
}

void check_automaton(const Field& f, const Value& v, std::vector<FieldProblem>& out) {
  if (!v.is(Kind::kMap)) {
    out.push_back(problem(f, v, but_is("a map with states, symbols, transitions", v)));
    return;
  }
  check_known(f, v, {"states", "symbols", "transitions", "start", "outputs"}, out);
  for (const char* key : {"states", "symbols"}) {
    const Value* list = v.find(key);
    if (!text_list(list)) {
      out.push_back(
          {list ? list->place : v.place, f.key + '.' + key,
           list ? but_is("a list of names", *list) : std::string("missing: a list of names")});
      continue;
    }
    const auto names = names_of(*list);
    for (size_t i = 0; i < names.size(); ++i) {
      if (index_of(names, names[i]) != static_cast<int>(i)) {
        out.push_back({list->items[i].place, f.key + '.' + key,
                       "names must differ, " + names[i] + " occurs twice"});
      }
    }
  }
  const Value* transitions = v.find("transitions");
  if (!transitions || !transitions->is(Kind::kMap)) {
    out.push_back({transitions ? transitions->place : v.place, f.key + ".transitions",
                   "must be a map state: { symbol: next state, ... }"});
  }
  if (!out.empty()) return;
  const auto states = names_of(*v.find("states")), symbols = names_of(*v.find("symbols"));
  for (size_t s = 0; s < transitions->keys.size(); ++s) {
    const Value& row = transitions->items[s];
    const std::string key = f.key + ".transitions." + transitions->keys[s];
    if (index_of(states, transitions->keys[s]) < 0) {
      out.push_back({row.key_place, key, "is not one of the states"});
    } else if (!row.is(Kind::kMap)) {
      out.push_back({row.place, key, but_is("a map symbol: next state", row)});
    } else {
      for (size_t i = 0; i < row.keys.size(); ++i) {
        if (index_of(symbols, row.keys[i]) < 0) {
          out.push_back(
              {row.items[i].key_place, key + '.' + row.keys[i], "is not one of the symbols"});
        }
        if (!row.items[i].is_scalar() || index_of(states, name_of(row.items[i])) < 0) {
          out.push_back({row.items[i].place, key + '.' + row.keys[i],
                         "next state " + row.items[i].shown() + " is not one of the states"});
        }
      }
      for (const auto& symbol : symbols) {
        if (!row.find(symbol))
          out.push_back({row.place, key, "lacks a transition on symbol " + symbol});
      }
    }
  }
  for (const auto& state : states) {
    if (!transitions->find(state)) {
      out.push_back(
          {transitions->place, f.key + ".transitions", "lacks the transitions of state " + state});
    }
  }
  if (const Value* start = v.find("start");
      start && (!start->is_scalar() || index_of(states, name_of(*start)) < 0)) {
    out.push_back({start->place, f.key + ".start", start->shown() + " is not one of the states"});
  }
  if (const Value* outputs = v.find("outputs")) {
    const bool per_state = outputs->is(Kind::kMap)
                               ? std::all_of(states.begin(), states.end(),
                                             [&](const auto& s) { return outputs->find(s); }) &&
                                     outputs->keys.size() == states.size()
                               : text_list(outputs) && outputs->items.size() == states.size();
    if (!per_state) {
      out.push_back({outputs->place, f.key + ".outputs",
                     "must give one output for each of the " + std::to_string(states.size()) +
                         " states, is " + outputs->shown()});
    }
  }
}

void check_group(const Field& f, const Value& v, std::vector<FieldProblem>& out) {
  if (v.is(Kind::kText) || v.is(Kind::kNull)) return;
  if (!v.is(Kind::kMap)) {
    out.push_back(
        problem(f, v, but_is("a name such as S3, or a map with generators or cayley_table", v)));
    return;
  }
  check_known(f, v, {"generators", "cayley_table", "elements"}, out);
  const Value* generators = v.find("generators");
  const Value* table = v.find("cayley_table");
  if ((generators != nullptr) == (table != nullptr)) {
    out.push_back(problem(f, v, "must give exactly one of generators and cayley_table"));
    return;
  }
  const Value& rows = generators ? *generators : *table;
  const std::string key = f.key + (generators ? ".generators" : ".cayley_table");
  if (!rows.is(Kind::kList) || rows.items.empty()) {
    out.push_back({rows.place, key, but_is("a list of lists of integers", rows)});
    return;
  }
  for (const Value& row : rows.items) {
    if (!row.is(Kind::kList) || row.items.empty() ||
        !std::all_of(row.items.begin(), row.items.end(), [](const Value& i) {
          return i.is(Kind::kInteger) && i.number >= 0 && i.number <= kMaxInt;
        })) {
      out.push_back({row.place, key, but_is("a list of integers", row)});
    }
  }
  if (const Value* elements = v.find("elements"); elements && !text_list(elements)) {
    out.push_back({elements->place, f.key + ".elements", but_is("a list of names", *elements)});
  }
}

}  // namespace

const std::vector<Field>& fields() {
  static const std::vector<Field> all = [] {
    std::vector<Field> table = task_fields();
    for (auto&& part : {model_fields(), train_fields()})
      table.insert(table.end(), part.begin(), part.end());
    return table;
  }();
  return all;
}

const Field* find_field(std::string_view key) {
  static const std::unordered_map<std::string_view, const Field*> index = [] {
    std::unordered_map<std::string_view, const Field*> map;
    for (const Field& field : fields()) map[field.key] = &field;
    return map;
  }();
  const auto it = index.find(key);
  return it == index.end() ? nullptr : it->second;
}

bool is_section(std::string_view key) {
  return std::any_of(fields().begin(), fields().end(), [&](const Field& f) {
    return f.key.size() > key.size() && f.key.compare(0, key.size(), key) == 0 &&
           f.key[key.size()] == '.';
  });
}

bool read_by_mixer(const Field& field, std::string_view mixer) {
  return field.mixers.empty() ||
         std::find(field.mixers.begin(), field.mixers.end(), mixer) != field.mixers.end();
}

bool applies(const Field& field, const RunConfig& run) {
  if (!read_by_mixer(field, run.model.mixer)) return false;
  if (field.section() != "task") return true;
  const std::string name = field.key.substr(5);
  if (name == "name" || name == "profile" || name == "supervision" || name == "bos") return true;
  static const auto read_by = [] {
    std::map<std::string, std::vector<std::string>> map;
    for (const TaskSummary& task : list_tasks()) map[task.name] = task.parameters;
    return map;
  }();
  const auto it = read_by.find(run.task.name);
  if (it == read_by.end()) return true;
  const auto& keys = it->second;
  const auto reads = [&](std::string_view key) {
    return std::find(keys.begin(), keys.end(), key) != keys.end();
  };
  if (reads(name) || (name == "group" && reads("custom_group"))) return true;
  return !same_value(field.get(run),
                     field.get(RunConfig{}));  // said explicitly: never dropped in silence
}

std::vector<FieldProblem> check(const Field& f, const Value& v) {
  std::vector<FieldProblem> out;
  const auto refuse = [&] { out.push_back(problem(f, v, but_is(rule(f), v))); };
  switch (f.type) {
    case FieldType::kBoolean:
      if (!v.is(Kind::kBoolean)) refuse();
      break;
    case FieldType::kInteger:
      if (!v.is(Kind::kInteger) || !in_range(f, v.number)) refuse();
      break;
    case FieldType::kNumber:
      if (!v.is_number() || !in_range(f, v.number)) refuse();
      break;
    case FieldType::kNumberOrNone: {
      const bool none = v.is(Kind::kNull) || (v.is(Kind::kText) && v.text == "none");
      if (!none && (!v.is_number() || !in_range(f, v.number))) refuse();
      break;
    }
    case FieldType::kChoice:
      if (!v.is(Kind::kText) ||
          std::find(f.choices.begin(), f.choices.end(), v.text) == f.choices.end())
        refuse();
      break;
    case FieldType::kText:
      if (!v.is(Kind::kText)) refuse();
      break;
    case FieldType::kNumberPair:
      if (!v.is(Kind::kList) || v.items.size() != 2 || !v.items[0].is_number() ||
          !v.items[1].is_number() || !in_range(f, v.items[0].number) ||
          !in_range(f, v.items[1].number)) {
        refuse();
      }
      break;
    case FieldType::kIntegerList:
      if (!v.is(Kind::kList)) {
        refuse();
      } else {
        for (const Value& item : v.items) {
          if (!item.is(Kind::kInteger) || !in_range(f, item.number)) {
            out.push_back(problem(f, item, but_is("integer" + range_text(f), item)));
          }
        }
      }
      break;
    case FieldType::kRangeList:
      if (!v.is(Kind::kList)) {
        refuse();
      } else {
        for (const Value& item : v.items) check_length_range(f, item, out);
      }
      break;
    case FieldType::kStages:
      check_stages(f, v, out);
      break;
    case FieldType::kAutomaton:
      if (!v.is(Kind::kNull)) check_automaton(f, v, out);
      break;
    case FieldType::kGroup:
      check_group(f, v, out);
      break;
  }
  return out;
}

std::string rule(const Field& f) {
  switch (f.type) {
    case FieldType::kBoolean:
      return "true or false";
    case FieldType::kInteger:
      return "an integer" + range_text(f);
    case FieldType::kNumber:
      return "a number" + range_text(f);
    case FieldType::kNumberOrNone:
      return "none or a number" + range_text(f);
    case FieldType::kChoice: {
      std::string all;
      for (const auto& c : f.choices) all += (all.empty() ? "" : " | ") + c;
      return f.choices.size() == 1 ? all : "one of " + all;
    }
    case FieldType::kText:
      return "a text";
    case FieldType::kNumberPair:
      return "two numbers [low, high], each" + range_text(f);
    case FieldType::kIntegerList:
      return "a list of integers" + range_text(f);
    case FieldType::kRangeList:
      return "a list of ranges [[min, max], ...]";
    case FieldType::kStages:
      return "a list of stages { steps, length: [min, max] }";
    case FieldType::kAutomaton:
      return "a map { states, symbols, transitions, start, outputs }";
    case FieldType::kGroup:
      return "a group's name, or a map { generators | cayley_table, elements }";
  }
  return "";
}

RunConfig default_run() {
  RunConfig run;
  run.train.curriculum = {{2000, {3, 40}}};
  run.eval.lengths = {40, 80, 160, 256};
  return run;
}

}  // namespace statelab
