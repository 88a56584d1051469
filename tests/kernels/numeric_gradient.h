// Gradients of an op from values of its forward op alone, in double precision.
#pragma once

#include <vector>

#include "kernels/cpu/run_op.h"
#include "tests/kernels/op_cases.h"

namespace statelab::testing_support {

inline double contract(const OpArray& y, const std::vector<double>& cotangent) {
  double sum = 0;
  for (size_t i = 0; i < cotangent.size(); ++i) sum += cotangent[i] * y.data[i];
  return sum;
}

/// Fourth-order central differences of <cotangent, output 0> with respect to input `i`.
inline std::vector<double> numeric_gradient(Op op, const Attributes& attributes, Arrays in,
                                            size_t i, const std::vector<double>& cotangent) {
  constexpr double h = 2e-4;
  std::vector<double> out;
  for (size_t e = 0; e < in[i].data.size(); ++e) {
    const double x = in[i].data[e];
    double value[4];
    const double at[4] = {x + h, x - h, x + 2 * h, x - 2 * h};
    for (int k = 0; k < 4; ++k) {
      in[i].data[e] = at[k];
      value[k] = contract(run_op<double>(op, attributes, in).outputs[0], cotangent);
    }
    in[i].data[e] = x;
    out.push_back((8 * (value[0] - value[1]) - (value[2] - value[3])) / (12 * h));
  }
  return out;
}

}  // namespace statelab::testing_support
