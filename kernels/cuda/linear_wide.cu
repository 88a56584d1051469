// y = x W^T for layers of 64 columns that widen, see RowProduct; with a norm y = rms_norm(x) W^T.
//
//   A block holds W in shared memory and walks tiles of 32 rows. Products of a tile (wgmma, y transposed: 64 columns of y by 32 rows
//   to a group of warps, at most two such blocks each) run while the threads norm and split the next tile's rows, 16 lanes a
//   row. Results are gathered in shared memory and leave by a bulk copy, which the next tile's products overlap. One barrier a tile.
//   launch    grid: as many blocks as run at once; they share the tiles of all members evenly
//   traffic   x once, y once; W once a block and member
//   numerics  an element is one fp32 sum in the order of k; rows never meet, so neither rows nor blocks decide a bit
#include <algorithm>

#include "kernels/cuda/check.cuh"
#include "kernels/cuda/linear_stream.h"
#include "kernels/cuda/shared_memory.cuh"
#include "kernels/cuda/wgmma_rows.cuh"

namespace statelab::cuda {
namespace {

using namespace warpgroups;

constexpr int kN = 416, kNarrowest = 130;  // columns of y
constexpr int kLanes = kWide / 4;          // that share a row of x
constexpr int kBlocks = up(kN, kWide), kHeld = up(kBlocks, kRoles);
static_assert(kRows * kLanes == kThreads);

/// Bytes of shared memory from its start: W, two tiles of x, two of y.
constexpr int kWPlane = kN * kWide * 2, kXPlane = kRows * kWide * 2, kX = 2 * kWPlane,
              kOut = kX + 4 * kXPlane, kOutBytes = kRows * kN * 4, kBytes = kOut + 2 * kOutBytes;
// Blocks beyond W read what lies behind it, for rows of the result that nobody keeps.
static_assert(kHeld * kRoles * kWide * kWide * 2 - kWPlane <= 4 * kXPlane + 2 * kOutBytes);

/// A thread's four columns of a row of x.
template <bool kNorm>
struct Row {
  float4 x;

