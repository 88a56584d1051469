// `statelab show RUN` and `statelab diff RUN RUN`.
#pragma once

#include <string>
#include <vector>

#include "reports/query.h"
#include "reports/table.h"

namespace statelab {

/// Tables of one run: "run" (identity and state), "config", "evaluations", "metrics" (the last ten
/// rows), "executions", "checkpoints"; those without rows are left out. `run` as in find_run().
/// Errors: RunLookupError.
std::vector<Table> show_run(Database& database, const std::string& run);

/// Keys of the configuration in which two runs differ; then their test scores at the lengths of
/// both, with standard errors; then how they were computed, where that differs. Errors:
/// RunLookupError.
std::vector<Table> diff_runs(Database& database, const std::string& first,
                             const std::string& second);

}  // namespace statelab
