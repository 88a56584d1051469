#include "reports/run_list.h"

#include <fmt/format.h>

#include <unordered_map>

namespace statelab {
namespace {

struct LongestTest {
  int64_t min = 0, max = 0;
  double accuracy = 0, chance = 0;
};

// Of each run, the longest exact length, else the range that reaches furthest.
std::unordered_map<int64_t, LongestTest> longest_tests(Database& database,
                                                       const FilterSql& filter) {
  std::unordered_map<int64_t, LongestTest> tests;
  for (const Row& row : query(
           database,
           "SELECT v.run, v.length_min, v.length_max, v.accuracy, v.chance"
           " FROM evaluations v JOIN runs r ON r.id = v.run"
           " WHERE v.split = 'test' AND (r.selected_step IS NULL OR v.step = r.selected_step) "
           "AND " +
               filter.condition +
               " ORDER BY v.length_min = v.length_max, v.length_max, v.configured, v.samples, v.id",
           filter.parameters)) {
    tests[integer_of(row[0])] = {integer_of(row[1]), integer_of(row[2]), number_of(row[3]),
                                 number_of(row[4])};
  }
  return tests;
}

}  // namespace

Table list_runs(Database& database, const ListOptions& options) {
  using enum ColumnType;
  Table table{.key = "runs",
              .title = {},
              .columns = {{.key = "run", .title = "run"},
                          {.key = "name", .title = "name"},
                          {.key = "status", .title = "status"},
                          {.key = "task", .title = "task"},
                          {.key = "mixer", .title = "mixer"},
                          {.key = "seed", .title = "seed", .type = kInteger},
                          {.key = "steps_done", .title = "steps", .type = kInteger},
                          {.key = "total_steps", .title = "of", .type = kInteger},
                          {.key = "accuracy", .title = "accuracy", .type = kPercent},
                          {.key = "length", .title = "at length", .align = Align::kRight},
                          {.key = "chance", .title = "chance", .type = kPercent}},
              .rows = {},
              .notes = {}};
  const FilterSql filter = filter_sql(options.filter);
  const auto tests = longest_tests(database, filter);
  std::vector<CellValue> parameters = filter.parameters;
  std::string limit;
  if (options.limit > 0) {
    parameters.emplace_back(options.limit);
    limit = fmt::format(" ORDER BY r.id DESC LIMIT ?{}", parameters.size());
  }
  // Newest so many, yet shown in order of insertion.
  const std::vector<Row> rows =
      query(database,
            "SELECT * FROM (SELECT r.id, r.run_id, r.name,"
            " CASE WHEN r.status = 'running' AND r.lease_until < (julianday('now') - 2440587.5) * "
            "86400.0 THEN 'abandoned'"
            " ELSE r.status END, r.task, r.mixer, r.seed, r.steps_done, r.total_steps"
            " FROM runs r WHERE " +
                filter.condition + limit + ") ORDER BY 1",
            parameters);
  for (const Row& row : rows) {
    std::vector<Cell> cells;
    const std::string id = text_of(row[1]);
    cells.push_back({.value = options.full_ids ? id : id.substr(0, kShownIdDigits)});
    for (size_t c = 2; c < row.size(); ++c) cells.push_back({.value = row[c]});
    const auto test = tests.find(integer_of(row[0]));
    if (test == tests.end()) {
      cells.resize(table.columns.size());
    } else {
      const LongestTest& t = test->second;
      cells.push_back({.value = t.accuracy});
      cells.push_back({.value = t.min == t.max ? fmt::format("{}", t.max)
                                               : fmt::format("{}..{}", t.min, t.max)});
      cells.push_back({.value = t.chance});
    }
    table.rows.push_back(std::move(cells));
  }
  return table;
}

}  // namespace statelab
