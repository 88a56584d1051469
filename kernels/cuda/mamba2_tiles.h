// When mamba2_scan runs on bf16 tiles, and how that is launched.
#pragma once

#include "kernels/cuda/mamba2_scan.cuh"

namespace statelab::cuda {

/// Whether the tiled kernels can compute this scan in tf32 and bf16: heads of 64 channels with 64 states, positive decays, on a
/// device whose blocks may have the shared memory (as mamba3_tiles.h). Elsewhere, and in fp32, mamba2_scan.cu does, in any shape.
bool tiled_heads(const Mamba2ScanAttrs& a);
bool tiled(const Mamba2ScanAttrs& a, Precision precision);

/// Whether the forward kernel computes y too: a block then holds all heads of a group, one or two.
inline bool tiled_forward_gates(const ScanDims& d) { return d.nheads / d.ngroups <= 2; }
/// o (where wanted, or no gate follows in the kernel) and the chunks' incoming states, and y if tiled_forward_gates(). a.carried is
/// needed where a.states is not wanted.
void launch_tiled_forward(const Mamba2Args& a, bool split, int members, CUstream_st* stream);
int tiled_forward_bytes();  ///< of shared memory, at most
/// The recurrence alone, from the cotangent of o in a.dout; leaves a.partials, uses a.carried.
void launch_tiled_backward(const Mamba2Args& a, bool split, int members, CUstream_st* stream);

}  // namespace statelab::cuda
