// Operands and results of one op run alone, whatever backend and scalar computes it.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/op.h"

namespace statelab {

/// An array given in double whatever the op computes in; integers and f64 operands are converted. Empty shape = absent operand.
struct OpArray {
  ValueType type;
  std::vector<double> data;
  bool absent = false;
};

OpArray real_array(Shape shape, std::vector<double> data);
OpArray absent_array();

struct OpRun {
  std::vector<OpArray> outputs;
  std::vector<OpArray> inputs;  ///< as the op left them (states)
};

/// Converts to and from the memory of one member whose reals are S (float or double).
template <class S>
void store_array(const OpArray& array, std::byte* to);
template <class S>
OpArray load_array(const ValueType& type, const std::byte* from);

}  // namespace statelab
