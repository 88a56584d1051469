#include "experiments/device.h"

#include <cstdlib>

#include "experiments/cli.h"
#include "kernels/cuda/device.h"

namespace statelab {

std::string training_backend(const std::string& device) {
  if (device == "auto" || device == "cpu") return "cpu";
  const bool indexed = device.rfind("cuda:", 0) == 0 && device.size() > 5 && device.size() <= 8 &&
                       device.find_first_not_of("0123456789", 5) == std::string::npos;
  if (device != "cuda" && !indexed)
    throw UsageError("--device: must be auto, cpu, cuda or cuda:INDEX, is " + device);
  if (!built_with_cuda()) {
    throw MissingFeature("--device " + device +
                         ": this build has no CUDA part; configure with -DSTATELAB_CUDA=ON where "
                         "nvcc is, or use --device cpu");
  }
  std::string reason;
  const auto devices = cuda_devices(&reason);
  if (devices.empty())
    throw MissingFeature("--device " + device + ": no CUDA device: " + reason +
                         "; use --device cpu");
  const size_t index = indexed ? static_cast<size_t>(std::atoi(device.c_str() + 5)) : 0;
  if (index >= devices.size()) {
    throw MissingFeature("--device " + device + ": devices 0.." +
                         std::to_string(devices.size() - 1) + " are there");
  }
  throw MissingFeature("--device " + device + ": " + devices[index].name +
                       " is there, but this version trains on the CPU only; use --device cpu");
}

}  // namespace statelab
