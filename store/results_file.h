// Results as text: what comparisons and reports read of a database, without metrics, curves and checkpoints.
//
// One JSON document a line. The first is {"statelab_results": 1}; then, in this order, one per sweep
// {"sweep": {...}}, execution {"execution": {...}} and run {"run": {...}}. A run carries its evaluations, the
// executions that computed it and its place in each sweep. Keys are the columns of schema.sql; reals have 17 digits,
// so that they read back as they were. Text lasts longer than a schema: files of this format are read by programs
// whose tables have changed.
#pragma once

#include <filesystem>
#include <iosfwd>
#include <string>

#include "store/database.h"

namespace statelab {

inline constexpr int kResultsFormat = 1;

/// What write_results() wrote, or what read_results() added.
struct ResultCounts {
  int64_t sweeps = 0, executions = 0, runs = 0, evaluations = 0;
  int64_t kept = 0;  ///< runs of the file that were there already; 0 when writing
};

/// Writes every run of `sweep` ("" = of the database) that is final. The same results give the same text.
/// Neither host nor process id nor command lines leave the database.
/// Errors: StoreError; kMismatch when no such run is there.
ResultCounts write_results(Database& database, const std::string& sweep, std::ostream& out);

/// Adds what `file` holds. Runs, sweeps and executions that are there already stay as they are; a second call changes
/// nothing. One transaction.
/// Errors: StoreError kMismatch with file and line: another format, no JSON, a key that is missing or of a wrong type.
ResultCounts read_results(Database& database, const std::filesystem::path& file);

/// Whether the file begins as write_results() begins; false where it cannot be read.
bool is_results_file(const std::filesystem::path& file);

}  // namespace statelab
