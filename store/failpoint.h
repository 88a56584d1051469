// Named places where a test can kill the process, to prove that a kill anywhere loses nothing.
#pragma once

#include <cstddef>
#include <span>
#include <stdexcept>
#include <string_view>

namespace statelab {

struct FailpointInfo {
  std::string_view name;
  std::string_view holds;  ///< the state of the world there
};

inline constexpr FailpointInfo kFailpoints[] = {
#define STATELAB_FAILPOINT(name, holds) {name, holds},
#include "store/failpoints.def"
#undef STATELAB_FAILPOINT
};

/// A name of failpoints.def; any other text is a compile error.
class FailpointName {
 public:
  consteval FailpointName(const char* name) : index_(find(name)) {}  // NOLINT: implicit on purpose
  size_t index() const { return index_; }

 private:
  static consteval size_t find(std::string_view name) {
    for (size_t i = 0; i < std::size(kFailpoints); ++i) {
      if (kFailpoints[i].name == name) return i;
    }
    throw std::invalid_argument("not in failpoints.def");
  }
  size_t index_;
};

/// Does nothing, unless the environment has STATELAB_FAILPOINT=name[:count] with this name: then the count-th call (the
/// first by default) kills the process with SIGKILL, as a power cut would.
/// Errors: std::invalid_argument at the first call of the process when the variable names no fail point.
void failpoint(FailpointName name);

}  // namespace statelab
