// How long one op takes on a CUDA device, for benchmarks.
#pragma once

#include <vector>

#include "kernels/call.h"
#include "kernels/op_array.h"

namespace statelab {

struct CudaTiming {
  double cold_us = 0;     ///< median of single launches after the L2 cache was overwritten
  double hot_us = 0;      ///< median launch of many in a row over the same memory
  double spread_pct = 0;  ///< of the hot times: (90th - 10th percentile) / median
  int64_t bytes = 0;      ///< all members' operands once, states twice: the least that must move
};

/// Times `op` for `members` copies of `inputs`. Each timed run is a CUDA graph, so the host's part is not in it. Updated inputs
/// change from run to run. Errors: as run_op_cuda().
CudaTiming time_op_cuda(Op op, const Attributes& attributes, const std::vector<OpArray>& inputs,
                        int members, Precision precision, int device = 0);

/// Bytes read and written per second by a copy of 1 GiB on the device.
double cuda_copy_rate(int device = 0);

}  // namespace statelab
