// When mamba3_scan runs on bf16 tiles, and how that is launched.
#pragma once

#include "kernels/cuda/mamba3_scan.cuh"

namespace statelab::cuda {

constexpr int kTiledHead = 64;  ///< headdim and d_state

/// Whether the tiled kernels compute this scan: shapes, precision and the model of the current device decide, whose blocks need
/// up to 120 KiB of shared memory (compute capability 8.0 and 9.0). Elsewhere mamba3_scan.cu and mamba3_scan_bwd.cu do, in any shape.
bool tiled(const Mamba3ScanAttrs& a, Precision precision);
void launch_tiled_forward(const Mamba3Args& a, bool split, int members, CUstream_st* stream);
void launch_tiled_backward(const Mamba3Args& a, bool split, int members, CUstream_st* stream);

}  // namespace statelab::cuda
