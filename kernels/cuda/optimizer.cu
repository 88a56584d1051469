#include "kernels/cuda/kernels.h"

namespace statelab::cuda {
CudaKernel global_norm_kernel() { return {}; }
CudaKernel schedule_kernel() { return {}; }
CudaKernel guard_kernel() { return {}; }
CudaKernel adamw_kernel() { return {}; }
CudaKernel metrics_kernel() { return {}; }
CudaKernel advance_kernel() { return {}; }
}  // namespace statelab::cuda
