#include "kernels/cuda/kernels.h"

namespace statelab::cuda {
CudaKernel causal_conv1d_kernel() { return {}; }
CudaKernel causal_conv1d_bwd_kernel() { return {}; }
}  // namespace statelab::cuda
