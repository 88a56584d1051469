#include "kernels/cuda/kernels.h"

namespace statelab::cuda {
CudaKernel gated_delta_scan_bwd_kernel() {
  return {nullptr, nullptr,
          [](const CallShapes&) -> std::string { return "is not computed on CUDA"; }};
}
}  // namespace statelab::cuda
