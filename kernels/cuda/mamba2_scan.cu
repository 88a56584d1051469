#include "kernels/cuda/kernels.h"

namespace statelab::cuda {
CudaKernel mamba2_scan_kernel() { return {}; }
CudaKernel mamba2_scan_bwd_kernel() { return {}; }
}  // namespace statelab::cuda
