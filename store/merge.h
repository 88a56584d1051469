// Joins databases by run id.
#pragma once

#include <cstdint>
#include <filesystem>

#include "store/database.h"

namespace statelab {

struct MergeCounts {
  int64_t added = 0;     ///< runs that the target did not have
  int64_t replaced = 0;  ///< runs that the source had got further with
  int64_t kept = 0;      ///< runs where the target's own results stand
  int64_t files = 0;     ///< checkpoint files copied
};

/// Copies what `source` knows into `target`: runs with their rows and checkpoint files, sweeps, executions, published
/// results, verifications. Where both have a run, final beats unfinished, then more steps, then the target's own; scores
/// that were asked for later are united. One transaction; a second call changes nothing. `source` is only read.
/// Runs that are being trained in the source arrive as pending at their last checkpoint; those in the target are kept.
/// Errors: StoreError; kMismatch when the source's schema differs, or one of its checkpoint files was changed.
MergeCounts merge(Database& target, const std::filesystem::path& source);

}  // namespace statelab
