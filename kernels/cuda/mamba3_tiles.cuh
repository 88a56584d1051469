// What both directions of mamba3_scan share where they run on bf16 tiles (mma.cuh): heads of 64 channels with 64 states, in tf32
// (operands split into two bf16) and bf16. Source: models.md sections 3.2 and 3.6.
//
// Four lanes share a token's row: lane 4 g + t has the pairs of columns 2t + 8m, m < 8, of row g. That is the accumulators' and
// the fragments' layout, so that sums over a row take two shuffles and nothing passes from warp to warp.
#pragma once

#include <type_traits>

#include "kernels/cuda/mamba3_tiles.h"
#include "kernels/cuda/mma.cuh"

namespace statelab::cuda {

constexpr int kQuadPairs = kTiledHead / 8;

template <bool kSplit>
using HeadTile = Tile<kSplit, kMaxChunk, kTiledHead, true>;

/// Loads that are issued here, zero where they are not `wanted`: the compiler would move them to their first use, where registers
/// are few, and wait for one after the other.
__device__ __forceinline__ float load_here(const float* from, bool wanted = true) {
  float out;
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.u32 p, %2, 0;\nmov.f32 %0, 0f00000000;\n"
      "@p ld.global.f32 %0, [%1];\n}"
      : "=f"(out)
      : "l"(from), "r"(static_cast<uint32_t>(wanted)));
  return out;
}

/// Instructions of the special function unit where the library's functions take ten times as many: relative errors of a few 2^-22,
/// absolute ones for sine and cosine of an angle in about [-pi, pi); far below those of the products.
__device__ __forceinline__ float quick_exp2(float x) {
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
}
__device__ __forceinline__ float quick_inverse(float x) {
  float out;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
}
constexpr float kLog2E = 1.4426950408889634f;
__device__ __forceinline__ float quick_sigmoid(float x) {
  return quick_inverse(1.0f + quick_exp2(-kLog2E * x));
}
__device__ __forceinline__ float quick_tanh(float x) {
  return fmaf(-2.0f, quick_inverse(1.0f + quick_exp2(2 * kLog2E * x)), 1.0f);
}
__device__ __forceinline__ void quick_sincos(float x, float& sine, float& cosine) {
  sine = __sinf(x), cosine = __cosf(x);
}

/// Floats from token to token of a chunk's angles in shared memory: odd, so that tokens hit different banks.
__host__ __device__ constexpr int angle_pitch(int nangles) { return nangles | 1; }

/// A lane's share of a row.
struct QuadRow {
  float2 v[kQuadPairs];
  /// Of pair m.
  __device__ __forceinline__ static int column(int m) { return 2 * (lane_id() % 4) + 8 * m; }
  template <bool kVectors>
  __device__ __forceinline__ void load(const float* row) {
#pragma unroll
    for (int m = 0; m < kQuadPairs; ++m) v[m] = load2(row + column(m), kVectors);
  }
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int m = 0; m < kQuadPairs; ++m) v[m] = make_float2(0, 0);
  }
  template <bool kSplit>
  __device__ __forceinline__ void store(const HeadTile<kSplit>& tile, int row) const {
    const uint32_t to = tile.at(row, column(0));
#pragma unroll
    for (int m = 0; m < kQuadPairs; ++m) tile.store_at(to ^ (16u * m), v[m].x, v[m].y);
  }
};
__device__ __forceinline__ float2 weight_pair(const float* weights, int m) {
  return *reinterpret_cast<const float2*>(weights + QuadRow::column(m));
}

