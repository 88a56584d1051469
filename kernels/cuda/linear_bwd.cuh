// What a block of row_gradients (linear_bwd.cu) is given: how its warps and its memory are divided, which tiles of rows it visits,
// and how rows become operands.
#pragma once

#include <algorithm>

#include "kernels/cuda/linear_stream.h"
#include "kernels/cuda/product.cuh"
#include "kernels/cuda/shared_memory.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace statelab::cuda::gradients {

constexpr int kRows = 32, kGroups = kRows / 8;  // of a tile; its groups of eight rows
constexpr int kWide = 64;                       // columns of dW's units, both ways
constexpr int kThreads = 3 * kWarpgroup;        // two groups multiply, one brings rows
constexpr int kStages = 2;
constexpr int kMostTiles = 2048;  // that a block passes over where nobody uses them
constexpr int kMostColumns = 416;

struct GradientArgs {
  RowGradients p;
  int tiles;  // of rows; a block takes every gridDim.x-th
};

inline int up(int a, int b) { return (a + b - 1) / b; }
__host__ __device__ constexpr int padded(int n) { return (n + 15) / 16 * 16; }

/// Bytes of a block's shared memory, from its start: W, then per stage dy and x, hi and lo of each, then the rest.
/// Cores of W: along x's columns, then dy's. Of dy and x: along the rows, then the columns; 16 bytes more from one to the next of x's.
struct Layout {
  int k, n;
  static constexpr int kDyStride = kGroups * kCoreBytes, kXStride = kGroups * kCoreBytes + 16;
  __host__ __device__ constexpr Layout(int k, int n) : k(k), n(padded(n)) {}
  __host__ __device__ constexpr int w_stride() const { return k / 8 * kCoreBytes; }
  __host__ __device__ constexpr int w_plane() const { return n / 8 * w_stride(); }
  __host__ __device__ constexpr int dy_plane() const { return n / 8 * kDyStride; }
  __host__ __device__ constexpr int x_plane() const { return k / 8 * kXStride; }
  __host__ __device__ constexpr int dy(int stage) const {
    return 2 * w_plane() + stage * 2 * dy_plane();
  }
  /// Behind dy of all stages: a unit of dW may read beyond dy's columns, rows of a result that nobody keeps.
  __host__ __device__ constexpr int x(int stage) const {
    return dy(kStages) + stage * 2 * x_plane();
  }
  __host__ __device__ constexpr int rest() const { return x(kStages); }
};

/// What lies behind the operands.
struct Rest {
  PhaseBarrier full[kStages], empty[kStages];
  float inverse_rms[kStages][kRows];  // of x's rows
  float dots[2][4][kRows];            // shares of the warps of a group
  uint32_t used[kMostTiles / 32];
};

/// How the rows are divided among blocks.
struct Division {
  GradientArgs args{};
  int runs = 0;
  int bytes = 0;  ///< of shared memory
  bool possible = false;

  Division(int64_t rows, int n, int k) {
    if (n % 2 != 0 || n < 16 || n > kMostColumns || (k != kWide && k != 2 * kWide)) return;
    if (k == 2 * kWide && n > 2 * kWide) return;
    bytes = Layout(k, n).rest() + static_cast<int>(sizeof(Rest));
    args.tiles = static_cast<int>((rows + kRows - 1) / kRows);
    // A part of dW is written and read again: runs of 160 rows where that leaves enough of them.
    const int most = static_cast<int>(std::clamp<int64_t>(rows / 160, 64, 128));
    runs = std::max(1, up(args.tiles, std::max(1, up(args.tiles, most))));
    possible = has_warpgroup_products() && bytes <= shared_bytes_per_block();
  }
};

