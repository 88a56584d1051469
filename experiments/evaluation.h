// Scores of trained weights at the lengths of a configuration, as rows for the store.
#pragma once

#include <span>
#include <vector>

#include "experiments/run_config.h"
#include "kernels/rng.h"
#include "models/backend.h"
#include "models/checkpoint.h"
#include "store/records.h"

namespace statelab {

/// eval.lengths as ranges of one length, then eval.ranges.
std::vector<LengthRange> evaluated_lengths(const EvalConfig& eval);

/// The range whose validation accuracy selects the best weights: the longest exact length, else the range with the
/// longest end.
LengthRange selecting_length(const EvalConfig& eval);

/// Index [member][range]. The members have the task, model and eval of `run`; rows carry the weights' own steps.
/// On a CUDA device the arithmetic is that of train.precision.
/// `stream`: kValidation (no curves) or kTest (with curves). Samples depend on eval.seed, stream and lengths only.
std::vector<std::vector<EvaluationRecord>> evaluate_members(
    const RunConfig& run, std::span<const MemberState* const> weights, Stream stream,
    std::span<const LengthRange> lengths, const ComputeDevice& device);

/// Throws UnsupportedOp when the device cannot train or evaluate a run of this shape; nothing is allocated.
void check_computable(const RunConfig& run, const ComputeDevice& device);

}  // namespace statelab
