// YAML as a tree of values with places, without the library's traps: duplicate and merge keys, exploding aliases,
// several documents, and words that other readers take for numbers are all refused by name.
#pragma once

#include <cstdint>
#include <string>

#include "experiments/config_error.h"
#include "experiments/value.h"

namespace statelab {

/// Aliases make small files large; every visited node is paid from here.
struct NodeBudget {
  static constexpr int64_t kNodes = 1000000;
  int64_t left = kNodes;
  int max_depth = 64;
};

/// Reads one document. Problems are added, not thrown; what could not be read is null.
/// `path` "-" reads standard input.
Value load_yaml(const std::string& path, NodeBudget& budget, Problems& problems);

/// As load_yaml, from a text. `name` stands for the file in messages.
Value parse_yaml(const std::string& text, const std::string& name, NodeBudget& budget,
                 Problems& problems);

/// One value of a command line such as `0.001`, `[40, 80]` or `{ steps: 10, length: [3, 40] }`.
Value parse_override(const std::string& text, Problems& problems);

/// The place that command-line values carry.
Place command_line_place();

}  // namespace statelab
