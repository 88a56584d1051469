// Operands for tests of ops, keyed by a text so that a failure can be repeated.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "kernels/op_array.h"
#include "tests/support/random.h"

namespace statelab::testing_support {

using Arrays = std::vector<OpArray>;

inline OpArray random_array(const std::string& text, Shape shape, double low = -1,
                            double high = 1) {
  auto data = uniform(text, static_cast<size_t>(shape.size()), low, high);
  return real_array(std::move(shape), std::move(data));
}

inline OpArray integer_array(Shape shape, const std::vector<int32_t>& data) {
  return {{DType::kInt32, std::move(shape)}, {data.begin(), data.end()}, false};
}

inline OpArray double_array(Shape shape, std::vector<double> data) {
  return {{DType::kFloat64, std::move(shape)}, std::move(data), false};
}

/// Operands of a backward op from the cotangent, the inputs and the outputs of its forward op.
inline Arrays scan_operands(const OpArray& dy, const Arrays& in, const Arrays& out) {
  Arrays a = {dy};
  a.insert(a.end(), in.begin(), in.end());
  a.insert(a.end(), out.begin() + 1, out.end());
  return a;
}

/// Operands of lstm_bwd: the cotangent, the inputs and all outputs of lstm.
inline Arrays lstm_operands(const OpArray& dy, const Arrays& in, const Arrays& out) {
  Arrays a = {dy};
  a.insert(a.end(), in.begin(), in.end());
  a.insert(a.end(), out.begin(), out.end());
  return a;
}

inline Arrays cotangent_then_inputs(const OpArray& dy, const Arrays& in, const Arrays&) {
  Arrays a = {dy};
  a.insert(a.end(), in.begin(), in.end());
  return a;
}

}  // namespace statelab::testing_support
