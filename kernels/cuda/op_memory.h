// Device memory of one op's operands and workspace, for running an op alone.
#pragma once

#include <span>
#include <vector>

#include "kernels/cuda/kernel.h"
#include "kernels/cuda/runtime.h"
#include "kernels/op_array.h"

namespace statelab::cuda {

/// What the op puts out for these inputs. Needs no device. Errors: ShapeError, UnsupportedOp.
std::vector<ValueType> supported_outputs(Op op, const Attributes& attributes,
                                         const std::vector<OpArray>& inputs);

/// Inputs copied in member by member, *inputs[m] being those of member m; members may share them; outputs and workspace filled with 0xFF bytes (NaN).
/// Errors: ShapeError, UnsupportedOp, std::invalid_argument when members disagree in shapes, CudaError.
class OpMemory {
 public:
  OpMemory(CudaStream& stream, Op op, const Attributes& attributes,
           std::span<const std::vector<OpArray>* const> inputs);
  OpMemory(const OpMemory&) = delete;

  CudaCall call(Precision precision) const;
  void launch(Precision precision, CudaStream& stream) const;
  OpRun read(CudaStream& stream, int member) const;
  /// Of all members: what the op must read and write at least, so states count twice.
  int64_t operand_bytes() const;

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
