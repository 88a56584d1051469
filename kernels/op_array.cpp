#include "kernels/op_array.h"

#include <stdexcept>
#include <string>

namespace statelab {

OpArray real_array(Shape shape, std::vector<double> data) {
  if (static_cast<int64_t>(data.size()) != shape.size()) {
    throw std::invalid_argument("array of " + std::to_string(data.size()) + " elements for shape " +
                                shape.text());
  }
  return {{DType::kReal, std::move(shape)}, std::move(data), false};
}

OpArray absent_array() { return {{}, {}, true}; }

template <class S>
void store_array(const OpArray& a, std::byte* to) {
  for (size_t i = 0; i < a.data.size(); ++i) {
    switch (a.type.dtype) {
      case DType::kReal:
        reinterpret_cast<S*>(to)[i] = static_cast<S>(a.data[i]);
        break;
      case DType::kInt32:
        reinterpret_cast<int32_t*>(to)[i] = static_cast<int32_t>(a.data[i]);
        break;
      case DType::kFloat64:
        reinterpret_cast<double*>(to)[i] = a.data[i];
        break;
    }
  }
}

template <class S>
OpArray load_array(const ValueType& type, const std::byte* from) {
  OpArray a{type, std::vector<double>(static_cast<size_t>(type.shape.size())), false};
  for (size_t i = 0; i < a.data.size(); ++i) {
    switch (type.dtype) {
      case DType::kReal:
        a.data[i] = static_cast<double>(reinterpret_cast<const S*>(from)[i]);
        break;
      case DType::kInt32:
        a.data[i] = reinterpret_cast<const int32_t*>(from)[i];
        break;
      case DType::kFloat64:
        a.data[i] = reinterpret_cast<const double*>(from)[i];
        break;
    }
  }
  return a;
}

template void store_array<float>(const OpArray&, std::byte*);
template void store_array<double>(const OpArray&, std::byte*);
template OpArray load_array<float>(const ValueType&, const std::byte*);
template OpArray load_array<double>(const ValueType&, const std::byte*);

}  // namespace statelab
