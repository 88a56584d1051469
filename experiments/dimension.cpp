#include "experiments/dimension.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "experiments/suggestion.h"
#include "experiments/sweep.h"

namespace statelab {
namespace {

using Kind = Value::Kind;

const std::vector<std::string>& distributions() {
  static const std::vector<std::string> names = {"categorical",     "constant",
                                                 "logspace",        "int_uniform",
                                                 "q_uniform",       "uniform",
                                                 "log_uniform",     "log_uniform_values",
                                                 "q_log_uniform",   "q_log_uniform_values",
                                                 "inv_log_uniform", "inv_log_uniform_values",
                                                 "normal",          "q_normal",
                                                 "log_normal",      "q_log_normal"};
  return names;
}

/// One number of a parameter's map; adds a problem when it is missing or no number.
std::optional<double> number(const Value& spec, const std::string& key, const char* name,
                             Problems& problems) {
  const Value* v = spec.find(name);
  if (!v) {
    problems.add(spec.place, key, std::string("needs ") + name);
    return {};
  }
  if (!v->is_number()) {
    problems.add(v->place, key + '.' + name, "must be a number, is " + v->shown());
    return {};
  }
  return v->number;
}

Value placed(Value value, const Place& place) {
  value.place = place;
  return value;
}

bool fill_rows(Dimension& d, const std::vector<Value>& values, Problems& problems) {
  bool good = true;
  for (const Value& v : values) {
    if (acceptable(*d.fields[0], v, problems)) {
      d.rows.push_back({v});
    } else {
      good = false;
    }
  }
  return good;
}

std::optional<Dimension> read_values(Dimension d, const Value& spec, bool random,
                                     Problems& problems) {
  const Value& values = *spec.find("values");
  const std::string& key = d.fields[0]->key;
  if (!values.is(Kind::kList) || values.items.empty()) {
    problems.add(values.place, key + ".values",
                 "must be a list of at least one value, is " +
                     (values.is(Kind::kList) ? std::string("empty") : values.shown()));
    return {};
  }
  if (const Value* p = spec.find("probabilities")) {
    double sum = 0;
    bool good = p->is(Kind::kList) && p->items.size() == values.items.size();
    if (good) {
      for (const Value& v : p->items) {
        good = good && v.is_number() && v.number >= 0;
        sum += v.number;
        d.probabilities.push_back(v.number);
      }
    }
    if (!good || std::abs(sum - 1) > 1e-6) {
      problems.add(p->place, key + ".probabilities",
                   "must be one number >= 0 for each value, with sum 1");
      return {};
    }
    if (!random) {
      problems.add(p->place, key + ".probabilities", "has a meaning only with method: random");
      return {};
    }
  }
  if (!fill_rows(d, values.items, problems)) return {};
  return d;
}

std::vector<Value> logspace(double min, double max, int64_t count, const Place& place) {
  std::vector<Value> values;
  for (int64_t i = 0; i < count; ++i) {
    const double t = count == 1 ? 0 : static_cast<double>(i) / static_cast<double>(count - 1);
    const double v =
        i == 0 ? min
        : i == count - 1
            ? max
            : six_digits(std::exp(std::log(min) + t * (std::log(max) - std::log(min))));
    values.push_back(placed(Value::of(v), place));
  }
  return values;
}

std::optional<Dimension> read_distribution(Dimension d, const std::string& name, const Value& spec,
                                           bool random, Problems& problems) {
  const std::string& key = d.fields[0]->key;
  const bool normal = name.find("normal") != std::string::npos;
  Distribution dist;
  dist.name = name;
  const auto first = number(spec, key, normal ? "mu" : "min", problems);
  const auto second = number(spec, key, normal ? "sigma" : "max", problems);
  if (!first || !second) return {};
  (normal ? dist.mu : dist.min) = *first;
  (normal ? dist.sigma : dist.max) = *second;
  if (!normal && *first > *second) {
    problems.add(
        spec.place, key,
        "min must not exceed max, min is " + shortest(*first) + ", max is " + shortest(*second));
    return {};
  }
  if (normal && *second < 0) {
    problems.add(spec.place, key, "sigma must be >= 0, is " + shortest(*second));
    return {};
  }
  const bool of_values = name == "logspace" || name.find("_values") != std::string::npos;
  if (of_values && *first <= 0) {
    problems.add(spec.place, key, name + " needs min > 0, min is " + shortest(*first));
    return {};
  }
  if (spec.find("q")) {
    const auto q = number(spec, key, "q", problems);
    if (!q) return {};
    dist.q = *q;
  }
  if (!(dist.q > 0)) {
    problems.add(spec.place, key + ".q", "must be > 0, is " + shortest(dist.q));
    return {};
  }
  const auto too_many = [&](double count) {
    if (count <= static_cast<double>(kMaxRuns)) return false;
    problems.add(spec.place, key,
                 "gives " + shortest(count) + " values, at most " + std::to_string(kMaxRuns) +
                     " are allowed");
    return true;
  };
  if (name == "logspace") {
    const Value* count = spec.find("count");
    if (!count || !count->is(Kind::kInteger) || count->integer < 1) {
      problems.add(count ? count->place : spec.place, key + ".count",
                   "logspace needs count, an integer >= 1");
      return {};
    }
    if (too_many(count->number) ||
        !fill_rows(d, logspace(dist.min, dist.max, count->integer, spec.place), problems))
      return {};
    return d;
  }
  if (random) {
    d.drawn = dist;
    return d;
  }
  if (name == "int_uniform" || name == "q_uniform") {  // the two that a grid can walk through
    const double step = name == "int_uniform" ? 1 : dist.q;
    const double end = name == "int_uniform" ? dist.max : dist.max - 1e-9 * step;
    const double count = std::floor((end - dist.min) / step) + 1;
    if (too_many(count)) return {};
    std::vector<Value> values;
    for (int64_t i = 0; i < static_cast<int64_t>(count); ++i) {
      values.push_back(
          placed(Value::of(six_digits(dist.min + step * static_cast<double>(i))), spec.place));
    }
    if (!fill_rows(d, values, problems)) return {};
    return d;
  }
  problems.add(spec.place, key,
               "distribution " + name +
                   " needs method: random with run_cap; a grid takes values, "
                   "logspace with count, int_uniform or q_uniform");
  return {};
}

}  // namespace

double six_digits(double value) {
  char buffer[40];
  std::snprintf(buffer, sizeof buffer, "%.6g", value);
  return std::strtod(buffer, nullptr);
}

const Field* field_or_problem(const std::string& key, const Place& place, Problems& problems) {
  if (const Field* field = find_field(key)) return field;
  const auto leaf = [](const std::string& k) { return k.substr(k.rfind('.') + 1); };
  const std::string section =
      key.find('.') == std::string::npos ? "" : key.substr(0, key.rfind('.'));
  std::vector<std::string> siblings, all, same_leaf;
  for (const Field& f : fields()) {
    all.push_back(f.key);
    if (f.section() == section) siblings.push_back(leaf(f.key));
    if (leaf(f.key) == leaf(key)) same_leaf.push_back(f.key);
  }
  std::string hint = did_you_mean(leaf(key), siblings);
  if (hint.empty() && !same_leaf.empty()) hint = ", did you mean " + same_leaf[0] + "?";
  if (hint.empty()) hint = did_you_mean(key, all);
  if (hint.empty()) hint = "; `statelab schema --format md` lists all keys";
  problems.add(place, key, "unknown key" + hint);
  return nullptr;
}

bool acceptable(const Field& field, const Value& value, Problems& problems) {
  const auto found = check(field, value);
  for (const FieldProblem& p : found) {
    std::string hint;
    if (field.type == FieldType::kChoice && value.is(Kind::kText))
      hint = did_you_mean(value.text, field.choices);
    problems.add(p.place, p.key, p.message + hint);
  }
  return found.empty();
}

void read_assignments(const Value& map, const std::string& prefix, std::vector<Assignment>& out,
                      Problems& problems) {
  if (map.is(Kind::kNull)) return;
  if (!map.is(Kind::kMap)) {
    std::string hint;
    if (find_field(prefix + ".name"))
      hint = ": write { name: " + (map.is_scalar() ? map.shown() : std::string("...")) + " }";
    problems.add(map.place, prefix, "must be a map, is " + map.shown() + hint);
    return;
  }
  for (size_t i = 0; i < map.keys.size(); ++i) {
    const std::string key = prefix.empty() ? map.keys[i] : prefix + '.' + map.keys[i];
    const Value& item = map.items[i];
    if (is_section(key)) {
      read_assignments(item, key, out, problems);
    } else if (const Field* field = field_or_problem(key, item.key_place, problems)) {
      if (acceptable(*field, item, problems)) {
        const auto same = std::find_if(out.begin(), out.end(),
                                       [&](const Assignment& a) { return a.field == field; });
        if (same != out.end()) {
          problems.add(item.key_place, key,
                       "duplicate key, first at line " + std::to_string(same->value.place.line));
        } else {
          out.push_back({field, item});
        }
      }
    }
  }
}

std::optional<Dimension> read_parameter(const Field& field, const Value& spec, bool random,
                                        Problems& problems) {
  Dimension d;
  d.name = field.key;
  d.fields = {&field};
  d.place = spec.key_place;
  d.written = spec;
  if (!spec.is(Kind::kMap)) {
    problems.add(spec.place, field.key,
                 "must be a map such as { values: [...] } or { value: ... }, is " + spec.shown());
    return {};
  }
  static const std::vector<std::string> known = {"values",       "value", "min",           "max",
                                                 "distribution", "count", "probabilities", "mu",
                                                 "sigma",        "q"};
  bool good = true;
  for (size_t i = 0; i < spec.keys.size(); ++i) {
    if (std::find(known.begin(), known.end(), spec.keys[i]) == known.end()) {
      problems.add(spec.items[i].key_place, field.key + '.' + spec.keys[i],
                   "unknown key" + did_you_mean(spec.keys[i], known));
      good = false;
    }
  }
  if (!good) return {};
  std::string name;
  if (const Value* given = spec.find("distribution")) {
    name = given->text;
    if (!given->is(Kind::kText) ||
        std::find(distributions().begin(), distributions().end(), name) == distributions().end()) {
      std::string all;
      for (const auto& n : distributions()) all += (all.empty() ? "" : ", ") + n;
      problems.add(
          given->place, field.key + ".distribution",
          "must be one of " + all + ", is " + given->shown() + did_you_mean(name, distributions()));
      return {};
    }
  } else if (spec.find("values")) {
    name = "categorical";
  } else if (spec.find("value")) {
    name = "constant";
  } else if (spec.find("min") && spec.find("max")) {
    name = spec.find("min")->is(Kind::kInteger) && spec.find("max")->is(Kind::kInteger)
               ? "int_uniform"
               : "uniform";
  }
  if (name == "categorical" && spec.find("values"))
    return read_values(std::move(d), spec, random, problems);
  if (name == "constant" && spec.find("value")) {
    if (!fill_rows(d, {*spec.find("value")}, problems)) return {};
    return d;
  }
  if (name.empty() || name == "categorical" || name == "constant") {
    problems.add(spec.place, field.key, "needs values, value, or min and max");
    return {};
  }
  return read_distribution(std::move(d), name, spec, random, problems);
}

std::optional<Dimension> read_zip(const std::string& name, const Value& spec, Problems& problems) {
  Dimension d;
  d.name = name;
  d.place = spec.key_place;
  d.written = spec;
  d.zipped = true;
  bool good = true;
  std::vector<std::vector<Value>> columns;
  const auto read = [&](const auto& self, const Value& map, const std::string& prefix) -> void {
    if (!map.is(Kind::kMap)) {
      problems.add(map.place, prefix.empty() ? "zip." + name : prefix,
                   "must be a map key: [values], is " + map.shown());
      good = false;
      return;
    }
    for (size_t i = 0; i < map.keys.size(); ++i) {
      const std::string key = prefix.empty() ? map.keys[i] : prefix + '.' + map.keys[i];
      const Value* values = &map.items[i];
      if (is_section(key)) {
        self(self, *values, key);
        continue;
      }
      const Field* field = field_or_problem(key, values->key_place, problems);
      if (values->is(Kind::kMap) && values->find("values") && values->keys.size() == 1)
        values = values->find("values");
      if (!field || !values->is(Kind::kList) || values->items.empty()) {
        if (field)
          problems.add(values->place, key,
                       "must be a list of at least one value, is " + values->shown());
        good = false;
        continue;
      }
      if (!columns.empty() && values->items.size() != columns[0].size()) {
        problems.add(values->place, key,
                     "all lists of zip " + name + " must have the same length: " +
                         d.fields[0]->key + " has " + std::to_string(columns[0].size()) +
                         ", this has " + std::to_string(values->items.size()));
        good = false;
        continue;
      }
      for (const Value& v : values->items) good = acceptable(*field, v, problems) && good;
      d.fields.push_back(field);
      columns.push_back(values->items);
    }
  };
  read(read, spec, "");
  if (good && columns.empty()) {
    problems.add(spec.place, "zip." + name, "names no key");
    return {};
  }
  if (!good) return {};
  for (size_t row = 0; row < columns[0].size(); ++row) {
    d.rows.emplace_back();
    for (const auto& column : columns) d.rows.back().push_back(column[row]);
  }
  return d;
}

}  // namespace statelab
