// `statelab ls`: one line per run.
#pragma once

#include "reports/query.h"
#include "reports/table.h"

namespace statelab {

struct ListOptions {
  RunFilter filter = {};
  int64_t limit = 0;      ///< newest so many runs; 0 = all
  bool full_ids = false;  ///< 64 hex digits instead of the first 12
};

/// Columns: run, name, status, task, model, seed, steps, accuracy at the longest tested length
/// with its chance level.
Table list_runs(Database& database, const ListOptions& options);

/// The part of a run id that tables show; commands take any unambiguous beginning.
inline constexpr size_t kShownIdDigits = 12;

}  // namespace statelab
