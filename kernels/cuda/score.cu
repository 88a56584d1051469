#include "kernels/cuda/kernels.h"

namespace statelab::cuda {
CudaKernel score_kernel() { return {}; }
}  // namespace statelab::cuda
