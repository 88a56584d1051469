// Each fault of tests/faults.def, armed in a build of the kernels that has them, is caught by the
// check it names; with none armed nothing fires.
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>

#include "experiments/verify/verify.h"
#include "kernels/fault.h"

namespace statelab {
namespace {

struct FaultCase {
  const char *name, *suite, *check, *mistake;
};

const FaultCase kFaults[] = {
#define STATELAB_FAULT_CASE(name, suite, check, mistake) {#name, suite, check, mistake},
#include "tests/faults.def"
#undef STATELAB_FAULT_CASE
};

VerifyReport quick(const std::string& suite) {
  VerifyOptions options;
  options.suites = {suite};
  options.quick = true;
  options.threads = 2;
  return run_verify(options);
}

TEST(Faults, AreAtLeastTwentyFiveAndListedOnce) {
  std::set<std::string> names;
  for (const FaultCase& fault : kFaults) EXPECT_TRUE(names.insert(fault.name).second) << fault.name;
  EXPECT_GE(names.size(), 25u);
}

TEST(Faults, NoCheckFiresWithoutAFault) {
  arm_fault("");
  std::map<std::string, VerifyReport> reports;
  for (const FaultCase& fault : kFaults) {
    if (!reports.count(fault.suite)) reports[fault.suite] = quick(fault.suite);
  }
  for (const auto& [suite, report] : reports) EXPECT_TRUE(report.passed()) << to_text(report);
}

class Fault : public testing::TestWithParam<FaultCase> {
 protected:
  ~Fault() override { arm_fault(""); }
};

TEST_P(Fault, IsCaughtByTheCheckItNames) {
  const FaultCase& fault = GetParam();
  arm_fault(fault.name);
  const VerifyReport report = quick(fault.suite);
  int matching = 0, failing = 0;
  std::string all_failing;
  for (const VerifyRow& row : report.rows) {
    if (!row.passed) all_failing += row.identity + "\n";
    if (row.identity.rfind(fault.check, 0) != 0) continue;
    ++matching;
    failing += !row.passed;
  }
  EXPECT_GE(matching, 1) << "no row begins with " << fault.check;
  EXPECT_GE(failing, 1) << fault.mistake << "; failing rows:\n" << all_failing;
}

INSTANTIATE_TEST_SUITE_P(Every, Fault, testing::ValuesIn(kFaults),
                         [](const auto& fault) { return std::string(fault.param.name); });

}  // namespace
}  // namespace statelab
