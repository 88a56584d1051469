#include "reports/published.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <regex>
#include <stdexcept>

#include "store/run_store.h"

namespace statelab {
namespace published_files {
struct File {
  const char* name;
  const char* text;
};
extern const File kFiles[];  // generated from published/*.csv
extern const int kCount;
}  // namespace published_files

namespace {

// RFC 4180: fields of one record; `at` moves past its line end.
std::vector<std::string> csv_record(std::string_view text, size_t& at) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (; at < text.size(); ++at) {
    const char c = text[at];
    if (quoted) {
      if (c != '"') {
        fields.back() += c;
      } else if (at + 1 < text.size() && text[at + 1] == '"') {
        fields.back() += '"', ++at;
      } else {
        quoted = false;
      }
    } else if (c == '"') {
      quoted = true;
    } else if (c == ',') {
      fields.emplace_back();
    } else if (c == '\n') {
      ++at;
      break;
    } else if (c != '\r') {
      fields.back() += c;
    }
  }
  return fields;
}

// How a published number was picked out of several runs, and what of ours corresponds to it.
enum class Statistic { kBestByValidation, kBest, kMedian, kMean };
Statistic statistic_of(const std::string& selection) {
  if (selection.starts_with("median")) return Statistic::kMedian;
  if (selection.starts_with("mean")) return Statistic::kMean;
  return selection.starts_with("best validation") ? Statistic::kBestByValidation : Statistic::kBest;
}

std::string our_selection(Statistic statistic, const RunGroup& group, int64_t n) {
  const size_t settings = group.settings.size();
  std::string of;
  if (settings <= 1) {
    of = fmt::format("{} seeds", n);
  } else if (static_cast<int64_t>(settings) == n) {
    of = fmt::format("{} settings", n);
  } else {
    of = fmt::format("{} runs in {} settings", n, settings);
  }
  switch (statistic) {
    case Statistic::kBestByValidation:
      return "best validation of " + of;
    case Statistic::kBest:
      return "best of " + of;
    case Statistic::kMedian:
      return "median of " + of;
    case Statistic::kMean:
      return "mean of " + of;
  }
  return of;
}

// "tested at 256" -> 256; "test 40..256", "validation 40..256" -> 40..256.
std::optional<ScoredLength> tested_at(const std::string& lengths) {
  static const std::regex kRange(R"((?:test|validation) (\d+)\.\.(\d+))"),
      kExact(R"(tested at (\d+))");
  std::smatch match;
  if (std::regex_search(lengths, match, kRange))
    return ScoredLength{std::stoll(match[1]), std::stoll(match[2])};
  if (std::regex_search(lengths, match, kExact))
    return ScoredLength{std::stoll(match[1]), std::stoll(match[1])};
  return std::nullopt;
}

std::vector<PublishedRecord> stored_rows(Database& database, const PublishedOptions& options) {
  const std::vector<Row> rows = query(database,
                                      "SELECT source, paper_table, task, profile, lengths, model, "
                                      "metric, value, selection, note FROM published"
                                      " WHERE instr(lower(source), lower(?1)) > 0 ORDER BY id",
                                      {options.source});
  std::vector<PublishedRecord> published;
  for (const Row& row : rows) {
    published.push_back({text_of(row[0]), text_of(row[1]), text_of(row[2]), text_of(row[3]),
                         text_of(row[4]), text_of(row[5]), text_of(row[6]),
                         is_null(row[7]) ? std::nullopt : std::optional(number_of(row[7])),
                         text_of(row[8]), text_of(row[9])});
  }
  return published;
}

// The evaluation of ours to hold against theirs: the same lengths, else our longest exact one.
std::optional<ScoredLength> length_for(const RunGroup& group,
                                       const std::optional<ScoredLength>& theirs) {
  const std::vector<ScoredLength> ours = tested_lengths({group});
  if (theirs && std::find(ours.begin(), ours.end(), *theirs) != ours.end()) return theirs;
  std::optional<ScoredLength> longest;
  for (const ScoredLength& length : ours) {
    if (length.exact() || !longest) longest = length;
  }
  return longest;
}

std::vector<Column> published_columns(double threshold) {
  using enum ColumnType;
  return {{.key = "task", .title = "task"},
          {.key = "model", .title = "model"},
          {.key = "metric", .title = "metric"},
          {.key = "ours", .title = "value", .type = kPercent, .block = "ours"},
          {.key = "ours_statistic", .title = "statistic", .block = "ours"},
          {.key = "ours_length", .title = "length", .block = "ours", .align = Align::kRight},
          {.key = "ours_n", .title = "n", .type = kInteger, .block = "ours"},
          {.key = "ours_best", .title = "best", .type = kPercent, .block = "ours"},
          {.key = "ours_median", .title = "median", .type = kPercent, .block = "ours"},
          {.key = "ours_success",
           .title = fmt::format("runs ≥ {:g} %", 100 * threshold),
           .type = kPercent,
           .digits = 0,
           .block = "ours",
           .extra = Extra::kInterval},
          {.key = "ours_standard_error", .title = "SE", .type = kPercent, .block = "ours"},
          {.key = "chance", .title = "chance", .type = kPercent, .block = "ours"},
          {.key = "constant_answer", .title = "constant", .type = kPercent, .block = "ours"},
          {.key = "best_useless", .title = "best useless", .type = kPercent, .block = "ours"},
          {.key = "published", .title = "value", .type = kPercent, .block = "published"},
          {.key = "published_statistic", .title = "statistic", .block = "published"},
          {.key = "source", .title = "source", .block = "published"},
          {.key = "differs_in", .title = "differs in", .block = "published"}};
}

bool same_cell(const Cell& a, const Cell& b) { return a.value == b.value && a.marks == b.marks; }

// Columns of one value become a note, marks that all rows share marks of the heading.
void fold_columns(Table& table) {
  // Which columns, and how the note calls their value.
  static const std::map<std::string, std::string> kFoldable = {
      {"task", "task "},
      {"metric", "metric "},
      {"ours_statistic", "ours is the "},
      {"ours_length", "our length "},
      {"ours_n", "our runs with a score "},
      {"chance", "chance "},
      {"constant_answer", "constant answer "},
      {"best_useless", "expected best of that many useless models "},
      {"published_statistic", "theirs is the "},
      {"source", "source "},
      {"differs_in", "the protocols differ in "}};
  if (table.rows.empty()) return;
  std::string same;
  for (size_t c = table.columns.size(); c-- > 0;) {
    const Column column = table.columns[c];
    const Cell first = table.rows[0][c];
    const bool alike = std::all_of(table.rows.begin(), table.rows.end(),
                                   [&](const auto& row) { return same_cell(row[c], first); });
    const auto name = kFoldable.find(column.key);
    if (!alike || !first.marks.empty() || name == kFoldable.end()) continue;
    const char* unit = column.type == ColumnType::kPercent ? " %" : "";
    same = fmt::format("{}{}{}{}{}", name->second, cell_text(column, first), unit,
                       same.empty() ? "" : "; ", same);
    table.columns.erase(table.columns.begin() + static_cast<std::ptrdiff_t>(c));
    for (auto& row : table.rows) row.erase(row.begin() + static_cast<std::ptrdiff_t>(c));
  }
  if (!same.empty()) table.notes.insert(table.notes.begin(), {"", "in all rows: " + same});
  for (size_t c = 0; c < table.columns.size(); ++c) {
    for (const std::string& mark : split_marks(table.rows[0][c].marks)) {
      const bool everywhere =
          std::all_of(table.rows.begin(), table.rows.end(), [&](const auto& row) {
            const auto marks = split_marks(row[c].marks);
            return std::find(marks.begin(), marks.end(), mark) != marks.end();
          });
      if (!everywhere) continue;
      add_mark(table.columns[c].marks, mark);
      for (auto& row : table.rows) {
        std::string kept;
        for (const std::string& other : split_marks(row[c].marks)) {
          if (other != mark) add_mark(kept, other);
        }
        row[c].marks = kept;
      }
    }
  }
}

}  // namespace

