#include "kernels/cuda/kernels.h"

namespace statelab::cuda {
CudaKernel cross_entropy_kernel() { return {}; }
CudaKernel cross_entropy_bwd_kernel() { return {}; }
}  // namespace statelab::cuda
