// What a backend is given to compute: operands of all members, and their shapes before any memory exists.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "kernels/op.h"

namespace statelab {

/// Arithmetic of matrix products and of the scans' products; sums, states, angles and weights are fp32 in all three.
/// The CPU always computes kFp32.
enum class Precision { kFp32, kTf32, kBf16 };

const char* precision_name(Precision precision);

/// One operand of a call: all members' slices. data == nullptr when the operand is absent.
struct Operand {
  std::byte* data = nullptr;
  int64_t stride_bytes = 0;  ///< from one member's slice to the next
  const Shape* shape = nullptr;

  template <class T>
  T* at(int member) const {
    return data == nullptr ? nullptr : reinterpret_cast<T*>(data + member * stride_bytes);
  }
};

/// Supplies the rows of a draw op: (member, step, row, tokens, targets).
using DrawRow =
    std::function<void(int, uint32_t, uint32_t, std::span<int32_t>, std::span<int32_t>)>;

/// Shapes of a call, before any memory exists.
struct CallShapes {
  Op op{};
  const Attributes* attributes = nullptr;
  std::span<const ValueType* const> in;  ///< nullptr = absent
  std::span<const ValueType> out;

  template <class A>
  const A& attrs() const {
    return std::get<A>(*attributes);
  }
};

}  // namespace statelab
