// A sweep file that runs chosen settings again with other seeds.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "experiments/run_config.h"

namespace statelab {

/// YAML of a sweep `name`: each of `settings` with each of `seeds`, and no other run. What all settings share stands in
/// `base`, the rest as rows of one `zip`; a key that a setting's mixer or task does not read has its default there.
/// `comment`: lines before it, without the "#". Parsed again, the sweep has the settings' group ids.
/// Errors: std::invalid_argument when settings or seeds are empty.
std::string confirmation_yaml(const std::string& name, std::span<const RunConfig> settings,
                              std::span<const uint32_t> seeds,
                              const std::vector<std::string>& comment);

}  // namespace statelab
