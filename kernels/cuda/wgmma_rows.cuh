// What kernels share that multiply rows by warpgroups: a block of sixteen warps holds a weight in shared memory and walks over tiles
// of rows, which all warps split into operands while the products of the tile before run.
#pragma once

#include "kernels/cuda/product.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace statelab::cuda {

namespace warpgroups {

constexpr int kRows = 32;  // of a tile
constexpr int kWide = 64;  // columns of a block of rows
constexpr int kRoles = 4, kThreads = kRoles * kWarpgroup, kWarps = kThreads / kWarp;

__host__ __device__ constexpr int up(int a, int b) { return (a + b - 1) / b; }

__device__ __forceinline__ void store_word(uint32_t to, uint32_t word) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(word));
}
__device__ __forceinline__ void store_words(uint32_t to, uint32_t first, uint32_t second) {
  asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(to), "r"(first), "r"(second));
}

/// threadIdx.x, hidden from the compiler: it would compute all places that depend on it before a loop and keep them through it.
__device__ __forceinline__ int hidden_thread() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

/// W (n, kK) in blocks of 64 columns, rows of 128 bytes, hi and behind it lo, zeros from row n to kN. A lane has four columns. All
/// threads take part.
template <int kN, int kK>
__device__ __forceinline__ void hold_weight(const float* w, int n, uint32_t memory) {
  constexpr int kLanes = kK / 4, kTogether = kN * kLanes / kThreads, kPlane = kN * kK * 2;
  const int thread = hidden_thread();
  const int column = thread % kLanes * 4;
  float4 v[kTogether];
#pragma unroll
  for (int i = 0; i < kTogether; ++i) {
    const int row = (i * kThreads + thread) / kLanes;
    v[i] = row < n ? __ldg(reinterpret_cast<const float4*>(w + row * kK + column))
                   : make_float4(0, 0, 0, 0);
  }
#pragma unroll
  for (int i = 0; i < kTogether; ++i) {
    const int row = (i * kThreads + thread) / kLanes;
    const PackedPair<true> low(v[i].x, v[i].y), high(v[i].z, v[i].w);
    const uint32_t to = memory + column / kWide * (kN * 128) + row * 128 +
                        swizzled_unit<Pattern::kRows128>(row, column % kWide / 8) * 16 +
                        column % 8 * 2;
    store_words(to, low.hi, high.hi), store_words(to + kPlane, low.lo, high.lo);
  }
}

/// Of a row that kLanes neighbouring lanes have, each four columns; as rms_norm has it.
template <int kLanes>
__device__ __forceinline__ float inverse_rms(const float4& v, float eps) {
  float sum = 0;
  sum += v.x * v.x, sum += v.y * v.y, sum += v.z * v.z, sum += v.w * v.w;
  return 1.0f / sqrtf(lanes_sum<kLanes>(sum) / static_cast<float>(4 * kLanes) + eps);
}

/// Asks for floats that lie together into the L2 cache; the address is a multiple of 16. One thread.
__device__ __forceinline__ void prefetch(const float* from, int floats) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(floats / 4 * 16));
}

}  // namespace warpgroups
}  // namespace statelab::cuda
