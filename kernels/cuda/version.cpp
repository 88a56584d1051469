// How CUDA writes its version numbers; no CUDA header needed.
#include "kernels/cuda/device.h"

namespace statelab {

std::string cuda_version_text(int version) {
  if (version == 0) return "none";
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace statelab
