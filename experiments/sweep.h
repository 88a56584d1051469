// A sweep file with its overrides, turned into runs. README.md describes the grammar.
#pragma once

#include <string>
#include <vector>

#include "experiments/config_error.h"
#include "experiments/run_config.h"

namespace statelab {

/// Most runs that one sweep may have.
inline constexpr int64_t kMaxRuns = 100000;

/// A sweep, resolved: every run is complete and was found possible.
struct SweepConfig {
  std::string name;
  std::vector<RunConfig>
      runs;  ///< distinct; in the order of the file, last key fastest, seeds innermost
  std::vector<std::string>
      run_names;  ///< as many: slug of what is swept, seed, first 8 digits of the run id
  std::vector<std::string>
      swept_keys;  ///< keys in which runs differ, without the seed, in the order of the file
  std::string
      resolved;  ///< a sweep file that needs nothing else: `extends` and overrides worked in
  std::vector<std::string> warnings;  ///< with their places; nothing that stops a run
};

/// Reads one sweep file ("-": standard input; a folder: its sweep.yaml). Overrides are `key=value`; a comma list sweeps.
/// Errors: ConfigError with all problems at once. Nothing is written.
SweepConfig load_sweep(const std::string& path, const std::vector<std::string>& overrides);

/// As load_sweep, from a text; `name` stands for the file in messages.
SweepConfig parse_sweep(const std::string& text, const std::string& name,
                        const std::vector<std::string>& overrides);

/// Several files, each a sweep of its own, the same overrides for all.
/// Errors: ConfigError with the problems of all files.
std::vector<SweepConfig> load_sweeps(const std::vector<std::string>& paths,
                                     const std::vector<std::string>& overrides);

}  // namespace statelab
