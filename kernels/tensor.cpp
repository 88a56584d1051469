#include "kernels/tensor.h"

namespace statelab {

int64_t Shape::size() const {
  int64_t n = 1;
  for (int e : extents_) n *= e;
  return n;
}

std::string Shape::text() const {
  std::string out = "(";
  for (int i = 0; i < rank(); ++i)
    out += (i ? ", " : "") + std::to_string(extents_[static_cast<size_t>(i)]);
  return out + ")";
}

int64_t element_bytes(DType dtype, int64_t real_bytes) {
  switch (dtype) {
    case DType::kReal:
      return real_bytes;
    case DType::kInt32:
      return 4;
    case DType::kFloat64:
      return 8;
  }
  return 0;
}

int64_t member_stride_bytes(const Shape& shape, DType dtype, int64_t real_bytes) {
  const int64_t bytes = shape.size() * element_bytes(dtype, real_bytes);
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace statelab
