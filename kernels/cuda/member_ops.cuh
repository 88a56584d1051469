// What optimizer.cu and member_ops.cu share.
#pragma once

#include <cstdint>

#include "kernels/cuda/kernel.h"

namespace statelab::cuda {

/// Starts global_norm's sums of squares by runs, doubles at the front of the call's workspace; their number.
int64_t launch_norm_sums(const CudaCall& call, CUstream_st* stream);

/// launch_member_ops() of one call.
void launch_member_op(const CudaCall& call, CUstream_st* stream);

}  // namespace statelab::cuda
