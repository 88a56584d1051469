// Products of bf16 tiles in shared memory: m16n8k16 with fp32 accumulators, fragments brought by ldmatrix.
//
// A number is one bf16, or (kSplit) the sum of two: hi = bf16(x), lo = bf16(x - hi), 16 bits of mantissa in all. A split product
// takes three mma, lo hi + hi lo + hi hi; what it drops is 2^-16 of each term, close to fp32.
//
// A tile has its rows one after another; the 16-byte pieces of a row are exchanged by the row's number, so that the 8 rows of
// an ldmatrix, and the 8 x 4 lanes of a store in the accumulators' layout, hit different banks without padding.
//
// Accumulators, lane 4 g + t, column block n: {(g, 8n + 2t), (g, 8n + 2t + 1), (g + 8, 8n + 2t), (g + 8, 8n + 2t + 1)}.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

namespace statelab::cuda {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

/// Four 8 x 8 matrices of bf16, each transposed or not; lane l gives the address of row l % 8 of matrix l / 8, kOffset bytes on.
template <bool kTransposed, int kOffset>
__device__ __forceinline__ void ldmatrix_at(uint32_t (&r)[4], uint32_t address) {
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4+%5];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address), "n"(kOffset)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4+%5];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address), "n"(kOffset)
                 : "memory");
  }
}

__device__ __forceinline__ void ldmatrix(uint32_t (&r)[4], uint32_t address) {
  ldmatrix_at<false, 0>(r, address);
}
__device__ __forceinline__ void ldmatrix_transposed(uint32_t (&r)[4], uint32_t address) {
  ldmatrix_at<true, 0>(r, address);
}

/// Hides where a value comes from, so that what a loop derives from it is computed there instead of before it, in registers that
/// the loop lacks.
__device__ __forceinline__ void opaque(uint32_t& x) { asm volatile("" : "+r"(x)); }
template <class T>
__device__ __forceinline__ void opaque(T*& x) {
  asm volatile("" : "+l"(x));
}
/// `bytes` past `from`: two instructions, where the compiler does not know what `from` is a sum of.
template <class T>
__device__ __forceinline__ T* bytes_past(T* from, uint32_t bytes) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return reinterpret_cast<T*>(reinterpret_cast<Byte*>(from) + bytes);
}

__device__ __forceinline__ void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// kBytes (4, 8 or 16) from global into shared memory, both addresses multiples of it.
template <int kBytes = 16>
__device__ __forceinline__ void copy_async(uint32_t to, const void* from) {
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(kBytes)
                 : "memory");
  }
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
__device__ __forceinline__ void wait_all_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}
/// Until at most kPending groups of this thread's copies are under way. Copies without a commit_copies() after them belong to no
/// group and are not waited for: wait_all_copies() is.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

/// Two neighbouring numbers, each one bf16 or a split pair; the first in the lower halves.
template <bool kSplit>
struct PackedPair {
  uint32_t hi;
  uint32_t lo;  // kSplit only

  __device__ __forceinline__ PackedPair(float first, float second) : lo(0) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(hi) : "f"(second), "f"(first));
    if constexpr (kSplit) {
      const float rest0 = first - __uint_as_float(hi << 16),
                  rest1 = second - __uint_as_float(hi & 0xFFFF0000u);
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(lo) : "f"(rest1), "f"(rest0));
    }
  }
};

/// A operand of one step of 16: 16 rows x 16.
template <bool kSplit>
struct Fragment {
  uint32_t hi[4];
  uint32_t lo[4];  // kSplit only

  /// Register r of {(g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8)} and the columns after them.
  __device__ __forceinline__ void set(int r, float first, float second) {
    const PackedPair<kSplit> pair(first, second);
    hi[r] = pair.hi;
    if constexpr (kSplit) lo[r] = pair.lo;
  }
  /// From the accumulators of 16 columns.
  __device__ __forceinline__ void set(const float (&left)[4], const float (&right)[4]) {
    set(0, left[0], left[1]), set(1, left[2], left[3]);
    set(2, right[0], right[1]), set(3, right[2], right[3]);
  }
  /// f(first, second, column) for each register's two numbers, in place; `column` of the first: 2t or 2t + 8.
  template <class F>
  __device__ __forceinline__ void change(F&& f) {
    const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      float first = __uint_as_float(hi[r] << 16), second = __uint_as_float(hi[r] & 0xFFFF0000u);
      if constexpr (kSplit) {
        first += __uint_as_float(lo[r] << 16), second += __uint_as_float(lo[r] & 0xFFFF0000u);
      }
      f(first, second, 2 * t + r / 2 * 8);
      set(r, first, second);
    }
  }
};

/// kRows x kColumns in shared memory, kColumns a power of two from 16 on. With kSplit the lo parts follow the hi parts of all rows
/// or, kBeside, of each row; a row kBeside takes as many bytes as its floats.
/// An address is (something of the row) ^ (2 * column): one instruction from element to element of a row.
template <bool kSplit, int kRows, int kColumns, bool kBeside = false>
struct Tile {
  static constexpr int kPitch = kColumns * (kBeside ? 4 : 2);             ///< bytes
  static constexpr int kPlane = kBeside ? kColumns * 2 : kRows * kPitch;  ///< bytes from hi to lo
  static constexpr int kBytes = kRows * kColumns * (kBeside || kSplit ? 4 : 2);
  uint32_t base;  ///< shared address, a multiple of 128, of 256 with kBeside

