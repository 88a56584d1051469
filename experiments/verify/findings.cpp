#include "experiments/verify/findings.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <limits>
#include <thread>

#include "kernels/rng.h"

namespace statelab::verify {

Findings find_in_parallel(int count, int threads, const std::function<Findings(int)>& one) {
  std::vector<Findings> found(static_cast<std::size_t>(count));
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(count));
  std::atomic<int> next{0};
  const auto work = [&] {
    for (int i = next++; i < count; i = next++) {
      try {
        found[static_cast<std::size_t>(i)] = one(i);
      } catch (...) {
        errors[static_cast<std::size_t>(i)] = std::current_exception();
      }
    }
  };
  std::vector<std::thread> helpers;
  for (int t = 1; t < threads; ++t) helpers.emplace_back(work);
  work();
  for (auto& helper : helpers) helper.join();
  Findings all;
  for (int i = 0; i < count; ++i) {
    if (errors[static_cast<std::size_t>(i)])
      std::rethrow_exception(errors[static_cast<std::size_t>(i)]);
    auto& f = found[static_cast<std::size_t>(i)];
    all.insert(all.end(), f.begin(), f.end());
  }
  return all;
}

std::vector<VerifyRow> rows_of(const std::string& suite, const Findings& findings) {
  std::vector<VerifyRow> rows;
  for (const Finding& f : findings) {
    const auto severity = [](double error, double tolerance, bool must_fail) {
      if (std::isnan(error)) return must_fail ? 0.0 : std::numeric_limits<double>::infinity();
      if (tolerance == 0) return error > 0 ? std::numeric_limits<double>::infinity() : 0.0;
      return error / tolerance;
    };
    auto row = std::find_if(rows.begin(), rows.end(),
                            [&](const VerifyRow& r) { return r.identity == f.identity; });
    if (row == rows.end()) {
      rows.push_back({});
      row = rows.end() - 1;
      row->suite = suite;
      row->identity = f.identity;
      row->must_fail = f.must_fail;
    }
    const double here = severity(f.error, f.tolerance, f.must_fail);
    const double worst = row->cases == 0 ? here : severity(row->error, row->tolerance, f.must_fail);
    if (row->cases == 0 || (f.must_fail ? here < worst : here > worst)) {
      row->error = f.error;
      row->tolerance = f.tolerance;
      row->sizes = f.where;
      row->reason = f.reason;
      row->note = f.note;
    }
    ++row->cases;
  }
  for (VerifyRow& row : rows)
    row.passed = row.must_fail ? row.error > row.tolerance : row.error <= row.tolerance;
  return rows;
}

double relative_error(const std::vector<double>& actual, const std::vector<double>& expected,
                      double floor) {
  if (actual.size() != expected.size()) return std::numeric_limits<double>::infinity();
  double largest = floor, error = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (!std::isfinite(actual[i]) || !std::isfinite(expected[i]))
      return std::numeric_limits<double>::infinity();
    largest = std::max(largest, std::abs(expected[i]));
    error = std::max(error, std::abs(actual[i] - expected[i]));
  }
  return error == 0 ? 0 : error / largest;
}

double gradient_error(const std::vector<std::vector<double>>& actual,
                      const std::vector<std::vector<double>>& expected, double smallest_share,
                      std::string* worst, const std::vector<std::string>* names) {
  if (actual.size() != expected.size()) return std::numeric_limits<double>::infinity();
  double largest = 0;
  for (const auto& group : expected) {
    for (double g : group) largest = std::max(largest, std::abs(g));
  }
  double error = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double e = relative_error(actual[i], expected[i], smallest_share * largest);
    if (i == 0 || e > error) {
      error = e;
      if (worst != nullptr && names != nullptr) *worst = (*names)[i];
    }
  }
  return error;
}

std::vector<double> uniform_values(uint32_t seed, uint32_t system, uint32_t group, std::size_t size,
                                   double lo, double hi) {
  std::vector<double> x(size);
  for (std::size_t i = 0; i < size; ++i) {
    const RngBlock bits =
        philox({seed, Stream::kVerify}, {static_cast<uint32_t>(i), system, group, 0});
    x[i] = static_cast<float>(lo + (hi - lo) * uniform01(bits.v[0], bits.v[1]));
  }
  return x;
}

}  // namespace statelab::verify
