#include "kernels/cuda/kernels.h"

namespace statelab::cuda {
CudaKernel mamba3_scan_bwd_kernel() { return {}; }
}  // namespace statelab::cuda
