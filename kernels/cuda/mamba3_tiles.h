// When mamba3_scan runs on bf16 tiles, and how that is launched.
#pragma once

#include "kernels/cuda/mamba3_scan.cuh"

namespace statelab::cuda {

constexpr int kTiledHead = 64;  ///< headdim and d_state

/// Whether the tiled kernels compute this scan: shapes and precision alone decide.
inline bool tiled(const Mamba3ScanAttrs& a, Precision precision) {
  return precision != Precision::kFp32 && a.headdim == kTiledHead && a.d_state == kTiledHead;
}
void launch_tiled_forward(const Mamba3Args& a, bool split, int members, CUstream_st* stream);
void launch_tiled_backward(const Mamba3Args& a, bool split, int members, CUstream_st* stream);

}  // namespace statelab::cuda
