// What a block of row_gradients (linear_bwd.cu) is given: how warps, rows and memory are divided, which tiles of rows it visits, and
// the fragments of W.
#pragma once

#include <algorithm>

#include "kernels/cuda/linear_stream.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/product.cuh"
#include "kernels/cuda/shared_memory.cuh"

namespace statelab::cuda::gradients {

constexpr int kMaxWarps = 8, kMaxRowGroups = 4;
constexpr int kRows = 16, kColumns = 64;  // of a warp; the columns of dy and of x
constexpr int kM = kColumns / 16;         // its tiles of 16 columns
constexpr int kStepUnits =
    kM * 2 * kWarp;  // uint4 of W for 16 columns of dy: hi and lo of kM fragments
constexpr int kSums = kColumns * kColumns / 32;  // accumulators of dW a lane
constexpr int kMostTiles = 2048;                 // that a block passes over where nobody uses them

struct GradientArgs {
  RowGradients p;
  int m_groups, n_groups,
      r_groups;           // of warps: along dy's columns, x's columns, the rows of a tile
  int columns;            // of dy, zeros from n on
  int pitch_dy, pitch_x;  // floats; 8 more than a multiple of 32: see the loads
  int tiles;              // of rows; a block takes every gridDim.x-th
};

inline int up(int a, int b) { return (a + b - 1) / b; }

/// How a block's warps share the work, the blocks the rows, and the block its memory.
struct Division {
  GradientArgs args{};
  int runs = 0;
  int slots = 0;  ///< tiles of rows in shared memory
  int bytes = 0;  ///< of shared memory
  bool possible = false;

  Division(int64_t rows, int n, int k) {
    GradientArgs& a = args;
    a.m_groups = up(n, kColumns), a.n_groups = up(k, kColumns);
    const int warps = a.m_groups * a.n_groups;
    if (n % 2 != 0 || k % 4 != 0 || n < 8 || k < 8 || warps > kMaxWarps) return;
    a.r_groups = 1;
    while (2 * a.r_groups * warps <= kMaxWarps && a.r_groups < kMaxRowGroups) a.r_groups *= 2;
    a.columns = std::max(kColumns, up(n, 32) * 32);
    a.pitch_dy = a.columns + 8, a.pitch_x = a.n_groups * kColumns + 8;
    // A part of dW is written and read again: runs of 160 rows where that leaves enough of them.
    const int tile_rows = kRows * a.r_groups;
    a.tiles = static_cast<int>((rows + tile_rows - 1) / tile_rows);
    const int most = static_cast<int>(std::clamp<int64_t>(rows / 160, 64, 128));
    runs = std::max(1, up(a.tiles, std::max(1, up(a.tiles, most))));
    const int available = shared_bytes_per_block(),
              fixed = 16 * weight_units(a) + 8 * sum_floats(a) + kMostTiles / 8,
              slot = 4 * slot_floats(a);
    slots = fixed + 3 * slot <= available ? 3 : 2;
    bytes = std::max(fixed + slots * slot, (a.r_groups - 1) * warps * kSums * kWarp * 4);
    possible = bytes <= available;
  }

