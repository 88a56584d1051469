// The one place where reports meet SQL: rows as plain values, and which runs a report is about.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "reports/table.h"

namespace statelab {

class Database;

using Row = std::vector<CellValue>;  ///< in the order of the SELECT; NULL = monostate

/// Runs one SELECT; parameters are bound in order to ?1, ?2, ... Errors: StoreError.
std::vector<Row> query(Database& database, const std::string& sql,
                       const std::vector<CellValue>& parameters = {});

bool is_null(const CellValue& value);
/// 0 or "" for NULL; integers count as numbers.
int64_t integer_of(const CellValue& value);
double number_of(const CellValue& value);
std::string text_of(const CellValue& value);

/// Which runs a report is about; empty members do not restrict.
struct RunFilter {
  std::string sweep = {};   ///< name of a sweep (all its versions)
  std::string task = {};    ///< task.name
  std::string status = {};  ///< pending | running | finished | diverged | failed
  std::vector<std::pair<std::string, std::string>> where =
      {};  ///< configuration key = value, e.g. {"model.d_model", "64"}
  std::vector<std::string> run_ids = {};  ///< full ids
};

/// The filter as SQL over a table or view that calls runs `r`.
struct FilterSql {
  std::string condition = {};  ///< "1" or "(...) AND (...)"
  std::vector<CellValue> parameters = {};
};
/// Errors: std::invalid_argument for an unknown status or a key that is not of the form a.b_c.
FilterSql filter_sql(const RunFilter& filter);
/// "all runs" or "sweep parity, task = parity, model.d_model = 64", for titles and notes.
std::string filter_text(const RunFilter& filter);

}  // namespace statelab
