// Whole rows of a dense matrix on their way into shared memory as bf16, in tf32 split into two (mma.cuh). Rows that follow one
// another are one run of floats: a block copies 16 bytes a thread whatever the width, asynchronously, and each thread then
// splits the numbers that it copied itself, so that no barrier stands between. Held in registers instead, the numbers on their
// way were spilled, and every tile waited for its own loads.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/product.cuh"

namespace statelab::cuda {

/// Elements from one row of a tile to the next: an odd number of 16-byte units, so that eight rows hit all banks.
__host__ __device__ constexpr int tile_pitch(int columns) { return (columns + 15) / 16 * 16 + 8; }

/// Needs an even number of columns, at most 4 kChunks floats a thread, a tile that starts at a multiple of 16 bytes and has fewer
/// than 2^16 elements with its pitch, and `slots` times rows * columns floats of shared memory.
template <int kChunks>
class RowTile {
 public:
  __device__ __forceinline__ RowTile(int rows, int columns, int pitch, float* slots)
      : chunks_(rows * columns / 4), whole_(columns % 4 == 0), slots_(shared_address(slots)) {
#pragma unroll
    for (int j = 0; j < kChunks; ++j) {
      const int first = 4 * chunk(j), row = first / columns, column = first - row * columns;
      const int at = row * pitch + column;
      const int next = column + 2 < columns ? at + 2 : (row + 1) * pitch + column + 2 - columns;
      place_[j] = static_cast<uint32_t>(at) | static_cast<uint32_t>(next) << 16;
    }
  }

  /// Starts the copies into a slot; `left` floats exist from `from` on, zeros follow.
  __device__ __forceinline__ void start(int slot, const float* from, int64_t left) {
    const uint32_t to = slots_ + 16 * (slot * chunks_ + chunk(0));
    from += 4 * chunk(0);
    if (left >= int64_t{4} * chunks_) {
#pragma unroll
      for (int j = 0; j < kChunks; ++j) {
        if (chunk(j) < chunks_) copy_async(to + 16 * j * threads(), from + 4 * j * threads());
      }
      return;
    }
#pragma unroll 1
    for (int j = 0; j < kChunks; ++j) {
      if (chunk(j) >= chunks_) break;
      const int64_t here = left - 4 * chunk(j);
      const int bytes = here >= 4 ? 16 : here > 0 ? 4 * static_cast<int>(here) : 0;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + 16 * j * threads()),
                   "l"(bytes > 0 ? from + 4 * j * threads() : from - 4 * chunk(0)), "r"(bytes)
                   : "memory");
    }
  }

  /// After the thread's copies into the slot have come. `to` is a shared address; lo parts go `plane` elements behind hi parts.
  template <bool kSplit>
  __device__ __forceinline__ void split(int slot, uint32_t to, int plane) const {
    const uint32_t from = slots_ + 16 * (slot * chunks_ + chunk(0));
    if (whole_) {
#pragma unroll
      for (int j = 0; j < kChunks; ++j) {
        if (chunk(j) >= chunks_) continue;
        const Halves<kSplit> held(from + 16 * j * threads());
        const uint32_t at = to + (place_[j] & 0xFFFF) * 2;
        store_pairs(at, held.low.hi, held.high.hi);
        if constexpr (kSplit) store_pairs(at + 2 * plane, held.low.lo, held.high.lo);
      }
    } else {
#pragma unroll
      for (int j = 0; j < kChunks; ++j) {
        if (chunk(j) >= chunks_) continue;
        const Halves<kSplit> held(from + 16 * j * threads());
        const uint32_t at = to + (place_[j] & 0xFFFF) * 2, next = to + (place_[j] >> 16) * 2;
        store_pair(at, held.low.hi);
        store_pair(next, held.high.hi);
        if constexpr (kSplit) {
          store_pair(at + 2 * plane, held.low.lo);
          store_pair(next + 2 * plane, held.high.lo);
        }
      }
    }
  }

 private:
  /// Four floats of shared memory, in two pairs.
  template <bool kSplit>
  struct Halves {
    PackedPair<kSplit> low, high;
    __device__ __forceinline__ explicit Halves(float4 v) : low(v.x, v.y), high(v.z, v.w) {}
    __device__ __forceinline__ explicit Halves(uint32_t address) : Halves(loaded(address)) {}
    __device__ __forceinline__ static float4 loaded(uint32_t address) {
      float4 v;
      asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];"
                   : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                   : "r"(address)
                   : "memory");
      return v;
    }
  };
  static __device__ __forceinline__ void store_pair(uint32_t to, uint32_t pair) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(pair) : "memory");
  }
  static __device__ __forceinline__ void store_pairs(uint32_t to, uint32_t low, uint32_t high) {
    asm volatile("st.shared.v2.b32 [%0], {%1,%2};" ::"r"(to), "r"(low), "r"(high) : "memory");
  }
  static __device__ __forceinline__ int threads() { return static_cast<int>(blockDim.x); }
  static __device__ __forceinline__ int chunk(int j) {
    return static_cast<int>(threadIdx.x) + j * threads();
  }
  int chunks_;
  bool whole_;
  uint32_t slots_;  // shared address
  uint32_t place_[kChunks];
};

/// Zeros in the columns from `first` on, an even number: pad columns are multiplied too. All threads take part.
__device__ __forceinline__ void clear_columns(__nv_bfloat16* tile, int rows, int pitch, int first) {
  const int pairs = (pitch - first) / 2;
  for (int i = static_cast<int>(threadIdx.x); i < rows * pairs; i += static_cast<int>(blockDim.x))
    *reinterpret_cast<uint32_t*>(tile + i / pairs * pitch + first + i % pairs * 2) = 0;
}

}  // namespace statelab::cuda
