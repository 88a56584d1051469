// `statelab compare --by`: what each value of each swept setting did, over all values of the others.
#pragma once

#include <string>
#include <vector>

#include "reports/comparison.h"

namespace statelab {

struct MarginalOptions {
  RunFilter filter = {};
  std::vector<std::string> keys = {};  ///< settings, or "model"; empty: every swept one
  std::vector<ScoredLength> lengths =
      {};  ///< of the success rates; empty: the longest exact tested one
  Metric metric = Metric::kAccuracy;
  double threshold = 0.95;  ///< of the metric
};

/// The longest of the run's exact tested lengths up to which it reaches `threshold` at every tested length; 0 where it
/// misses the shortest, nullopt where no exact length was tested.
std::optional<int64_t> longest_length(const ScoredRun& run, Metric metric, double threshold);

/// One row per value of each key, and one of all runs: settings, runs, success rate with Wilson's interval at each
/// length, median score, median and best of longest_length(). Runs that diverged or failed count as not reaching
/// anything. In a balanced design the difference of two rows of a key is its main effect.
/// Errors: std::invalid_argument when the threshold is not in (0, 1] and a length was tested, or as require_settings().
Table marginals(Database& database, const MarginalOptions& options);

}  // namespace statelab
