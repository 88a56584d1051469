// What a block of row_gradients (linear_bwd.cu) is given: how its warps and its memory are divided, which tiles of rows it visits,
// and how rows become operands.
#pragma once

#include <algorithm>
#include <utility>

#include "kernels/cuda/linear_stream.h"
#include "kernels/cuda/shared_memory.cuh"
#include "kernels/cuda/wgmma_rows.cuh"

namespace statelab::cuda::gradients {

using namespace warpgroups;

constexpr int kGroups = kRows / 8;  // of a tile's rows, eight each
constexpr int kStages = 2;
constexpr int kMostSteps = 512;  // of a walk: tiles that a block visits with one W

/// Bytes of a block's shared memory, from its start: W, then per stage dy and x, hi and lo of each, then the rest; kN columns of dy,
/// kK of x. dy and W lie in blocks of 64 columns, rows of 128 bytes; a last one of dy has 32. x lies in cores, along the
/// rows, then the columns, 16 bytes more from one column of cores to the next.
template <int kN, int kK>
struct Layout {
  static constexpr int kBlock = kRows * 128, kFull = kN / 64, kBlocks = up(kN, 64);
  static constexpr int kXStride = kGroups * kCoreBytes + 16;
  static constexpr int kWPlane = kN * kK * 2, kDyPlane = kN * kRows * 2,
                       kXPlane = kK / 8 * kXStride;
  static_assert(kN % 64 == 0 || kN % 64 == 32);
  __host__ __device__ static constexpr int dy(int stage) {
    return 2 * kWPlane + stage * 2 * kDyPlane;
  }
  /// Behind dy of all stages: a unit of dW may read beyond dy's columns, rows of a result that nobody keeps.
  __host__ __device__ static constexpr int x(int stage) {
    return dy(kStages) + stage * 2 * kXPlane;
  }
  static constexpr int kRest = 2 * kWPlane + kStages * 2 * (kDyPlane + kXPlane);
};

/// What lies behind the operands: a walk, which is what a block does for one member. Some of its parts, one after the other, their
/// tiles in order, those that are used. Read at every use: registers are scarce.
struct Walk {
  /// A step is a tile and its part, counted from first_part on; kEnd follows the last.
  static constexpr uint32_t kEnd = 0xFFFFFFFFu;
  uint32_t steps[kMostSteps + 4];
  uint32_t used[kMostSteps / 32];  // bits of the parts' tiles
  int member, first_part, parts;

  __device__ __forceinline__ static int first_row(uint32_t step) {
    return static_cast<int>(step & 0xFFFF) * kRows;
  }
  __device__ __forceinline__ static int part_of(uint32_t step) {
    return static_cast<int>(step >> 16);
  }
};

/// The kernels: columns of dy up to kN, of x exactly kK; units of dW that the groups of warps after the first hold.
template <int kColumnsN, int kColumnsK, int kUnits0, int kUnits1, int kUnits2, int kUnits3>
struct Variant {
  static constexpr int kN = kColumnsN, kK = kColumnsK, kM = kK / kWide;
  static constexpr int kUnits[] = {kUnits0, kUnits1, kUnits2, kUnits3},
                       kBegins[] = {0, kUnits0, kUnits0 + kUnits1, kUnits0 + kUnits1 + kUnits2};
  using At = Layout<kN, kK>;
  static constexpr int kBytes = At::kRest + static_cast<int>(sizeof(Walk));
  static constexpr int kAll = kUnits0 + kUnits1 + kUnits2 + kUnits3;
  static_assert(kAll / kM == At::kBlocks);
};
using WideVariant = Variant<416, kWide, 1, 2, 2, 2>;
using NarrowVariant = Variant<128, kWide, 0, 1, 1, 0>;
using BackVariant = Variant<64, 2 * kWide, 0, 1, 1, 0>;  // of layers that narrow
using SquareVariant = Variant<128, 2 * kWide, 0, 2, 1, 1>;

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

/// How the rows are divided: shapes alone decide.
struct Division {
  int tiles = 0, parts = 0, per_part = 0;  ///< tile i of part r is r + i * parts, where it exists
  bool possible = false;

