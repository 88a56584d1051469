#include "experiments/execution.h"

#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>

#include "experiments/build_info.h"

namespace statelab {
namespace {

/// Value of the first line "key<spaces>: value" of a /proc file; "" when there is none.
std::string proc_value(const char* path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, key.size(), key) != 0) continue;
    const size_t begin = line.find_first_not_of(" \t", line.find(':') + 1);
    if (begin != std::string::npos) return line.substr(begin);
  }
  return "";
}

}  // namespace

std::string processor_name() {
  const std::string name = proc_value("/proc/cpuinfo", "model name");
  return name.empty() ? "unknown processor" : name;
}

std::string device_title(const ComputeDevice& device) {
  if (device.is_cuda()) return machine_cuda_devices().at(static_cast<size_t>(device.index)).name;
  return processor_name() + ", " + std::to_string(device.threads) + " threads";
}

int64_t peak_memory_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

int64_t available_memory_bytes() {
  const std::string kilobytes = proc_value("/proc/meminfo", "MemAvailable");
  return kilobytes.empty() ? 0 : std::stoll(kilobytes) * 1024;
}

const std::vector<CudaDevice>& machine_cuda_devices(std::string* reason) {
  struct Answer {
    std::string reason;
    std::vector<CudaDevice> devices = cuda_devices(&reason);
  };
  static const Answer answer{};
  if (reason != nullptr) *reason = answer.reason;
  return answer.devices;
}

std::string obstacle(const CudaDevice& device) {
  if (!device.problem.empty()) return device.problem;
  if (device.compute_major < 8) {
    return "its compute capability is " + std::to_string(device.compute_major) + "." +
           std::to_string(device.compute_minor) + ", the kernels need 8.0 or newer";
  }
  return "";
}

ExecutionRecord execution_record(const ComputeDevice& device, const std::string& command_line) {
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  const BuildInfo& build = build_info();
  ExecutionRecord record;
  record.origin = {"cpu", processor_name(), build.id};
  record.code_commit = build.commit;
  record.dirty = build.dirty;
  record.libraries = library_versions_json();
  record.command_line = command_line;
  record.host = host;
  record.pid = getpid();
  record.precision = "fp32";
  record.threads = device.threads;
  if (!device.is_cuda()) return record;
  const auto& devices = machine_cuda_devices();
  const auto index = static_cast<size_t>(device.index);
  if (index >= devices.size())
    throw std::logic_error("no CUDA device " + std::to_string(device.index));
  const CudaDevice& here = devices[index];
  record.origin.backend = "cuda";
  record.origin.device = here.name;
  auto libraries = nlohmann::ordered_json::parse(record.libraries);
  libraries["cuda_runtime"] = cuda_version_text(here.runtime_version);
  libraries["cuda_driver"] = cuda_version_text(here.driver_version);
  record.libraries = libraries.dump();
  record.precision = precision_name(device.precision);
  return record;
}

}  // namespace statelab