  /// Bytes; of column 0.
  __device__ __forceinline__ static uint32_t row_offset(int row) {
    const int exchange = kColumns >= 64   ? row & 7
                         : kColumns == 32 ? (row >> 1) & 3
                                          : (row >> 2) & 1;
    return static_cast<uint32_t>(row * kPitch + (exchange << 4));
  }
  /// Shared address; `column` even.
  __device__ __forceinline__ uint32_t at(int row, int column) const {
    return (base + row_offset(row)) ^ static_cast<uint32_t>(2 * column);
  }
  /// Of an element that at() has given, or at() ^ (2 * columns further) where no bit of the two columns is in both.
  __device__ __forceinline__ static void store_at(uint32_t to, float first, float second) {
    const PackedPair<kSplit> pair(first, second);
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(pair.hi) : "memory");
    if constexpr (kSplit)
      asm volatile("st.shared.b32 [%0+%2], %1;" ::"r"(to), "r"(pair.lo), "n"(kPlane) : "memory");
  }
  __device__ __forceinline__ static float2 load_at(uint32_t from) {
    uint32_t hi;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(hi) : "r"(from) : "memory");
    float2 out = make_float2(__uint_as_float(hi << 16), __uint_as_float(hi & 0xFFFF0000u));
    if constexpr (kSplit) {
      uint32_t lo;
      asm volatile("ld.shared.b32 %0, [%1+%2];" : "=r"(lo) : "r"(from), "n"(kPlane) : "memory");
      out.x += __uint_as_float(lo << 16), out.y += __uint_as_float(lo & 0xFFFF0000u);
    }
    return out;
  }

  /// A(r, k) = tile(row0 + r, k0 + k); row0 and k0 multiples of 16, here and below.
  __device__ __forceinline__ Fragment<kSplit> fragment(int row0, int k0) const {
    return load_matrices<false>(across(row0, k0));
  }
  /// A(r, k) = tile(k0 + k, row0 + r).
  __device__ __forceinline__ Fragment<kSplit> fragment_transposed(int row0, int k0) const {
    return load_matrices<true>(down(k0, row0));
  }
  /// B(k, c) = tile(k0 + k, column0 + c), c < 16: {b0, b1} of columns 0..7, then of 8..15.
  __device__ __forceinline__ Fragment<kSplit> right(int k0, int column0) const {
    return load_matrices<true>(across(k0, column0));
  }
  /// B(k, c) = tile(column0 + c, k0 + k), c < 16.
  __device__ __forceinline__ Fragment<kSplit> right_transposed(int k0, int column0) const {
    return load_matrices<false>(down(column0, k0));
  }

 private:
  /// This lane's row of four matrices: (0, 0), (8, 0), (0, 8), (8, 8) from (row0, column0) on.
  __device__ __forceinline__ uint32_t across(int row0, int column0) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const uint32_t own = row_offset(lane % 16) ^ static_cast<uint32_t>(lane / 16 * 16);
    return (base + static_cast<uint32_t>(row0 * kPitch) + own) ^ static_cast<uint32_t>(2 * column0);
  }
  /// (0, 0), (0, 8), (8, 0), (8, 8).
  __device__ __forceinline__ uint32_t down(int row0, int column0) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const uint32_t own =
        row_offset(lane / 16 * 8 + lane % 8) ^ static_cast<uint32_t>(lane / 8 % 2 * 16);
    return (base + static_cast<uint32_t>(row0 * kPitch) + own) ^ static_cast<uint32_t>(2 * column0);
  }
  template <bool kTransposed>
  __device__ __forceinline__ static Fragment<kSplit> load_matrices(uint32_t from) {
    Fragment<kSplit> out;
    ldmatrix_at<kTransposed, 0>(out.hi, from);
    if constexpr (kSplit) ldmatrix_at<kTransposed, kPlane>(out.lo, from);
    return out;
  }
};

/// Two column blocks of accumulators += a b, b as Tile::right() gives it.
template <bool kSplit>
__device__ __forceinline__ void mma_step(float (&left)[4], float (&right)[4],
                                         const Fragment<kSplit>& a, const Fragment<kSplit>& b) {
  if constexpr (kSplit) {
    mma_m16n8k16(left, a.lo, b.hi[0], b.hi[1]);
    mma_m16n8k16(right, a.lo, b.hi[2], b.hi[3]);
    mma_m16n8k16(left, a.hi, b.lo[0], b.lo[1]);
    mma_m16n8k16(right, a.hi, b.lo[2], b.lo[3]);
  }
  mma_m16n8k16(left, a.hi, b.hi[0], b.hi[1]);
  mma_m16n8k16(right, a.hi, b.hi[2], b.hi[3]);
}

/// acc (16 x 8 kNt) += a B, B(k, c) = tile(k0 + k, column0 + c): one step of 16.
template <bool kSplit, int kRows, int kColumns, bool kBeside, int kNt>
__device__ __forceinline__ void mma_rows(float (&acc)[kNt][4], const Fragment<kSplit>& a,
                                         const Tile<kSplit, kRows, kColumns, kBeside>& tile, int k0,
                                         int column0 = 0) {
#pragma unroll
  for (int n = 0; n < kNt; n += 2)
    mma_step<kSplit>(acc[n], acc[n + 1], a, tile.right(k0, column0 + n * 8));
}
/// acc (16 x 8 kNt) += a B, B(k, c) = tile(column0 + c, k0 + k): one step of 16.
template <bool kSplit, int kRows, int kColumns, bool kBeside, int kNt>
__device__ __forceinline__ void mma_columns(float (&acc)[kNt][4], const Fragment<kSplit>& a,
                                            const Tile<kSplit, kRows, kColumns, kBeside>& tile,
                                            int k0, int column0 = 0) {
#pragma unroll
  for (int n = 0; n < kNt; n += 2)
    mma_step<kSplit>(acc[n], acc[n + 1], a, tile.right_transposed(k0, column0 + n * 8));
}

}  // namespace statelab::cuda
