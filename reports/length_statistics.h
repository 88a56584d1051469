// What a group of runs scored at one length, beside what luck alone would have scored.
#pragma once

#include <optional>

#include "reports/protocol.h"
#include "reports/scores.h"
#include "reports/statistics.h"

namespace statelab {

/// What one group scored at one length. Fractions of the metric.
struct LengthStatistics {
  Summary summary = {};  ///< over runs that have a score
  std::optional<SuccessRate> success =
      {};  ///< over those and runs that diverged or failed without one
  std::optional<double> by_validation =
      {};  ///< test score of the run that validated best: luck of the test data cannot raise it
  double standard_error =
      0;  ///< of one run's score at the median, from the number of test sequences
  std::optional<double> chance = {}, constant_answer = {};
  /// Expected best of n models that know no more than the better of chance and the best constant
  /// answer.
  std::optional<double> best_useless = {};
};
/// Errors: std::invalid_argument when the threshold is not in (0, 1].
LengthStatistics length_statistics(const RunGroup& group, ScoredLength length, Metric metric,
                                   double threshold);

/// Protocol of the group's first run, with the precision that its runs were computed in.
Protocol protocol_of_group(const RunGroup& group);

}  // namespace statelab
