#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "experiments/verify/verify.h"

namespace statelab {
namespace {

/// What the last column says.
std::string verdict(const VerifyRow& row) {
  if (row.must_fail) return row.passed ? "fails, as it must" : "FAIL: agrees, must not";
  return row.passed ? "pass" : "FAIL";
}

/// JSON has no infinity and no NaN: null.
nlohmann::ordered_json number(double x) {
  return std::isfinite(x) ? nlohmann::ordered_json(x) : nlohmann::ordered_json(nullptr);
}

}  // namespace

std::string to_text(const VerifyReport& report) {
  std::string text =
      fmt::format("verify{}, seed {}\n", report.quick ? " --quick" : "", report.seed);
  std::size_t width = 0;
  for (const VerifyRow& row : report.rows) width = std::max(width, row.identity.size());
  std::string suite;
  int failed = 0;
  for (const VerifyRow& row : report.rows) {
    if (row.suite != suite) {
      suite = row.suite;
      text += fmt::format("\n{:<{}}  {:>5}  {:>8}  {:>8}  {:<18}  {}\n", suite, width, "cases",
                          "error", "bound", "verdict", "worst case; where the bound comes from");
    }
    const std::string bound = fmt::format("{}{:.1e}", row.must_fail ? ">" : "", row.tolerance);
    text += fmt::format("{:<{}}  {:>5}  {:>8.1e}  {:>8}  {:<18}  {}; {}{}\n", row.identity, width,
                        row.cases, row.error, bound, verdict(row), row.sizes, row.reason,
                        row.note.empty() ? "" : "; " + row.note);
    failed += !row.passed;
  }
  if (!report.reaches.empty()) {
    text += "\nhand-made exact solutions: shortest length with a wrong answer\n";
    for (const ExactReach& reach : report.reaches) {
      text += fmt::format("{:<32}  {:<10}  {}\n", reach.solution, reach.engine,
                          reach.first_error > 0 ? fmt::format("{} tokens", reach.first_error)
                                                : fmt::format("none in {} x {} tokens",
                                                              reach.sequences, reach.tokens));
    }
  }
  text += fmt::format("\n{} of {} checks passed in {:.1f} s\n",
                      report.rows.size() - static_cast<std::size_t>(failed), report.rows.size(),
                      report.wall_s);
  return text;
}

std::string to_json(const VerifyReport& report) {
  nlohmann::ordered_json json;
  json["seed"] = report.seed;
  json["quick"] = report.quick;
  json["passed"] = report.passed();
  json["wall_s"] = report.wall_s;
  json["rows"] = nlohmann::ordered_json::array();
  for (const VerifyRow& row : report.rows) {
    json["rows"].push_back({{"suite", row.suite},
                            {"identity", row.identity},
                            {"worst_case", row.sizes},
                            {"cases", row.cases},
                            {"error", number(row.error)},
                            {"tolerance", row.tolerance},
                            {"tolerance_from", row.reason},
                            {"note", row.note},
                            {"negative_control", row.must_fail},
                            {"passed", row.passed}});
  }
  json["reaches"] = nlohmann::ordered_json::array();
  for (const ExactReach& reach : report.reaches) {
    json["reaches"].push_back(
        {{"solution", reach.solution},
         {"engine", reach.engine},
         {"tokens", reach.tokens},
         {"sequences", reach.sequences},
         {"first_error", reach.first_error > 0 ? nlohmann::ordered_json(reach.first_error)
                                               : nlohmann::ordered_json(nullptr)}});
  }
  return json.dump(2) + "\n";
}

}  // namespace statelab
