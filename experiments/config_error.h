// Everything that is wrong with a configuration, each problem with its place.
#pragma once

#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "experiments/value.h"

namespace statelab {

/// Line and column count from 1; 0 = not in a file (`file` then says from where).
struct ConfigProblem {
  std::string file;
  int line = 0, column = 0;
  std::string key;  ///< dotted path, "" when no single key is at fault
  std::string message;

  /// "sweep.yaml:12:7: model.d_stat: unknown key, did you mean d_state?"
  std::string text() const;
};

/// Nothing was started and nothing written. what() lists all problems, one per line.
class ConfigError : public std::runtime_error {
 public:
  explicit ConfigError(std::vector<ConfigProblem> problems);
  const std::vector<ConfigProblem>& problems() const { return problems_; }

 private:
  std::vector<ConfigProblem> problems_;
};

/// Collects problems; the same problem at the same place counts once.
class Problems {
 public:
  void add(const Place& place, const std::string& key, const std::string& message);
  bool empty() const { return list_.empty(); }
  size_t size() const { return list_.size(); }
  /// Throws ConfigError, in the order of files and lines, when anything was added.
  void raise() const;

 private:
  std::vector<ConfigProblem> list_;
  std::set<std::string> seen_;
};

}  // namespace statelab
