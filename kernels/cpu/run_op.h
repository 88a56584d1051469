// Runs one op alone on arrays: for tests, verification and benchmarks.
#pragma once

#include <vector>

#include "kernels/op_array.h"

namespace statelab {

/// Runs `op` in scalar S for one member. Outputs and workspace are filled with 0xFF bytes (NaN) first, so that what the op
/// does not write is seen. Throws ShapeError.
template <class S>
OpRun run_op(Op op, const Attributes& attributes, const std::vector<OpArray>& inputs,
             int threads = 1);

}  // namespace statelab
