// The production ops as ordinary functions over arrays: every backend and precision that this build
// has and this machine can run.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kernels/cpu/run_op.h"
#include "models/backend.h"

namespace statelab::verify {

/// One way to compute an op.
struct Engine {
  std::string name;  ///< "cpu fp64"
  bool fp64 = false;
  ComputeDevice device = 1;  ///< for whole models
  /// Thread safe. On a CUDA device scans take chunks of the size that it computes; see computed_on().
  std::function<OpRun(Op, const Attributes&, const std::vector<OpArray>&)> run;
  /// Base tolerance of comparisons with the literal recurrences.
  double tolerance() const { return fp64 ? 1e-11 : 1e-4; }
  std::string reason() const;
  /// gradient_error's denominator: rounding of the largest gradient (1e-16, 6e-8) stays well below
  /// the tolerance.
  double smallest_share() const { return fp64 ? 1e-3 : 5e-2; }
};

/// "cpu fp64" first, then "cpu fp32", then "cuda fp32" on a machine with a usable device.
const std::vector<Engine>& engines();

OpArray token_array(Shape shape, const std::vector<int32_t>& tokens);

}  // namespace statelab::verify
