// Host memory whose start is aligned as members' slices are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/tensor.h"

namespace statelab {

/// The first aligned byte of `memory`, which must hold kAlignment bytes more than are used.
inline std::byte* aligned(std::vector<std::byte>& memory) {
  return reinterpret_cast<std::byte*>(
      (reinterpret_cast<uintptr_t>(memory.data()) + kAlignment - 1) / kAlignment * kAlignment);
}

}  // namespace statelab
