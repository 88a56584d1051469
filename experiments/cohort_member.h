// One run inside a cohort that is being trained: what it has gathered since its last checkpoint.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "experiments/metric_window.h"
#include "experiments/run_config.h"
#include "models/checkpoint.h"
#include "models/cohort.h"
#include "store/run_store.h"

namespace statelab {

struct Member {
  ClaimedRun run;
  RunConfig config;
  MetricWindow window;
  std::vector<MetricRecord> metrics;          ///< since the last checkpoint
  std::vector<EvaluationRecord> evaluations;  ///< likewise
  std::vector<EvaluationRecord> validation;   ///< of the current step; empty when it had none
  double best_accuracy = -1;
  int64_t best_step = -1;           ///< -1 while there is none, or select: last
  std::optional<MemberState> best;  ///< weights of best_step, until a checkpoint has them
  double accuracy = 0;              ///< of the last read point, for the progress line
  int64_t diverged_at = -1;
};

/// The run as its last checkpoint left it; `state` is set when there is one.
/// Errors: StoreError kMismatch for a damaged file, std::runtime_error for a missing one.
Member take_up_member(RunStore& store, ClaimedRun run, std::optional<MemberState>& state);

/// Takes the member's validation into account; the first of equal scores stays best. Steps must come in order. `state`
/// holds the weights of that step, null when a checkpoint has them already.
void remember_best(Member& member, const MemberState* state);

/// Whether every evaluated length within the trained ones reaches stop_at. Exact lengths count; ranges only where there
/// are none.
bool solved(const RunConfig& run, const std::vector<EvaluationRecord>& validation);

/// Accuracy of the row of these lengths, -1 = there is none.
double accuracy_at(const std::vector<EvaluationRecord>& rows, LengthRange lengths);

/// Checkpoint bytes. The last state carries the partly filled window; the best one does not, so that its bytes do not
/// depend on when it is written.
std::string last_bytes(const Member& member, const MemberState& state);
std::string best_bytes(const Member& member);
MemberState read_best(RunStore& store, const Member& member);

/// `fresh` with the selected weights of the finished run `source` (train.init_from). Throws std::runtime_error when there
/// are none or they have other names or shapes.
MemberState with_weights_of(RunStore& store, const std::string& source, MemberState fresh);

CohortShape shape_of(const RunConfig& run);
/// The device with the precision that the run asks for; the CPU always computes fp32.
ComputeDevice computing(const RunConfig& run, ComputeDevice device);
MemberSettings settings_of(const RunConfig& run);

}  // namespace statelab
