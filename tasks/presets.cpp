// The published configurations by name.
#include <array>
#include <string>

#include "tasks/registry.h"
#include "tasks/task.h"

namespace statelab {
namespace {

struct Family {
  const char* prefix;
  const char* task;
  bool multiplication;
};

constexpr std::array<Family, 6> kFamilies = {{
    {"parity", "parity", true},
    {"evenpairs", "even_pairs", true},
    {"cyclenav", "cycle_navigation", true},
    {"modarith", "modular_arithmetic", true},
    {"modarith-br", "modular_arithmetic_brackets", false},
    {"modarith-br-mul", "modular_arithmetic_brackets", true},
}};
constexpr std::array<const char*, 3> kProfiles = {"xlstm", "slice", "chomsky"};

// Groups shown in the list; find_preset() takes any group.
constexpr std::array<const char*, 14> kGroups = {"Z2", "Z5", "Z6", "Z24", "Z60", "S3", "S4",
                                                 "S5", "A4", "A5", "D8",  "H3",  "Q8", "A4xZ5"};

bool buildable(const TaskConfig& config) {
  try {
    return make_task(config) != nullptr;
  } catch (const TaskError&) {
    return false;
  }
}

}  // namespace

std::optional<TaskConfig> find_preset(std::string_view name) {
  TaskConfig config;
  if (name == "ffl") {
    config.name = "flip_flop";
    config.profile = "fflm";
    config.supervision = "all";
    return config;
  }
  const size_t dot = name.find('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string_view family = name.substr(0, dot), rest = name.substr(dot + 1);
  if (family == "word" || family == "liu") {
    config.name = family == "word" ? "word_problem" : "liu";
    config.profile = family;
    config.supervision = "all";
    config.bos = family == "word";
    (family == "word" ? config.group : config.machine) = rest;
    if (!buildable(config)) return std::nullopt;
    return config;
  }
  for (const Family& entry : kFamilies) {
    for (const char* profile : kProfiles) {
      if (family != entry.prefix || rest != profile) continue;
      config.name = entry.task;
      config.profile = profile;
      config.multiplication = entry.multiplication;
      return config;
    }
  }
  return std::nullopt;
}

std::vector<std::string> list_presets() {
  std::vector<std::string> names;
  for (const char* profile : kProfiles) {
    for (const Family& family : kFamilies)
      names.push_back(std::string(family.prefix) + "." + profile);
  }
  for (const char* group : kGroups) names.push_back(std::string("word.") + group);
  for (const std::string& machine : liu_machines()) names.push_back("liu." + machine);
  names.push_back("ffl");
  return names;
}

}  // namespace statelab