/// Which of a block's tiles hold a row that is used: one that begins its sequence, or has a target at it or behind it in its
/// sequence. One bit a tile. All threads take part.
__device__ __forceinline__ void find_used(const GradientArgs& a, int tiles, uint32_t* used) {
  const RowGradients& p = a.p;
  const int32_t* const targets = p.targets + blockIdx.y * p.targets_member;
  for (int i = static_cast<int>(threadIdx.x); i < kMostTiles / 32; i += kThreads) used[i] = 0;
  __syncthreads();
  for (int i = warp_id(); i < tiles; i += kThreads / kWarp) {
    const int first = static_cast<int>(blockIdx.x + i * gridDim.x) * kRows,
              last = min(first + kRows, static_cast<int>(p.rows)) - 1, sequence = first / p.seqlen,
              end = (sequence + 1) * p.seqlen;
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

/// dx where dy is zero, in the rows of the tiles that are not visited: the addend, or zeros. All threads take part.
__device__ __forceinline__ void fill_unused(const GradientArgs& a, const uint32_t* used, int tiles,
                                            const float* addend, float* dx) {
  for (int i = 0; i < tiles; ++i) {
    if ((used[i / 32] >> i % 32 & 1) != 0) continue;
    const int64_t first = static_cast<int64_t>(blockIdx.x + i * gridDim.x) * kRows;
    const int floats = static_cast<int>(min(int64_t{kRows}, a.p.rows - first)) * a.p.k;
    for (int c = 4 * static_cast<int>(threadIdx.x); c < floats; c += 4 * kThreads) {
      const int64_t at = first * a.p.k + c;
      float4 v = make_float4(0, 0, 0, 0);
      if (addend != nullptr) v = __ldg(reinterpret_cast<const float4*>(addend + at));
      *reinterpret_cast<float4*>(dx + at) = v;
    }
  }
}

__device__ __forceinline__ void store_word(uint32_t to, uint32_t word) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(word) : "memory");
}

/// W, split, zeros from row n on. Eight rows' lanes of 8 bytes fill a core. All threads take part.
__device__ __forceinline__ void hold_weight(const RowGradients& p, const Layout& at, const float* w,
                                            uint32_t memory) {
  const int q = lane_id() % 4, r = lane_id() / 4, cores = p.k / 8, all = at.n / 8 * cores;
#pragma unroll 4
  for (int core = warp_id(); core < all; core += kThreads / kWarp) {
    const int row = core / cores * 8 + r, column = core % cores * 8 + 2 * q;
    float2 v = __ldg(reinterpret_cast<const float2*>(w + min(row, p.n - 1) * p.k + column));
    if (row >= p.n) v = make_float2(0, 0);
    const PackedPair<true> pair(v.x, v.y);
    const uint32_t to = memory + core * kCoreBytes + 16 * r + 4 * q;
    store_word(to, pair.hi);
    store_word(to + at.w_plane(), pair.lo);
  }
}

/// Zeros in dy's columns from n on, of all stages. All threads take part.
__device__ __forceinline__ void clear_padding(int n, const Layout& at, uint32_t memory) {
  const int words = (at.n - n) / 2;
  for (int i = static_cast<int>(threadIdx.x); i < 2 * kStages * kRows * words; i += kThreads) {
    const int column = n + i % words * 2, row = i / words % kRows, plane = i / words / kRows;
    store_word(memory + at.dy(0) + plane * at.dy_plane() + column / 8 * Layout::kDyStride +
                   row / 8 * kCoreBytes + row % 8 * 16 + column % 8 * 2,
               0);
  }
}

/// A tile's rows on their way from memory to operands: the numbers of the next tile are asked for as those of this one leave their
/// registers. Warp w of the group has rows 8 w .. 8 w + 7 of dy, four lanes a row, and rows w * 8 + .. of x, whole rows to
/// kWide / 4 or more lanes.
template <int kChunks, int kK, bool kNorm>
struct Bringing {
  static constexpr int kLanes = kK / 4;                  // that share a row of x
  static constexpr int kXLoads = kGroups * kLanes / 16;  // of 16 bytes: 8 rows of a warp
  float2 dy[kChunks];
  float4 x[kXLoads];
  float4 weight;  // kNorm

