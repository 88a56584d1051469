// Looks at the machine and says what works, what does not, and what to do about it.
#pragma once

#include <string>
#include <vector>

namespace statelab {

struct Finding {
  enum class State { kOk, kNote, kProblem };
  std::string subject;  ///< "memory"
  State state = State::kOk;
  std::string text;    ///< what was found, with numbers
  std::string remedy;  ///< "" when there is nothing to do
};

/// Checks the machine and the place of the database. Creates and removes a small file beside the database; never throws.
std::vector<Finding> examine(const std::string& database);

}  // namespace statelab
