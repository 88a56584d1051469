// How much shared memory a block may ask for.
#pragma once

#include <cuda_runtime.h>

namespace statelab::cuda {

/// Bytes of dynamic shared memory that one block may have on `device`; those of compute capability 9.0 where there is none, so that
/// limits can be asked of any machine. Equal on devices of one model.
inline int shared_bytes_per_block(int device) {
  int bytes = 0;
  if (cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) !=
      cudaSuccess) {
    cudaGetLastError();  // no device is an answer here, not an error
    bytes = 227 * 1024;
  }
  return bytes;
}

/// The same of the calling thread's device.
inline int shared_bytes_per_block() {
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) cudaGetLastError();
  return shared_bytes_per_block(device);
}

/// Of the calling thread's device.
inline int multiprocessors() {
  int device = 0, count = 1;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess)
    cudaGetLastError();
  return count;
}

/// Whether the calling thread's device multiplies by warpgroups (wgmma.cuh); yes where there is none.
inline bool has_warpgroup_products() {
  int device = 0, major = 9, minor = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess)
    cudaGetLastError();
  return major == 9 && minor == 0;
}

}  // namespace statelab::cuda
