// Ops that end a training step with a few numbers a member: global_norm's last sum, schedule, guard, metrics, advance. Those that
// follow one another are one launch, in which a block takes a member through them in order. No CUDA header is needed here.
#pragma once

#include <span>

#include "kernels/cuda/kernel.h"

namespace statelab {

/// How many calls from the front of `calls` go into one launch; 0 where the first is not such an op.
size_t cuda_member_ops(std::span<const CudaCall> calls);

/// Launches `calls`, all that cuda_member_ops() counted.
void launch_member_ops(std::span<const CudaCall> calls, CUstream_st* stream);

}  // namespace statelab