/// A tile's rows as floats, copied asynchronously to the places that their hi and lo parts will take. A warp copies a row, a lane reads
/// its share: the warp must meet between the last read of a row and what is put in its place.
struct RawRows {
  uint32_t base;
  /// Of this lane's first pair; pair m is 32 m bytes of exclusive or further.
  __device__ __forceinline__ uint32_t at(int row) const {
    return (base + static_cast<uint32_t>(row * (kTiledHead * 4) + ((row & 7) << 5))) ^
           static_cast<uint32_t>(4 * QuadRow::column(0));
  }
  /// Eight rows from row0 on, a multiple of 8, each by the whole warp, lane l its pair l: the lanes meet after the wait. Rows lie
  /// `stride` floats apart; in place of those from `count` on, which is 1 or more, the last one comes.
  template <bool kVectors>
  __device__ __forceinline__ void fetch_rows(int row0, const float* from, uint32_t stride,
                                             int count) const {
    const uint32_t lane = static_cast<uint32_t>(lane_id());
    const uint32_t to =
        base + static_cast<uint32_t>(row0 * (kTiledHead * 4)) + (kVectors ? 8 : 4) * lane;
    from += (kVectors ? 2 : 1) * lane;
    opaque(from);
#pragma unroll
    for (int u = 0; u < 8; ++u) {
      const uint32_t at = (to ^ static_cast<uint32_t>(u << 5)) + u * (kTiledHead * 4);
      const float* row = bytes_past(from, static_cast<uint32_t>(min(u, count - 1)) * (4 * stride));
      if constexpr (kVectors) {
        copy_async<8>(at, row);
      } else {
        copy_async<4>(at, row), copy_async<4>(at ^ 128u, row + 32);
      }
    }
  }
  /// The same of rows at multiples of 16 bytes, each by one half of the warp.
  __device__ __forceinline__ void fetch_aligned_rows(int row0, const float* from, uint32_t stride,
                                                     int count) const {
    const int half = lane_id() / 16, piece = lane_id() % 16;
    const uint32_t to =
        base + static_cast<uint32_t>(row0 * (kTiledHead * 4) + half * (kTiledHead * 4) +
                                     ((half << 5) ^ (16 * piece)));
    from += 4 * piece;
    opaque(from);
#pragma unroll
    for (int u = 0; u < 8; u += 2) {
      copy_async<16>(
          (to ^ static_cast<uint32_t>(u << 5)) + u * (kTiledHead * 4),
          bytes_past(from, static_cast<uint32_t>(min(u + half, count - 1)) * (4 * stride)));
    }
  }
  __device__ __forceinline__ void store(int row, const QuadRow& from) const {
#pragma unroll
    for (int m = 0; m < kQuadPairs; ++m) {
      asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(at(row) ^ (32u * m)), "f"(from.v[m].x),
                   "f"(from.v[m].y)
                   : "memory");
    }
  }
  /// Columns 2 pair and 2 pair + 1 of a row.
  __device__ __forceinline__ float2 load_pair(int row, int pair) const {
    const uint32_t from = base + static_cast<uint32_t>(row * (kTiledHead * 4) + ((row & 7) << 5));
    return load_at(from ^ static_cast<uint32_t>(8 * pair));
  }
  __device__ __forceinline__ static float2 load_at(uint32_t from) {
    float2 out;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                 : "=f"(out.x), "=f"(out.y)
                 : "r"(from)
                 : "memory");
    return out;
  }
  __device__ __forceinline__ QuadRow load(int row) const {
    QuadRow out;
#pragma unroll
    for (int m = 0; m < kQuadPairs; ++m) {
      asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                   : "=f"(out.v[m].x), "=f"(out.v[m].y)
                   : "r"(at(row) ^ (32u * m))
                   : "memory");
    }
    return out;
  }
};

/// Sum of one row of the accumulators times the tile's row, over this lane's columns.
template <bool kSplit>
__device__ __forceinline__ float row_dot(const float (&acc)[kQuadPairs][4], int high,
                                         const HeadTile<kSplit>& tile, int row) {
  float sum = 0;
  const uint32_t at = tile.at(row, QuadRow::column(0));
#pragma unroll
  for (int n = 0; n < kQuadPairs; ++n) {
    const float2 v = tile.load_at(at ^ (16u * n));
    sum = fmaf(acc[n][2 * high], v.x, fmaf(acc[n][2 * high + 1], v.y, sum));
  }
  return sum;
}

}  // namespace statelab::cuda