  __device__ __forceinline__ static int row() { return static_cast<int>(threadIdx.x) / kLanes; }
  __device__ __forceinline__ static int column() {
    return static_cast<int>(threadIdx.x) % kLanes * 4;
  }
  __device__ __forceinline__ void load(const RowProduct& p, const float* x_all, int64_t first) {
    const int64_t at = first + row();
    x = at < p.rows ? __ldg(reinterpret_cast<const float4*>(x_all + at * kWide + column()))
                    : make_float4(0, 0, 0, 0);
  }
  __device__ __forceinline__ void store(uint32_t to, const float4& scale, float eps) const {
    float4 v = x;
    if constexpr (kNorm) {
      const float inv = inverse_rms<kLanes>(v, eps);
      v.x = v.x * inv * scale.x, v.y = v.y * inv * scale.y;
      v.z = v.z * inv * scale.z, v.w = v.w * inv * scale.w;
    }
    const PackedPair<true> low(v.x, v.y), high(v.z, v.w);
    to +=
        row() * 128 + swizzled_unit<Pattern::kRows128>(row(), column() / 8) * 16 + column() % 8 * 2;
    store_words(to, low.hi, high.hi);
    store_words(to + kXPlane, low.lo, high.lo);
  }
};

template <bool kNorm>
__global__ void __launch_bounds__(kThreads, 1)
    wide_product(const __grid_constant__ RowProduct p, const int tiles, const int members) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) unsigned char shared[];
  const uint32_t memory = shared_address(shared);
  const int role = __shfl_sync(0xFFFFFFFFu, warp_id() / 4, 0);  // known to be the warp's
  const int64_t all = int64_t{tiles} * members, end = all * (blockIdx.x + 1) / gridDim.x;
  int64_t at = all * blockIdx.x / gridDim.x;
  int stage = 0;
  while (at < end) {
    const int64_t member = at / tiles;
    const int first = static_cast<int>(at - member * tiles),
              last = static_cast<int>(min(end - member * tiles, int64_t{tiles}));
    const float* const x = p.x + member * p.x_member;
    float* const y = p.y + member * p.y_member;
    auto expect = [&](int tile) {
      if (tile >= last || threadIdx.x != kThreads - 1) return;
      const int64_t row = int64_t{tile} * kRows;
      prefetch(x + row * kWide, static_cast<int>(min(int64_t{kRows}, p.rows - row)) * kWide);
    };
    float4 scale = make_float4(0, 0, 0, 0);
    if constexpr (kNorm)
      scale = __ldg(
          reinterpret_cast<const float4*>(p.norm + member * p.norm_member + Row<kNorm>::column()));
    Row<kNorm> row;
    row.load(p, x, int64_t{first} * kRows);
    expect(first + 1);
    __syncthreads();  // of the member before, all products are done
    hold_weight<kN, kWide>(p.weight + member * p.weight_member, p.n, memory);
    row.store(memory + kX + stage * 2 * kXPlane, scale, p.eps);
    fence_for_products();
    if (first + 1 < last) row.load(p, x, int64_t{first + 1} * kRows);
    expect(first + 2);
    __syncthreads();
    for (int tile = first; tile < last; ++tile, stage ^= 1) {
      float sums[kHeld][16] = {};
#pragma unroll
      for (int u = 0; u < kHeld; ++u) hold(sums[u]);
      begin_products();
      const Operand<Pattern::kRows128, 0, 1024> of_w(memory + role * (kWide * 128)),
          of_x(memory + kX + stage * 2 * kXPlane);
#pragma unroll
      for (int s = 0; s < kWide / 16; ++s) {
#pragma unroll
        for (int term = 0; term < 3; ++term) {
#pragma unroll
          for (int u = 0; u < kHeld; ++u)
            multiply_async<false, false>(
                sums[u], of_w.at(u * kRoles * kWide * 128 + s * 32 + (term == 0 ? kWPlane : 0)),
                of_x.at(s * 32 + (term == 1 ? kXPlane : 0)), s > 0 || term > 0);
        }
      }
      commit_products();
      if (tile + 1 < last) {
        row.store(memory + kX + (stage ^ 1) * 2 * kXPlane, scale, p.eps);
        fence_for_products();  // before the loads: it would wait for them
        if (tile + 2 < last) row.load(p, x, int64_t{tile + 2} * kRows);
        expect(tile + 3);
      }
      wait_products<0>();
#pragma unroll
      for (int u = 0; u < kHeld; ++u) hold(sums[u]);
      // Element i: row 8 (i / 4) + lane % 4 * 2 + i % 2, a column of each block.
      float* const out = reinterpret_cast<float*>(shared + kOut + stage * kOutBytes);
#pragma unroll
      for (int u = 0; u < kHeld; ++u) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int column =
              (u * kRoles + role) * kWide + warp_id() % 4 * 16 + lane_id() / 4 + 8 * h;
          if (column >= p.n) continue;
          float* const to = out + lane_id() % 4 * 2 * p.n + column;
#pragma unroll
          for (int i = 0; i < 8; ++i)
            to[(i / 2 * 8 + i % 2) * p.n] = sums[u][i / 2 * 4 + 2 * h + i % 2];
        }
      }
      fence_for_products();  // the bulk copy reads as the products do
      if (threadIdx.x == 0) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
      __syncthreads();
      if (threadIdx.x == 0) {
        const int64_t top = int64_t{tile} * kRows;
        const int floats = static_cast<int>(min(int64_t{kRows}, p.rows - top)) * p.n,
                  whole = floats / 4 * 4;
        float* const to = y + top * p.n;
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to),
                     "r"(shared_address(out)), "r"(4 * whole)
                     : "memory");
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
        if (whole < floats)
          *reinterpret_cast<float2*>(to + whole) = *reinterpret_cast<const float2*>(out + whole);
      }
    }
    at = member * tiles + last;
  }
  if (threadIdx.x == 0) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
#endif
}

template <bool kNorm>
void start(const RowProduct& p, int members, CUstream_st* stream) {
  const auto kernel = wide_product<kNorm>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        "cudaFuncSetAttribute");
  const auto tiles = static_cast<int>((p.rows + kRows - 1) / kRows);
  const auto blocks =
      static_cast<unsigned>(std::min<int64_t>(multiprocessors(), int64_t{tiles} * members));
  kernel<<<blocks, kThreads, kBytes, stream>>>(p, tiles, members);
  check_launch("linear");
}

}  // namespace

bool takes_wide_product(int n, int k) {
  return k == kWide && n % 2 == 0 && n >= kNarrowest && n <= kN && has_warpgroup_products() &&
         kBytes <= shared_bytes_per_block();
}

bool launch_wide_product(const RowProduct& p, int members, CUstream_st* stream) {
  if (!takes_wide_product(p.n, p.k) || p.addend != nullptr || p.weight_k != 1) return false;
  p.norm != nullptr ? start<true>(p, members, stream) : start<false>(p, members, stream);
  return true;
}

}  // namespace statelab::cuda
