#include "reports/statistics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace statelab {
namespace {

// E max of `models` draws of Binomial(samples, p), by walking through every combination of
// outcomes.
double enumerated_best(int models, double p, int samples) {
  std::vector<double> pmf(static_cast<size_t>(samples) + 1);
  for (int k = 0; k <= samples; ++k) {
    double choose = 1;
    for (int i = 0; i < k; ++i) choose = choose * (samples - i) / (i + 1);
    pmf[static_cast<size_t>(k)] = choose * std::pow(p, k) * std::pow(1 - p, samples - k);
  }
  double expected = 0;
  std::vector<int> outcome(static_cast<size_t>(models), 0);
  for (;;) {
    double probability = 1;
    int best = 0;
    for (int k : outcome) probability *= pmf[static_cast<size_t>(k)], best = std::max(best, k);
    expected += probability * best / samples;
    size_t m = 0;
    while (m < outcome.size() && ++outcome[m] > samples) outcome[m++] = 0;
    if (m == outcome.size()) return expected;
  }
}

TEST(WilsonInterval, AgreesWithAWorkedExample) {
  // 8 of 10: centre (0.8 + z2/20) / (1 + z2/10), half width z / (1 + z2/10) sqrt(0.016 + z2/400),
  // z2 = 3.841459.
  const Interval i = wilson_interval(8, 10);
  EXPECT_NEAR(i.low, 0.49016247153664, 1e-12);
  EXPECT_NEAR(i.high, 0.943317848545, 1e-12);
}

TEST(WilsonInterval, StaysInsideZeroAndOneAtTheEnds) {
  const Interval none = wilson_interval(0, 3), all = wilson_interval(3, 3);
  EXPECT_EQ(none.low, 0);
  EXPECT_NEAR(none.high, kNormal95 * kNormal95 / (3 + kNormal95 * kNormal95), 1e-15);
  EXPECT_EQ(all.high, 1);
  EXPECT_NEAR(all.low, 1 - none.high, 1e-15);
}

TEST(WilsonInterval, RefusesMoreSuccessesThanTrials) {
  EXPECT_THAT([] { wilson_interval(4, 3); },
              testing::ThrowsMessage<std::invalid_argument>(testing::HasSubstr("is 4")));
  EXPECT_THROW(wilson_interval(0, 0), std::invalid_argument);
}

TEST(Summary, AgreesWithHandComputedValues) {
  const Summary s = summarize(std::vector<double>{0.7, 0.1, 0.4, 0.8});
  EXPECT_EQ(s.n, 4);
  EXPECT_EQ(s.best, 0.8);
  EXPECT_EQ(s.worst, 0.1);
  EXPECT_DOUBLE_EQ(s.mean, 0.5);
  EXPECT_DOUBLE_EQ(s.median, 0.55);
  EXPECT_DOUBLE_EQ(s.sd, std::sqrt(0.30 / 3));  // squares: 0.16 + 0.01 + 0.09 + 0.04
  EXPECT_DOUBLE_EQ(s.sem, s.sd / 2);
}

TEST(Summary, MedianOfAnOddNumberIsTheMiddleValue) {
  EXPECT_EQ(summarize(std::vector<double>{9, 1, 5}).median, 5);
}

TEST(Summary, OneValueHasNoSpreadAndNoneHasNothing) {
  EXPECT_EQ(summarize(std::vector<double>{0.3}).sd, 0);
  EXPECT_EQ(summarize({}).n, 0);
}

TEST(Summary, DoesNotDependOnTheOrderOfTheRuns) {
  const std::vector<double> a{0.1, 0.2, 0.3, 1e-9, 0.7}, b{0.7, 1e-9, 0.3, 0.1, 0.2};
  EXPECT_EQ(summarize(a).mean, summarize(b).mean);
  EXPECT_EQ(summarize(a).sd, summarize(b).sd);
}

TEST(Summary, RefusesValuesThatAreNotFinite) {
  EXPECT_THROW(summarize(std::vector<double>{0.5, std::numeric_limits<double>::quiet_NaN()}),
               std::invalid_argument);
}

TEST(SuccessRate, CountsTheThresholdItself) {
  const SuccessRate r = success_rate(std::vector<double>{0.95, 0.9499, 1.0}, 0.95);
  EXPECT_EQ(r.successes, 2);
  EXPECT_DOUBLE_EQ(r.rate, 2.0 / 3);
  EXPECT_LT(r.wilson.low, r.rate);
  EXPECT_GT(r.wilson.high, r.rate);
}

TEST(ScaledAccuracy, IsZeroAtChanceOneAtPerfectAndNegativeBelow) {
  EXPECT_EQ(scaled_accuracy(0.2, 0.2), 0);
  EXPECT_EQ(scaled_accuracy(1, 0.2), 1);
  EXPECT_DOUBLE_EQ(scaled_accuracy(0.25, 0.5), -0.5);
  EXPECT_THROW(scaled_accuracy(0.5, 1), std::invalid_argument);
}

TEST(StandardError, Of8192AnswersAtChanceIsThatOfTheLiterature) {
  EXPECT_NEAR(scaled_standard_error(0.5, 0.5, 8192), 0.0110, 0.00005);  // 1.10 points
  EXPECT_NEAR(scaled_standard_error(0.2, 0.2, 8192), 0.0055, 0.00005);
  EXPECT_DOUBLE_EQ(accuracy_standard_error(0.5, 100), 0.05);
}

TEST(BestOfUselessModels, EqualsFullEnumeration) {
  for (int models : {1, 2, 3}) {
    for (double p : {0.2, 0.5, 0.9}) {
      for (int samples : {1, 2, 7}) {
        EXPECT_NEAR(expected_best_of(models, p, samples), enumerated_best(models, p, samples),
                    1e-14)
            << models << " models, p " << p << ", " << samples << " samples";
      }
    }
  }
}

TEST(BestOfUselessModels, OneModelIsExpectedAtChanceWhateverTheSampleCount) {
  EXPECT_NEAR(expected_best_of(1, 0.2, 8192), 0.2, 1e-12);
  EXPECT_NEAR(expected_best_of(1, 0.5, 10'000'000), 0.5, 1e-11);
}

TEST(BestOfUselessModels, SixteenAt8192AnswersLookLikeTwoPointsOnScaledParity) {
  EXPECT_NEAR(scaled_accuracy(expected_best_of(16, 0.5, 8192), 0.5), 0.0195, 0.00005);
  EXPECT_NEAR(scaled_accuracy(expected_best_of(16, 0.2, 8192), 0.2), 0.0098, 0.00005);
  EXPECT_NEAR(scaled_accuracy(expected_best_of(16, 0.5, 1024), 0.5), 0.055, 0.0005);
}

TEST(BestOfUselessModels, CertaintiesStayCertain) {
  EXPECT_EQ(expected_best_of(5, 0, 10), 0);
  EXPECT_EQ(expected_best_of(5, 1, 10), 1);
  EXPECT_THROW(expected_best_of(0, 0.5, 10), std::invalid_argument);
  EXPECT_THROW(expected_best_of(1, 1.5, 10), std::invalid_argument);
}

TEST(StepsToSolve, IsTheFirstStepThatIsNeverLostAgain) {
  const std::vector<StepScore> lost{{100, 0.99}, {200, 0.5}, {300, 0.96}, {400, 1.0}};
  EXPECT_EQ(steps_to_solve(lost, 0.95), 300);
  EXPECT_EQ(steps_to_solve(std::vector<StepScore>{{100, 0.99}, {200, 0.5}}, 0.95), std::nullopt);
  EXPECT_EQ(steps_to_solve({}, 0.95), std::nullopt);
}

}  // namespace
}  // namespace statelab
