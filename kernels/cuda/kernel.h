// How an op is computed on a CUDA device: one launch function per op, for all members at once.
//
// Every kernel's grid has the member as its slowest axis and no block spans members; partial results are reduced in an order
// that shapes alone decide, and nothing is added atomically in floating point. So a member's bits do not depend on its
// neighbours, its position or the run. No CUDA header is needed to include this file.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "kernels/call.h"

struct CUstream_st;  // cudaStream_t

namespace statelab {

/// One op for members 0..members-1. Operands lie in device memory; real values are float.
struct CudaCall {
  Op op{};
  const Attributes* attributes = nullptr;
  std::span<const Operand> in, out;  ///< an `out` with data == nullptr is not wanted
  Operand workspace;                 ///< cuda_workspace_bytes() per member
  int members = 1;
  Precision precision = Precision::kFp32;

  template <class A>
  const A& attrs() const {
    return std::get<A>(*attributes);
  }
};

struct CudaKernel {
  int64_t (*workspace_bytes)(const CallShapes&) = nullptr;  ///< per member; null = 0
  void (*launch)(const CudaCall&,
                 CUstream_st*) = nullptr;             ///< enqueues; may be captured in a graph
  std::string (*limit)(const CallShapes&) = nullptr;  ///< see cuda_limit(); null = none
};

/// The kernel of an op. kDraw has none: the owner of the data supplies it (CudaDraw).
const CudaKernel& cuda_kernel(Op op);

/// Why these shapes or attributes do not run on a CUDA device, "" when they do.
std::string cuda_limit(const CallShapes& shapes);

/// Tokens that a scan's kernel takes at once for heads of this size: the largest of 16, 32, 64 that is not above
/// `chunk_size` (at least 16) and whose working set fits into the shared memory of a block on `device` (of compute
/// capability 9.0 where there is none). Equal on devices of one model.
int cuda_chunk_size(int headdim, int d_state, int chunk_size, int device = 0);

/// The same for gated_delta_scan: at most 32, where its kernels are fastest. They take up to 64 where those fit.
int cuda_delta_chunk_size(int headdim, int d_state, int chunk_size, int device = 0);

/// Supplies the rows of a draw op on the device, for all members.
class CudaDraw {
 public:
  virtual ~CudaDraw() = default;
  struct Call {
    Operand step, tokens, targets;  ///< (1) int32; (batch, seqlen) int32 each
    int members = 1, batch = 1, seqlen = 1;
  };
  /// Enqueues the draw of the rows for the step that the device holds; may be captured in a graph.
  virtual void launch(const Call& call, CUstream_st* stream) const = 0;
};

}  // namespace statelab
