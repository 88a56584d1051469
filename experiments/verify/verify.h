// `statelab verify`: shows that the lab computes what the theory says, in a table of checked
// identities.
//
// A suite compares production code with the literal recurrences of models/reference, which share
// nothing with it. Each row is one identity over many random systems; its error is the worst of
// max|delta| / max|reference|, and NaN fails. Negative controls are deliberately wrong identities:
// they must miss their tolerance, which shows that the check can fail.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace statelab {

struct VerifyOptions {
  std::vector<std::string> suites;  ///< some of verify_suites(); empty = all
  bool quick = false;  ///< fewer sizes: under 10 s in all instead of under 60 s on two cores
  int threads = 1;     ///< never changes a result
  uint32_t seed = 1;   ///< of the random systems
};

struct VerifyRow {
  std::string suite;
  std::string identity;    ///< what must be equal, or the order that must be seen
  std::string sizes;       ///< what was varied, and the worst place
  int64_t cases = 0;       ///< systems compared
  double error = 0;        ///< of the worst case
  double tolerance = 0;    ///< of that case
  std::string reason;      ///< where the tolerance comes from
  std::string note;        ///< e.g. a slope with its standard error
  bool must_fail = false;  ///< negative control: passes when the error is above the tolerance
  bool passed = false;
};

/// How far an exact hand-made solution stays exact: a result, not a check.
struct ExactReach {
  std::string solution;  ///< e.g. "counting mod 64, mamba3"
  std::string engine;    ///< e.g. "cpu fp32"
  int64_t tokens = 0;    ///< longest length that was evaluated
  int64_t sequences = 0;
  int64_t first_error = 0;  ///< shortest length with a wrong answer; 0 = none up to `tokens`
};

struct VerifyReport {
  uint32_t seed = 1;
  bool quick = false;
  std::vector<VerifyRow> rows;
  std::vector<ExactReach> reaches;
  double wall_s = 0;
  bool passed() const;  ///< every row passed, and there is at least one
};

/// rope, discretization, gradients, backends, exact
const std::vector<std::string>& verify_suites();

/// Throws std::invalid_argument for an unknown suite.
VerifyReport run_verify(const VerifyOptions& options);

/// The table for people, at most about 150 columns.
std::string to_text(const VerifyReport& report);
/// One JSON object: seed, quick, passed, rows, reaches, wall_s.
std::string to_json(const VerifyReport& report);

}  // namespace statelab
