// `statelab compare`: groups of runs side by side, each score beside the levels that luck alone
// reaches.
#pragma once

#include <string>
#include <vector>

#include "reports/length_statistics.h"
#include "reports/scores.h"
#include "reports/table.h"

namespace statelab {

enum class CompareLayout {
  /// One row per group, one block of columns per evaluated length; keys "l256.median", "l40_256.median".
  kWide,
  /// One row per group and length; keys "length", "median": the same for every database.
  kLong,
};

struct CompareOptions {
  RunFilter filter = {};
  std::vector<std::string> group_by =
      {};  ///< configuration keys, or "model"; empty: groups over seeds
  std::vector<ScoredLength> lengths = {};  ///< empty: all tested ones
  Metric metric = Metric::kAccuracy;
  double threshold =
      0.95;  ///< of the metric, for the success rate; of accuracy, for steps to solve
  CompareLayout layout = CompareLayout::kWide;
  /// Levels (chance, constant answer, best of n useless models) that are equal in all rows become
  /// notes. For people; programs want all columns always.
  bool fold_levels = true;
  bool sort_by_median =
      false;  ///< at the longest exact length, best first; else in order of insertion
};

/// Columns: swept keys (or the keys grouped by), runs, per length best, [best by validation,]
/// median, mean ± sd, success rate with Wilson's interval, standard error, levels; then steps to
/// solve, parameters, wall time. The best median and the best run are marked only where all rows
/// share one protocol; otherwise a note names the choices that differ.
/// Errors: std::invalid_argument when the threshold is not in (0, 1] and a length was tested, or as require_settings().
Table compare(Database& database, const CompareOptions& options);

/// kWide where the text fits into `columns` terminal columns, else kLong.
Table compare_for_width(Database& database, CompareOptions options, int columns);

}  // namespace statelab
