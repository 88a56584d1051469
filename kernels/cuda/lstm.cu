#include "kernels/cuda/kernels.h"

namespace statelab::cuda {
namespace {
std::string limit(const CallShapes&) { return "is not computed on CUDA"; }
}  // namespace
CudaKernel lstm_kernel() { return {nullptr, nullptr, limit}; }
CudaKernel lstm_bwd_kernel() { return {nullptr, nullptr, limit}; }
}  // namespace statelab::cuda
