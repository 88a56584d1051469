// Scores of runs, gathered from the store and grouped: what every comparison, curve and report
// starts from.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "reports/flat_config.h"
#include "reports/query.h"

namespace statelab {

/// Reported lengths of one evaluation, both ends included; equal ends: one exact length.
struct ScoredLength {
  int64_t min = 0, max = 0;
  bool exact() const { return min == max; }
  std::string text() const;           ///< "256" or "40..256"
  std::string column_prefix() const;  ///< of its columns' keys: "l256." or "l40_256."
  /// Exact lengths first, ascending; then ranges.
  std::strong_ordering operator<=>(const ScoredLength& other) const;
  bool operator==(const ScoredLength&) const = default;
};

/// One evaluation on test data, with the levels that it is to be read against. Fractions.
struct TestScore {
  double accuracy = 0;           ///< over supervised positions
  double sequence_accuracy = 0;  ///< sequences right at every supervised position
  double chance = 0, constant_answer = 0;
  int64_t sequences = 0, tokens = 0;
};

enum class Metric { kAccuracy, kScaledAccuracy, kSequenceAccuracy };
/// "accuracy" | "scaled_accuracy" | "sequence_accuracy". Throws std::invalid_argument for another
/// name.
Metric metric_from_name(const std::string& name);
std::string metric_name(Metric metric);
std::string metric_title(Metric metric);  ///< "scaled accuracy"

struct ScoredRun {
  std::string run_id = {}, group_id = {}, name = {}, status = {}, selection = {};
  int64_t seed = 0;
  std::optional<int64_t> parameters = {};
  std::optional<double> wall_seconds = {};         ///< the run's share of its cohorts' wall time
  std::map<ScoredLength, TestScore> test = {};     ///< at the selected weights
  std::map<ScoredLength, double> validation = {};  ///< accuracy at the selected weights
  std::optional<int64_t> solved_at =
      {};                          ///< steps_to_solve() on validation at `RunGroup::solve_length`
  std::string computed_with = {};  ///< precision of the last execution, "" before the first

  /// finished, diverged or failed: the run will not get another score.
  bool final() const { return status == "finished" || status == "diverged" || status == "failed"; }
  std::optional<double> score(ScoredLength length, Metric metric) const;
};

struct RunGroup {
  FlatConfig config = {};  ///< of the group's first run; without the seed
  std::vector<FlatConfig> settings =
      {};  ///< one per distinct group_id; one only when grouped over seeds
  std::vector<ScoredRun> runs = {};  ///< in order of insertion
  ScoredLength solve_length =
      {};  ///< longest validated exact length that was trained on; {0, 0} when there is none
};

struct GroupOptions {
  RunFilter filter = {};
  /// Configuration keys whose values make a group; "model" stands for model_label(). Empty:
  /// everything but the seed.
  std::vector<std::string> keys = {};
  double solve_threshold = 0.95;  ///< accuracy that counts as solved
  bool solve_steps = true;        ///< whether to read validations for solved_at
};

/// All groups of the runs that the filter lets through, in order of their first run's insertion.
/// Of several test evaluations at one length that of the run's configuration counts, else the one
/// with most samples.
std::vector<RunGroup> load_groups(Database& database, const GroupOptions& options);

/// Refuses keys that nothing can be grouped by: std::invalid_argument naming the first key that is neither "model" nor in a
/// setting of `groups`, and all that are. Without runs there is nothing to judge by, and every key passes.
void require_settings(const std::vector<std::string>& keys, const std::vector<RunGroup>& groups,
                      const RunFilter& filter);

/// Every length that any run was tested at.
std::vector<ScoredLength> tested_lengths(const std::vector<RunGroup>& groups);

}  // namespace statelab
