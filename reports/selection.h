// Which settings to run again: the best of each group by validation, never by the test data that will judge them.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "reports/scores.h"

namespace statelab {

struct SelectionOptions {
  RunFilter filter = {};
  std::vector<std::string> group_by = {"model"};  ///< one choice for each of these
  int top = 2;                                    ///< settings per group
  std::optional<ScoredLength> length =
      {};  ///< validated length; default: the longest exact one, else the longest range
};

struct SelectedSetting {
  std::string group = {};   ///< values of group_by, joined by ", "
  std::string run_id = {};  ///< of the setting's first run; all its runs differ in the seed only
  double validation = 0;    ///< accuracy at the length, mean over the setting's runs
  ScoredLength length = {};
  int64_t runs = 0;  ///< that have this score
};

struct Selection {
  std::vector<SelectedSetting> settings = {};  ///< groups in order of insertion, best first in each
  std::set<int64_t> seeds = {};                ///< of all runs that took part in the choice
};

/// Ranks the settings of finished runs by their mean validation accuracy; ties go to the higher mean over all validated
/// lengths, then to the setting that was added first. Settings without a validation at the length are left out.
/// Errors: std::invalid_argument when top < 1, no run was validated, or as require_settings().
Selection select_settings(Database& database, const SelectionOptions& options);

}  // namespace statelab
