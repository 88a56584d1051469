// out_proj_loss's second kernel: dout_proj = sum of dh^T y, dhead = sum of dlogits^T u, dnorm, the loss, and dloss / supervised put
// into them, dy and dx. Shapes are out_proj_loss.cu's.
//
// A block sums 16 x 16 elements of dout_proj or dhead over all sequences, which therefore need no parts: 16 shares of the rows, 16
// threads each with 4 x 4 elements. The blocks behind these have the loss, dnorm, and rows of dx and dy.
//   launch    grid x: tiles of dout_proj, tiles of dhead, loss, dnorm, groups of sequences; y: members
//   traffic   a row's 16 columns of either operand per tile; a row of dx and dy per sequence
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/loss.cuh"
#include "kernels/cuda/out_proj_loss.cuh"

namespace statelab::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kTile = 16, kShares = kThreads / kTile, kTileRows = 256;

/// Sequences with a target and dloss, asked for before they are needed; all lanes of a warp take part.
class Supervised {
 public:
  __device__ __forceinline__ explicit Supervised(const OutProjLoss& p)
      : counts_(p.counts.at(blockIdx.y)),
        blocks_(p.blocks),
        lane_(static_cast<int>(threadIdx.x) % 32),
        dloss_(p.dloss.at(blockIdx.y)[0]) {
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i)
      held_[i] = lane_ + 32 * i < blocks_ ? counts_[lane_ + 32 * i] : 0;
  }
  /// At least one.
  __device__ __forceinline__ int count() const {
    int count = 0;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) count += held_[i];
#pragma unroll 1
    for (int i = lane_ + 32 * kAtOnce; i < blocks_; i += 32) count += counts_[i];
    return max(lanes_sum<32>(count), 1);
  }
  __device__ __forceinline__ float scale() const {
    return static_cast<float>(static_cast<double>(dloss_) / count());
  }

 private:
  const int32_t* counts_;
  int blocks_, lane_;
  float dloss_;
  int held_[kAtOnce];
};

/// Columns [i0, i0 + 16) of a by [j0, j0 + 16) of b, summed over the sequences; a thread gets element (thread / 16, thread % 16).
/// a_columns, b_columns: multiples of four. `positions`: rows of b without one count as zero; null: there are none.
__device__ __forceinline__ float tile_sum(const float* a, int a_columns, int i0, const float* b,
                                          int b_columns, int j0, const int32_t* positions,
                                          int batch) {
  __shared__ __align__(16) float shared[2][kTileRows][kTile];
  constexpr int kLoads = kTileRows / (kThreads / 4);
  const int tid = static_cast<int>(threadIdx.x), quad = 4 * (tid % 4), share = tid / kTile,
            i = tid % kTile / 4 * 4, j = tid % 4 * 4;
  const bool has_a = i0 + quad < a_columns, has_b = j0 + quad < b_columns;
  float acc[4][4] = {};
  for (int base = 0; base < batch; base += kTileRows) {
    float left[kLoads][4] = {}, right[kLoads][4] = {};
    int at[kLoads];
#pragma unroll
    for (int q = 0; q < kLoads; ++q) {
      const int64_t row = base + tid / 4 + q * (kThreads / 4);
      const bool exists = row < batch;
      if (exists && has_a) load_columns(left[q], a + row * a_columns + i0 + quad);
      if (exists && has_b) load_columns(right[q], b + row * b_columns + j0 + quad);
      at[q] = exists && positions != nullptr ? positions[row] : 0;
    }
    if (base > 0) __syncthreads();
#pragma unroll
    for (int q = 0; q < kLoads; ++q) {
      const int row = tid / 4 + q * (kThreads / 4);
#pragma unroll
      for (int k = 0; k < 4; ++k) right[q][k] = at[q] >= 0 ? right[q][k] : 0.0f;
      store_columns(&shared[0][row][quad], left[q]);
      store_columns(&shared[1][row][quad], right[q]);
    }
    __syncthreads();
#pragma unroll
    for (int m = 0; m < kTileRows / kShares; ++m) {
      float x[4], y[4];
      load_columns(x, &shared[0][m * kShares + share][i]);
      load_columns(y, &shared[1][m * kShares + share][j]);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
#pragma unroll
        for (int l = 0; l < 4; ++l) acc[k][l] += x[k] * y[l];
      }
    }
  }
  // The shares in order.
  __syncthreads();
  float* const sums = &shared[0][0][0];
#pragma unroll
  for (int k = 0; k < 4; ++k) store_columns(sums + (share * kTile + i + k) * kTile + j, acc[k]);
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int s = 0; s < kShares; ++s) sum += sums[s * kTile * kTile + tid];
  return sum;
}

__device__ __forceinline__ void mean_loss(const OutProjLoss& p, const Supervised& supervised) {
  __shared__ double shared[2][kWarps];
  const double* terms = p.terms.at(blockIdx.y);
  double loss = 0, correct = 0;
  for (int64_t b = threadIdx.x; b < p.batch; b += kThreads) {
    loss += terms[3 * b] + log(terms[3 * b + 1]);
    correct += terms[3 * b + 2];
  }
  const double count = supervised.count();
  loss = block_sum<kThreads>(loss, shared[0]);
  correct = block_sum<kThreads>(correct, shared[1]);
  if (threadIdx.x != 0) return;
  float *const to_loss = p.loss.at(blockIdx.y), *const to_accuracy = p.accuracy.at(blockIdx.y);
  if (to_loss != nullptr) *to_loss = static_cast<float>(loss / count);
  if (to_accuracy != nullptr) *to_accuracy = static_cast<float>(correct / count);
}

