// `statelab inspect`: the learned transitions of a run by input symbol, and what they say about the length at which parity
// breaks.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "experiments/phase_clock.h"
#include "experiments/run_config.h"
#include "models/checkpoint.h"
#include "reports/table.h"
#include "store/records.h"

namespace statelab {

struct InspectOptions {
  int length = 0;    ///< reported length of the sampled sequences; 0 = the longest trained
  int samples = 64;  ///< of the test stream
  std::vector<std::string> symbols;  ///< names of input tokens; empty = all that occur
  bool all_pairs =
      false;  ///< every rotated pair, not only the one with the largest weight of each head
  int threads = 1;
};

/// Of a quantity over the positions of one symbol. Quartiles interpolate between order statistics. Angles are taken on the
/// branch around their circular mean, so that values about a half turn are not torn apart: they may exceed 1.
struct SymbolDistribution {
  int64_t count = 0;
  double mean = 0, sd = 0, min = 0, q1 = 0, median = 0, q3 = 0, max = 0;
};
SymbolDistribution distribution_of(std::vector<double> values, bool angle);

struct Inspection {
  Table transitions;
  std::optional<Phase> phase;
};

/// `measured`: test scores of these weights.
/// Errors: std::invalid_argument naming a symbol that the task does not have; TaskError for an impossible length.
Inspection inspect(const RunConfig& run, const MemberState& weights, const InspectOptions& options,
                   const std::vector<EvaluationRecord>& measured);

}  // namespace statelab
