// Products of one warp: 16 rows by 8 * nt columns, operands read through functions, fp32 accumulators in the layout of
// mma.m16n8. The three precisions differ in how a step of the sum is computed and in nothing else, so everything that is
// done with accumulators is written once.
//
// Lane l = 4 g + t holds, for column block n, acc[n] = {(g, 8n + 2t), (g, 8n + 2t + 1), (g + 8, 8n + 2t), (g + 8, 8n + 2t + 1)}:
// neighbouring columns in one lane are the pairs that a rotary embedding turns.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/call.h"

namespace statelab::cuda {

constexpr int kWarp = 32;

__device__ __forceinline__ int lane_id() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warp_id() { return static_cast<int>(threadIdx.x) / kWarp; }

__device__ __forceinline__ uint32_t to_tf32(float x) {
  uint32_t out;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(out) : "f"(x));
  return out;
}

__device__ __forceinline__ uint32_t to_bf16x2(float low, float high) {
  uint32_t out;  // the first source goes to the upper half
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}

__device__ __forceinline__ void mma_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// What an operand in shared memory is stored as, so that its reader need not convert it: rounded to tf32, else as it is.
template <Precision kPrecision>
__device__ __forceinline__ float stored_operand(float x) {
  return kPrecision == Precision::kTf32 ? __uint_as_float(to_tf32(x)) : x;
}

/// Which operands of a product went through stored_operand() already.
enum class Stored { kNone, kA, kB, kBoth };

/// acc += sum over k in [k_begin, k_end) of a(row, k) b(k, column), row < 16, column < 8 nt, nt <= kNt. k_begin and k_end are
/// multiples of 16. All lanes of the warp take part. kExact: nt is kNt, which leaves no branch between the loads.
template <Precision kPrecision, Stored kStored, bool kExact, int kNt, class A, class B>
__device__ __forceinline__ void warp_product(float (&acc)[kNt][4], int nt, int k_begin, int k_end,
                                             A&& a, B&& b) {
  constexpr bool kStoredA = kStored == Stored::kA || kStored == Stored::kBoth,
                 kStoredB = kStored == Stored::kB || kStored == Stored::kBoth;
  auto of_a = [](float x) { return kStoredA ? __float_as_uint(x) : to_tf32(x); };
  auto of_b = [](float x) { return kStoredB ? __float_as_uint(x) : to_tf32(x); };
  const int g = lane_id() / 4, t = lane_id() % 4;
  if constexpr (kPrecision == Precision::kFp32) {
#pragma unroll 2
    for (int k = k_begin; k < k_end; ++k) {
      const float low = a(g, k), high = a(g + 8, k);
#pragma unroll
      for (int n = 0; n < kNt; ++n) {
        if (kExact || n < nt) {
          const float left = b(k, n * 8 + 2 * t), right = b(k, n * 8 + 2 * t + 1);
          acc[n][0] = fmaf(low, left, acc[n][0]);
          acc[n][1] = fmaf(low, right, acc[n][1]);
          acc[n][2] = fmaf(high, left, acc[n][2]);
          acc[n][3] = fmaf(high, right, acc[n][3]);
        }
      }
    }
  } else if constexpr (kPrecision == Precision::kTf32) {
#pragma unroll 2
    for (int k = k_begin; k < k_end; k += 8) {
      const uint32_t left[4] = {of_a(a(g, k + t)), of_a(a(g + 8, k + t)), of_a(a(g, k + t + 4)),
                                of_a(a(g + 8, k + t + 4))};
      uint32_t right[kNt][2];
#pragma unroll
      for (int n = 0; n < kNt; ++n) {
        if (kExact || n < nt) {
          right[n][0] = of_b(b(k + t, n * 8 + g)), right[n][1] = of_b(b(k + t + 4, n * 8 + g));
          if (!kExact) mma_tf32(acc[n], left, right[n][0], right[n][1]);
        }
      }
      if constexpr (kExact) {
#pragma unroll
        for (int n = 0; n < kNt; ++n) mma_tf32(acc[n], left, right[n][0], right[n][1]);
      }
    }
  } else {
#pragma unroll 1
    for (int k = k_begin; k < k_end; k += 16) {
      const int k0 = k + 2 * t, k1 = k + 2 * t + 8;
      const uint32_t left[4] = {
          to_bf16x2(a(g, k0), a(g, k0 + 1)), to_bf16x2(a(g + 8, k0), a(g + 8, k0 + 1)),
          to_bf16x2(a(g, k1), a(g, k1 + 1)), to_bf16x2(a(g + 8, k1), a(g + 8, k1 + 1))};
#pragma unroll
      for (int n = 0; n < kNt; ++n) {
        if (kExact || n < nt) {
          const int c = n * 8 + g;
          mma_bf16(acc[n], left, to_bf16x2(b(k0, c), b(k0 + 1, c)),
                   to_bf16x2(b(k1, c), b(k1 + 1, c)));
        }
      }
    }
  }
}

/// Sums over the warp in a fixed order; every lane gets the result.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int d = 16; d >= 1; d /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, d);
  return x;
}

/// Sum over the four lanes that share a row of the accumulator layout.
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(0xFFFFFFFFu, x, 1);
  return x + __shfl_xor_sync(0xFFFFFFFFu, x, 2);
}

/// Sum over the eight lanes that share a column of the accumulator layout.
__device__ __forceinline__ float column_sum(float x) {
  x += __shfl_xor_sync(0xFFFFFFFFu, x, 4);
  x += __shfl_xor_sync(0xFFFFFFFFu, x, 8);
  return x + __shfl_xor_sync(0xFFFFFFFFu, x, 16);
}

}  // namespace statelab::cuda
