// `statelab status`: how far each sweep is.
#pragma once

#include <string>

#include "reports/query.h"
#include "reports/table.h"

namespace statelab {

/// One row per sweep, newest last, and one for runs that belong to none.
/// Columns: runs, done (finished), diverged, failed, running, missing (pending, or held by a
/// worker that is gone), share of the steps that are done, wall time spent. `sweep` empty: all
/// sweeps.
Table sweep_status(Database& database, const std::string& sweep = {});

}  // namespace statelab
