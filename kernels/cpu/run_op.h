// Runs one op alone on arrays: for tests, verification and benchmarks.
#pragma once

#include <cstdint>
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

/// Runs `op` in scalar S for one member. Outputs and workspace are filled with 0xFF bytes (NaN) first, so that what the op
/// does not write is seen. Throws ShapeError.
template <class S>
OpRun run_op(Op op, const Attributes& attributes, const std::vector<OpArray>& inputs,
             int threads = 1);

}  // namespace statelab
