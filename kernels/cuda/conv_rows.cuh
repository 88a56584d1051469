// causal_conv1d and its backward for rows that fit in shared memory; see causal_conv1d.cu.
//
// The rows of all sequences follow one another in memory. A tile is 16 of them, wherever sequences begin, so it starts at a multiple
// of 16 bytes; it is copied in and out as one array, and the columns that pass unchanged with it. Between the copies a thread owns
// columns: it has a column's rows in registers and puts the results in their places. Rows that a tile needs of its neighbours are
// read by both. Backward the tile is dy and x goes straight into registers, its convolved columns only; a block walks a run of
// tiles and keeps the sums for dw and db in shared memory, each by the thread that owns the column.
#pragma once

#include "kernels/cuda/conv.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/scan.cuh"

namespace statelab::cuda {

constexpr int kRowThreads = 256;
constexpr int kTileRows = 16;

/// Rows that a tile holds beside its own: kWidth - 1, in fours, which begin at multiples of 16 bytes.
__host__ __device__ constexpr int beside(int width) { return (width + 2) / 4 * 4; }

/// Bit i: row first + i of all sequences. `used`: it exists and is not behind its sequence's last target.
struct RowBits {
  uint32_t used, begins;
  /// Used rows of the sequences that rows at .. end - 1 belong to.
  __device__ __forceinline__ uint32_t needed(int at, int end) const {
    uint32_t rows = used;
    const uint32_t before = begins & ((2u << at) - 1), behind = begins >> end << end;
    if (before != 0) rows &= ~0u << (31 - __clz(static_cast<int>(before)));
    if (behind != 0) rows &= (behind & (0u - behind)) - 1;
    return rows;
  }
};
__device__ __forceinline__ bool has(uint32_t bits, int i) { return (bits >> i & 1) != 0; }

/// Of `count` rows, at most 31. All lanes of a warp.
__device__ __forceinline__ RowBits row_bits(const ConvArgs& p, int first, int count) {
  const int row = first + lane_id();
  bool used = lane_id() < count && row >= 0 && row < p.rows;
  const int sequence = used ? row / p.seqlen : -1, t = row - sequence * p.seqlen;
  const uint32_t begins = __ballot_sync(kAllLanes, used && t == 0);
  if (p.targets.data != nullptr) {
    const int last = __reduce_max_sync(kAllLanes, sequence);
    for (int s = max(first, 0) / p.seqlen; s <= last; ++s) {
      const int tokens = used_tokens(p.targets, s, p.seqlen);
      if (s == sequence) used = t < tokens;
    }
  }
  return {__ballot_sync(kAllLanes, used), begins};
}

/// Rows of `bits` into `to`, row first + i at i * columns; first is a multiple of 4. Up to three numbers before and behind them come
/// along. All threads of a block.
__device__ __forceinline__ void copy_rows(float* to, const float* array, const ConvArgs& p,
                                          int first, uint32_t bits) {
  const float* from = array + static_cast<int64_t>(first) * p.columns;
  const int end = min(p.rows - first, 32) * p.columns;  // of the array, as far as bits go
  while (bits != 0) {
    const int begin_row = __ffs(static_cast<int>(bits)) - 1,
              end_row = begin_row + __ffs(static_cast<int>(~(bits >> begin_row))) - 1;
    const int pieces = (end_row * p.columns + 3) / 4;
#pragma unroll 4
    for (int i = begin_row * p.columns / 4 + static_cast<int>(threadIdx.x); i < pieces;
         i += kRowThreads) {
      asm volatile(
          "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to + 4 * i)),
          "l"(from + 4 * i), "r"(4 * min(end - 4 * i, 4))
          : "memory");
    }
    bits = bits >> end_row << end_row;
  }
}

/// The tile of rows from `first` on, as one array.
__device__ __forceinline__ void store_rows(float* array, const float* from, const ConvArgs& p,
                                           int first) {
  float* to = array + static_cast<int64_t>(first) * p.columns;
  const int count = min(p.rows - first, kTileRows) * p.columns;
#pragma unroll 4
  for (int i = 4 * static_cast<int>(threadIdx.x); i + 3 < count; i += 4 * kRowThreads)
    *reinterpret_cast<float4*>(to + i) = *reinterpret_cast<const float4*>(from + i);
  const int last = count / 4 * 4 + static_cast<int>(threadIdx.x);
  if (last < count) to[last] = from[last];
}

/// Zeros where a tile's unused rows pass unchanged; bit i: its row i.
__device__ __forceinline__ void clear_passed(float* tile, const ConvArgs& p, uint32_t used) {
  for (uint32_t rows = ~used & ((1u << kTileRows) - 1); rows != 0; rows &= rows - 1) {
    float* const row = tile + (__ffs(static_cast<int>(rows)) - 1) * p.columns;
    for (int c = static_cast<int>(threadIdx.x); c < p.columns; c += kRowThreads) {
      if (c < p.begin || c >= p.begin + p.channels) row[c] = 0;
    }
  }
}

template <int kWidth>
__global__ void __launch_bounds__(kRowThreads, kWidth <= 4 ? 6 : 4)
    convolve_rows(const ConvArgs p) {
  extern __shared__ float4 conv_shared[];
  constexpr int kBefore = beside(kWidth), kHalo = kWidth - 1;
  auto* const rows = reinterpret_cast<float*>(conv_shared);
  float* const tile = rows + kBefore * p.columns;
  const int first = static_cast<int>(blockIdx.x) * kTileRows;
  const RowBits bits = row_bits(p, first - kBefore, kBefore + kTileRows);
  const uint32_t needed = bits.needed(kBefore, kBefore + kTileRows) >> (kBefore - kHalo);
  copy_rows(rows, p.x.at(blockIdx.y), p, first - kBefore, needed << (kBefore - kHalo));
  const int mine = static_cast<int>(threadIdx.x);
  Filter<kWidth, 1> filter{};
  if (mine < p.channels) filter.load(p, mine);
  wait_all_copies();
  __syncthreads();
  for (int channel = mine; channel < p.channels; channel += kRowThreads) {
    if (channel != mine) filter.load(p, channel);
    float* const column = tile + p.begin + channel;
    Columns<1> held[kTileRows + kHalo];
#pragma unroll
    for (int i = 0; i < kTileRows + kHalo; ++i)
      held[i].v[0] = has(needed, i) ? column[(i - kHalo) * p.columns] : 0.0f;
#pragma unroll
    for (int i = 0; i < kTileRows; ++i) {
      if (has(bits.begins, kBefore + i)) {
#pragma unroll
        for (int j = 0; j < kHalo; ++j) held[i + j] = {};
      }
      const float pre = filter.pre(held, i, 0);
      column[i * p.columns] = has(bits.used, kBefore + i) ? pre * sigmoid(pre) : 0.0f;
    }
  }
  clear_passed(tile, p, bits.used >> kBefore);
  __syncthreads();
  store_rows(p.out.at(blockIdx.y), tile, p, first);
}

/// Rows first - kWidth + 1 .. first + 16 + kWidth - 2 of a column, zero where `needed` has no bit.
template <int kCount>
__device__ __forceinline__ void load_column(Columns<1> (&to)[kCount], const float* from,
                                            int columns, uint32_t needed) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    to[i] = {};
    if (has(needed, i)) to[i] = load_columns<1>(from + static_cast<int64_t>(i) * columns);
  }
}

