#include "reports/length_statistics.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

namespace statelab {

LengthStatistics length_statistics(const RunGroup& group, ScoredLength length, Metric metric,
                                   double threshold) {
  if (!(threshold > 0 && threshold <= 1)) {
    throw std::invalid_argument(fmt::format("threshold: must lie in (0, 1], is {}", threshold));
  }
  LengthStatistics s;
  std::vector<double> scores;
  const TestScore* level = nullptr;
  int64_t sequences = 0, tokens = 0, lost = 0;
  double best_validation = -1;
  for (const ScoredRun& run : group.runs) {
    const std::optional<double> score = run.score(length, metric);
    if (!score) {
      lost += run.status == "diverged" || run.status == "failed";
      continue;
    }
    scores.push_back(*score);
    const TestScore& test = run.test.at(length);
    level = &test;
    sequences = sequences == 0 ? test.sequences : std::min(sequences, test.sequences);
    tokens = tokens == 0 ? test.tokens : std::min(tokens, test.tokens);
    const auto validation = run.validation.find(length);
    if (validation != run.validation.end() && validation->second > best_validation) {
      best_validation = validation->second;
      s.by_validation = score;
    }
  }
  s.summary = summarize(scores);
  std::vector<double> outcomes = scores;
  outcomes.insert(outcomes.end(), static_cast<size_t>(lost), -1.0);  // below every threshold
  if (!outcomes.empty()) s.success = success_rate(outcomes, threshold);
  if (level == nullptr) return s;
  // Sequence accuracy has a chance level of its own only where one position is supervised.
  const bool levels_known = metric != Metric::kSequenceAccuracy || tokens == sequences;
  const double chance = level->chance;
  auto in_metric = [&](double accuracy) {
    return metric == Metric::kScaledAccuracy ? scaled_accuracy(accuracy, chance) : accuracy;
  };
  double median = s.summary.median;
  if (metric == Metric::kScaledAccuracy) median = median * (1 - chance) + chance;
  s.standard_error = accuracy_standard_error(std::clamp(median, 0.0, 1.0), sequences);
  if (metric == Metric::kScaledAccuracy) s.standard_error /= 1 - chance;
  if (levels_known) {
    s.chance = in_metric(chance);
    s.constant_answer = in_metric(level->constant_answer);
    // A model that guesses is right or wrong position by position.
    s.best_useless =
        in_metric(expected_best_of(s.summary.n, std::max(chance, level->constant_answer), tokens));
  }
  return s;
}

Protocol protocol_of_group(const RunGroup& group) {
  std::set<std::string> precisions;
  for (const ScoredRun& run : group.runs) {
    if (!run.computed_with.empty()) precisions.insert(run.computed_with);
  }
  return protocol_of_run(group.config, fmt::format("{}", fmt::join(precisions, " and ")));
}

}  // namespace statelab
