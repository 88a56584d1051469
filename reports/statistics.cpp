#include "reports/statistics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

namespace statelab {
namespace {

// Rejects NaN too: the condition is the one that must hold.
template <typename... Args>
void require(bool holds, fmt::format_string<Args...> message, Args&&... args) {
  if (!holds) throw std::invalid_argument(fmt::format(message, std::forward<Args>(args)...));
}

// The part of a binomial distribution that is not vanishingly small: pmf[i] belongs to first + i.
struct BinomialPmf {
  int64_t first = 0;
  std::vector<double> pmf;
};

// 0 < p < 1, by the ratio of neighbours outwards from the mode, then normalised: no term is a
// difference of large logarithms, so all keep about 13 digits. Terms below 1e-40 of the mode are
// left out: O(sqrt(samples)) remain.
BinomialPmf binomial_pmf(int64_t samples, double p) {
  constexpr double kVanishing = 1e-40;
  const auto mode = std::min(samples, static_cast<int64_t>(static_cast<double>(samples + 1) * p));
  const double odds = p / (1 - p);
  std::vector<double> below, from_mode{1.0};
  double term = 1;
  for (int64_t k = mode; k > 0 && term > kVanishing; --k) {
    term *= static_cast<double>(k) / static_cast<double>(samples - k + 1) / odds;
    below.push_back(term);
  }
  term = 1;
  for (int64_t k = mode; k < samples && term > kVanishing; ++k) {
    term *= odds * static_cast<double>(samples - k) / static_cast<double>(k + 1);
    from_mode.push_back(term);
  }
  BinomialPmf result{mode - static_cast<int64_t>(below.size()), {below.rbegin(), below.rend()}};
  result.pmf.insert(result.pmf.end(), from_mode.begin(), from_mode.end());
  double total = 0;
  for (double value : result.pmf) total += value;
  for (double& value : result.pmf) value /= total;
  return result;
}

}  // namespace

Interval wilson_interval(int64_t successes, int64_t trials, double z) {
  require(trials >= 1, "wilson_interval: trials must be at least 1, is {}", trials);
  require(successes >= 0 && successes <= trials,
          "wilson_interval: successes must lie in 0..{}, is {}", trials, successes);
  const double n = static_cast<double>(trials);
  const double p = static_cast<double>(successes) / n;
  const double z2 = z * z;
  const double centre = (p + z2 / (2 * n)) / (1 + z2 / n);
  const double half = z / (1 + z2 / n) * std::sqrt(p * (1 - p) / n + z2 / (4 * n * n));
  // At the ends the bound is 0 or 1 exactly; rounding must not step over it.
  return {successes == 0 ? 0.0 : std::max(0.0, centre - half),
          successes == trials ? 1.0 : std::min(1.0, centre + half)};
}

Summary summarize(std::span<const double> values) {
  Summary s;
  s.n = static_cast<int64_t>(values.size());
  if (values.empty()) return s;
  std::vector<double> sorted(values.begin(), values.end());
  for (double value : sorted)
    require(std::isfinite(value), "summarize: values must be finite, one is {}", value);
  std::sort(sorted.begin(), sorted.end());
  const size_t n = sorted.size();
  s.worst = sorted.front();
  s.best = sorted.back();
  s.median = n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
  // Sums run over the sorted values, so that the order of the runs does not reach the last digit.
  for (double value : sorted) s.mean += value;
  s.mean /= static_cast<double>(n);
  if (n == 1) return s;
  double squares = 0;
  for (double value : sorted) squares += (value - s.mean) * (value - s.mean);
  s.sd = std::sqrt(squares / static_cast<double>(n - 1));
  s.sem = s.sd / std::sqrt(static_cast<double>(n));
  return s;
}

SuccessRate success_rate(std::span<const double> values, double threshold) {
  require(!values.empty(), "success_rate: at least one run is needed, there is none (threshold {})",
          threshold);
  SuccessRate r;
  r.n = static_cast<int64_t>(values.size());
  r.successes =
      std::count_if(values.begin(), values.end(), [&](double v) { return v >= threshold; });
  r.rate = static_cast<double>(r.successes) / static_cast<double>(r.n);
  r.wilson = wilson_interval(r.successes, r.n);
  return r;
}

double scaled_accuracy(double accuracy, double chance) {
  require(chance >= 0 && chance < 1, "scaled_accuracy: chance must lie in [0, 1), is {}", chance);
  return (accuracy - chance) / (1 - chance);
}

double accuracy_standard_error(double accuracy, int64_t samples) {
  require(accuracy >= 0 && accuracy <= 1,
          "accuracy_standard_error: accuracy must lie in [0, 1], is {}", accuracy);
  require(samples >= 1, "accuracy_standard_error: samples must be at least 1, is {}", samples);
  return std::sqrt(accuracy * (1 - accuracy) / static_cast<double>(samples));
}

double scaled_standard_error(double accuracy, double chance, int64_t samples) {
  require(chance >= 0 && chance < 1, "scaled_standard_error: chance must lie in [0, 1), is {}",
          chance);
  return accuracy_standard_error(accuracy, samples) / (1 - chance);
}

double expected_best_of(int64_t models, double chance, int64_t samples) {
  require(models >= 1, "expected_best_of: models must be at least 1, is {}", models);
  require(samples >= 1, "expected_best_of: samples must be at least 1, is {}", samples);
  require(chance >= 0 && chance <= 1, "expected_best_of: chance must lie in [0, 1], is {}", chance);
  if (chance == 0 || chance == 1) return chance;
  const BinomialPmf binomial = binomial_pmf(samples, chance);
  // E max = sum over k >= 1 of P(max >= k); P is 1 up to the first value that can occur.
  double expected = static_cast<double>(binomial.first), below = 0;  // below = F(k - 1)
  for (size_t i = 0; i + 1 < binomial.pmf.size(); ++i) {
    below += binomial.pmf[i];
    expected += 1 - std::pow(std::min(below, 1.0), static_cast<double>(models));
  }
  return expected / static_cast<double>(samples);
}

std::optional<int64_t> steps_to_solve(std::span<const StepScore> scores, double threshold) {
  std::optional<int64_t> solved;
  for (const StepScore& score : scores) {
    if (!(score.accuracy >= threshold)) {
      solved.reset();
    } else if (!solved) {
      solved = score.step;
    }
  }
  return solved;
}

}  // namespace statelab
