#include "experiments/execution.h"

#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
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

int64_t peak_memory_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

int64_t available_memory_bytes() {
  const std::string kilobytes = proc_value("/proc/meminfo", "MemAvailable");
  return kilobytes.empty() ? 0 : std::stoll(kilobytes) * 1024;
}

ExecutionRecord cpu_execution(int threads, const std::string& command_line) {
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
  record.threads = threads;
  return record;
}

}  // namespace statelab