template <int kWidth>
__global__ void __launch_bounds__(kRowThreads, kWidth <= 4 ? 4 : 2)
    convolve_rows_bwd(const ConvArgs p) {
  extern __shared__ float4 conv_shared[];
  constexpr int kHalo = kWidth - 1;
  auto* const tile = reinterpret_cast<float*>(conv_shared);
  float* const sums = tile + (kTileRows + beside(kWidth)) * p.columns;  // (kWidth + 1, channels)
  const int mine = static_cast<int>(threadIdx.x);
  for (int i = mine; i < p.channels; i += kRowThreads) {
#pragma unroll
    for (int j = 0; j <= kWidth; ++j) sums[j * p.channels + i] = 0;
  }
  float* const dx = p.out.at(blockIdx.y);
  const auto run = static_cast<int64_t>(blockIdx.x);
  const auto end = static_cast<int>(min((run + 1) * p.run, p.items));
  for (auto item = static_cast<int>(run * p.run); item < end; ++item) {
    const int first = item * kTileRows;
    const RowBits bits = row_bits(p, first - kHalo, kTileRows + 2 * kHalo);  // bit kHalo: `first`
    const uint32_t needed = bits.needed(kHalo, kHalo + kTileRows);
    const float* const x = p.x.at(blockIdx.y) + int64_t{first - kHalo} * p.columns + p.begin;
    __syncthreads();  // the tile before has been stored
    copy_rows(tile, p.dy.at(blockIdx.y), p, first, needed >> kHalo);
    Filter<kWidth, 1> filter{};
    Columns<1> held[kTileRows + 2 * kHalo];
    load_column(held, x + mine, p.columns, mine < p.channels ? needed : 0);
    if (mine < p.channels) filter.load(p, mine);
    wait_all_copies();
    __syncthreads();
    for (int channel = mine; channel < p.channels; channel += kRowThreads) {
      if (channel != mine) {
        load_column(held, x + channel, p.columns, needed);
        filter.load(p, channel);
      }
      float* const column = tile + p.begin + channel;
      Columns<1> dpre[kTileRows + kHalo];
      float dw[kWidth] = {}, db = 0;
#pragma unroll
      for (int i = 0; i < kTileRows + kHalo; ++i) {
        if (has(bits.begins, kHalo + i)) {
#pragma unroll
          for (int j = 0; j < kHalo; ++j) held[i + j] = {};
        }
        const float dy = has(needed, kHalo + i) ? column[i * p.columns] : 0.0f;
        const float pre = filter.pre(held, i, 0), s = sigmoid(pre);
        const float d = dy * (s * (1.0f + pre * (1.0f - s)));
        dpre[i].v[0] = d;
        if (i >= kTileRows) continue;
#pragma unroll
        for (int j = 0; j < kWidth; ++j) dw[j] += d * held[i + j].v[0];
        db += d;
      }
#pragma unroll
      for (int j = 0; j < kWidth; ++j) sums[j * p.channels + channel] += dw[j];
      sums[kWidth * p.channels + channel] += db;
      // dx of a token needs dpre of those after it, up to the sequence's end.
#pragma unroll
      for (int i = kTileRows - 1; i >= 0; --i) {
        float sum = 0;
        if (has(bits.begins, kHalo + i + 1)) {
#pragma unroll
          for (int j = 1; j <= kHalo; ++j) dpre[i + j] = {};
        }
#pragma unroll
        for (int j = 0; j < kWidth; ++j) sum += filter.weight[0][j] * dpre[i + kHalo - j].v[0];
        column[i * p.columns] = sum;
      }
    }
    if (dx == nullptr) continue;  // the whole grid
    clear_passed(tile, p, bits.used >> kHalo);
    __syncthreads();
    store_rows(dx, tile, p, first);
  }
  if (p.partial.data == nullptr) return;  // the whole grid
  float* const partial = p.partial.at(blockIdx.y) + run * p.channels * (kWidth + 1);
  for (int channel = mine; channel < p.channels; channel += kRowThreads) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) partial[channel * kWidth + j] = sums[j * p.channels + channel];
    partial[p.channels * kWidth + channel] = sums[kWidth * p.channels + channel];
  }
}

/// Bytes of shared memory of a block.
inline int64_t tile_bytes(int columns, int channels, int width, bool backward) {
  const int64_t tile = int64_t{kTileRows + beside(width)} * columns;
  return 4 * (backward ? tile + int64_t{channels} * (width + 1) : tile);
}

/// Do the rows run on these kernels? Two blocks of the widest fit into a multiprocessor with 200 KiB.
inline bool tile_fits(int64_t rows, int columns, int channels, int width) {
  return rows > 0 && rows < (int64_t{1} << 30) &&
         tile_bytes(columns, channels, width, true) <= 96 * 1024;
}

}  // namespace statelab::cuda
