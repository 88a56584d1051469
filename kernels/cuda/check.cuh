// Error checks of CUDA calls, for .cu files only.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "kernels/cuda/runtime.h"

namespace statelab::cuda {

/// Throws CudaOutOfMemory or CudaError, naming the call.
inline void check(cudaError_t code, const char* call) {
  if (code == cudaSuccess) return;
  cudaGetLastError();
  const std::string text =
      std::string(call) + ": " + cudaGetErrorString(code) + " (" + cudaGetErrorName(code) + ")";
  if (code == cudaErrorMemoryAllocation) throw CudaOutOfMemory(text);
  throw CudaError(text);
}

/// After every kernel launch.
inline void check_launch(const char* kernel) { check(cudaGetLastError(), kernel); }

}  // namespace statelab::cuda
