// The one position of a sequence that its label stands at.
#pragma once

#include <cstdint>

namespace statelab::cpu {

/// The last position with a target; the first where there is none.
inline int supervised_position(const int32_t* targets, int seqlen) {
  for (int t = seqlen - 1; t > 0; --t) {
    if (targets[t] >= 0) return t;
  }
  return 0;
}

}  // namespace statelab::cpu
