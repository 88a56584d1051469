#include "kernels/cuda/kernels.h"

namespace statelab::cuda {
CudaKernel embedding_kernel() { return {}; }
CudaKernel embedding_bwd_kernel() { return {}; }
}  // namespace statelab::cuda
