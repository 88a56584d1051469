#include "experiments/config_error.h"

#include <algorithm>
#include <tuple>

namespace statelab {
namespace {

constexpr size_t kShown = 50;

std::string joined(const std::vector<ConfigProblem>& problems) {
  std::string out;
  for (size_t i = 0; i < problems.size() && i < kShown; ++i)
    out += (i ? "\n" : "") + problems[i].text();
  if (problems.size() > kShown)
    out += "\n... and " + std::to_string(problems.size() - kShown) + " more problems";
  return out;
}

}  // namespace

std::string ConfigProblem::text() const {
  std::string out = file;
  if (line > 0) out += ':' + std::to_string(line) + ':' + std::to_string(column);
  if (!key.empty()) out += ": " + key;
  return out + ": " + message;
}

ConfigError::ConfigError(std::vector<ConfigProblem> problems)
    : std::runtime_error(joined(problems)), problems_(std::move(problems)) {}

void Problems::add(const Place& place, const std::string& key, const std::string& message) {
  ConfigProblem problem{place.file ? *place.file : "configuration", place.line, place.column, key,
                        message};
  if (seen_.insert(problem.text()).second) list_.push_back(std::move(problem));
}

void Problems::raise() const {
  if (list_.empty()) return;
  auto sorted = list_;
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const ConfigProblem& a, const ConfigProblem& b) {
                     return std::tie(a.file, a.line, a.column) < std::tie(b.file, b.line, b.column);
                   });
  throw ConfigError(std::move(sorted));
}

}  // namespace statelab