  Division(int64_t rows, int n, int k) {
    // A part of dW is written and read again: parts of 160 rows where that leaves enough of them.
    tiles = static_cast<int>(std::min<int64_t>((rows + kRows - 1) / kRows, 1 << 24));
    const int most = static_cast<int>(std::clamp<int64_t>(rows / 160, 64, 128));
    parts = std::max(1, up(tiles, std::max(1, up(tiles, most))));
    per_part = std::max(1, up(tiles, parts));
    int bytes = 0;
    possible = with_variant(n, k, [&]<class V>() { bytes = V::kBytes; }) &&
               has_warpgroup_products() && bytes <= shared_bytes_per_block() &&
               per_part <= kMostSteps && tiles <= 0xFFFF;
  }
};

/// Whether a tile holds a row that is used: one that begins its sequence, or has a target at it or behind it in its sequence. All
/// lanes of a warp.
__device__ __forceinline__ bool is_used(const RowGradients& p, int member, int tile) {
  if (p.targets == nullptr) return true;
  const int32_t* const targets = p.targets + member * p.targets_member;
  const int first = tile * kRows, last = min(first + kRows, static_cast<int>(p.rows)) - 1,
            sequence = first / p.seqlen, end = (sequence + 1) * p.seqlen;
  bool in = first == sequence * p.seqlen || last >= end;
  for (int row = first; row < end && !in; row += kWarp) {
    const int mine = row + lane_id();
    in = __any_sync(0xFFFFFFFFu, mine < end && __ldg(targets + mine) >= 0);
  }
  return in;
}

/// Lists the steps of the parts from `part` on, of all members' parts in a row, up to `end` or as many as there is room for. All
/// threads take part.
__device__ __forceinline__ void plan(const RowGradients& p, const Division& d, int part, int end,
                                     Walk& w) {
  if (threadIdx.x == 0) {
    w.member = part / d.parts, w.first_part = part % d.parts;
    w.parts = min(min(end - part, d.parts - w.first_part), kMostSteps / d.per_part);
  }
  if (threadIdx.x < kMostSteps / 32) w.used[threadIdx.x] = 0;
  __syncthreads();
  const int most = w.parts * d.per_part;
  for (int i = warp_id(); i < most; i += kWarps) {
    const int tile = w.first_part + i / d.per_part + i % d.per_part * d.parts;
    if (tile < d.tiles && is_used(p, w.member, tile) && lane_id() == 0)
      atomicOr(w.used + i / 32, 1u << i % 32);
  }
  __syncthreads();
  if (warp_id() == 0) {
    int count = 0;
    for (int i = lane_id(); i - lane_id() < most; i += kWarp) {
      const uint32_t bits = w.used[i / 32];
      const int place = count + __popc(bits & ((1u << lane_id()) - 1));
      if ((bits >> lane_id() & 1) != 0)
        w.steps[place] =
            static_cast<uint32_t>(w.first_part + i / d.per_part + i % d.per_part * d.parts) |
            static_cast<uint32_t>(i / d.per_part) << 16;
      count += __popc(bits);
    }
    if (lane_id() < 4) w.steps[count + lane_id()] = Walk::kEnd;
  }
  __syncthreads();
}

/// Zeros in the rows of dx whose tiles are not visited. All threads take part.
__device__ __forceinline__ void clear_unused(const RowGradients& p, const Division& d,
                                             const Walk& w, float* dx) {
  for (int i = 0; i < w.parts * d.per_part; ++i) {
    const int tile = w.first_part + i / d.per_part + i % d.per_part * d.parts;
    if ((w.used[i / 32] >> i % 32 & 1) != 0 || tile >= d.tiles) continue;
    const int64_t first = int64_t{tile} * kRows;
    const int floats = static_cast<int>(min(int64_t{kRows}, p.rows - first)) * p.k;
    for (int c = 4 * static_cast<int>(threadIdx.x); c < floats; c += 4 * kThreads)
      *reinterpret_cast<float4*>(dx + first * p.k + c) = make_float4(0, 0, 0, 0);
  }
}

/// f.operator()<i>() for i = 0 .. kCount - 1.
template <int kCount, class F>
__device__ __forceinline__ void each(F&& f) {
  [&]<int... i>(std::integer_sequence<int, i...>) { (f.template operator()<i>(), ...); }
  (std::make_integer_sequence<int, kCount>());
}

/// A thread's share of a tile on its way from memory to operands. A warp has whole rows of dy, 64 columns a load; of x kLanes
/// neighbouring lanes have a row.
template <class V, bool kNorm>
struct Share {
  using At = typename V::At;
  static constexpr int kDyRows = kRows / kWarps, kBlocks = At::kBlocks;
  static constexpr int kLanes = V::kK / 4, kXLoads = kRows * kLanes / kThreads,
                       kXRows = kRows / kXLoads;
  float2 dy[kDyRows][kBlocks];
  float4 x[kXLoads];

  __device__ __forceinline__ static int x_row(int i) {
    return i * kXRows + static_cast<int>(threadIdx.x) / kLanes;
  }
  __device__ __forceinline__ static int x_column() {
    return static_cast<int>(threadIdx.x) % kLanes * 4;
  }
  __device__ __forceinline__ static int dy_row(int r) { return r * kWarps + warp_id(); }

