// `statelab curves`: accuracy against length, one figure per task.
#pragma once

#include <vector>

#include "reports/figure.h"
#include "reports/scores.h"

namespace statelab {

struct CurvesOptions {
  RunFilter filter = {};
  std::vector<std::string> group_by = {};  ///< as in CompareOptions
  Metric metric = Metric::kAccuracy;
  size_t most_series =
      12;  ///< the best at the longest length where there are more; the title says so
};

/// Per task: median over a group's runs at each exact length, band from its least to its greatest
/// run, lines at chance, at the best constant answer where that is higher, and at the expected
/// best of as many useless models as the largest group has runs. Tasks without a score at an exact
/// length have no figure.
/// Errors: as require_settings().
std::vector<Figure> curves(Database& database, const CurvesOptions& options);

}  // namespace statelab
