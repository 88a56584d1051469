#include "reports/run_detail.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "reports/run_list.h"
#include "reports/run_lookup.h"
#include "reports/scores.h"
#include "reports/statistics.h"

namespace statelab {
namespace {

using enum ColumnType;

Table table_of(const std::string& key, const std::string& title, std::vector<Column> columns) {
  return {.key = key, .title = title, .columns = std::move(columns), .rows = {}, .notes = {}};
}

void add_rows(Table& table, const std::vector<Row>& rows) {
  for (const Row& row : rows) {
    auto& cells = table.rows.emplace_back();
    for (size_t c = 0; c < row.size(); ++c) {
      CellValue value = row[c];
      // A REAL that happens to be whole arrives as a number all the same; SQLite's NULL stays
      // nothing.
      if (!is_null(value) &&
          (table.columns[c].type == kNumber || table.columns[c].type == kPercent))
        value = number_of(value);
      cells.push_back({.value = std::move(value)});
    }
  }
}

std::string plain_text(const CellValue& value) {
  if (const auto* integer = std::get_if<int64_t>(&value)) return fmt::format("{}", *integer);
  if (const auto* number = std::get_if<double>(&value)) return fmt::format("{:.6g}", *number);
  return text_of(value);
}

Table identity_table(Database& database, const std::string& id) {
  Table table = table_of("run", "run " + id.substr(0, kShownIdDigits),
                         {{.key = "field", .title = "field"}, {.key = "value", .title = "value"}});
  static const char* const kFields[] = {
      "run_id",      "group_id",       "name",          "status",      "error",      "steps_done",
      "total_steps", "selected_step",  "stopped_early", "diverged_at", "parameters", "wall_seconds",
      "train_loss",  "train_accuracy", "created_at",    "finished_at"};
  const std::vector<Row> rows =
      query(database,
            fmt::format("SELECT {} FROM v_runs WHERE run_id = ?1", fmt::join(kFields, ", ")), {id});
  for (size_t c = 0; c < rows.at(0).size(); ++c) {
    if (!is_null(rows[0][c]))
      table.rows.push_back({{.value = std::string(kFields[c])}, {.value = plain_text(rows[0][c])}});
  }
  std::string sweeps;
  for (const Row& row :
       query(database,
             "SELECT DISTINCT s.name FROM runs r JOIN sweep_runs sr ON sr.run = r.id JOIN sweeps s"
             " ON s.id = sr.sweep WHERE r.run_id = ?1 ORDER BY s.name",
             {id})) {
    sweeps += (sweeps.empty() ? "" : ", ") + text_of(row[0]);
  }
  if (!sweeps.empty()) table.rows.push_back({{.value = std::string("sweeps")}, {.value = sweeps}});
  return table;
}

FlatConfig config_of(Database& database, const std::string& id) {
  return flatten_config(
      text_of(query(database, "SELECT config FROM runs WHERE run_id = ?1", {id}).at(0)[0]));
}

Table evaluations_table(Database& database, const std::string& id) {
  Table table =
      table_of("evaluations", "evaluations at the selected weights",
               {{.key = "split", .title = "split"},
                {.key = "step", .title = "step", .type = kInteger},
                {.key = "length_min", .title = "from length", .type = kInteger},
                {.key = "length_max", .title = "to", .type = kInteger},
                {.key = "sequences", .title = "sequences", .type = kInteger},
                {.key = "accuracy", .title = "accuracy", .type = kPercent},
                {.key = "standard_error", .title = "SE", .type = kPercent},
                {.key = "sequence_accuracy", .title = "whole sequences", .type = kPercent},
                {.key = "scaled_accuracy", .title = "scaled", .type = kPercent},
                {.key = "chance", .title = "chance", .type = kPercent},
                {.key = "constant_answer", .title = "constant", .type = kPercent},
                {.key = "loss", .title = "loss", .type = kNumber, .unit = "nats", .digits = 4}});
  // Before a run is finished no weights are selected: then all that there is.
  add_rows(table,
           query(database,
                 "SELECT split, step, length_min, length_max, sequences, accuracy, standard_error, "
                 "sequence_accuracy,"
                 " scaled_accuracy, chance, constant_answer, loss FROM v_evaluations WHERE run_id "
                 "= ?1 AND (selected OR"
                 " (SELECT selected_step FROM runs WHERE run_id = ?1) IS NULL)"
                 " ORDER BY split, step, length_min = length_max DESC, length_max, length_min",
                 {id}));
  return table;
}

Table executions_table(Database& database, const std::string& id) {
  Table table =
      table_of("executions", "executions",
               {{.key = "backend", .title = "backend"},
                {.key = "device", .title = "device"},
                {.key = "precision", .title = "precision"},
                {.key = "build", .title = "build"},
                {.key = "code_commit", .title = "commit"},
                {.key = "dirty", .title = "dirty", .type = kInteger},
                {.key = "from_step", .title = "from step", .type = kInteger},
                {.key = "to_step", .title = "to", .type = kInteger},
                {.key = "members", .title = "cohort", .type = kInteger},
                {.key = "wall_seconds", .title = "wall", .type = kNumber, .unit = "s", .digits = 1},
                {.key = "exit_reason", .title = "exit"},
                {.key = "started_at", .title = "started (UTC)"}});
  add_rows(table,
           query(database,
                 "SELECT e.backend, e.device, e.precision, e.build, e.code_commit, e.dirty, "
                 "x.from_step, x.to_step,"
                 " x.members, x.wall_seconds, e.exit_reason, datetime(e.started_at, 'unixepoch')"
                 " FROM runs r JOIN run_executions x ON x.run = r.id JOIN executions e ON e.id = "
                 "x.execution"
                 " WHERE r.run_id = ?1 ORDER BY x.from_step, x.execution",
                 {id}));
  return table;
}

Table metrics_table(Database& database, const std::string& id) {
  Table table =
      table_of("metrics", "training, last rows",
               {{.key = "step", .title = "step", .type = kInteger},
                {.key = "loss", .title = "loss", .type = kNumber, .unit = "nats", .digits = 5},
                {.key = "accuracy", .title = "accuracy", .type = kPercent},
                {.key = "grad_norm", .title = "gradient norm", .type = kNumber, .digits = 4},
                {.key = "lr", .title = "learning rate", .type = kNumber, .digits = 7}});
  add_rows(table,
           query(database,
                 "SELECT * FROM (SELECT m.step, m.loss, m.accuracy, m.grad_norm, m.lr FROM runs r "
                 "JOIN metrics m ON"
                 " m.run = r.id WHERE r.run_id = ?1 ORDER BY m.step DESC LIMIT 10) ORDER BY step",
                 {id}));
  return table;
}

Table checkpoints_table(Database& database, const std::string& id) {
  Table table = table_of("checkpoints", "checkpoints",
                         {{.key = "kind", .title = "kind"},
                          {.key = "step", .title = "step", .type = kInteger},
                          {.key = "path", .title = "path"},
                          {.key = "bytes", .title = "size", .type = kInteger, .unit = "bytes"},
                          {.key = "sha256", .title = "SHA-256"}});
  add_rows(table, query(database,
                        "SELECT c.kind, c.step, c.path, c.bytes, c.sha256 FROM runs r JOIN "
                        "checkpoints c ON c.run = r.id"
                        " WHERE r.run_id = ?1 ORDER BY c.kind",
                        {id}));
  return table;
}

Table score_difference_table(Database& database, const std::string& a, const std::string& b) {
  const std::vector<RunGroup> groups = load_groups(
      database, {.filter = {.sweep = {}, .task = {}, .status = {}, .where = {}, .run_ids = {a, b}},
                 .keys = {},
                 .solve_steps = false});
  const ScoredRun *first = nullptr, *second = nullptr;
  for (const RunGroup& group : groups) {
    for (const ScoredRun& run : group.runs) {
      if (run.run_id == a) first = &run;
      if (run.run_id == b) second = &run;
    }
  }
  Table table = table_of(
      "scores", "accuracy on test data",
      {{.key = "length", .title = "length", .align = Align::kRight},
       {.key = "first", .title = a.substr(0, kShownIdDigits), .type = kPercent},
       {.key = "second", .title = b.substr(0, kShownIdDigits), .type = kPercent},
       {.key = "difference", .title = "difference", .type = kPercent, .extra = Extra::kPlusMinus},
       {.key = "chance", .title = "chance", .type = kPercent}});
  for (const ScoredLength& length : tested_lengths(groups)) {
    const auto x = first->score(length, Metric::kAccuracy),
               y = second->score(length, Metric::kAccuracy);
    std::vector<Cell> row(table.columns.size());
    row[0].value = length.text();
    if (x) row[1].value = *x;
    if (y) row[2].value = *y;
    const TestScore& level = (x ? first : second)->test.at(length);
    row[4].value = level.chance;
    if (x && y) {
      const TestScore &s = first->test.at(length), &t = second->test.at(length);
      row[3].value = *y - *x;
      row[3].spread = std::hypot(accuracy_standard_error(*x, s.sequences),
                                 accuracy_standard_error(*y, t.sequences));
    }
    table.rows.push_back(std::move(row));
  }
  table.notes.push_back({"",
                         "± is one standard error of the difference, as if the two runs were "
                         "tested on unrelated data"});
  return table;
}

Table execution_difference_table(Database& database, const std::string& a, const std::string& b) {
  Table table = table_of("computed", "how they were computed, where it differs",
                         {{.key = "field", .title = "field"},
                          {.key = "first", .title = a.substr(0, kShownIdDigits)},
                          {.key = "second", .title = b.substr(0, kShownIdDigits)}});
  static const char* const kFields[] = {"status",        "backend",     "device", "precision",
                                        "build",         "code_commit", "dirty",  "steps_done",
                                        "selected_step", "parameters"};
  const std::string sql =
      fmt::format("SELECT {} FROM v_runs WHERE run_id = ?1", fmt::join(kFields, ", "));
  const Row first = query(database, sql, {a}).at(0), second = query(database, sql, {b}).at(0);
  for (size_t c = 0; c < first.size(); ++c) {
    const std::string x = plain_text(first[c]), y = plain_text(second[c]);
    if (x != y)
      table.rows.push_back({{.value = std::string(kFields[c])}, {.value = x}, {.value = y}});
  }
  return table;
}

}  // namespace

std::vector<Table> show_run(Database& database, const std::string& run) {
  const std::string id = find_run(database, run);
  std::vector<Table> tables{identity_table(database, id)};
  Table config = table_of("config", "configuration",
                          {{.key = "key", .title = "key"}, {.key = "value", .title = "value"}});
  for (const auto& [key, value] : config_of(database, id))
    config.rows.push_back({{.value = key}, {.value = value}});
  tables.push_back(std::move(config));
  for (auto make : {evaluations_table, metrics_table, executions_table, checkpoints_table}) {
    Table table = make(database, id);
    if (!table.rows.empty()) tables.push_back(std::move(table));
  }
  return tables;
}

std::vector<Table> diff_runs(Database& database, const std::string& first,
                             const std::string& second) {
  const std::string a = find_run(database, first), b = find_run(database, second);
  Table config = table_of("config", "configuration, where it differs",
                          {{.key = "key", .title = "key"},
                           {.key = "first", .title = a.substr(0, kShownIdDigits)},
                           {.key = "second", .title = b.substr(0, kShownIdDigits)}});
  const FlatConfig x = config_of(database, a), y = config_of(database, b);
  auto value = [](const FlatConfig& c, const std::string& key) {
    return c.count(key) ? CellValue(config_value(c, key)) : CellValue();
  };
  for (const std::string& key : differing_keys({x, y})) {
    config.rows.push_back({{.value = key}, {.value = value(x, key)}, {.value = value(y, key)}});
  }
  std::vector<Table> tables{std::move(config)};
  for (Table table :
       {score_difference_table(database, a, b), execution_difference_table(database, a, b)}) {
    if (!table.rows.empty()) tables.push_back(std::move(table));
  }
  return tables;
}

}  // namespace statelab
