// Tiles of the delta rule's kernels in shared memory, and products of one warp over them.
//
// A tile's rows are a multiple of 32 floats apart, and the eights of a row's columns are permuted within 32 by its number, so that
// the lanes of a product meet different banks whether the sum runs along a row (four elements a load) or down a column.
//
// The order of a sum's terms is free, so lane 4 g + t takes terms 4 t .. 4 t + 3 of each 16: those that lie together in a row.
#pragma once

#include "kernels/cuda/product.cuh"

namespace statelab::cuda {

/// To the 11 bits of tf32, in two instructions where cvt.rna takes four. Beyond 2^114 the answer is NaN.
__device__ __forceinline__ float round_tf32(float x) {
  return fmaf(x, -8192.0f, fmaf(x, 8192.0f, x));
}
/// What an operand in shared memory is stored as, so that its reader need not convert it.
template <Precision kPrecision>
__device__ __forceinline__ float rounded_operand(float x) {
  return kPrecision == Precision::kTf32 ? round_tf32(x) : x;
}

/// kPitch: floats from row to row, 0: known at run time.
template <int kPitch>
struct Tile {
  float* data;
  int run_time_pitch;
  __device__ __forceinline__ int pitch() const { return kPitch > 0 ? kPitch : run_time_pitch; }
  __device__ __forceinline__ static int permutation(int row) {
    return ((row >> 2 & 3) ^ (row & 1) << 1) * 8;
  }
  __device__ __forceinline__ float& operator()(int row, int column) const {
    return data[row * pitch() + (column ^ permutation(row))];
  }
  /// Columns column, column + 1; column is even.
  __device__ __forceinline__ float2& pair(int row, int column) const {
    return *reinterpret_cast<float2*>(&(*this)(row, column));
  }
  /// Columns column .. column + 3; column is a multiple of 4.
  __device__ __forceinline__ float4& quad(int row, int column) const {
    return *reinterpret_cast<float4*>(&(*this)(row, column));
  }
};

/// Where the sum of a product runs in a tile: along its rows or down its columns.
enum class Sum { kAlongRow, kDownColumn };

/// An operand as it lies in shared memory: kRounded, through rounded_operand() already.
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
  } else {
    // Rows a multiple of 16 apart are permuted alike, rows 8 apart by the same but 16.
    const int pitch_a = a.tile.pitch(), pitch_b = b.tile.pitch();
    const int p_g = Tile<0>::permutation(g);
    auto row_of = [](const float* data, int step) {
      return *reinterpret_cast<const float4*>(data + step);
    };
#pragma unroll 2
    for (int k = k_begin; k < k_end; k += 16) {
      float left[2][4], right[kNt][4];
      if constexpr (kSumA == Sum::kAlongRow) {
        const float* row = a.tile.data + (a.first + g) * pitch_a;
        const float4 low = row_of(row, (k + 4 * t) ^ p_g),
                     high = row_of(row + 8 * pitch_a, (k + 4 * t) ^ p_g ^ 16);
        left[0][0] = low.x, left[0][1] = low.y, left[0][2] = low.z, left[0][3] = low.w;
        left[1][0] = high.x, left[1][1] = high.y, left[1][2] = high.z, left[1][3] = high.w;
      } else {
        const float* row = a.tile.data + (k + 4 * t) * pitch_a;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int column = (a.first + g) ^ t * 8 ^ (e & 1) * 16;
          left[0][e] = row[e * pitch_a + column], left[1][e] = row[e * pitch_a + (column ^ 8)];
        }
      }
      if constexpr (kScaled) {
        const float4 x = row_of(scale, k + 4 * t);
        const float four[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
        for (int e = 0; e < 4; ++e) left[0][e] *= four[e], left[1][e] *= four[e];
      }
#pragma unroll
      for (int n = 0; n < kNt; ++n) {
        if constexpr (kSumB == Sum::kAlongRow) {
          const float* row = b.tile.data + (b.first + g) * pitch_b;
          const float4 x =
              row_of(row + n * 8 * pitch_b, (k + 4 * t) ^ p_g ^ ((b.first + n * 8) & 8) * 2);
          right[n][0] = x.x, right[n][1] = x.y, right[n][2] = x.z, right[n][3] = x.w;
        } else {
          const float* row = b.tile.data + (k + 4 * t) * pitch_b;
#pragma unroll
          for (int e = 0; e < 4; ++e)
            right[n][e] = row[e * pitch_b + ((b.first + g) ^ t * 8 ^ (e & 1) * 16 ^ n * 8)];
        }
      }
      if constexpr (kPrecision == Precision::kTf32) {
        auto bits_a = [](float x) {
          return __float_as_uint(kRoundedA && !kScaled ? x : round_tf32(x));
        };
        auto bits_b = [](float x) { return __float_as_uint(kRoundedB ? x : round_tf32(x)); };
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
          const uint32_t bits[4] = {bits_a(left[0][e]), bits_a(left[1][e]), bits_a(left[0][e + 1]),
                                    bits_a(left[1][e + 1])};
#pragma unroll
          for (int n = 0; n < kNt; ++n)
            mma_tf32(acc[n], bits, bits_b(right[n][e]), bits_b(right[n][e + 1]));
        }
      } else {
        const uint32_t bits[4] = {
            to_bf16x2(left[0][0], left[0][1]), to_bf16x2(left[1][0], left[1][1]),
            to_bf16x2(left[0][2], left[0][3]), to_bf16x2(left[1][2], left[1][3])};
#pragma unroll
        for (int n = 0; n < kNt; ++n)
          mma_bf16(acc[n], bits, to_bf16x2(right[n][0], right[n][1]),
                   to_bf16x2(right[n][2], right[n][3]));
      }
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
