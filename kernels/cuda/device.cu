// cuda_devices(): what the runtime reports, and whether this build's code runs there.
#include <cuda_runtime.h>

#include "kernels/cuda/device.h"

namespace statelab {
namespace {

constexpr int kProbeAnswer = 0x57A7E;

__global__ void probe_kernel(int* answer) { *answer = kProbeAnswer; }

std::string describe(const char* call, cudaError_t code) {
  return std::string(call) + ": " + cudaGetErrorString(code) + " (" + cudaGetErrorName(code) + ")";
}

// Runs probe_kernel on the device; empty text when the right answer came back.
std::string probe(int index) {
  cudaError_t code = cudaSetDevice(index);
  if (code != cudaSuccess) return describe("cudaSetDevice", code);
  int* answer = nullptr;
  code = cudaMalloc(&answer, sizeof(int));
  if (code != cudaSuccess) return describe("cudaMalloc", code);
  probe_kernel<<<1, 1>>>(answer);
  const char* call = "probe kernel";
  code = cudaGetLastError();
  int host_answer = 0;
  if (code == cudaSuccess) {
    call = "cudaMemcpy";
    code = cudaMemcpy(&host_answer, answer, sizeof(int), cudaMemcpyDeviceToHost);
  }
  cudaFree(answer);
  if (code == cudaErrorNoKernelImageForDevice) {
    return "this build has no code for the device: configure with CMAKE_CUDA_ARCHITECTURES set to "
           "its compute capability";
  }
  if (code != cudaSuccess) return describe(call, code);
  if (host_answer != kProbeAnswer) return "probe kernel: returned a wrong value";
  return {};
}

}  // namespace

bool built_with_cuda() { return true; }

std::vector<CudaDevice> cuda_devices(std::string* reason) {
  if (reason) reason->clear();
  int driver_version = 0;
  int runtime_version = 0;
  cudaDriverGetVersion(&driver_version);
  cudaRuntimeGetVersion(&runtime_version);
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code != cudaSuccess || count == 0) {
    cudaGetLastError();  // the error is reported here and must not surface in a later call
    if (!reason) return {};
    if (driver_version == 0) {
      *reason = "no NVIDIA driver is loaded on this machine";
    } else if (code == cudaErrorInsufficientDriver) {
      *reason = "the NVIDIA driver serves CUDA " + cuda_version_text(driver_version) +
                ", this build needs " + cuda_version_text(runtime_version) + ": update the driver";
    } else if (code == cudaSuccess || code == cudaErrorNoDevice) {
      *reason = "the driver shows no CUDA device (is CUDA_VISIBLE_DEVICES empty?)";
    } else {
      *reason = describe("cudaGetDeviceCount", code);
    }
    return {};
  }

  int current = 0;
  cudaGetDevice(&current);
  std::vector<CudaDevice> devices;
  for (int index = 0; index < count; ++index) {
    CudaDevice device;
    device.index = index;
    device.driver_version = driver_version;
    device.runtime_version = runtime_version;
    cudaDeviceProp properties{};
    const cudaError_t asked = cudaGetDeviceProperties(&properties, index);
    if (asked == cudaSuccess) {
      device.name = properties.name;
      device.compute_major = properties.major;
      device.compute_minor = properties.minor;
      device.multiprocessors = properties.multiProcessorCount;
      device.total_bytes = static_cast<int64_t>(properties.totalGlobalMem);
      device.problem = probe(index);
    } else {
      device.problem = describe("cudaGetDeviceProperties", asked);
    }
    cudaGetLastError();
    devices.push_back(device);
  }
  cudaSetDevice(current);
  return devices;
}

}  // namespace statelab
