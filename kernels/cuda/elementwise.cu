#include "kernels/cuda/kernels.h"

namespace statelab::cuda {
CudaKernel constant_kernel() { return {}; }
CudaKernel add_kernel() { return {}; }
CudaKernel swiglu_kernel() { return {}; }
CudaKernel swiglu_bwd_kernel() { return {}; }
}  // namespace statelab::cuda
