// verify: the identities that the lab rests on, checked and recorded.
#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "experiments/commands.h"
#include "experiments/execution.h"
#include "experiments/verify/verify.h"
#include "store/run_store.h"

namespace statelab {
namespace {

std::vector<VerificationRecord> records_of(const VerifyReport& report) {
  std::vector<VerificationRecord> out;
  for (const VerifyRow& row : report.rows) {
    const nlohmann::ordered_json parameters = {
        {"sizes", row.sizes},    {"cases", row.cases},         {"seed", report.seed},
        {"quick", report.quick}, {"must_fail", row.must_fail}, {"tolerance_from", row.reason}};
    out.push_back({row.suite, row.identity, parameters.dump(), row.error, row.tolerance, row.passed,
                   row.note});
  }
  for (const ExactReach& reach : report.reaches) {
    const nlohmann::ordered_json parameters = {
        {"engine", reach.engine}, {"sequences", reach.sequences}, {"tokens", reach.tokens}};
    out.push_back({"reach", reach.solution + ": first wrong length, 0 = none", parameters.dump(),
                   static_cast<double>(reach.first_error), static_cast<double>(reach.tokens), true,
                   ""});
  }
  return out;
}

int verify(const Arguments& arguments) {
  VerifyOptions options;
  options.suites = arguments.words;
  for (const std::string& suite : options.suites) {
    const auto& known = verify_suites();
    if (std::find(known.begin(), known.end(), suite) != known.end()) continue;
    std::string all;
    for (const auto& name : known) all += (all.empty() ? "" : ", ") + name;
    throw UsageError("verify: must be one of " + all + ", is " + suite);
  }
  options.quick = arguments.has("--quick");
  options.threads = thread_count(arguments);
  options.seed = static_cast<uint32_t>(arguments.integer("--seed", 1, 0, 4294967295));
  const VerifyReport report = run_verify(options);
  fmt::print("{}\n", arguments.has("--json") ? to_json(report) : to_text(report));
  if (!arguments.has("--no-record")) {
    RunStore store(database_path(arguments));
    const int64_t execution =
        store.begin_execution(execution_record(options.threads, command_line()));
    store.add_verifications(execution, records_of(report));
    store.end_execution(execution, report.passed() ? "passed" : "failed", peak_memory_bytes());
  }
  return report.passed() ? kExitOk : kExitFailure;
}

}  // namespace

std::vector<Command> verify_commands() {
  return {{"verify",
           "check that the lab computes what the theory says",
           "[rope|discretization|gradients|backends|exact]...",
           0,
           -1,
           WordKind::kVerification,
           {{"statelab verify --quick", "everything at fewer sizes, some seconds"},
            {"statelab verify rope discretization", "two suites in full"}},
           {{"--quick", "", "fewer sizes"},
            {"--seed", "N", "of the random systems, 1 by default"},
            threads_option(),
            database_option(),
            {"--no-record", "", "do not store the result in the database"},
            json_option()},
           verify}};
}

}  // namespace statelab
