#include "experiments/verify/verify.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>

#include "experiments/verify/findings.h"

namespace statelab {

const std::vector<std::string>& verify_suites() {
  static const std::vector<std::string> names = {"rope", "discretization", "gradients", "backends",
                                                 "exact"};
  return names;
}

bool VerifyReport::passed() const {
  return !rows.empty() &&
         std::all_of(rows.begin(), rows.end(), [](const VerifyRow& r) { return r.passed; });
}

VerifyReport run_verify(const VerifyOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  for (const std::string& name : options.suites) {
    if (std::find(verify_suites().begin(), verify_suites().end(), name) != verify_suites().end())
      continue;
    std::string known;
    for (const std::string& suite : verify_suites()) known += (known.empty() ? "" : ", ") + suite;
    throw std::invalid_argument("[verify] suite must be one of " + known + "; is " + name);
  }
  VerifyReport report;
  report.seed = options.seed;
  report.quick = options.quick;
  const verify::SuiteOptions suite_options{options.quick, std::max(options.threads, 1),
                                           options.seed};
  for (const std::string& name : verify_suites()) {
    const bool wanted =
        options.suites.empty() ||
        std::find(options.suites.begin(), options.suites.end(), name) != options.suites.end();
    if (!wanted) continue;
    verify::Findings found;
    if (name == "rope") found = verify::rope_suite(suite_options);
    if (name == "discretization") found = verify::discretization_suite(suite_options);
    if (name == "gradients") found = verify::gradients_suite(suite_options);
    if (name == "backends") found = verify::backends_suite(suite_options);
    if (name == "exact") found = verify::exact_suite(suite_options, &report.reaches);
    const std::vector<VerifyRow> rows = verify::rows_of(name, found);
    report.rows.insert(report.rows.end(), rows.begin(), rows.end());
  }
  report.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return report;
}

}  // namespace statelab
