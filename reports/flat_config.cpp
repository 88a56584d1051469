#include "reports/flat_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

namespace statelab {
namespace {

void flatten_into(FlatConfig& flat, const nlohmann::json& node, const std::string& prefix) {
  for (const auto& [name, value] : node.items()) {
    const std::string key = prefix.empty() ? name : prefix + '.' + name;
    if (value.is_object()) {
      flatten_into(flat, value, key);
    } else if (value.is_string()) {
      flat[key] = value.get<std::string>();
    } else if (value.is_null()) {
      flat[key] = "none";
    } else {
      flat[key] = value.dump();
    }
  }
}

int section_rank(const std::string& key) {
  int rank = 0;
  for (const char* section : {"task.", "model.", "train.", "eval."}) {
    if (key.starts_with(section)) return rank + (key != "task.name" && key != "model.mixer");
    rank += 2;
  }
  return rank;
}

std::vector<std::string> by_section(const std::set<std::string>& keys) {
  std::vector<std::string> sorted(keys.begin(), keys.end());
  std::stable_sort(sorted.begin(), sorted.end(), [](const std::string& a, const std::string& b) {
    return section_rank(a) < section_rank(b);
  });
  return sorted;
}

}  // namespace

FlatConfig flatten_config(const std::string& json) {
  const nlohmann::json root = nlohmann::json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) {
    throw std::invalid_argument(
        fmt::format("configuration must be a JSON object, is {:.80}", json));
  }
  FlatConfig flat;
  flatten_into(flat, root, "");
  return flat;
}

const std::string& config_value(const FlatConfig& config, const std::string& key) {
  static const std::string nothing;
  const auto found = config.find(key);
  return found == config.end() ? nothing : found->second;
}

std::vector<std::string> differing_keys(const std::vector<FlatConfig>& configs) {
  std::set<std::string> keys;
  for (const FlatConfig& config : configs) {
    const FlatConfig& first = configs.front();
    if (config == first) continue;
    for (const auto& [key, value] : config) {
      const auto other = first.find(key);
      if (other == first.end() || other->second != value) keys.insert(key);
    }
    for (const auto& [key, value] : first) {
      if (!config.count(key)) keys.insert(key);
    }
  }
  return by_section(keys);
}

std::vector<std::string> all_keys(const std::vector<FlatConfig>& configs) {
  std::set<std::string> keys;
  for (const FlatConfig& config : configs) {
    for (const auto& [key, value] : config) keys.insert(key);
  }
  return by_section(keys);
}

std::vector<std::string> swept_keys(const std::vector<FlatConfig>& configs) {
  std::vector<std::string> keys = differing_keys(configs);
  std::erase_if(keys, [&](const std::string& key) {
    if (key == "model.vocab_size") return true;  // the task decides it
    std::set<std::string> values;
    for (const FlatConfig& config : configs) {
      const auto found = config.find(key);
      if (found != config.end()) values.insert(found->second);
    }
    return values.size() < 2;
  });
  return keys;
}

std::vector<std::string> short_names(const std::vector<std::string>& keys) {
  std::vector<std::string> names;
  for (const std::string& key : keys) {
    size_t dot = key.rfind('.');
    auto tail = [&](const std::string& text) {
      return dot == std::string::npos ? text : text.substr(dot + 1);
    };
    auto shared = [&] {
      const std::string suffix = tail(key);
      return std::count_if(keys.begin(), keys.end(), [&](const std::string& other) {
               return other == suffix || other.ends_with('.' + suffix);
             }) > 1;
    };
    while (dot != std::string::npos && shared())
      dot = dot == 0 ? std::string::npos : key.rfind('.', dot - 1);
    names.push_back(tail(key));
  }
  return names;
}

std::string model_label(const FlatConfig& config) {
  const std::string& mixer = config_value(config, "model.mixer");
  const std::string& range = config_value(config, "model.eigenvalue_range");
  if (mixer == "mamba3") {
    const std::string& rotation = config_value(config, "model.rotation");
    if (rotation == "standard") return "mamba3_standard_rope";
    if (rotation == "none") return "mamba3_no_rope";
    return mixer;
  }
  // Published tables name the range of the delta rules always, that of mamba2 only where it is not
  // [0, 1].
  if (range.empty() || (mixer == "mamba2" && range == "[0,1]")) return mixer;
  return mixer + range;
}

std::string group_value(const FlatConfig& config, const std::string& key) {
  return key == "model" ? model_label(config) : config_value(config, key);
}

}  // namespace statelab
