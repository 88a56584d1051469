#include "reports/sweep_status.h"

#include <algorithm>

namespace statelab {
namespace {

// A worker whose lease has run out holds nothing any more.
constexpr const char* kCounts =
    " count(*), sum(r.status = 'finished'), sum(r.status = 'diverged'), sum(r.status = 'failed'),"
    " sum(r.status = 'running' AND r.lease_until >= (julianday('now') - 2440587.5) * 86400.0),"
    " sum(r.status = 'pending' OR (r.status = 'running' AND r.lease_until < (julianday('now') - "
    "2440587.5) * 86400.0)),"
    // A run that has ended early has no steps left.
    " sum(CASE WHEN r.status IN ('pending', 'running') THEN r.steps_done ELSE r.total_steps END) * "
    "1.0 / sum(r.total_steps),"
    " total((SELECT sum(x.wall_seconds / x.members) FROM run_executions x WHERE x.run = r.id))";

void add_row(Table& table, const std::string& name, const CellValue& created, const Row& counts,
             size_t first) {
  std::vector<Cell> row{{.value = name}, {.value = created}};
  for (size_t c = first; c < first + 6; ++c) row.push_back({.value = counts[c]});
  row.push_back({.value = number_of(counts[first + 6])});
  row.push_back({.value = number_of(counts[first + 7])});
  table.rows.push_back(std::move(row));
}

}  // namespace

Table sweep_status(Database& database, const std::string& sweep) {
  using enum ColumnType;
  Table table{
      .key = "status",
      .title = {},
      .columns =
          {{.key = "sweep", .title = "sweep"},
           {.key = "created_at", .title = "created (UTC)"},
           {.key = "runs", .title = "runs", .type = kInteger},
           {.key = "done", .title = "done", .type = kInteger},
           {.key = "diverged", .title = "diverged", .type = kInteger},
           {.key = "failed", .title = "failed", .type = kInteger},
           {.key = "running", .title = "running", .type = kInteger},
           {.key = "missing", .title = "missing", .type = kInteger},
           {.key = "steps_share", .title = "steps", .type = kPercent, .digits = 1},
           {.key = "wall_seconds", .title = "wall", .type = kNumber, .unit = "s", .digits = 1}},
      .rows = {},
      .notes = {}};
  const std::vector<Row> rows =
      query(database,
            std::string("SELECT s.name, datetime(s.created_at, 'unixepoch'),") + kCounts +
                " FROM sweeps s JOIN sweep_runs sr ON sr.sweep = s.id JOIN runs r ON r.id = sr.run"
                " WHERE ?1 = '' OR s.name = ?1 GROUP BY s.id ORDER BY s.id",
            {sweep});
  for (const Row& row : rows) add_row(table, text_of(row[0]), row[1], row, 2);
  if (sweep.empty()) {
    const Row row =
        query(database,
              std::string("SELECT") + kCounts +
                  " FROM runs r WHERE NOT EXISTS (SELECT 1 FROM sweep_runs sr WHERE sr.run = r.id)")
            .at(0);
    if (integer_of(row[0]) > 0) add_row(table, "(no sweep)", {}, row, 0);
  }
  const auto any = [&](size_t column) {
    return std::any_of(table.rows.begin(), table.rows.end(),
                       [&](const auto& row) { return integer_of(row[column].value) > 0; });
  };
  if (any(5))
    table.notes.push_back(
        {"", "`statelab ls --status failed` lists the failed runs, `statelab show RUN` says why"});
  if (any(7))
    table.notes.push_back({"", "missing runs are computed by running the sweep's file again"});
  return table;
}

}  // namespace statelab
