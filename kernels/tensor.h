// Shapes and element types. Arrays are dense and row-major; the member axis is not part of a Shape: every value of a
// program has one slice per member, and slices start at multiples of kAlignment bytes.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

namespace statelab {

/// kReal is the scalar of the program: float when training, double in references.
enum class DType { kReal, kInt32, kFloat64 };

/// Bytes. A slice of a member starts at such a multiple, so that its packets, and with them its bits, do not depend
/// on the member's position.
inline constexpr int64_t kAlignment = 64;

class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int> extents) : extents_(extents) {}
  explicit Shape(std::vector<int> extents) : extents_(std::move(extents)) {}

  int rank() const { return static_cast<int>(extents_.size()); }
  int operator[](int i) const { return extents_[static_cast<size_t>(i < 0 ? i + rank() : i)]; }
  int last() const { return extents_.back(); }
  int64_t size() const;  ///< product of the extents; 1 for rank 0
  int64_t rows() const {
    return last() == 0 ? 0 : size() / last();
  }  ///< product of all but the last extent
  const std::vector<int>& extents() const { return extents_; }
  bool operator==(const Shape&) const = default;
  std::string text() const;  ///< "(256, 40, 64)"

 private:
  std::vector<int> extents_;
};

int64_t element_bytes(DType dtype, int64_t real_bytes);

/// Bytes from one member's slice to the next.
int64_t member_stride_bytes(const Shape& shape, DType dtype, int64_t real_bytes);

}  // namespace statelab