__device__ __forceinline__ void sum_dnorm(const OutProjLoss& p, const Supervised& supervised) {
  __shared__ float shares[kWarps][kLargestD];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const float* parts = p.parts.at(blockIdx.y);
  float* const dnorm = p.dnorm.at(blockIdx.y);
  float part[kLargestD / 32] = {};
#pragma unroll 8
  for (int64_t i = warp; i < p.blocks; i += kWarps) {
#pragma unroll
    for (int q = 0; q < kLargestD / 32; ++q) {
      if (lane + 32 * q < p.d) part[q] += parts[i * p.d + lane + 32 * q];
    }
  }
#pragma unroll
  for (int q = 0; q < kLargestD / 32; ++q) shares[warp][lane + 32 * q] = part[q];
  const float scale = supervised.scale();
  __syncthreads();
  const int c = static_cast<int>(threadIdx.x);
  if (c >= p.d || dnorm == nullptr) return;
  float sum = 0;
#pragma unroll
  for (int s = 0; s < kWarps; ++s) sum += shares[s][c];
  dnorm[c] = scale * sum;
}

/// A warp a sequence: dx at its position, dy.
__device__ __forceinline__ void scale_rows(const OutProjLoss& p, const Supervised& supervised,
                                           int block) {
  constexpr int kPasses = kLargestInner / 128;
  const int column = static_cast<int>(threadIdx.x) % 32 * 4;
  const int64_t b = static_cast<int64_t>(block) * kWarps + threadIdx.x / 32;
  if (b >= p.batch) return;  // the whole warp
  const int at = p.positions.at(blockIdx.y)[b];
  float* const dx = p.dx.at(blockIdx.y);
  float* const dy = p.dy.at(blockIdx.y) + b * p.d_inner + column;
  const bool of_dx = p.dx.data != nullptr && column < p.d;
  float h[4] = {}, y[kPasses][4] = {};
  if (of_dx) load_columns(h, p.dh.at(blockIdx.y) + b * p.d + column);
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    if (p.dy.data != nullptr && column + 128 * i < p.d_inner) load_columns(y[i], dy + 128 * i);
  }
  const float scale = supervised.scale();
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    h[k] *= scale;
#pragma unroll
    for (int i = 0; i < kPasses; ++i) y[i][k] *= scale;
  }
  if (of_dx && at >= 0) store_columns(dx + (b * p.seqlen + at) * p.d + column, h);
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    if (p.dy.data != nullptr && column + 128 * i < p.d_inner) store_columns(dy + 128 * i, y[i]);
  }
}

__host__ __device__ inline int tiles(int columns) { return (columns + kTile - 1) / kTile; }

__global__ void __launch_bounds__(kThreads, 2) sums_over_sequences(const OutProjLoss p) {
  const unsigned member = blockIdx.y;
  const int across = tiles(p.d_inner), of_out_proj = tiles(p.d) * across, down = tiles(p.d),
            of_head = tiles(p.width) * down, i = static_cast<int>(threadIdx.x) / kTile,
            j = static_cast<int>(threadIdx.x) % kTile;
  const Supervised supervised(p);
  int block = static_cast<int>(blockIdx.x);
  if (block < of_out_proj) {
    const int i0 = block / across * kTile, j0 = block % across * kTile;
    const float sum = tile_sum(p.dh.at(member), p.d, i0, p.y.at(member), p.d_inner, j0,
                               p.positions.at(member), p.batch);
    float* const to = p.dout_proj.at(member);
    const float scale = supervised.scale();
    if (to != nullptr && i0 + i < p.d && j0 + j < p.d_inner)
      to[static_cast<int64_t>(i0 + i) * p.d_inner + j0 + j] = scale * sum;
    return;
  }
  block -= of_out_proj;
  if (block < of_head) {
    const int i0 = block / down * kTile, j0 = block % down * kTile;
    const float sum =
        tile_sum(p.dlogits.at(member), p.pitch, i0, p.u.at(member), p.d, j0, nullptr, p.batch);
    float* const to = p.dhead.at(member);
    const float scale = supervised.scale();
    if (to != nullptr && i0 + i < p.width && j0 + j < p.d)
      to[static_cast<int64_t>(i0 + i) * p.d + j0 + j] = i0 + i < p.classes ? scale * sum : 0.0f;
    return;
  }
  block -= of_head;
  if (block == 0) {
    mean_loss(p, supervised);
  } else if (block == 1) {
    sum_dnorm(p, supervised);
  } else {
    scale_rows(p, supervised, block - 2);
  }
}

}  // namespace

void launch_out_proj_sums(const OutProjLoss& p, int members, CUstream_st* stream) {
  const int64_t blocks =
      tiles(p.d) * (tiles(p.d_inner) + tiles(p.width)) + 2 + ceil_div(p.batch, kWarps);
  sums_over_sequences<<<member_grid(blocks, members), kThreads, 0, stream>>>(p);
  check_launch("out_proj_loss");
}

}  // namespace statelab::cuda
