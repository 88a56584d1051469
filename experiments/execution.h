// Where and by what this process computes: the row that its results refer to.
#pragma once

#include <cstdint>
#include <string>

#include "store/records.h"

namespace statelab {

/// Of this process on the CPU backend: build, commit, libraries, processor model, host, pid.
ExecutionRecord cpu_execution(int threads, const std::string& command_line);

/// "AMD EPYC 9654 96-Core Processor"; "unknown processor" where the system does not tell.
std::string processor_name();

/// Largest resident memory of this process so far.
int64_t peak_memory_bytes();

/// Memory that could be allocated now without swapping; 0 where the system does not tell.
int64_t available_memory_bytes();

}  // namespace statelab
