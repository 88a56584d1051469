// What both directions of mamba2_scan share where they run on bf16 tiles (mma.cuh, mamba3_tiles.cuh): heads of 64 channels with
// 64 states and positive decays, in tf32 (operands split into two bf16) and bf16. Source: models.md sections 6.2 and 6.3.
//
// The step's own product is a term of the sum like the others: o_i = T_i S_in q_i + sum_{j <= i} T_ij dt_j (q_i . k_j) x_j + D x_i
// with T_ii = 1.
#pragma once

#include "kernels/cuda/mamba2_tiles.h"
#include "kernels/cuda/mamba3_tiles.cuh"

namespace statelab::cuda {

/// Step sizes and decays of a chunk's tokens; T_ij as in Decay, from factors per block of 16 tokens. Past the last token dt is 0.
struct StepTokens {
  float *raw, *dt;  ///< (64), raw with its bias
  float *prefix,
      *suffix;  ///< (64): from the block's first token to i; from the one after i to the block's last
  float* weighted;  ///< (64): suffix dt
  float *from_start,
      *to_end;  ///< (64): T_i of the chunk's entry; from the one after i to the chunk's last token
  float* leaving;  ///< (64): to_end dt
  float* within;   ///< (64): sums of log2 alpha in a block
  float* between;  ///< (4, 4): whole blocks strictly between
  float* whole;    ///< (1)
  static constexpr int kFloats = 9 * kMaxChunk + 20;

  __device__ explicit StepTokens(float* p)
      : raw(p),
        dt(p + kMaxChunk),
        prefix(p + 2 * kMaxChunk),
        suffix(p + 3 * kMaxChunk),
        weighted(p + 4 * kMaxChunk),
        from_start(p + 5 * kMaxChunk),
        to_end(p + 6 * kMaxChunk),
        leaving(p + 7 * kMaxChunk),
        within(p + 8 * kMaxChunk),
        between(p + 9 * kMaxChunk),
        whole(p + 9 * kMaxChunk + 16) {}

  /// A lane's raw step sizes, of tokens lane and lane + 32.
  struct Raw {
    float v[2] = {};
    __device__ __forceinline__ void load(const Mamba2Args& a, const float* proj_c, float bias,
                                         int h, int length) {
#pragma unroll
      for (int u = 0; u < 2; ++u) {
        const int i = min(lane_id() + u * kWarp, length - 1);
        v[u] = __ldg(proj_c + static_cast<int64_t>(i) * a.dims.width + a.dd_dt + h) + bias;
      }
    }
  };

  /// One warp computes all, A = -exp(A_log). Needs a barrier before other warps read.
  __device__ __forceinline__ void compute(const Raw& loaded, float A, int length) const {
    const int lane = lane_id();
    float step[2], here[2], rest[2];
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      step[u] = lane + u * kWarp < length ? softplusf(loaded.v[u]) : 0.0f;
      here[u] = step[u] * A * kLog2E;
      const float after = __shfl_down_sync(0xFFFFFFFFu, here[u], 1, 16);
      rest[u] = lane % 16 == 15 ? 0.0f : after;
#pragma unroll
      for (int d = 1; d < 16; d *= 2) {
        const float left = __shfl_up_sync(0xFFFFFFFFu, here[u], d, 16),
                    right = __shfl_down_sync(0xFFFFFFFFu, rest[u], d, 16);
        if (lane % 16 >= d) here[u] += left;
        if (lane % 16 + d < 16) rest[u] += right;
      }
    }
    const float total[4] = {
        __shfl_sync(0xFFFFFFFFu, here[0], 15), __shfl_sync(0xFFFFFFFFu, here[0], 31),
        __shfl_sync(0xFFFFFFFFu, here[1], 15), __shfl_sync(0xFFFFFFFFu, here[1], 31)};
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      const int i = lane + u * kWarp, block = i / 16;
      float before = 0, after = 0;
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        before += m < block ? total[m] : 0.0f;
        after += m > block ? total[m] : 0.0f;
      }
      const float to_block_end = quick_exp2(rest[u]), to_chunk_end = quick_exp2(rest[u] + after);
      raw[i] = loaded.v[u], dt[i] = step[u], within[i] = here[u];
      prefix[i] = quick_exp2(here[u]), from_start[i] = quick_exp2(before + here[u]);
      suffix[i] = to_block_end, weighted[i] = to_block_end * step[u];
      to_end[i] = to_chunk_end, leaving[i] = to_chunk_end * step[u];
    }
    if (lane < 16) {
      const int last = lane / 4, first = lane % 4;
      const float one = first < 1 && last > 1 ? total[1] : 0.0f,
                  two = first < 2 && last > 2 ? total[2] : 0.0f;
      between[lane] = quick_exp2(one + two);
    }
    if (lane == 16) *whole = quick_exp2(total[0] + total[1] + total[2] + total[3]);
  }
};

/// kCount rows from row0 of the chunk on, `stride` floats apart, are on their way to their tile's place, a row an instruction; the last
/// of `length` rows in place of those past it. `from`: the chunk's first row. The lanes of the warp see each other's share after
/// wait_all_copies() and __syncwarp(); RawRows::load() reads.
template <bool kVectors, int kCount = 16>
__device__ __forceinline__ void fetch_rows(uint32_t place, int row0, const float* from, int stride,
                                           int length) {
  const auto lane = static_cast<uint32_t>(lane_id());
  auto fetch = [&](int row, const float* source) {
    const uint32_t to = place + static_cast<uint32_t>(row * (kTiledHead * 4)),
                   exchange = static_cast<uint32_t>(row % 8) << 5;
    if constexpr (kVectors) {
      copy_async<8>(to + (exchange ^ (8 * lane)), source);
    } else {
      copy_async<4>(to + (exchange ^ (4 * lane)), source);
      copy_async<4>(to + (exchange ^ (4 * (lane + 32))), source + 32);
    }
  };
  from += kVectors ? 2 * lane : lane;
  if (row0 + kCount <= length) {  // most chunks are whole: no bounds
    from += static_cast<int64_t>(row0) * stride;
    place += static_cast<uint32_t>(row0 * (kTiledHead * 4));
#pragma unroll
    for (int i = 0; i < kCount; ++i, from += stride) fetch(i, from);
  } else {
#pragma unroll 1
    for (int i = row0; i < row0 + kCount; ++i)
      fetch(i, from + static_cast<int64_t>(min(i, length - 1)) * stride);
  }
}

__device__ __forceinline__ float2 pair_at(const float* from) {
  return *reinterpret_cast<const float2*>(from);
}

}  // namespace statelab::cuda
