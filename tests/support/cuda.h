// The CUDA device that tests use, or why there is none.
#pragma once

#include <optional>
#include <string>

#include "kernels/cuda/device.h"

namespace statelab::testing_support {

/// The first device that runs this build's code; nullopt and the reason on a machine without.
inline std::optional<CudaDevice> usable_cuda_device(std::string* reason) {
  for (const CudaDevice& device : cuda_devices(reason)) {
    if (device.problem.empty() && device.compute_major >= 8) return device;
    *reason = device.name + ": " +
              (device.problem.empty() ? "compute capability below 8.0" : device.problem);
  }
  return std::nullopt;
}

}  // namespace statelab::testing_support
