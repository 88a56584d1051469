// Which devices `--device` means on this machine.
#pragma once

#include <string>
#include <vector>

#include "models/backend.h"

namespace statelab {

/// "auto": every usable CUDA device (execution.h) of the first one's model, for others would not give the same bits; the
/// CPU where there is none. "cuda": the same, or MissingFeature with the reason. "cuda:1": that one. "cpu": the CPU with
/// `threads`. Errors: UsageError for other words.
std::vector<ComputeDevice> compute_devices(const std::string& device, int threads);

/// "cpu", "cuda:0"
std::string device_text(const ComputeDevice& device);

}  // namespace statelab
