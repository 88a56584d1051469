// What a block of row_gradients (linear_bwd.cu) is given: how its warps and its memory are divided, which tiles of rows it visits,
// and how rows become operands.
#pragma once

#include <algorithm>
#include <utility>

#include "kernels/cuda/linear_stream.h"
#include "kernels/cuda/product.cuh"
#include "kernels/cuda/shared_memory.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace statelab::cuda::gradients {

constexpr int kRows = 32, kGroups = kRows / 8;  // of a tile; its groups of eight rows
constexpr int kWide = 64;                       // columns of dW's units, both ways
constexpr int kRoles = 4, kThreads = kRoles * kWarpgroup;
constexpr int kStages = 2;
constexpr int kInverses =
    4;  // rows' scales of so many tiles: they are read after a tile's stage was given back
constexpr int kMostTiles = 2048;  // that a block passes over where nobody uses them

__host__ __device__ constexpr int up(int a, int b) { return (a + b - 1) / b; }

/// Bytes of a block's shared memory, from its start: W, then per stage dy and x, hi and lo of each, then the rest; kN columns of dy,
/// kK of x. Cores of W: along x's columns, then dy's. Of dy and x: along the rows, then the columns; 16 bytes more from one column
/// of cores to the next of x's.
template <int kN, int kK>
struct Layout {
  static constexpr int kDyStride = kGroups * kCoreBytes, kXStride = kGroups * kCoreBytes + 16;
  static constexpr int kWStride = kK / 8 * kCoreBytes;
  static constexpr int kWPlane = kN / 8 * kWStride, kDyPlane = kN / 8 * kDyStride,
                       kXPlane = kK / 8 * kXStride;
  __host__ __device__ static constexpr int dy(int stage) {
    return 2 * kWPlane + stage * 2 * kDyPlane;
  }
  /// Behind dy of all stages: a unit of dW may read beyond dy's columns, rows of a result that nobody keeps.
  __host__ __device__ static constexpr int x(int stage) {
    return dy(kStages) + stage * 2 * kXPlane;
  }
  static constexpr int kRest = 2 * kWPlane + kStages * 2 * (kDyPlane + kXPlane);
};

/// What lies behind the operands.
struct Rest {
  PhaseBarrier full[kStages], empty[kStages];
  float inverse_rms[kInverses][kRows];  // of x's rows
  float dots[kStages][4][kRows];        // shares of the warps of a group
  uint32_t used[kMostTiles / 32];
};

/// The kernels: columns of dy up to kN, of x exactly kK; units of dW that the groups of warps hold, the first beside dx.
template <int kColumnsN, int kColumnsK, int kUnits0, int kUnits1, int kUnits2>
struct Variant {
  static constexpr int kN = kColumnsN, kK = kColumnsK, kM = kK / kWide;
  static constexpr int kUnits[] = {kUnits0, kUnits1, kUnits2};
  using At = Layout<kN, kK>;
  static constexpr int kBytes = At::kRest + static_cast<int>(sizeof(Rest));
  static_assert((kUnits0 + kUnits1 + kUnits2) * kWide >= kN * kM);
  static_assert((kUnits0 + kUnits1 + kUnits2) / kM * 8 * At::kDyStride - At::kDyPlane <=
                2 * kStages * At::kXPlane);
};
using WideVariant = Variant<416, kWide, 1, 3, 3>;
using NarrowVariant = Variant<128, kWide, 0, 1, 1>;
using BackVariant = Variant<64, 2 * kWide, 0, 1, 1>;  // of layers that narrow
using SquareVariant = Variant<128, 2 * kWide, 0, 2, 2>;

/// Calls f.operator()<Variant>() with the one for the shape, false where there is none.
template <class F>
bool with_variant(int n, int k, F&& f) {
  if (n % 2 != 0 || n < 16) return false;
  if (k == kWide && n <= NarrowVariant::kN) {
    f.template operator()<NarrowVariant>();
  } else if (k == kWide && n <= WideVariant::kN) {
    f.template operator()<WideVariant>();
  } else if (k == 2 * kWide && n <= BackVariant::kN) {
    f.template operator()<BackVariant>();
  } else if (k == 2 * kWide && n <= SquareVariant::kN) {
    f.template operator()<SquareVariant>();
  } else {
    return false;
  }
  return true;
}

/// How the rows are divided among blocks.
struct Division {
  int tiles, runs = 0;
  bool possible = false;

