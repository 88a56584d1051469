// Where and by what this process computes: the row that its results refer to.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/device.h"
#include "models/backend.h"
#include "store/records.h"

namespace statelab {

/// Of this process on this device: build, commit, libraries, device model, host, pid, precision.
ExecutionRecord execution_record(const ComputeDevice& device, const std::string& command_line);

/// The CUDA devices of this machine, asked once per process; see cuda_devices().
const std::vector<CudaDevice>& machine_cuda_devices(std::string* reason = nullptr);

/// Why runs do not compute on this device, "" when they do.
std::string obstacle(const CudaDevice& device);

/// "AMD EPYC 9654 96-Core Processor"; "unknown processor" where the system does not tell.
std::string processor_name();
/// A GPU's name; of the CPU that of the processor and the threads, "AMD EPYC 9654 96-Core Processor, 8 threads".
std::string device_title(const ComputeDevice& device);

/// Largest resident memory of this process so far.
int64_t peak_memory_bytes();

/// Memory that could be allocated now without swapping; 0 where the system does not tell.
int64_t available_memory_bytes();

}  // namespace statelab
