#include "reports/curves.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "reports/length_statistics.h"

namespace statelab {
namespace {

constexpr double kThreshold =
    0.95;  // length_statistics() wants one; curves do not show success rates

double trained_to(const FlatConfig& config) {
  const auto stages =
      nlohmann::json::parse(config_value(config, "train.curriculum"), nullptr, false);
  double longest = 0;
  if (!stages.is_array()) return longest;
  for (const auto& stage : stages) {
    if (stage.is_object() && stage.contains("length") && stage["length"].is_array() &&
        stage["length"].size() == 2) {
      longest = std::max(longest, stage["length"][1].get<double>());
    }
  }
  return longest;
}

std::string label_of(const RunGroup& group, const std::vector<std::string>& keys,
                     const std::vector<std::string>& names) {
  std::string label;
  for (size_t k = 0; k < keys.size(); ++k) {
    const std::string value =
        keys[k] == "model" ? model_label(group.config) : config_value(group.config, keys[k]);
    if (value.empty()) continue;
    const bool names_itself =
        keys[k] == "model" || keys[k] == "model.mixer" || keys[k] == "task.name";
    label += fmt::format("{}{}", label.empty() ? "" : ", ",
                         names_itself ? value : names[k] + ' ' + value);
  }
  return label.empty() ? model_label(group.config) : label;
}

Figure figure_of(const std::string& task, const std::vector<const RunGroup*>& groups,
                 const CurvesOptions& options) {
  Figure figure;
  figure.key = "curves_" + task;
  for (char& c : figure.key) {
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '_' && c != '-') c = '_';
  }
  figure.x_title = "length";
  figure.y_title = metric_title(options.metric);
  figure.title = fmt::format("{}: {} against length", task, figure.y_title);
  figure.band = "least to greatest run of a group";

  std::vector<std::string> keys = options.group_by;
  if (keys.empty()) {
    std::vector<FlatConfig> configs;
    for (const RunGroup* group : groups) configs.push_back(group->config);
    keys = swept_keys(configs);
  }
  const std::vector<std::string> names = short_names(keys);
  double chance = 0, constant = 0, useless = 0;
  bool levels = false;
  std::vector<std::pair<double, Series>> ranked;  // score at the longest length
  for (const RunGroup* group : groups) {
    Series series{label_of(*group, keys, names), {}};
    for (const ScoredLength& length : tested_lengths({*group})) {
      if (!length.exact()) continue;
      const LengthStatistics s = length_statistics(*group, length, options.metric, kThreshold);
      series.points.push_back({static_cast<double>(length.max), s.summary.median, s.summary.worst,
                               s.summary.best, s.summary.n});
      if (s.chance) {
        levels = true;
        chance = std::max(chance, *s.chance);
        constant = std::max(constant, *s.constant_answer);
        useless = std::max(useless, *s.best_useless);
      }
    }
    if (series.points.empty()) continue;
    figure.trained_to = std::max(figure.trained_to.value_or(0), trained_to(group->config));
    const double last = series.points.back().y;
    ranked.emplace_back(last, std::move(series));
  }
  if (ranked.size() > options.most_series) {
    figure.title += fmt::format(" (the {} best of {} groups at the longest length)",
                                options.most_series, ranked.size());
    std::stable_sort(ranked.begin(), ranked.end(),
                     [](const auto& a, const auto& b) { return a.first > b.first; });
    ranked.resize(options.most_series);
  }
  for (auto& [score, series] : ranked) figure.series.push_back(std::move(series));
  if (levels) {
    figure.references.push_back({"chance", chance});
    if (constant > chance + 0.005) figure.references.push_back({"best constant answer", constant});
    if (useless > std::max(chance, constant) + 0.0005)
      figure.references.push_back({"best useless model expected", useless});
  }
  if (figure.trained_to == 0.0) figure.trained_to.reset();
  return figure;
}

}  // namespace

std::vector<Figure> curves(Database& database, const CurvesOptions& options) {
  std::vector<std::string> keys = options.group_by;
  // A figure holds one task, whatever the grouping.
  if (!keys.empty() && std::find(keys.begin(), keys.end(), "task.name") == keys.end())
    keys.insert(keys.begin(), "task.name");
  const std::vector<RunGroup> groups =
      load_groups(database, {.filter = options.filter, .keys = keys, .solve_steps = false});
  require_settings(options.group_by, groups, options.filter);
  std::vector<std::string> order;
  std::map<std::string, std::vector<const RunGroup*>> tasks;
  for (const RunGroup& group : groups) {
    const std::string& task = config_value(group.config, "task.name");
    if (!tasks.count(task)) order.push_back(task);
    tasks[task].push_back(&group);
  }
  std::vector<Figure> figures;
  for (const std::string& task : order) {
    Figure figure = figure_of(task, tasks[task], options);
    if (!figure.series.empty()) figures.push_back(std::move(figure));
  }
  return figures;
}

}  // namespace statelab