std::vector<PublishedRecord> parse_published(std::string_view csv, const std::string& file) {
  static const std::vector<std::string> kColumns = {"source",    "table", "task",   "profile",
                                                    "lengths",   "model", "metric", "value",
                                                    "selection", "note"};
  size_t at = 0;
  if (csv_record(csv, at) != kColumns) {
    throw std::invalid_argument(
        fmt::format("{}:1: the columns must be {}", file, fmt::join(kColumns, ",")));
  }
  std::vector<PublishedRecord> rows;
  while (at < csv.size()) {
    const auto line =
        1 + std::count(csv.begin(), csv.begin() + static_cast<std::ptrdiff_t>(at), '\n');
    auto fail = [&](const std::string& text) {
      throw std::invalid_argument(fmt::format("{}:{}: {}", file, line, text));
    };
    const std::vector<std::string> f = csv_record(csv, at);
    if (f.size() == 1 && f[0].empty()) continue;
    if (f.size() != kColumns.size())
      fail(fmt::format("a row must have {} fields, has {}", kColumns.size(), f.size()));
    for (size_t i : {0, 1, 2, 3, 5, 6, 8}) {
      if (f[i].empty()) fail(fmt::format("{} must not be empty", kColumns[i]));
    }
    PublishedRecord row{f[0], f[1], f[2], f[3], f[4], f[5], f[6], std::nullopt, f[8], f[9]};
    if (!f[7].empty()) {
      const char* end = f[7].data() + f[7].size();
      const auto result = std::from_chars(f[7].data(), end, row.value.emplace());
      if (result.ec != std::errc() || result.ptr != end)
        fail(fmt::format("value must be a number, is \"{}\"", f[7]));
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

const std::vector<PublishedRecord>& published_rows() {
  static const std::vector<PublishedRecord> rows = [] {
    std::vector<PublishedRecord> all;
    for (int i = 0; i < published_files::kCount; ++i) {
      const auto& file = published_files::kFiles[i];
      for (PublishedRecord& row :
           parse_published(file.text, fmt::format("published/{}", file.name)))
        all.push_back(std::move(row));
    }
    return all;
  }();
  return rows;
}

void load_published(RunStore& store) { store.set_published(published_rows()); }

Table compare_published(Database& database, const PublishedOptions& options) {
  // One group per model and protocol: runs that differ in any choice but the swept settings do not
  // share a column.
  const std::vector<RunGroup> groups = load_groups(
      database,
      {.filter = options.filter,
       .keys = {"task.name", "task.profile", "task.supervision", "task.bos", "task.multiplication",
                "eval.select", "eval.stop_at", "train.precision", "train.curriculum", "model"},
       .solve_steps = false});
  Table table{.key = "compare_published",
              .title = "ours beside published results: " + filter_text(options.filter),
              .columns = published_columns(options.threshold),
              .rows = {},
              .notes = {}};
  int64_t without_runs = 0;
  for (const PublishedRecord& row : stored_rows(database, options)) {
    const bool scaled = row.metric == "scaled_accuracy_pct";
    if (!row.value || (!scaled && row.metric != "accuracy_pct")) continue;
    std::vector<const RunGroup*> ours;
    bool task_is_ours = false;
    for (const RunGroup& group : groups) {
      if (config_value(group.config, "task.name") != row.task) continue;
      task_is_ours = true;
      if (model_label(group.config) == row.model) ours.push_back(&group);
    }
    if (!task_is_ours) continue;
    if (ours.empty() && !options.other_models) {
      ++without_runs;
      continue;
    }
    if (ours.empty()) ours.push_back(nullptr);
    for (const RunGroup* group : ours) {
      std::map<std::string, Cell> cells;
      auto set = [&](const char* key, CellValue value) -> Cell& {
        return cells[key] = Cell{.value = std::move(value)};
      };
      auto optional = [](const std::optional<double>& value) {
        return value ? CellValue(*value) : CellValue();
      };
      set("task", row.task);
      set("model", row.model);
      set("metric", std::string(scaled ? "scaled accuracy" : "accuracy"));
      Cell& published = set("published", *row.value / 100);
      set("published_statistic", row.selection);
      set("source", row.source + ", " + row.paper_table);
      const std::optional<ScoredLength> theirs = tested_at(row.lengths);
      const std::optional<ScoredLength> length = group ? length_for(*group, theirs) : std::nullopt;
      if (length) {
        const LengthStatistics s =
            length_statistics(*group, *length, scaled ? Metric::kScaledAccuracy : Metric::kAccuracy,
                              options.threshold);
        const Statistic statistic = statistic_of(row.selection);
        std::optional<double> value;
        if (statistic == Statistic::kBestByValidation) value = s.by_validation;
        if (statistic == Statistic::kBest) value = s.summary.best;
        if (statistic == Statistic::kMedian) value = s.summary.median;
        if (statistic == Statistic::kMean) value = s.summary.mean;
        Protocol protocol = protocol_of_group(*group);
        protocol.selection = our_selection(statistic, *group, s.summary.n);
        Cell& own = set("ours", optional(value));
        set("ours_statistic", protocol.selection);
        set("ours_length", length->text());
        set("ours_n", s.summary.n);
        set("ours_best", s.summary.best);
        set("ours_median", s.summary.median);
        Cell& success = set("ours_success", s.success ? CellValue(s.success->rate) : CellValue());
        if (s.success) success.low = s.success->wilson.low, success.high = s.success->wilson.high;
        set("ours_standard_error", s.standard_error);
        set("chance", optional(s.chance));
        set("constant_answer", optional(s.constant_answer));
        set("best_useless", optional(s.best_useless));
        std::vector<ProtocolDifference> differences =
            protocol_differences(protocol, protocol_of_published(row));
        if (!theirs || *theirs != *length) {
          differences.push_back(
              {"tested length", length->text(), theirs ? theirs->text() : kNotStated});
        }
        std::string names;
        for (const ProtocolDifference& d : differences) {
          names += (names.empty() ? "" : ", ") + d.name;
          add_mark(published.marks, note_mark(table, fmt::format("{}: ours {}, theirs {}", d.name,
                                                                 d.ours, d.theirs)));
        }
        set("differs_in", names.empty() ? CellValue(std::string("nothing")) : CellValue(names));
        if (differences.empty() && value) {
          own.best = *value >= *row.value / 100;
          published.best = *row.value / 100 >= *value;
        }
      }
      if (!row.note.empty()) add_mark(published.marks, note_mark(table, row.note));
      std::vector<Cell> line;
      for (const Column& column : table.columns) line.push_back(cells[column.key]);
      table.rows.push_back(std::move(line));
    }
  }
  auto note = [&](std::string text) { table.notes.push_back({"", std::move(text)}); };
  note(
      "ours is the statistic that the source reports, on test data that chose nothing; SE, chance, "
      "constant answer and the "
      "expected best of n useless models belong to it");
  note("the better value of a row is marked only where the protocols differ in nothing");
  if (without_runs > 0)
    note(fmt::format("{} published rows of these tasks are of models that have no run here",
                     without_runs));
  if (options.fold) fold_columns(table);
  return table;
}

}  // namespace statelab
