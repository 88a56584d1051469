// Command-line settings worked into a sweep file.
#include <algorithm>

#include "experiments/sweep_file.h"

namespace statelab {
namespace {

/// Splits at commas outside of brackets and quotation marks.
std::vector<std::string> split_list(const std::string& text) {
  std::vector<std::string> parts(1);
  int depth = 0;
  char quote = 0;
  for (const char c : text) {
    if (quote) {
      if (c == quote) quote = 0;
    } else if (c == '"' || c == '\'') {
      quote = c;
    } else if (c == '[' || c == '{') {
      ++depth;
    } else if (c == ']' || c == '}') {
      --depth;
    } else if (c == ',' && depth == 0) {
      parts.emplace_back();
      continue;
    }
    parts.back() += c;
  }
  return parts;
}

void set_fixed(SweepFile& sweep, const Field* field, Value value) {
  std::erase_if(sweep.dimensions,
                [&](const Dimension& d) { return d.fields.size() == 1 && d.fields[0] == field; });
  for (Dimension& d : sweep.dimensions) {
    const auto it = std::find(d.fields.begin(), d.fields.end(), field);
    if (it == d.fields.end()) continue;
    for (auto& row : d.rows) row[static_cast<size_t>(it - d.fields.begin())] = value;
  }
  if (field->key == "seed") sweep.seeds = {static_cast<uint32_t>(value.integer)};
  std::erase_if(sweep.fixed, [&](const Assignment& a) { return a.field == field; });
  sweep.fixed.push_back({field, std::move(value)});
}

}  // namespace

void apply_override(SweepFile& sweep, const std::string& override_text, Problems& problems) {
  const Place place = command_line_place();
  const size_t equals = override_text.find('=');
  if (equals == std::string::npos || equals == 0) {
    problems.add(place, override_text, "is neither a file nor key=value");
    return;
  }
  const std::string key = override_text.substr(0, equals);
  std::vector<Value> values;
  const size_t before = problems.size();
  for (const std::string& part : split_list(override_text.substr(equals + 1)))
    values.push_back(parse_override(part, problems));
  if (problems.size() != before) return;
  if (key == "seeds") {
    Value list = values.size() == 1 ? values[0] : Value::list(values);
    list.place = place;
    read_seeds(list, sweep, problems);
    return;
  }
  if (key == "name" || key == "method" || key == "run_cap" || key == "sweep_seed") {
    NodeBudget budget;
    Value root = Value::map();
    root.put(key, values[0]);
    const SweepFile own = read_sweep_value(root, "command line", budget, problems);
    if (key == "name" && !own.name.empty()) sweep.name = own.name;
    if (key == "method") sweep.random = own.random;
    if (key == "run_cap" && own.run_cap) sweep.run_cap = own.run_cap;
    if (key == "sweep_seed") sweep.sweep_seed = own.sweep_seed;
    return;
  }
  const Field* field = field_or_problem(key, place, problems);
  if (!field) return;
  for (const Value& v : values) {
    if (!acceptable(*field, v, problems)) return;
  }
  if (values.size() == 1) {
    set_fixed(sweep, field, values[0]);
    return;
  }
  Dimension d;
  d.name = key;
  d.fields = {field};
  d.place = place;
  d.written = Value::map();
  d.written.put("values", Value::list(values));
  for (Value& v : values) d.rows.push_back({std::move(v)});
  Dimension* old = sweep.find_dimension(field);
  if (old && old->zipped) {
    problems.add(place, key, "is part of zip " + old->name + ": a list cannot replace it");
  } else if (old) {
    *old = std::move(d);
  } else {
    sweep.dimensions.push_back(std::move(d));
  }
}

}  // namespace statelab
