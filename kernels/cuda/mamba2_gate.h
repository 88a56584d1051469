// mamba2_scan's gate and norm: m = o silu(z), y = m / rms(m) * norm over the channels of a group.
#pragma once

#include "kernels/cuda/mamba2_scan.cuh"

namespace statelab::cuda {

/// y from o and z. `wide`: by pairs of channels, where rows allow it (whole heads of 64, a.vectors); sums in another order.
void launch_gate_forward(const Mamba2Args& a, bool wide, int members, CUstream_st* stream);
/// From dy, o and z: dz in a.dproj, the cotangent of o in a.dout, a.norm_blocks rows of a.norm_partials.
void launch_gate_backward(const Mamba2Args& a, bool wide, int members, CUstream_st* stream);
/// Rows of norm_partials for so many rows of proj, in either order.
int64_t gate_blocks(int64_t rows);

}  // namespace statelab::cuda
