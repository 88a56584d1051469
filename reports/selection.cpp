#include "reports/selection.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <stdexcept>

#include "reports/statistics.h"

namespace statelab {
namespace {

struct Candidate {
  SelectedSetting setting;
  double all_lengths = 0;  // mean over every validated length, for ties
};

std::optional<ScoredLength> longest_validated(const std::vector<RunGroup>& settings) {
  std::set<ScoredLength> lengths;
  for (const RunGroup& setting : settings) {
    for (const ScoredRun& run : setting.runs) {
      for (const auto& [length, accuracy] : run.validation) lengths.insert(length);
    }
  }
  std::optional<ScoredLength> longest;
  for (const ScoredLength& length : lengths) {  // exact ones first, ascending
    if (length.exact() || !longest || !longest->exact()) longest = length;
  }
  return longest;
}

std::optional<Candidate> candidate(const RunGroup& setting, ScoredLength length) {
  std::vector<double> at_length, everywhere;
  for (const ScoredRun& run : setting.runs) {
    if (run.status != "finished") continue;
    const auto found = run.validation.find(length);
    if (found == run.validation.end()) continue;
    at_length.push_back(found->second);
    for (const auto& [other, accuracy] : run.validation) everywhere.push_back(accuracy);
  }
  if (at_length.empty()) return std::nullopt;
  Candidate c;
  c.setting.run_id = setting.runs.front().run_id;
  c.setting.validation = summarize(at_length).mean;
  c.setting.length = length;
  c.setting.runs = static_cast<int64_t>(at_length.size());
  c.all_lengths = summarize(everywhere).mean;
  return c;
}

}  // namespace

Selection select_settings(Database& database, const SelectionOptions& options) {
  if (options.top < 1)
    throw std::invalid_argument(fmt::format("top: must be at least 1, is {}", options.top));
  const std::vector<RunGroup> settings =
      load_groups(database, {.filter = options.filter, .keys = {}, .solve_steps = false});
  require_settings(options.group_by, settings, options.filter);
  const std::optional<ScoredLength> length =
      options.length ? options.length : longest_validated(settings);
  if (!length) {
    throw std::invalid_argument(
        fmt::format("{}: no run was validated yet", filter_text(options.filter)));
  }
  Selection selection;
  std::vector<std::string> order;
  std::map<std::string, std::vector<Candidate>> groups;
  for (const RunGroup& setting : settings) {
    std::string group;
    for (const std::string& key : options.group_by) {
      group += (group.empty() ? "" : ", ") + group_value(setting.config, key);
    }
    for (const ScoredRun& run : setting.runs) selection.seeds.insert(run.seed);
    std::optional<Candidate> c = candidate(setting, *length);
    if (!c) continue;
    c->setting.group = group;
    if (!groups.count(group)) order.push_back(group);
    groups[group].push_back(std::move(*c));
  }
  if (order.empty()) {
    throw std::invalid_argument(fmt::format("{}: no finished run was validated at length {}",
                                            filter_text(options.filter), length->text()));
  }
  for (const std::string& group : order) {
    std::vector<Candidate>& candidates = groups[group];
    std::stable_sort(candidates.begin(), candidates.end(),
                     [](const Candidate& a, const Candidate& b) {
                       return std::pair(a.setting.validation, a.all_lengths) >
                              std::pair(b.setting.validation, b.all_lengths);
                     });
    for (size_t i = 0; i < std::min(candidates.size(), static_cast<size_t>(options.top)); ++i)
      selection.settings.push_back(candidates[i].setting);
  }
  return selection;
}

}  // namespace statelab
