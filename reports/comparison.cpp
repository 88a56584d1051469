#include "reports/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <set>

#include "reports/render.h"

namespace statelab {
namespace {

// One row's worth of numbers at one length, and everything that is shown of it.
struct Entry {
  const RunGroup* group;
  ScoredLength length;
  LengthStatistics statistics;
};

struct Shape {
  bool by_validation = false, levels = true, useless = true, own_n = true;
};

std::vector<Column> score_columns(const Shape& shape, const CompareOptions& options,
                                  const std::string& prefix, const std::string& block) {
  std::vector<Column> columns;
  auto add = [&](const char* key, const std::string& title, ColumnType type,
                 Extra extra = Extra::kNone) {
    columns.push_back({.key = prefix + key,
                       .title = title,
                       .type = type,
                       .digits = 2,
                       .block = block,
                       .extra = extra});
  };
  if (shape.own_n) add("n", "n", ColumnType::kInteger);
  add("best", "best", ColumnType::kPercent);
  if (shape.by_validation) add("best_by_validation", "by validation", ColumnType::kPercent);
  add("median", "median", ColumnType::kPercent);
  add("mean", "mean ± sd", ColumnType::kPercent, Extra::kPlusMinus);
  add("success", fmt::format("runs ≥ {:g} %", 100 * options.threshold), ColumnType::kPercent,
      Extra::kInterval);
  columns.back().digits = 0;
  add("standard_error", "SE", ColumnType::kPercent);
  if (shape.levels) {
    add("chance", "chance", ColumnType::kPercent);
    add("constant_answer", "constant", ColumnType::kPercent);
  }
  if (shape.useless) add("best_useless", "best useless", ColumnType::kPercent);
  return columns;
}

CellValue fraction(const std::optional<double>& value) {
  return value ? CellValue(*value) : CellValue();
}

std::vector<Cell> score_cells(const Shape& shape, const LengthStatistics& s) {
  std::vector<Cell> cells;
  auto add = [&](CellValue value) -> Cell& {
    return cells.emplace_back(Cell{.value = std::move(value)});
  };
  const bool scored = s.summary.n > 0;
  auto of_scored = [&](double value) { return scored ? CellValue(value) : CellValue(); };
  if (shape.own_n) add(s.summary.n);
  add(of_scored(s.summary.best));
  if (shape.by_validation) add(fraction(s.by_validation));
  add(of_scored(s.summary.median));
  add(of_scored(s.summary.mean)).spread =
      s.summary.n > 1 ? s.summary.sd : std::numeric_limits<double>::quiet_NaN();
  Cell& success = add(s.success ? CellValue(s.success->rate) : CellValue());
  if (s.success) success.low = s.success->wilson.low, success.high = s.success->wilson.high;
  add(of_scored(s.standard_error));
  if (shape.levels) add(fraction(s.chance)), add(fraction(s.constant_answer));
  if (shape.useless) add(fraction(s.best_useless));
  return cells;
}

std::string percent(const std::optional<double>& value) {
  return value ? fmt::format("{:.2f} %", 100 * *value) : "not defined";
}
std::string level_text(const LengthStatistics& s) {
  return fmt::format("chance {}, constant answer {}", percent(s.chance),
                     percent(s.constant_answer));
}
std::string useless_text(const LengthStatistics& s) {
  return fmt::format("expected best of {} useless models {}", s.summary.n, percent(s.best_useless));
}

// Levels may leave the table where each length has one text for all rows; `notes` then gets text
// -> lengths.
bool folds(const std::vector<Entry>& entries,
           std::string (*text_of_levels)(const LengthStatistics&),
           std::map<std::string, std::vector<ScoredLength>>& notes) {
  std::map<ScoredLength, std::string> by_length;
  for (const Entry& e : entries) {
    if (e.statistics.summary.n == 0) continue;
    const auto [place, is_new] = by_length.try_emplace(e.length, text_of_levels(e.statistics));
    if (!is_new && place->second != text_of_levels(e.statistics)) return false;
  }
  for (const auto& [length, text] : by_length) notes[text].push_back(length);
  return true;
}

// What a group's runs lack, "" when all have ended well.
std::string shortfall(const RunGroup& group) {
  std::map<std::string, int> counts;
  for (const ScoredRun& run : group.runs) {
    if (run.status != "finished") ++counts[run.status];
  }
  std::string text;
  for (const auto& [status, count] : counts)
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", count, status);
  return text;
}

std::vector<Cell> tail_cells(Table& table, const RunGroup& group) {
  std::vector<double> solved, walls;
  std::set<int64_t> parameters;
  for (const ScoredRun& run : group.runs) {
    if (run.solved_at) solved.push_back(static_cast<double>(*run.solved_at));
    if (run.wall_seconds) walls.push_back(*run.wall_seconds);
    if (run.parameters) parameters.insert(*run.parameters);
  }
  std::vector<Cell> cells(4);
  if (!solved.empty()) cells[0].value = summarize(solved).median;
  if (group.solve_length.max > 0)
    cells[1].value = fmt::format("{}/{}", solved.size(), group.runs.size());
  if (!parameters.empty()) cells[2].value = *parameters.rbegin();
  if (parameters.size() > 1) cells[2].marks = note_mark(table, "the largest of the group's models");
  if (!walls.empty()) cells[3].value = summarize(walls).median;
  return cells;
}

std::vector<Column> tail_columns() {
  return {{.key = "steps_to_solve",
           .title = "steps to solve",
           .type = ColumnType::kNumber,
           .digits = 0},
          {.key = "solved", .title = "solved", .type = ColumnType::kText, .align = Align::kRight},
          {.key = "parameters", .title = "parameters", .type = ColumnType::kInteger},
          {.key = "wall_seconds",
           .title = "wall",
           .type = ColumnType::kNumber,
           .unit = "s",
           .digits = 1}};
}

void mark_best(Table& table, const std::string& key) {
  for (size_t c = 0; c < table.columns.size(); ++c) {
    if (table.columns[c].key != key && !table.columns[c].key.ends_with('.' + key)) continue;
    size_t length_column = table.columns.size();
    for (size_t l = 0; l < table.columns.size(); ++l) {
      if (table.columns[l].key == "length") length_column = l;
    }
    std::map<std::string, std::vector<Cell*>>
        classes;  // in the long layout each length is a contest of its own
    for (auto& row : table.rows) {
      if (is_null(row[c].value)) continue;
      classes[length_column < row.size() ? text_of(row[length_column].value) : ""].push_back(
          &row[c]);
    }
    for (auto& [length, cells] : classes) {
      if (cells.size() < 2) continue;
      double best = number_of(cells.front()->value);
      for (const Cell* cell : cells) best = std::max(best, number_of(cell->value));
      for (Cell* cell : cells) cell->best = number_of(cell->value) == best;
    }
  }
}

void add_notes(Table& table, const CompareOptions& options, const std::vector<RunGroup>& groups,
               const Shape& shape) {
  auto note = [&](std::string text) { table.notes.push_back({"", std::move(text)}); };
  std::set<std::string> selections, solve_lengths;
  for (const RunGroup& group : groups) {
    selections.insert(protocol_of_group(group).weights);
    if (group.solve_length.max > 0) solve_lengths.insert(group.solve_length.text());
  }
  note(fmt::format("{} on test data, which no choice has seen; weights tested: {}",
                   metric_title(options.metric), fmt::join(selections, " or ")));
  note(fmt::format("best is the highest test score of the runs: luck is part of it{}",
                   shape.by_validation
                       ? "; by validation is the test score of the run that validated best"
                       : ""));
  note(
      fmt::format("runs ≥ {:g} % is the share of runs that reach it, with Wilson's 95 % interval; "
                  "runs that diverged or failed "
                  "count as not reaching it; SE is the sampling error of one run at the median",
                  100 * options.threshold));
  if (shape.useless)
    note(
        "best useless is the expected best of n models at the better of chance and constant "
        "answer");
  if (!solve_lengths.empty()) {
    note(
        fmt::format("steps to solve is the median, over the solved runs, of the first validation "
                    "from which on accuracy at "
                    "length {} stays at {:g} % or above",
                    fmt::join(solve_lengths, " or "), 100 * options.threshold));
  }
  note("wall is a run's share of the wall time of its cohorts, median");
}

std::vector<std::string> key_cells(const RunGroup& group, const std::vector<std::string>& keys) {
  std::vector<std::string> values;
  for (const std::string& key : keys) values.push_back(group_value(group.config, key));
  return values;
}

// Best median at the longest exact length first; groups without a score there last.
void sort_by_median(std::vector<RunGroup>& groups, const std::vector<ScoredLength>& lengths,
                    const CompareOptions& options) {
  if (lengths.empty()) return;
  ScoredLength longest = lengths.front();
  for (const ScoredLength& length : lengths) {
    if (length.exact()) longest = length;
  }
  std::vector<std::pair<double, size_t>> order;
  for (size_t g = 0; g < groups.size(); ++g) {
    const Summary summary =
        length_statistics(groups[g], longest, options.metric, options.threshold).summary;
    order.emplace_back(summary.n > 0 ? -summary.median : std::numeric_limits<double>::infinity(),
                       g);
  }
  std::sort(order.begin(), order.end());
  std::vector<RunGroup> sorted;
  for (const auto& [score, g] : order) sorted.push_back(std::move(groups[g]));
  groups = std::move(sorted);
}

std::vector<RunGroup> load(Database& database, const CompareOptions& options) {
  std::vector<RunGroup> groups = load_groups(
      database,
      {.filter = options.filter, .keys = options.group_by, .solve_threshold = options.threshold});
  require_settings(options.group_by, groups, options.filter);
  if (options.sort_by_median) sort_by_median(groups, tested_lengths(groups), options);
  return groups;
}

Table comparison_of(const std::vector<RunGroup>& groups, const CompareOptions& options) {
  const std::vector<ScoredLength> lengths =
      options.lengths.empty() ? tested_lengths(groups) : options.lengths;
  std::vector<Entry> entries;  // (groups, lengths)
  for (const RunGroup& group : groups) {
    for (ScoredLength length : lengths) {
      entries.push_back(
          {&group, length, length_statistics(group, length, options.metric, options.threshold)});
    }
  }
  Table table{.key = "compare", .title = {}, .columns = {}, .rows = {}, .notes = {}};
  table.title = fmt::format("{}, {}: {}", metric_title(options.metric),
                            options.group_by.empty()
                                ? "grouped over seeds"
                                : fmt::format("grouped by {}", fmt::join(options.group_by, ", ")),
                            filter_text(options.filter));
  Shape shape;
  shape.by_validation = !options.group_by.empty() || !options.fold_levels;
  std::map<std::string, std::vector<ScoredLength>> level_notes;
  if (options.fold_levels) {
    shape.levels = !folds(entries, level_text, level_notes);
    shape.useless = !folds(entries, useless_text, level_notes);
    shape.own_n = std::any_of(entries.begin(), entries.end(), [](const Entry& e) {
      return e.statistics.summary.n != static_cast<int64_t>(e.group->runs.size());
    });
  }

  std::vector<std::string> keys = options.group_by;
  if (keys.empty()) {
    std::vector<FlatConfig> configs;
    for (const RunGroup& group : groups) configs.push_back(group.config);
    keys = swept_keys(configs);
    if (keys.empty()) keys = {"task.name", "model.mixer"};
  }
  const std::vector<std::string> names = short_names(keys);
  for (size_t k = 0; k < keys.size(); ++k)
    table.columns.push_back({.key = keys[k], .title = names[k]});
  if (!options.group_by.empty())
    table.columns.push_back({.key = "settings", .title = "settings", .type = ColumnType::kInteger});
  table.columns.push_back({.key = "runs", .title = "runs", .type = ColumnType::kInteger});
  auto append = [&](std::vector<Column> columns) {
    for (Column& column : columns) table.columns.push_back(std::move(column));
  };
  if (options.layout == CompareLayout::kLong) {
    table.columns.push_back({.key = "length", .title = "length", .align = Align::kRight});
    append(score_columns(shape, options, "", ""));
  } else {
    for (const ScoredLength& length : lengths) {
      append(score_columns(shape, options, length.column_prefix(), "length " + length.text()));
    }
  }
  append(tail_columns());

  for (size_t g = 0; g < groups.size(); ++g) {
    std::vector<Cell> head;
    for (const std::string& value : key_cells(groups[g], keys)) {
      head.push_back({.value = value.empty() ? CellValue() : CellValue(value)});
    }
    if (!options.group_by.empty())
      head.push_back({.value = static_cast<int64_t>(groups[g].settings.size())});
    head.push_back({.value = static_cast<int64_t>(groups[g].runs.size())});
    if (const std::string text = shortfall(groups[g]); !text.empty())
      head.back().marks = note_mark(table, "of these runs: " + text);
    const std::vector<Cell> tail = tail_cells(table, groups[g]);
    auto extend = [](std::vector<Cell>& row, const std::vector<Cell>& cells) {
      row.insert(row.end(), cells.begin(), cells.end());
    };
    std::vector<Cell> row = head;
    for (size_t l = 0; l < lengths.size(); ++l) {
      const LengthStatistics& statistics = entries[g * lengths.size() + l].statistics;
      if (options.layout == CompareLayout::kLong) {
        row = head;
        row.push_back({.value = lengths[l].text()});
      }
      extend(row, score_cells(shape, statistics));
      if (options.layout == CompareLayout::kLong) extend(row, tail), table.rows.push_back(row);
    }
    if (options.layout == CompareLayout::kWide) extend(row, tail), table.rows.push_back(row);
  }

  std::vector<Protocol> protocols;
  for (const RunGroup& group : groups) protocols.push_back(protocol_of_group(group));
  const std::vector<std::string> differing = differing_choices(protocols);
  if (differing.empty()) {
    mark_best(table, "median");
    mark_best(table, "best");
  } else {
    table.notes.push_back({"", fmt::format("no value is marked as best: the rows differ in {}",
                                           fmt::join(differing, ", "))});
  }
  for (const auto& [text, at] : level_notes) {
    std::string list;
    for (const ScoredLength& length : at) list += (list.empty() ? "" : ", ") + length.text();
    table.notes.push_back({"", fmt::format("at length {}: {}", list, text)});
  }
  if (!groups.empty()) add_notes(table, options, groups, shape);
  return table;
}

}  // namespace

Table compare(Database& database, const CompareOptions& options) {
  return comparison_of(load(database, options), options);
}

Table compare_for_width(Database& database, CompareOptions options, int columns) {
  const std::vector<RunGroup> groups = load(database, options);
  options.layout = CompareLayout::kWide;
  Table wide = comparison_of(groups, options);
  Table measured = wide;  // title and notes may be longer than the table is wide
  measured.title.clear();
  std::erase_if(measured.notes, [](const Note& note) { return note.mark.empty(); });
  for (Note& note : measured.notes) note.text.clear();
  int width = 0;
  const std::string text = render_text(measured);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    width = std::max(width, display_width(text.substr(begin, end - begin)));
    begin = end + 1;
  }
  if (width <= columns) return wide;
  options.layout = CompareLayout::kLong;
  return comparison_of(groups, options);
}

}  // namespace statelab
