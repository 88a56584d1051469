// Arrays inside the scratch memory of a running block.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernel.h"

namespace statelab::cpu {

/// Hands out consecutive aligned arrays of a scratch block.
template <class S>
class ScratchArrays {
 public:
  explicit ScratchArrays(S* p) : p_(p) {}
  S* take(int64_t elements) {
    S* out = p_;
    p_ += padded(elements);
    return out;
  }

 private:
  S* p_;
};

}  // namespace statelab::cpu
