#include "experiments/device.h"

#include <fmt/core.h>

#include <cstdio>
#include <cstdlib>

#include "experiments/cli.h"
#include "experiments/execution.h"

namespace statelab {

std::vector<ComputeDevice> compute_devices(const std::string& device, int threads) {
  if (device == "cpu") return {threads};
  const bool indexed = device.rfind("cuda:", 0) == 0 && device.size() > 5 && device.size() <= 8 &&
                       device.find_first_not_of("0123456789", 5) == std::string::npos;
  if (device != "auto" && device != "cuda" && !indexed)
    throw UsageError("--device: must be auto, cpu, cuda or cuda:INDEX, is " + device);
  if (device == "auto" && !built_with_cuda()) return {threads};
  if (!built_with_cuda()) {
    throw MissingFeature("--device " + device +
                         ": this build has no CUDA part; configure with -DSTATELAB_CUDA=ON where "
                         "nvcc is, or use --device cpu");
  }
  std::string reason;
  const std::vector<CudaDevice>& devices = machine_cuda_devices(&reason);
  if (devices.empty()) {
    if (device == "auto") return {threads};
    throw MissingFeature("--device " + device + ": no CUDA device: " + reason +
                         "; use --device cpu");
  }
  if (indexed) {
    const auto index = static_cast<size_t>(std::atoi(device.c_str() + 5));
    if (index >= devices.size()) {
      throw MissingFeature("--device " + device + ": devices 0.." +
                           std::to_string(devices.size() - 1) + " are there");
    }
    if (const std::string why = obstacle(devices[index]); !why.empty()) {
      throw MissingFeature("--device " + device + ": " + devices[index].name + ": " + why +
                           "; use --device cpu");
    }
    return {ComputeDevice::cuda(devices[index].index)};
  }
  std::vector<ComputeDevice> usable;
  std::string first, obstacles;
  for (const CudaDevice& d : devices) {
    if (const std::string why = obstacle(d); !why.empty()) {
      obstacles += (obstacles.empty() ? "" : "; ") + d.name + ": " + why;
    } else if (first.empty() || d.name == first) {
      first = d.name;
      usable.push_back(ComputeDevice::cuda(d.index));
    }
  }
  if (!usable.empty()) return usable;
  if (device == "cuda") throw MissingFeature("--device cuda: " + obstacles + "; use --device cpu");
  fmt::print(stderr, "statelab: computing on the CPU: {}\n", obstacles);
  return {threads};
}

std::string device_text(const ComputeDevice& device) {
  return device.is_cuda() ? "cuda:" + std::to_string(device.index) : "cpu";
}

}  // namespace statelab
