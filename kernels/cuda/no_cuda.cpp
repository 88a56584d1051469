// Stands in for the CUDA backend in builds without nvcc: every question gets an honest answer.
#include "kernels/cuda/device.h"

namespace statelab {

bool built_with_cuda() { return false; }

std::vector<CudaDevice> cuda_devices(std::string* reason) {
  if (reason) {
    *reason =
        "this build has no CUDA backend: nvcc was not found, or STATELAB_CUDA=OFF, when it was "
        "configured";
  }
  return {};
}

}  // namespace statelab
