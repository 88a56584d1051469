// What a suite finds: one entry per system and identity, folded into table rows afterwards.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "experiments/verify/verify.h"

namespace statelab::verify {

struct Finding {
  std::string identity;
  double error = 0, tolerance = 0;
  std::string where;  ///< sizes of this system
  std::string reason, note;
  bool must_fail = false;
};

using Findings = std::vector<Finding>;

/// Runs cases 0..count-1 on `threads` threads and joins what they find in case order.
Findings find_in_parallel(int count, int threads, const std::function<Findings(int)>& one);

/// One row per identity, in order of first appearance: the case with the largest error / tolerance
/// (the smallest for negative controls). NaN counts as infinite, in a negative control as zero.
std::vector<VerifyRow> rows_of(const std::string& suite, const Findings& findings);

/// max|actual - expected| / max|expected|; infinite where sizes differ or anything is not finite.
/// `floor` bounds the denominator from below.
double relative_error(const std::vector<double>& actual, const std::vector<double>& expected,
                      double floor = 0);

/// The worst of relative_error over groups. A group's denominator is at least `smallest_share` of
/// the largest gradient of all groups, so that an input that hardly matters is not judged on the
/// rounding of those that do.
double gradient_error(const std::vector<std::vector<double>>& actual,
                      const std::vector<std::vector<double>>& expected, double smallest_share,
                      std::string* worst = nullptr,
                      const std::vector<std::string>* names = nullptr);

/// Uniform numbers in [lo, hi], a pure function of (seed, system, group), each one a float: every
/// engine gets the same.
std::vector<double> uniform_values(uint32_t seed, uint32_t system, uint32_t group, std::size_t size,
                                   double lo, double hi);

struct SuiteOptions {
  bool quick = false;
  int threads = 1;
  uint32_t seed = 1;
};

Findings rope_suite(const SuiteOptions& options);
Findings noncommuting_findings(const SuiteOptions& options);
Findings discretization_suite(const SuiteOptions& options);
Findings gradients_suite(const SuiteOptions& options);
Findings backends_suite(const SuiteOptions& options);
Findings exact_suite(const SuiteOptions& options, std::vector<ExactReach>* reaches);

}  // namespace statelab::verify
