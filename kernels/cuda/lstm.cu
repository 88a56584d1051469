#include "kernels/cuda/kernels.h"

namespace statelab::cuda {
CudaKernel lstm_kernel() {
  return {nullptr, nullptr,
          [](const CallShapes&) -> std::string { return "is not computed on CUDA"; }};
}
CudaKernel lstm_bwd_kernel() {
  return {nullptr, nullptr,
          [](const CallShapes&) -> std::string { return "is not computed on CUDA"; }};
}
}  // namespace statelab::cuda
