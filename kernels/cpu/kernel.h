// How an op is computed on the CPU: independent blocks per member, then one finish per member.
//
// The number of blocks depends on shapes only, a block writes memory of its own, and finish() reduces the blocks'
// partial results in block order. So neither the number of threads nor the neighbours of a member change a bit.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/call.h"

namespace statelab {

struct Call {
  Op op{};
  const Attributes* attributes = nullptr;
  std::span<const Operand> in, out;
  Operand workspace;  ///< workspace_elements() reals per member
  const DrawRow* draw = nullptr;

  template <class A>
  const A& attrs() const {
    return std::get<A>(*attributes);
  }
};

template <class S>
struct CpuKernel {
  int (*blocks)(const CallShapes&) = nullptr;  ///< tasks per member
  int64_t (*workspace_elements)(const CallShapes&) =
      nullptr;  ///< per member, shared by its blocks; null = 0
  int64_t (*scratch_elements)(const CallShapes&) = nullptr;  ///< per running block; null = 0
  void (*run)(const Call&, int member, int block, S* scratch) = nullptr;
  void (*finish)(const Call&,
                 int member) = nullptr;  ///< after all blocks of the member; may be null
};

/// The kernel of an op; S = float trains, S = double is the reference. Every op has one.
template <class S>
const CpuKernel<S>& cpu_kernel(Op op);

/// Elements rounded up so that consecutive scratch arrays stay aligned.
inline int64_t padded(int64_t elements) { return (elements + 15) / 16 * 16; }

/// Splits n items into at most `parts` runs of equal size (the last may be short): [begin(i), begin(i + 1)).
struct Partition {
  int64_t n = 0, size = 1;
  int parts = 0;
  static Partition of(int64_t n, int max_parts, int64_t min_size) {
    int64_t size = (n + max_parts - 1) / max_parts;
    if (size < min_size) size = min_size;
    return {n, size, static_cast<int>((n + size - 1) / size)};
  }
  int64_t begin(int i) const { return i * size; }
  int64_t end(int i) const { return (i + 1) * size < n ? (i + 1) * size : n; }
};

}  // namespace statelab
