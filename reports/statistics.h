// Statistics of scores: what a group of runs shows, and how much of it luck alone would show.
//
// Accuracies are fractions in 0..1 everywhere in this library; only tables print percent.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace statelab {

/// A closed interval of fractions.
struct Interval {
  double low = 0, high = 0;
};

/// Two-sided 95 % quantile of the standard normal distribution.
inline constexpr double kNormal95 = 1.959963984540054;

/// Wilson's score interval of a proportion: it stays inside [0, 1] and is sensible at 0 of n and n
/// of n.
/// Source: E. B. Wilson, "Probable inference", JASA 22 (1927).
/// Errors: std::invalid_argument unless 0 <= successes <= trials and trials >= 1.
Interval wilson_interval(int64_t successes, int64_t trials, double z = kNormal95);

/// What n values show. All fields but n are 0 when n = 0; sd and sem are 0 when n = 1.
struct Summary {
  int64_t n = 0;
  double best = 0;   ///< largest
  double worst = 0;  ///< smallest
  double mean = 0;
  double median = 0;  ///< mean of the two middle values when n is even
  double sd = 0;      ///< sample standard deviation, denominator n - 1, two passes
  double sem = 0;     ///< standard error of the mean, sd / sqrt(n)
};
/// Errors: std::invalid_argument when a value is not finite.
Summary summarize(std::span<const double> values);

/// Runs that reach `threshold`, with Wilson's interval of the rate.
struct SuccessRate {
  int64_t successes = 0, n = 0;
  double rate = 0;
  Interval wilson;
};
/// Errors: std::invalid_argument when `values` is empty.
SuccessRate success_rate(std::span<const double> values, double threshold);

/// (accuracy - chance) / (1 - chance), not clipped: below chance it is negative.
/// Errors: std::invalid_argument unless 0 <= chance < 1.
double scaled_accuracy(double accuracy, double chance);

/// sqrt(p (1 - p) / samples), the sampling error of an accuracy p on independent answers. Units:
/// fraction.
/// Errors: std::invalid_argument unless 0 <= accuracy <= 1 and samples >= 1.
double accuracy_standard_error(double accuracy, int64_t samples);
/// The same for the scaled accuracy: divided by 1 - chance.
double scaled_standard_error(double accuracy, double chance, int64_t samples);

/// Expected accuracy of the best of `models` models that each answer `samples` independent
/// questions rightly with probability `chance`. Exact: E max = sum_{k=1}^{samples} (1 -
/// F(k-1)^models) / samples, F the binomial distribution.
/// Cost:   O(sqrt(samples)): the vanishing tails of F, below 1e-40 of its largest term, count as 0.
/// Errors: std::invalid_argument unless models >= 1, samples >= 1 and 0 <= chance <= 1.
double expected_best_of(int64_t models, double chance, int64_t samples);

/// One validation of one run.
struct StepScore {
  int64_t step = 0;
  double accuracy = 0;
};
/// The first step from which on every later score of the run reaches `threshold` too: a run that
/// finds the answer and loses it again has not solved the task. nullopt when the last score is
/// below. `scores` ascend by step.
std::optional<int64_t> steps_to_solve(std::span<const StepScore> scores, double threshold);

}  // namespace statelab