  /// The row of x of load i, within the tile.
  __device__ __forceinline__ static int x_row(int i) {
    return warp_id() % 4 * 8 + i * (kWarp / kLanes) + lane_id() / kLanes;
  }
  __device__ __forceinline__ static int dy_row() { return warp_id() % 4 * 8 + lane_id() / 4; }
  /// Loads repeat the last pair of a row, and the last row.
  __device__ __forceinline__ static const float* dy_from(const RowGradients& p, const float* dy,
                                                         int first) {
    const int row = min(first + dy_row(), static_cast<int>(p.rows) - 1);
    return dy + static_cast<int64_t>(row) * p.n;
  }
  __device__ __forceinline__ static float2 dy_load(const RowGradients& p, const float* row, int c) {
    return __ldg(
        reinterpret_cast<const float2*>(row + min(8 * c + 2 * (lane_id() % 4), p.n - 2)));
  }
  __device__ __forceinline__ static float4 x_load(const RowGradients& p, const float* x, int first,
                                                  int i) {
    const int row = first + x_row(i);
    if (row >= p.rows) return make_float4(0, 0, 0, 0);
    return __ldg(reinterpret_cast<const float4*>(x + static_cast<int64_t>(row) * kK +
                                                 lane_id() % kLanes * 4));
  }

  __device__ __forceinline__ void start(const RowGradients& p, const float* dy_all,
                                        const float* x_all, int first) {
#pragma unroll
    for (int i = 0; i < kXLoads; ++i) x[i] = x_load(p, x_all, first, i);
    const float* const row = dy_from(p, dy_all, first);
#pragma unroll
    for (int c = 0; c < kChunks; ++c) dy[c] = dy_load(p, row, c);
  }

  /// Stores this tile's operands; the loads of the one that begins at row `next` are under way then.
  __device__ __forceinline__ void bring(const RowGradients& p, const Layout& at,
                                        const float* dy_all, const float* x_all, uint32_t dy_to,
                                        uint32_t x_to, float* inverse_rms, int next) {
#pragma unroll
    for (int i = 0; i < kXLoads; ++i) {
      float4 v = x[i];
      x[i] = x_load(p, x_all, next, i);
      const int row = x_row(i), column = lane_id() % kLanes * 4;
      if constexpr (kNorm) {
        // As rms_norm has it.
        float sum = 0;
        sum += v.x * v.x, sum += v.y * v.y, sum += v.z * v.z, sum += v.w * v.w;
#pragma unroll
        for (int d = kLanes / 2; d >= 1; d /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, d);
        const float inv = 1.0f / sqrtf(sum / static_cast<float>(kK) + p.eps);
        if (lane_id() % kLanes == 0) inverse_rms[row] = inv;
        v.x = v.x * inv * weight.x, v.y = v.y * inv * weight.y;
        v.z = v.z * inv * weight.z, v.w = v.w * inv * weight.w;
      }
      const PackedPair<true> low(v.x, v.y), high(v.z, v.w);
      const uint32_t to = x_to + column / 8 * Layout::kXStride + row / 8 * kCoreBytes +
                          row % 8 * 16 + column % 8 * 2;
      store_word(to, low.hi), store_word(to + 4, high.hi);
      store_word(to + at.x_plane(), low.lo), store_word(to + at.x_plane() + 4, high.lo);
    }
    const float* const row = dy_from(p, dy_all, next);
    const uint32_t to =
        dy_to + warp_id() % 4 * kCoreBytes + lane_id() / 4 * 16 + lane_id() % 4 * 4;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const float2 v = dy[c];
      dy[c] = dy_load(p, row, c);
      if (8 * c + 2 * (lane_id() % 4) >= p.n) continue;
      const PackedPair<true> pair(v.x, v.y);
      store_word(to + c * Layout::kDyStride, pair.hi);
      store_word(to + c * Layout::kDyStride + at.dy_plane(), pair.lo);
    }
  }
};

}  // namespace statelab::cuda::gradients
