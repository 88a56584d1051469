// Which device `--device` means on this machine.
#pragma once

#include <string>

namespace statelab {

/// "auto", "cpu", "cuda" or "cuda:1" as a backend that can train here: always "cpu" so far, for training runs on the CPU
/// only. Errors: UsageError for other words; MissingFeature, with what is missing, for cuda.
std::string training_backend(const std::string& device);

}  // namespace statelab