  __host__ __device__ static int weight_units(const GradientArgs& a) {
    return a.n_groups * (a.columns / 16 + 1) * kStepUnits;
  }
  /// Of dx of a tile, by group of dy's columns; none where there is one.
  __host__ __device__ static int sum_floats(const GradientArgs& a) {
    return a.m_groups == 1 ? 0 : a.m_groups * a.n_groups * a.r_groups * kRows * kColumns;
  }
  __host__ __device__ static int slot_floats(const GradientArgs& a) {
    return a.r_groups * kRows * (a.pitch_dy + a.pitch_x);
  }
};

/// Which of a block's tiles hold a row that is used: one that begins its sequence, or has a target at it or behind it in its
/// sequence. One bit a tile. All threads take part.
__device__ __forceinline__ void find_used(const GradientArgs& a, int tiles, uint32_t* used) {
  const RowGradients& p = a.p;
  const int32_t* const targets = p.targets + blockIdx.y * p.targets_member;
  const int tile_rows = kRows * a.r_groups, threads = static_cast<int>(blockDim.x);
  for (int i = static_cast<int>(threadIdx.x); i < kMostTiles / 32; i += threads) used[i] = 0;
  __syncthreads();
  for (int i = warp_id(); i < tiles; i += threads / kWarp) {
    const int first = static_cast<int>(blockIdx.x + i * gridDim.x) * tile_rows,
              last = min(first + tile_rows, static_cast<int>(p.rows)) - 1,
              sequence = first / p.seqlen, end = (sequence + 1) * p.seqlen;
    bool in = first == sequence * p.seqlen || last >= end;
    for (int row = first + lane_id(); row < end; row += kWarp) in |= __ldg(targets + row) >= 0;
    in = __any_sync(0xFFFFFFFFu, in);
    if (in && lane_id() == 0) atomicOr(used + i / 32, 1u << i % 32);
  }
  __syncthreads();
}

/// The first such tile after `tile`, `tiles` where there is none.
__device__ __forceinline__ int next_used(const uint32_t* used, int tile, int tiles) {
  int at = tile + 1;
  while (at < tiles) {
    const uint32_t left = used[at / 32] >> at % 32;
    if (left != 0) return at + __ffs(static_cast<int>(left)) - 1;
    at = (at / 32 + 1) * 32;
  }
  return tiles;
}

/// Zeros in the rows of dx whose tiles are not visited. All threads take part.
__device__ __forceinline__ void clear_unused(const GradientArgs& a, const uint32_t* used, int tiles,
                                             float* dx) {
  const int tile_rows = kRows * a.r_groups;
  for (int i = 0; i < tiles; ++i) {
    if ((used[i / 32] >> i % 32 & 1) != 0) continue;
    const int64_t first = static_cast<int64_t>(blockIdx.x + i * gridDim.x) * tile_rows;
    const int floats = static_cast<int>(min(int64_t{tile_rows}, a.p.rows - first)) * a.p.k;
    for (int c = 4 * static_cast<int>(threadIdx.x); c < floats;
         c += 4 * static_cast<int>(blockDim.x))
      *reinterpret_cast<float4*>(dx + first * a.p.k + c) = make_float4(0, 0, 0, 0);
  }
}

__device__ __forceinline__ float4 four(const float* from) {
  return *reinterpret_cast<const float4*>(from);
}

/// Row `row` of a matrix with so many columns.
template <class T>
__device__ __forceinline__ T* at_row(T* matrix, int row, int columns) {
  return matrix + static_cast<int64_t>(row) * columns;
}

/// Copies of a row into shared memory, kFloats at a time; zeros when !in. All lanes of a warp take part.
template <int kFloats>
__device__ __forceinline__ void copy_row(float* to, const float* from, int columns, bool in) {
  if (in) {
    const uint32_t address = shared_address(to);
#pragma unroll 4
    for (int c = lane_id() * kFloats; c < columns; c += kWarp * kFloats)
      copy_async<4 * kFloats>(address + 4 * c, from + c);
  } else {
    for (int c = lane_id(); c < columns; c += kWarp) to[c] = 0;
  }
}

/// Four rows of a matrix, of each lane four columns of them, as two tiles of mma's left operand with the matrix transposed:
/// columns 4 g + {0, 1}, then + {2, 3}. The rows are inner indices 2 t, 2 t + 1, 2 t + 8, 2 t + 9.
__device__ __forceinline__ void transpose(const float4 (&v)[4], Fragment<true>& low,
                                          Fragment<true>& high) {
  low.set(0, v[0].x, v[1].x), low.set(1, v[0].y, v[1].y);
  low.set(2, v[2].x, v[3].x), low.set(3, v[2].y, v[3].y);
  high.set(0, v[0].z, v[1].z), high.set(1, v[0].w, v[1].w);
  high.set(2, v[2].z, v[3].z), high.set(3, v[2].w, v[3].w);
}

/// W of all groups as fragments of W^T. In step s a lane has rows 16 s + 4 t + {0, 1, 2, 3} of W; rows g and g + 8 of tile m
/// are columns 32 (m / 2) + 4 g + 2 (m % 2) + {0, 1} of W. Zeros outside: all the last step.
__device__ __forceinline__ void hold_weight(const GradientArgs& a, const float* w, uint4* to) {
  const int g = lane_id() / 4, t = lane_id() % 4, steps = a.columns / 16 + 1;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
#pragma unroll 2
  for (int i = warp_id(); i < a.n_groups * steps; i += warps) {
    const int row = i % steps * 16 + 4 * t, column = i / steps * kColumns + 4 * g;
    float4 v[2][4];
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int r = row + e % 4, c = column + e / 4 * 32;
      v[e / 4][e % 4] =
          __ldg(reinterpret_cast<const float4*>(w + min(r, a.p.n - 1) * a.p.k + min(c, a.p.k - 4)));
      if (r >= a.p.n || c >= a.p.k) v[e / 4][e % 4] = make_float4(0, 0, 0, 0);
    }
    Fragment<true> left[kM];
    transpose(v[0], left[0], left[1]);
    transpose(v[1], left[2], left[3]);
    uint4* const place = to + i * kStepUnits + lane_id();
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      const Fragment<true>& f = left[m];
      place[2 * m * kWarp] = make_uint4(f.hi[0], f.hi[1], f.hi[2], f.hi[3]);
      place[(2 * m + 1) * kWarp] = make_uint4(f.lo[0], f.lo[1], f.lo[2], f.lo[3]);
    }
  }
}

/// c[m] (16 x 16) += a[m] b; eight accumulators between two products of one.
__device__ __forceinline__ void multiply(float (&c)[kM][2][4], const Fragment<true> (&a)[kM],
                                         const Fragment<true>& b) {
#pragma unroll
  for (int term = 0; term < 3; ++term) {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint32_t(&right)[4] = term == 1 ? b.lo : b.hi;
        mma_m16n8k16(c[m][h], term == 0 ? a[m].lo : a[m].hi, right[2 * h], right[2 * h + 1]);
      }
    }
  }
}

}  // namespace statelab::cuda::gradients
