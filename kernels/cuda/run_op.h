// Runs one op alone on a CUDA device: for tests, verification and benchmarks.
#pragma once

#include <vector>

#include "kernels/call.h"
#include "kernels/op_array.h"

namespace statelab {

/// Runs `op` for several members in one call, inputs[m] being those of member m (equal shapes). Outputs and workspace are
/// filled with 0xFF bytes (NaN) first. Errors: ShapeError, UnsupportedOp when cuda_limit() objects or for kDraw, CudaError.
std::vector<OpRun> run_op_cuda(Op op, const Attributes& attributes,
                               const std::vector<std::vector<OpArray>>& inputs, Precision precision,
                               int device = 0);

}  // namespace statelab
