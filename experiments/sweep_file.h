// A sweep file as it is written: sections read and checked, `extends` followed, overrides worked in, nothing expanded.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "experiments/dimension.h"
#include "experiments/yaml_tree.h"

namespace statelab {

struct SweepFile {
  std::string name;
  bool random = false;
  std::optional<int64_t> run_cap;
  uint32_t sweep_seed = 0;
  std::vector<Assignment> base;
  std::vector<Dimension> dimensions;  ///< of `parameters` and `zip`, in the order of the file
  std::vector<std::vector<Assignment>> include;  ///< runs besides the grid
  std::vector<std::vector<Assignment>> exclude;  ///< grid points that are left out
  std::vector<Place> exclude_places;
  std::vector<uint32_t> seeds;
  Place seeds_place;              ///< line 0 when `seeds` is not given
  std::vector<Assignment> fixed;  ///< overrides: beat everything else
  Place place;                    ///< of the file's first value

  const Assignment* find_base(const Field* field) const;
  Dimension* find_dimension(const Field* field);
};

/// Reads a file and what it extends. Problems are added; what has problems is left out.
SweepFile read_sweep_file(const std::string& path, NodeBudget& budget, Problems& problems);
SweepFile read_sweep_text(const std::string& text, const std::string& name, NodeBudget& budget,
                          Problems& problems);

/// As read_sweep_file, from a tree that was read already.
SweepFile read_sweep_value(const Value& root, const std::string& name, NodeBudget& budget,
                           Problems& problems);
/// The value of `seeds:`, a number of seeds or a list.
void read_seeds(const Value& seeds, SweepFile& sweep, Problems& problems);

/// `key=value`: a field, or one of name, method, run_cap, sweep_seed, seeds.
void apply_override(SweepFile& sweep, const std::string& override_text, Problems& problems);

/// The resolved sweep as JSON, which is YAML: reading it back gives the same runs.
std::string resolved_text(const SweepFile& sweep);

/// Keys at the top level of a sweep file, for the schema and for suggestions.
const std::vector<std::string>& sweep_keys();

}  // namespace statelab
