// Tiles of the delta rule's kernels in shared memory, and products of one warp over them.
//
// A tile's rows are a multiple of 32 floats apart and a row's columns are permuted within groups of 32 by its number, so that the
// lanes of a product meet different banks whether the sum runs along a row or down a column.
#pragma once

#include "kernels/cuda/product.cuh"

namespace statelab::cuda {

/// kPitch: floats from row to row, 0: known at run time.
template <int kPitch>
struct Tile {
  float* data;
  int run_time_pitch;
  __device__ __forceinline__ int pitch() const { return kPitch > 0 ? kPitch : run_time_pitch; }
  __device__ __forceinline__ static int permutation(int row) { return (row & 3) * 8 + (row & 4); }
  __device__ __forceinline__ float& operator()(int row, int column) const {
    return data[row * pitch() + (column ^ permutation(row))];
  }
  /// Columns column, column + 1; column is even.
  __device__ __forceinline__ float2& pair(int row, int column) const {
    return *reinterpret_cast<float2*>(&(*this)(row, column));
  }
};

/// Where the sum of a product runs in a tile: along its rows or down its columns.
enum class Sum { kAlongRow, kDownColumn };

/// An operand as it lies in shared memory: kRounded, through stored_operand() already.
template <Sum kSum, bool kRounded, int kPitch>
struct OperandTile {
  Tile<kPitch> tile;
  int first;  ///< row of the result's first row, or column of its first column
};
template <Sum kSum, bool kRounded = true, int kPitch>
__device__ __forceinline__ OperandTile<kSum, kRounded, kPitch> operand(Tile<kPitch> tile,
                                                                       int first) {
  return {tile, first};
}

/// acc += sum over k in [k_begin, k_end) of a(row, k) scale(k) b(k, column): 16 rows by 8 kNt columns, accumulators as in
/// product.cuh. k_begin and k_end are multiples of 16; scale == nullptr where not kScaled. All lanes of the warp take part.
template <Precision kPrecision, bool kScaled, Sum kSumA, bool kRoundedA, int kPitchA, Sum kSumB,
          bool kRoundedB, int kPitchB, int kNt>
__device__ __forceinline__ void tile_product(float (&acc)[kNt][4],
                                             OperandTile<kSumA, kRoundedA, kPitchA> a,
                                             OperandTile<kSumB, kRoundedB, kPitchB> b, int k_begin,
                                             int k_end, const float* scale) {
  const int g = lane_id() / 4, t = lane_id() % 4;
  auto factor = [&](float x, int k) { return kScaled ? x * scale[k] : x; };
  auto of_a = [&](int row, int k) {
    const int r = a.first + row;
    return factor(kSumA == Sum::kAlongRow ? a.tile(r, k) : a.tile(k, r), k);
  };
  auto of_b = [&](int k, int column) {
    const int c = b.first + column;
    return kSumB == Sum::kAlongRow ? b.tile(c, k) : b.tile(k, c);
  };
  if constexpr (kPrecision == Precision::kFp32) {
#pragma unroll 4
    for (int k = k_begin; k < k_end; ++k) {
      const float low = of_a(g, k), high = of_a(g + 8, k);
#pragma unroll
      for (int n = 0; n < kNt; ++n) {
        const float left = of_b(k, n * 8 + 2 * t), right = of_b(k, n * 8 + 2 * t + 1);
        acc[n][0] = fmaf(low, left, acc[n][0]);
        acc[n][1] = fmaf(low, right, acc[n][1]);
        acc[n][2] = fmaf(high, left, acc[n][2]);
        acc[n][3] = fmaf(high, right, acc[n][3]);
      }
    }
  } else if constexpr (kPrecision == Precision::kTf32) {
    auto bits_a = [](float x) { return kRoundedA && !kScaled ? __float_as_uint(x) : to_tf32(x); };
    auto bits_b = [](float x) { return kRoundedB ? __float_as_uint(x) : to_tf32(x); };
    // Rows k + t and k + t + 4 are permuted by p and p ^ 4, rows a multiple of 8 apart alike.
    const int pitch_a = a.tile.pitch(), pitch_b = b.tile.pitch();
    const int p_g = Tile<0>::permutation(g), p_t = Tile<0>::permutation(t);
    const float* row_a =
        a.tile.data + (kSumA == Sum::kAlongRow ? (a.first + g) * pitch_a : t * pitch_a);
    const float* row_b =
        b.tile.data + (kSumB == Sum::kAlongRow ? (b.first + g) * pitch_b : t * pitch_b);
    const int column_a = (a.first + g) ^ p_t, column_b = (b.first + g) ^ p_t;
#pragma unroll 4
    for (int k = k_begin; k < k_end; k += 8) {
      const int along = (k + t) ^ p_g;
      float left[4], right[kNt][2];
      if constexpr (kSumA == Sum::kAlongRow) {
        left[0] = row_a[along], left[1] = row_a[8 * pitch_a + along];
        left[2] = row_a[along ^ 4], left[3] = row_a[8 * pitch_a + (along ^ 4)];
      } else {
        left[0] = row_a[k * pitch_a + column_a], left[1] = row_a[k * pitch_a + (column_a ^ 8)];
        left[2] = row_a[(k + 4) * pitch_a + (column_a ^ 4)];
        left[3] = row_a[(k + 4) * pitch_a + (column_a ^ 12)];
      }
      if constexpr (kScaled) {
        const float near = scale[k + t], far = scale[k + t + 4];
        left[0] *= near, left[1] *= near, left[2] *= far, left[3] *= far;
      }
#pragma unroll
      for (int n = 0; n < kNt; ++n) {
        if constexpr (kSumB == Sum::kAlongRow) {
          right[n][0] = row_b[n * 8 * pitch_b + along];
          right[n][1] = row_b[n * 8 * pitch_b + (along ^ 4)];
        } else {
          right[n][0] = row_b[k * pitch_b + (column_b ^ (n * 8))];
          right[n][1] = row_b[(k + 4) * pitch_b + (column_b ^ (n * 8 + 4))];
        }
      }
      const uint32_t bits[4] = {bits_a(left[0]), bits_a(left[1]), bits_a(left[2]), bits_a(left[3])};
#pragma unroll
      for (int n = 0; n < kNt; ++n)
        mma_tf32(acc[n], bits, bits_b(right[n][0]), bits_b(right[n][1]));
    }
  } else {
    auto pair_a = [&](int row, int k) {
      if constexpr (kSumA == Sum::kAlongRow) {
        const float2 x = a.tile.pair(a.first + row, k);
        return to_bf16x2(factor(x.x, k), factor(x.y, k + 1));
      } else {
        return to_bf16x2(of_a(row, k), of_a(row, k + 1));
      }
    };
    auto pair_b = [&](int k, int column) {
      if constexpr (kSumB == Sum::kAlongRow) {
        const float2 x = b.tile.pair(b.first + column, k);
        return to_bf16x2(x.x, x.y);
      } else {
        return to_bf16x2(of_b(k, column), of_b(k + 1, column));
      }
    };
#pragma unroll 2
    for (int k = k_begin; k < k_end; k += 16) {
      const int k0 = k + 2 * t, k1 = k0 + 8;
      const uint32_t left[4] = {pair_a(g, k0), pair_a(g + 8, k0), pair_a(g, k1), pair_a(g + 8, k1)};
#pragma unroll
      for (int n = 0; n < kNt; ++n)
        mma_bf16(acc[n], left, pair_b(k0, n * 8 + g), pair_b(k1, n * 8 + g));
    }
  }
}

/// The same without scale.
template <Precision kPrecision, class A, class B, int kNt>
__device__ __forceinline__ void tile_product(float (&acc)[kNt][4], A a, B b, int k_begin,
                                             int k_end) {
  tile_product<kPrecision, false>(acc, a, b, k_begin, k_end, nullptr);
}

/// Calls each(n, high, row, column): acc[n][2 high], acc[n][2 high + 1] lie at columns column, column + 1 of the warp's tile.
template <int kNt, class Each>
__device__ __forceinline__ void each_pair(Each&& each) {
  const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
  for (int n = 0; n < kNt; ++n) {
#pragma unroll
    for (int high = 0; high < 2; ++high) each(n, high, g + 8 * high, n * 8 + 2 * t);
  }
}

template <int kNt>
__device__ __forceinline__ void scale_pair_rows(float (&acc)[kNt][4], float low, float high) {
#pragma unroll
  for (int n = 0; n < kNt; ++n)
    acc[n][0] *= low, acc[n][1] *= low, acc[n][2] *= high, acc[n][3] *= high;
}

/// sums[row0 + row] = the row sums of acc times the tile's elements there.
template <int kNt, int kPitch>
__device__ __forceinline__ void store_row_products(const float (&acc)[kNt][4], Tile<kPitch> tile,
                                                   int row0, int column0, float* sums) {
  float part[2] = {};
  each_pair<kNt>([&](int n, int high, int row, int column) {
    const float2 x = tile.pair(row0 + row, column0 + column);
    part[high] += acc[n][2 * high] * x.x + acc[n][2 * high + 1] * x.y;
  });
  part[0] = row_sum(part[0]), part[1] = row_sum(part[1]);
  if (lane_id() % 4 == 0)
    sums[row0 + lane_id() / 4] = part[0], sums[row0 + lane_id() / 4 + 8] = part[1];
}

}  // namespace statelab::cuda
