#include "reports/scores.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <unordered_map>

#include "reports/statistics.h"

namespace statelab {
namespace {

struct LoadedRun {
  ScoredRun run;
  std::string config;  ///< canonical JSON; of the group's first run only
};

std::vector<LoadedRun> load_runs(Database& database, const FilterSql& filter,
                                 std::unordered_map<int64_t, size_t>& index) {
  const std::vector<Row> rows = query(
      database,
      "SELECT r.id, r.run_id, r.group_id, r.name, r.status, r.selection, r.seed, r.parameters,"
      " (SELECT sum(x.wall_seconds / x.members) FROM run_executions x WHERE x.run = r.id),"
      " (SELECT e.precision FROM run_executions x JOIN executions e ON e.id = x.execution WHERE "
      "x.run = r.id"
      "  ORDER BY x.execution DESC LIMIT 1), r.config"
      " FROM runs r WHERE " +
          filter.condition + " ORDER BY r.id",
      filter.parameters);
  std::vector<LoadedRun> loaded;
  loaded.reserve(rows.size());
  for (const Row& row : rows) {
    index[integer_of(row[0])] = loaded.size();
    LoadedRun& l = loaded.emplace_back();
    l.run.run_id = text_of(row[1]);
    l.run.group_id = text_of(row[2]);
    l.run.name = text_of(row[3]);
    l.run.status = text_of(row[4]);
    l.run.selection = text_of(row[5]);
    l.run.seed = integer_of(row[6]);
    if (!is_null(row[7])) l.run.parameters = integer_of(row[7]);
    if (!is_null(row[8])) l.run.wall_seconds = number_of(row[8]);
    l.run.computed_with = text_of(row[9]);
    l.config = text_of(row[10]);
  }
  return loaded;
}

void load_test_scores(Database& database, const FilterSql& filter,
                      const std::unordered_map<int64_t, size_t>& index,
                      std::vector<LoadedRun>& loaded) {
  // Later rows overwrite earlier ones: the run's own evaluation comes last, before it the one with
  // most samples.
  const std::vector<Row> rows = query(
      database,
      "SELECT v.run, v.length_min, v.length_max, v.accuracy, v.sequence_accuracy, v.chance, "
      "v.constant_answer,"
      " v.sequences, v.tokens"
      " FROM evaluations v JOIN runs r ON r.id = v.run"
      " WHERE v.split = 'test' AND (r.selected_step IS NULL OR v.step = r.selected_step) AND " +
          filter.condition + " ORDER BY v.run, v.step, v.configured, v.samples, v.id",
      filter.parameters);
  for (const Row& row : rows) {
    const auto found = index.find(integer_of(row[0]));
    if (found == index.end()) continue;
    TestScore& score = loaded[found->second].run.test[{integer_of(row[1]), integer_of(row[2])}];
    score = {number_of(row[3]), number_of(row[4]),  number_of(row[5]),
             number_of(row[6]), integer_of(row[7]), integer_of(row[8])};
  }
}

void load_validations(Database& database, const FilterSql& filter,
                      const std::unordered_map<int64_t, size_t>& index,
                      std::vector<LoadedRun>& loaded) {
  const std::vector<Row> rows =
      query(database,
            "SELECT v.run, v.length_min, v.length_max, v.accuracy FROM runs r JOIN evaluations v "
            "ON v.run = r.id"
            " AND v.split = 'validation' AND v.step = r.selected_step WHERE " +
                filter.condition + " ORDER BY v.run, v.configured, v.samples, v.id",
            filter.parameters);
  for (const Row& row : rows) {
    const auto found = index.find(integer_of(row[0]));
    if (found == index.end()) continue;
    loaded[found->second].run.validation[{integer_of(row[1]), integer_of(row[2])}] =
        number_of(row[3]);
  }
}

// The longest exact length of eval.lengths that some stage of the curriculum trains on.
ScoredLength solve_length_of(const FlatConfig& config) {
  using nlohmann::json;
  const json lengths = json::parse(config_value(config, "eval.lengths"), nullptr, false);
  const json stages = json::parse(config_value(config, "train.curriculum"), nullptr, false);
  int64_t trained = 0, longest = 0;
  if (stages.is_array()) {
    for (const json& stage : stages) {
      if (stage.is_object() && stage.contains("length") && stage["length"].is_array() &&
          stage["length"].size() == 2) {
        trained = std::max(trained, stage["length"][1].get<int64_t>());
      }
    }
  }
  if (lengths.is_array()) {
    for (const json& length : lengths) {
      const auto value = length.is_number_integer() ? length.get<int64_t>() : 0;
      if (value <= trained) longest = std::max(longest, value);
    }
  }
  return {longest, longest};
}

void load_solve_steps(Database& database, const FilterSql& filter, double threshold,
                      std::vector<RunGroup>& groups) {
  std::set<int64_t> lengths;
  std::unordered_map<std::string, std::pair<ScoredRun*, int64_t>> runs;
  for (RunGroup& group : groups) {
    if (group.solve_length.max == 0) continue;
    lengths.insert(group.solve_length.max);
    for (ScoredRun& run : group.runs) runs[run.run_id] = {&run, group.solve_length.max};
  }
  for (int64_t length : lengths) {
    std::vector<CellValue> parameters = filter.parameters;
    parameters.emplace_back(length);
    const std::string at = fmt::format("?{}", parameters.size());
    const std::vector<Row> rows =
        query(database,
              "SELECT r.run_id, v.step, v.accuracy FROM runs r JOIN evaluations v ON v.run = r.id "
              "AND v.split = 'validation'"
              " AND v.length_min = " +
                  at + " AND v.length_max = " + at + " AND v.configured = 1 WHERE " +
                  filter.condition + " ORDER BY r.id, v.step",
              parameters);
    for (size_t begin = 0; begin < rows.size();) {
      const std::string id = text_of(rows[begin][0]);
      std::vector<StepScore> scores;
      size_t end = begin;
      for (; end < rows.size() && text_of(rows[end][0]) == id; ++end) {
        scores.push_back({integer_of(rows[end][1]), number_of(rows[end][2])});
      }
      begin = end;
      const auto found = runs.find(id);
      if (found == runs.end() || found->second.second != length) continue;
      found->second.first->solved_at = steps_to_solve(scores, threshold);
    }
  }
}

}  // namespace

std::string ScoredLength::text() const {
  return exact() ? fmt::format("{}", max) : fmt::format("{}..{}", min, max);
}

std::string ScoredLength::column_prefix() const {
  return exact() ? fmt::format("l{}.", max) : fmt::format("l{}_{}.", min, max);
}

std::strong_ordering ScoredLength::operator<=>(const ScoredLength& other) const {
  if (exact() != other.exact())
    return exact() ? std::strong_ordering::less : std::strong_ordering::greater;
  if (const auto order = max <=> other.max; order != 0) return order;
  return min <=> other.min;
}

Metric metric_from_name(const std::string& name) {
  for (Metric metric : {Metric::kAccuracy, Metric::kScaledAccuracy, Metric::kSequenceAccuracy}) {
    if (metric_name(metric) == name) return metric;
  }
  throw std::invalid_argument(fmt::format(
      "metric: must be accuracy, scaled_accuracy or sequence_accuracy, is \"{}\"", name));
}

std::string metric_name(Metric metric) {
  switch (metric) {
    case Metric::kAccuracy:
      return "accuracy";
    case Metric::kScaledAccuracy:
      return "scaled_accuracy";
    case Metric::kSequenceAccuracy:
      return "sequence_accuracy";
  }
  return "";
}

std::string metric_title(Metric metric) {
  std::string title = metric_name(metric);
  std::replace(title.begin(), title.end(), '_', ' ');
  return title;
}

std::optional<double> ScoredRun::score(ScoredLength length, Metric metric) const {
  const auto found = test.find(length);
  if (found == test.end()) return std::nullopt;
  const TestScore& s = found->second;
  if (metric == Metric::kSequenceAccuracy) return s.sequence_accuracy;
  return metric == Metric::kScaledAccuracy ? scaled_accuracy(s.accuracy, s.chance) : s.accuracy;
}

std::vector<RunGroup> load_groups(Database& database, const GroupOptions& options) {
  const FilterSql filter = filter_sql(options.filter);
  std::unordered_map<int64_t, size_t> index;
  std::vector<LoadedRun> loaded = load_runs(database, filter, index);
  load_test_scores(database, filter, index, loaded);
  load_validations(database, filter, index, loaded);

  std::vector<RunGroup> groups;
  std::unordered_map<std::string, size_t> by_key, by_setting;  // key text or group_id -> group
  for (LoadedRun& l : loaded) {
    auto setting = by_setting.find(l.run.group_id);
    if (setting == by_setting.end()) {
      FlatConfig config = flatten_config(l.config);
      config.erase("seed");
      std::string key = l.run.group_id;
      if (!options.keys.empty()) {
        key.clear();
        for (const std::string& name : options.keys) {
          key += (name == "model" ? model_label(config) : config_value(config, name)) + '\x1f';
        }
      }
      const auto [place, is_new] = by_key.try_emplace(key, groups.size());
      if (is_new) {
        groups.emplace_back();
        groups.back().solve_length = solve_length_of(config);
        groups.back().config = config;
      }
      groups[place->second].settings.push_back(std::move(config));
      setting = by_setting.emplace(l.run.group_id, place->second).first;
    }
    groups[setting->second].runs.push_back(std::move(l.run));
  }
  if (options.solve_steps) load_solve_steps(database, filter, options.solve_threshold, groups);
  return groups;
}

void require_settings(const std::vector<std::string>& keys, const std::vector<RunGroup>& groups,
                      const RunFilter& filter) {
  if (keys.empty() || groups.empty()) return;
  std::vector<FlatConfig> settings;
  for (const RunGroup& group : groups)
    settings.insert(settings.end(), group.settings.begin(), group.settings.end());
  std::vector<std::string> known = all_keys(settings);
  known.insert(known.begin(), "model");
  for (const std::string& key : keys) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    throw std::invalid_argument(
        fmt::format("{}: no run has a setting \"{}\"; settings, all but the seed, are {}",
                    filter_text(filter), key, fmt::join(known, ", ")));
  }
}

std::vector<ScoredLength> tested_lengths(const std::vector<RunGroup>& groups) {
  std::set<ScoredLength> lengths;
  for (const RunGroup& group : groups) {
    for (const ScoredRun& run : group.runs) {
      for (const auto& [length, score] : run.test) lengths.insert(length);
    }
  }
  return {lengths.begin(), lengths.end()};
}

}  // namespace statelab