  Division(int64_t rows, int n, int k) : tiles(static_cast<int>((rows + kRows - 1) / kRows)) {
    // A part of dW is written and read again: runs of 160 rows where that leaves enough of them.
    const int most = static_cast<int>(std::clamp<int64_t>(rows / 160, 64, 128));
    runs = std::max(1, up(tiles, std::max(1, up(tiles, most))));
    int bytes = 0;
    possible = with_variant(n, k, [&]<class V>() { bytes = V::kBytes; }) &&
               has_warpgroup_products() && bytes <= shared_bytes_per_block();
  }
};

/// Which of a block's tiles hold a row that is used: one that begins its sequence, or has a target at it or behind it in its
/// sequence. One bit a tile. All threads take part.
__device__ __forceinline__ void find_used(const RowGradients& p, int tiles, uint32_t* used) {
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

/// dx where dy is zero, in the rows of the tiles that are not visited: the addend, or zeros. All threads but those that bring rows take part.
__device__ __forceinline__ void fill_unused(const RowGradients& p, const uint32_t* used, int tiles,
                                            const float* addend, float* dx) {
  for (int i = 0; i < tiles; ++i) {
    if ((used[i / 32] >> i % 32 & 1) != 0) continue;
    const int64_t first = static_cast<int64_t>(blockIdx.x + i * gridDim.x) * kRows;
    const int floats = static_cast<int>(min(int64_t{kRows}, p.rows - first)) * p.k;
    for (int c = 4 * static_cast<int>(threadIdx.x); c < floats; c += 4 * (kThreads - kWarpgroup)) {
      const int64_t at = first * p.k + c;
      float4 v = make_float4(0, 0, 0, 0);
      if (addend != nullptr) v = __ldg(reinterpret_cast<const float4*>(addend + at));
      *reinterpret_cast<float4*>(dx + at) = v;
    }
  }
}

__device__ __forceinline__ void store_word(uint32_t to, uint32_t word) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(word));
}
__device__ __forceinline__ void store_words(uint32_t to, uint32_t first, uint32_t second) {
  asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(to), "r"(first), "r"(second));
}

/// W, split, zeros from row n on. Eight rows' lanes of 8 bytes fill a core. All threads but those that bring rows take part.
template <class V>
__device__ __forceinline__ void hold_weight(const RowGradients& p, const float* w,
                                            uint32_t memory) {
  constexpr int kCores = V::kK / 8, kAll = V::kN / 8 * kCores,
                kWarps = (kRoles - 1) * kWarpgroup / kWarp, kTogether = 18;
  const int q = lane_id() % 4, r = lane_id() / 4;
#pragma unroll 1
  for (int first = warp_id(); first < kAll; first += kTogether * kWarps) {
    float2 v[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int core = min(first + i * kWarps, kAll - 1), row = core / kCores * 8 + r;
      v[i] = __ldg(reinterpret_cast<const float2*>(w + min(row, p.n - 1) * V::kK +
                                                   core % kCores * 8 + 2 * q));
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int core = first + i * kWarps;
      if (core / kCores * 8 + r >= p.n) v[i] = make_float2(0, 0);
      const PackedPair<true> pair(v[i].x, v[i].y);
      const uint32_t to = memory + core * kCoreBytes + 16 * r + 4 * q;
      if (core < kAll) store_word(to, pair.hi), store_word(to + V::At::kWPlane, pair.lo);
    }
  }
}

/// f.operator()<i>() for i = 0 .. kCount - 1.
template <int kCount, class F>
__device__ __forceinline__ void each(F&& f) {
  [&]<int... i>(std::integer_sequence<int, i...>) { (f.template operator()<i>(), ...); }
  (std::make_integer_sequence<int, kCount>());
}

/// A tile's rows on their way from memory to operands: numbers are asked for half a tile of dy, and a whole one of x, before their
/// turn. Warp w of the group has rows 8 w .. 8 w + 7, of dy to four lanes each, of x to kLanes.
template <class V, bool kNorm>
struct Bringing {
  static constexpr int kChunks = V::kN / 8, kAhead = kChunks / 2, kTogether = 2;
  static constexpr int kLanes = V::kK / 4, kXLoads = kGroups * kLanes / 16;
  static_assert(kAhead % kTogether == 0);
  using At = typename V::At;
  const RowGradients& p;
  const float *dy_all, *x_all;
  float2 dy[kAhead];
  float4 x[kXLoads];
  float4 weight;  // kNorm

