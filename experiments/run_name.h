// Names of runs: what is swept, the seed and the start of the id, e.g. "mamba3-lr0.001-d64-s0-3fa9c1d2".
#pragma once

#include <string>
#include <vector>

#include "experiments/run_config.h"

namespace statelab {

/// Keys in which the runs differ, without the seed, in the order of the field table.
std::vector<std::string> swept_keys(const std::vector<RunConfig>& runs);

/// One name per run: distinct, at most 80 characters, letters, digits and `-_.+` only.
std::vector<std::string> run_names(const std::string& sweep, const std::vector<RunConfig>& runs,
                                   const std::vector<std::string>& swept);

}  // namespace statelab
