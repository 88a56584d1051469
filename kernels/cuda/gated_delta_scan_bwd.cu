#include "kernels/cuda/kernels.h"

namespace statelab::cuda {
namespace {
std::string limit(const CallShapes&) { return "is not computed on CUDA"; }
}  // namespace
CudaKernel gated_delta_scan_bwd_kernel() { return {nullptr, nullptr, limit}; }
}  // namespace statelab::cuda
