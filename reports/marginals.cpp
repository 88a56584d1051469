#include "reports/marginals.h"

#include <fmt/format.h>

#include <algorithm>

namespace statelab {
namespace {

struct Marginal {
  std::string key, value;
  RunGroup group;
};

// Every value of every key with its runs, values in order of insertion.
std::vector<Marginal> rows_of(Database& database, const RunFilter& filter,
                              const std::vector<std::string>& keys) {
  std::vector<Marginal> rows;
  for (const std::string& key : keys) {
    for (RunGroup& group :
         load_groups(database, {.filter = filter, .keys = {key}, .solve_steps = false})) {
      std::string value = group_value(group.config, key);
      rows.push_back({key, std::move(value), std::move(group)});
    }
  }
  return rows;
}

std::vector<Column> columns_of(const std::vector<ScoredLength>& lengths,
                               const MarginalOptions& options) {
  using enum ColumnType;
  std::vector<Column> columns = {{.key = "setting", .title = "setting"},
                                 {.key = "value", .title = "value"},
                                 {.key = "settings", .title = "settings", .type = kInteger},
                                 {.key = "runs", .title = "runs", .type = kInteger}};
  const std::string threshold = fmt::format("≥ {:g} %", 100 * options.threshold);
  for (const ScoredLength& length : lengths) {
    const std::string prefix = length.column_prefix(), block = "length " + length.text();
    columns.push_back({.key = prefix + "success",
                       .title = "runs " + threshold,
                       .type = kPercent,
                       .digits = 0,
                       .block = block,
                       .extra = Extra::kInterval});
    columns.push_back(
        {.key = prefix + "median", .title = "median", .type = kPercent, .block = block});
    columns.push_back({.key = prefix + "best", .title = "best", .type = kPercent, .block = block});
  }
  const std::string block = "longest length " + threshold;
  columns.push_back(
      {.key = "longest_median", .title = "median", .type = kNumber, .digits = 0, .block = block});
  columns.push_back({.key = "longest_best", .title = "best", .type = kInteger, .block = block});
  return columns;
}

std::vector<Cell> cells_of(const Marginal& row, const std::vector<ScoredLength>& lengths,
                           const MarginalOptions& options) {
  std::vector<Cell> cells = {{.value = row.key},
                             {.value = row.value.empty() ? CellValue() : CellValue(row.value)},
                             {.value = static_cast<int64_t>(row.group.settings.size())},
                             {.value = static_cast<int64_t>(row.group.runs.size())}};
  for (const ScoredLength& length : lengths) {
    const LengthStatistics s =
        length_statistics(row.group, length, options.metric, options.threshold);
    Cell& success =
        cells.emplace_back(Cell{.value = s.success ? CellValue(s.success->rate) : CellValue()});
    if (s.success) success.low = s.success->wilson.low, success.high = s.success->wilson.high;
    const bool scored = s.summary.n > 0;
    cells.push_back({.value = scored ? CellValue(s.summary.median) : CellValue()});
    cells.push_back({.value = scored ? CellValue(s.summary.best) : CellValue()});
  }
  std::vector<double> longest;
  for (const ScoredRun& run : row.group.runs) {
    if (const auto length = longest_length(run, options.metric, options.threshold)) {
      longest.push_back(static_cast<double>(*length));
    } else if (run.status == "diverged" || run.status == "failed") {
      longest.push_back(0);
    }
  }
  if (longest.empty()) {
    cells.resize(cells.size() + 2);
  } else {
    const Summary s = summarize(longest);
    cells.push_back({.value = s.median});
    cells.push_back({.value = static_cast<int64_t>(s.best)});
  }
  return cells;
}

std::vector<ScoredLength> default_lengths(const std::vector<RunGroup>& groups) {
  const std::vector<ScoredLength> tested = tested_lengths(groups);
  if (tested.empty()) return {};
  ScoredLength longest = tested.back();  // a range, where there is no exact length
  for (const ScoredLength& length : tested) {
    if (length.exact()) longest = length;
  }
  return {longest};
}

}  // namespace

std::optional<int64_t> longest_length(const ScoredRun& run, Metric metric, double threshold) {
  std::optional<int64_t> longest;
  for (const auto& [length, score] : run.test) {  // exact ones first, ascending
    if (!length.exact()) break;
    if (!longest) longest = 0;
    if (!(run.score(length, metric).value_or(-1) >= threshold)) break;
    longest = length.max;
  }
  return longest;
}

Table marginals(Database& database, const MarginalOptions& options) {
  const std::vector<RunGroup> settings =
      load_groups(database, {.filter = options.filter, .keys = {}, .solve_steps = false});
  require_settings(options.keys, settings, options.filter);
  std::vector<std::string> keys = options.keys;
  if (keys.empty()) {
    std::vector<FlatConfig> configs;
    for (const RunGroup& setting : settings) configs.push_back(setting.config);
    keys = swept_keys(configs);
  }
  const std::vector<ScoredLength> lengths =
      options.lengths.empty() ? default_lengths(settings) : options.lengths;
  Table table{.key = "marginals",
              .title = fmt::format("{} of each setting, over all values of the others: {}",
                                   metric_title(options.metric), filter_text(options.filter)),
              .columns = columns_of(lengths, options),
              .rows = {},
              .notes = {}};
  for (const Marginal& row : rows_of(database, options.filter, keys))
    table.rows.push_back(cells_of(row, lengths, options));
  Marginal all{"all", "", {}};
  for (const RunGroup& setting : settings) {
    all.group.settings.insert(all.group.settings.end(), setting.settings.begin(),
                              setting.settings.end());
    all.group.runs.insert(all.group.runs.end(), setting.runs.begin(), setting.runs.end());
  }
  table.rows.push_back(cells_of(all, lengths, options));
  table.notes.push_back(
      {"", fmt::format("longest length: up to there a run reaches {:g} % at every tested length; 0 "
                       "where it misses the shortest",
                       100 * options.threshold)});
  table.notes.push_back({"",
                         "intervals are Wilson's 95 %; runs that diverged or failed count as not "
                         "reaching anything"});
  return table;
}

}  // namespace statelab
