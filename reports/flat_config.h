// A run's canonical configuration as a flat list of keys, for comparing runs key by key.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace statelab {

/// Dotted key -> value as text: strings bare, numbers as written, lists as compact JSON, null as
/// "none".
using FlatConfig = std::map<std::string, std::string>;

/// Errors: std::invalid_argument when `json` is not a JSON object.
FlatConfig flatten_config(const std::string& json);

/// The value or "" where the configuration does not have the key (it then has no bearing on the
/// run).
const std::string& config_value(const FlatConfig& config, const std::string& key);

/// Keys whose values are not the same in all configurations, in the order task, model, train,
/// eval, rest; names of tasks and mixers before their parameters.
std::vector<std::string> differing_keys(const std::vector<FlatConfig>& configs);

/// differing_keys() without those that only some configurations have and that have one value
/// there: a mixer's own switches follow from the mixer, they were not swept. Nor is the vocabulary, which
/// follows from the task.
std::vector<std::string> swept_keys(const std::vector<FlatConfig>& configs);

/// Every key that one of the configurations has, in the order of differing_keys().
std::vector<std::string> all_keys(const std::vector<FlatConfig>& configs);

/// What columns call these keys: the last part ("lr"), or as many parts as tell them apart.
std::vector<std::string> short_names(const std::vector<std::string>& keys);

/// The field's name of the model: "mamba3", "mamba3_standard_rope", "mamba3_no_rope", "mamba2",
/// "mamba2[-1,1]", "gated_delta_net[-1,1]", ...; the same names as in published/*.csv.
std::string model_label(const FlatConfig& config);
/// What a group of runs is called by this key: model_label() for "model", else the configuration's value.
std::string group_value(const FlatConfig& config, const std::string& key);

}  // namespace statelab
