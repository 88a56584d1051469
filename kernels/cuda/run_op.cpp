#include "kernels/cuda/run_op.h"

#include "kernels/error.h"

namespace statelab {

std::vector<OpRun> run_op_cuda(Op op, const Attributes&, const std::vector<std::vector<OpArray>>&,
                               Precision, int) {
  throw UnsupportedOp(op_name(op), "not yet");
}

}  // namespace statelab