  /// The row of x of load i, within the tile.
  __device__ __forceinline__ static int x_row(int i) {
    return warp_id() % 4 * 8 + i * (kWarp / kLanes) + lane_id() / kLanes;
  }
  /// Where the lane's pairs of dy begin; the last row is repeated.
  __device__ __forceinline__ const float* dy_row(int first) const {
    const int row = min(first + warp_id() % 4 * 8 + lane_id() / 4, static_cast<int>(p.rows) - 1);
    return dy_all + static_cast<int64_t>(row) * p.n + lane_id() % 4 * 2;
  }
  /// The lane's pair of a chunk of eight columns, zeros from column n on. Addresses are not kept: they would fill the registers.
  template <int kChunk>
  __device__ __forceinline__ float2 dy_load(const float* row) const {
    float2 v;
    asm volatile(
        "{\n.reg .pred in;\nsetp.gt.s32 in, %3, %4;\nmov.f32 %0, 0f00000000;\n"
        "mov.f32 %1, 0f00000000;\n@in ld.global.nc.v2.f32 {%0, %1}, [%2 + %5];\n}\n"
        : "=&f"(v.x), "=&f"(v.y)
        : "l"(row), "r"(p.n - lane_id() % 4 * 2), "n"(8 * kChunk), "n"(32 * kChunk));
    return v;
  }
  __device__ __forceinline__ float4 x_load(int first, int i) const {
    const int row = first + x_row(i);
    if (row >= p.rows) return make_float4(0, 0, 0, 0);
    return __ldg(reinterpret_cast<const float4*>(x_all + static_cast<int64_t>(row) * V::kK +
                                                 lane_id() % kLanes * 4));
  }

  /// Asks for the tile that begins at row `first` into the L2 cache. One thread.
  __device__ __forceinline__ void expect(int first) const {
    const int rows = min(kRows, static_cast<int>(p.rows) - first);
    prefetch(dy_all + static_cast<int64_t>(first) * p.n, rows * p.n);
    prefetch(x_all + static_cast<int64_t>(first) * V::kK, rows * V::kK);
  }
  __device__ __forceinline__ static void prefetch(const float* from, int floats) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(floats / 4 * 16));
  }

  __device__ __forceinline__ void start(int first) {
#pragma unroll
    for (int i = 0; i < kXLoads; ++i) x[i] = x_load(first, i);
    const float* const row = dy_row(first);
    each<kAhead>([&]<int c>() { dy[c] = dy_load<c>(row); });
  }

  /// Stores the operands of the tile that begins at row `first`; the loads of the one at row `next` are under way then.
  __device__ __forceinline__ void bring(int first, int next, uint32_t dy_to, uint32_t x_to,
                                        float* inverse_rms) {
#pragma unroll
    for (int i = 0; i < kXLoads; ++i) {
      float4 v = x[i];
      x[i] = x_load(next, i);
      const int row = x_row(i), column = lane_id() % kLanes * 4;
      if constexpr (kNorm) {
        // As rms_norm has it.
        float sum = 0;
        sum += v.x * v.x, sum += v.y * v.y, sum += v.z * v.z, sum += v.w * v.w;
#pragma unroll
        for (int d = kLanes / 2; d >= 1; d /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, d);
        const float inv = 1.0f / sqrtf(sum / static_cast<float>(V::kK) + p.eps);
        if (lane_id() % kLanes == 0) inverse_rms[row] = inv;
        v.x = v.x * inv * weight.x, v.y = v.y * inv * weight.y;
        v.z = v.z * inv * weight.z, v.w = v.w * inv * weight.w;
      }
      const PackedPair<true> low(v.x, v.y), high(v.z, v.w);
      const uint32_t to =
          x_to + column / 8 * At::kXStride + row / 8 * kCoreBytes + row % 8 * 16 + column % 8 * 2;
      store_words(to, low.hi, high.hi);
      store_words(to + At::kXPlane, low.lo, high.lo);
    }
    const float *const row = dy_row(first), *const next_row = dy_row(next);
    const uint32_t to = dy_to + warp_id() % 4 * kCoreBytes + lane_id() / 4 * 16 + lane_id() % 4 * 4;
    each<kChunks / kTogether>([&]<int group>() {
      constexpr int c = group * kTogether;
      float2 v[kTogether];
      each<kTogether>([&]<int e>() {
        constexpr int at = (c + e) % kAhead, then = c + e + kAhead;
        v[e] = dy[at];
        if constexpr (then < kChunks) {
          dy[at] = dy_load<then>(row);
        } else {
          dy[at] = dy_load<then - kChunks>(next_row);
        }
      });
#pragma unroll
      for (int e = 0; e < kTogether; ++e) {
        const PackedPair<true> pair(v[e].x, v[e].y);
        store_word(to + (c + e) * At::kDyStride, pair.hi);
        store_word(to + (c + e) * At::kDyStride + At::kDyPlane, pair.lo);
      }
    });
  }
};

}  // namespace statelab::cuda::gradients