  /// Asks for the tile that begins at row `first`: zeros for x behind the last row, and for dy behind the last column.
  __device__ __forceinline__ void load(const RowGradients& p, const float* dy_all,
                                       const float* x_all, int first) {
    const int last = static_cast<int>(p.rows) - 1;
#pragma unroll
    for (int i = 0; i < kXLoads; ++i) {
      const int row = first + x_row(i);
      x[i] = row > last ? make_float4(0, 0, 0, 0)
                        : __ldg(reinterpret_cast<const float4*>(
                              x_all + static_cast<int64_t>(row) * V::kK + x_column()));
    }
    const int left = p.n - 2 * lane_id();
    each<kDyRows>([&]<int r>() {
      const float* const from =
          dy_all + static_cast<int64_t>(min(first + dy_row(r), last)) * p.n + 2 * lane_id();
      each<kBlocks>([&]<int b>() {
        asm volatile(
            "{\n.reg .pred in;\nsetp.gt.s32 in, %3, %4;\nmov.f32 %0, 0f00000000;\n"
            "mov.f32 %1, 0f00000000;\n@in ld.global.nc.v2.f32 {%0, %1}, [%2 + %5];\n}\n"
            : "=&f"(dy[r][b].x), "=&f"(dy[r][b].y)
            : "l"(from), "r"(left), "n"(64 * b), "n"(256 * b));
      });
    });
  }

  /// Asks for the tile that begins at row `first` into the L2 cache. One thread.
  __device__ __forceinline__ static void expect(const RowGradients& p, const float* dy_all,
                                                const float* x_all, int first) {
    const int rows = min(kRows, static_cast<int>(p.rows) - first);
    prefetch(dy_all + static_cast<int64_t>(first) * p.n, rows * p.n);
    prefetch(x_all + static_cast<int64_t>(first) * V::kK, rows * V::kK);
  }

  /// Stores the operands, of x with a norm its rows normed: `scale` is the norm's weight at the thread's columns.
  __device__ __forceinline__ void store(uint32_t dy_to, uint32_t x_to, const float4& scale,
                                        float eps) const {
#pragma unroll
    for (int i = 0; i < kXLoads; ++i) {
      float4 v = x[i];
      const int row = x_row(i), column = x_column();
      if constexpr (kNorm) {
        const float inv = inverse_rms<kLanes>(v, eps);
        v.x = v.x * inv * scale.x, v.y = v.y * inv * scale.y;
        v.z = v.z * inv * scale.z, v.w = v.w * inv * scale.w;
      }
      const PackedPair<true> low(v.x, v.y), high(v.z, v.w);
      const uint32_t to =
          x_to + column / 8 * At::kXStride + row / 8 * kCoreBytes + row % 8 * 16 + column % 8 * 2;
      store_words(to, low.hi, high.hi);
      store_words(to + At::kXPlane, low.lo, high.lo);
    }
    // All numbers first, then all stores: one by one, each waits until the store before has read its registers.
    uint32_t hi[kDyRows][kBlocks], lo[kDyRows][kBlocks];
#pragma unroll
    for (int i = 0; i < kDyRows * kBlocks; ++i) {
      const float2 v = dy[i / kBlocks][i % kBlocks];
      const PackedPair<true> pair(v.x, v.y);
      hi[i / kBlocks][i % kBlocks] = pair.hi, lo[i / kBlocks][i % kBlocks] = pair.lo;
    }
#pragma unroll
    for (int i = 0; i < kDyRows * kBlocks; ++i)
      asm volatile("" : "+r"(hi[i / kBlocks][i % kBlocks]), "+r"(lo[i / kBlocks][i % kBlocks]));
    const int unit = lane_id() / 4, in_unit = lane_id() % 4 * 4;
#pragma unroll
    for (int r = 0; r < kDyRows; ++r) {
      const int row = dy_row(r);
      const uint32_t full =
          dy_to + row * 128 + swizzled_unit<Pattern::kRows128>(row, unit) * 16 + in_unit;
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        if (b < At::kFull) {
          store_word(full + b * At::kBlock, hi[r][b]);
          store_word(full + b * At::kBlock + At::kDyPlane, lo[r][b]);
        } else if (unit < 4) {
          const uint32_t half = dy_to + b * At::kBlock + row * 64 +
                                swizzled_unit<Pattern::kRows64>(row, unit) * 16 + in_unit;
          store_word(half, hi[r][b]);
          store_word(half + At::kDyPlane, lo[r][b]);
        }
      }
    }
  }
};

}  // namespace statelab::cuda::gradients
