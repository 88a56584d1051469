// Device memory of one op's operands and workspace, for running an op alone.
#pragma once

#include <vector>

#include "kernels/cuda/kernel.h"
#include "kernels/cuda/runtime.h"
#include "kernels/op_array.h"

namespace statelab::cuda {

/// Inputs copied in member by member; outputs and workspace filled with 0xFF bytes (NaN).
/// Errors: ShapeError, UnsupportedOp, std::invalid_argument when members disagree in shapes, CudaError.
class OpMemory {
 public:
  OpMemory(CudaStream& stream, Op op, const Attributes& attributes,
           const std::vector<std::vector<OpArray>>& inputs);
  OpMemory(const OpMemory&) = delete;

  CudaCall call(Precision precision) const;
  void launch(Precision precision, CudaStream& stream) const;
  OpRun read(CudaStream& stream, int member) const;
  int64_t operand_bytes() const;  ///< of all members

 private:
  Operand allocate(CudaStream& stream, const ValueType& type);
  Op op_;
  Attributes attributes_;
  int members_;
  std::vector<ValueType> in_types_, out_types_;
  std::vector<char> absent_;
  std::vector<CudaBuffer> memory_;
  std::vector<Operand> in_, out_;
  Operand workspace_;
};

}  // namespace statelab::cuda
