// A run as a database knows it.
#pragma once

#include <string>

#include "experiments/run_config.h"
#include "store/records.h"

namespace statelab {

/// The row of a run, whether it is to be trained here or was trained elsewhere. `config` is complete and checked (run_check.h).
NewRun run_row(const RunConfig& config, const std::string& name);

}  // namespace statelab
