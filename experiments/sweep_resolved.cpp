// A sweep file written out again, complete in itself.
#include <algorithm>

#include "experiments/sweep_file.h"
#include "tasks/task.h"

namespace statelab {
namespace {

Value flat_map(const std::vector<Assignment>& point) {
  Value map = Value::map();
  for (const Assignment& a : point) {
    map.keys.push_back(a.field->key);
    map.items.push_back(a.value);
  }
  return map;
}

bool is_fixed(const SweepFile& sweep, const Field* field) {
  return std::any_of(sweep.fixed.begin(), sweep.fixed.end(),
                     [&](const Assignment& a) { return a.field == field; });
}

/// Whether any value of task.name is a preset such as parity.slice.
bool names_preset(const SweepFile& sweep) {
  const Field* name = find_field("task.name");
  const auto preset = [&](const Assignment& a) {
    return a.field == name && find_preset(a.value.text).has_value();
  };
  const auto in = [&](const std::vector<Assignment>& point) {
    return std::any_of(point.begin(), point.end(), preset);
  };
  if (in(sweep.base) || in(sweep.fixed) ||
      std::any_of(sweep.include.begin(), sweep.include.end(), in))
    return true;
  for (const Dimension& d : sweep.dimensions) {
    for (size_t j = 0; j < d.fields.size(); ++j) {
      for (const auto& row : d.rows) {
        if (preset({d.fields[j], row[j]})) return true;
      }
    }
  }
  return false;
}

}  // namespace

std::string resolved_text(const SweepFile& sweep) {
  const bool presets = names_preset(sweep);
  Value root = Value::map();
  root.put("name", Value::of(sweep.name));
  if (sweep.random) root.put("method", Value::of(std::string("random")));
  if (sweep.run_cap) root.put("run_cap", Value::of(*sweep.run_cap));
  if (sweep.sweep_seed) root.put("sweep_seed", Value::of(static_cast<int64_t>(sweep.sweep_seed)));
  RunConfig run = default_run();
  for (const Assignment& a : sweep.base) a.field->set(run, a.value);
  for (const Assignment& a : sweep.fixed) a.field->set(run, a.value);
  Value base = Value::map();  // complete: a later default cannot change what this text means
  for (const Field& field : fields()) {
    const bool written = sweep.find_base(&field) || is_fixed(sweep, &field);
    const bool optional = field.key == "seed" ||
                          (field.section() == "task" && presets);  // a default would beat a preset
    if (written || !optional) base.put(field.key, field.get(run));
  }
  root.put("base", std::move(base));
  // A zip between parameters would lose its place in the order: write each run of one kind as found, zips by name.
  Value parameters = Value::map(), zips = Value::map();
  const bool mixed = std::any_of(sweep.dimensions.begin(), sweep.dimensions.end(),
                                 [](const Dimension& d) { return d.zipped; });
  for (const Dimension& d : sweep.dimensions) {
    if (!d.zipped && (!mixed || d.drawn || !d.probabilities.empty())) {
      parameters.keys.push_back(d.name);
      parameters.items.push_back(d.written);
      continue;
    }
    Value columns = Value::map();
    for (size_t j = 0; j < d.fields.size(); ++j) {
      Value column = Value::list();
      for (const auto& row : d.rows) column.items.push_back(row[j]);
      columns.keys.push_back(d.fields[j]->key);
      columns.items.push_back(std::move(column));
    }
    zips.keys.push_back(d.name);
    zips.items.push_back(std::move(columns));
  }
  if (!parameters.items.empty()) root.put("parameters", std::move(parameters));
  if (!zips.items.empty()) root.put("zip", std::move(zips));
  const auto points = [&](const char* key, const std::vector<std::vector<Assignment>>& list) {
    if (list.empty()) return;
    Value out = Value::list();
    for (const auto& point : list) {
      Value map = flat_map(point);
      if (key == std::string("include")) {
        for (const Assignment& a : sweep.fixed) {
          const auto at = std::find(map.keys.begin(), map.keys.end(), a.field->key);
          if (at != map.keys.end()) map.items[static_cast<size_t>(at - map.keys.begin())] = a.value;
        }
      }
      out.items.push_back(std::move(map));
    }
    root.put(key, std::move(out));
  };
  points("include", sweep.include);
  points("exclude", sweep.exclude);
  if (sweep.seeds_place.file ||
      !std::any_of(sweep.dimensions.begin(), sweep.dimensions.end(), [](const Dimension& d) {
        return d.fields.size() == 1 && d.fields[0]->key == "seed";
      })) {
    Value seeds = Value::list();
    for (const uint32_t seed : sweep.seeds)
      seeds.items.push_back(Value::of(static_cast<int64_t>(seed)));
    root.put("seeds", std::move(seeds));
  }
  return to_pretty_json(root);
}

}  // namespace statelab
