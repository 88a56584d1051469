// causal_conv1d:      pre[t] = b + sum_j w[j] x[t - W + 1 + j] per channel,  y = silu(pre); other channels pass unchanged
// causal_conv1d_bwd:  dpre = dy silu'(pre),  dx[t] = sum_j w[j] dpre[t + W - 1 - j],
//                     dw[j] = sum dpre[t] x[t - W + 1 + j],  db = sum dpre
//
// A warp has 32 neighbouring channels of one tile of time; a thread walks its tile with the last W inputs in registers. Tiles
// read W - 1 tokens of their neighbours: forward those before, backward those after too. Backward, a block takes a run of
// (sequence, tile) items, and a second kernel sums the runs' dw and db.
#include <string>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/reduce.cuh"

namespace statelab::cuda {
namespace {

using Attrs = CausalConv1dAttrs;

constexpr int kWalkers = 8;  // warps of a block, each with an item of its own
constexpr int kThreads = 32 * kWalkers;
constexpr int kMaxWidth = 8;
constexpr int64_t kTile = 32, kMaxRuns = 128;

struct ConvArgs {
  Slices<const float> dy, x, weight, bias;
  Slices<float> out, partial;  // y or dx; (runs, channels * width + channels)
  int64_t items, run;          // item = sequence * tiles + tile
  int seqlen, columns;         // of x
  int begin, channels;
  int tile, tiles, chunks;  // tokens of a tile; tiles of a sequence; warps' worth of columns
};

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/// One thread's taps and the inputs under them: input[kWidth - 1] belongs to the current token.
template <int kWidth>
struct Taps {
  float weight[kWidth], input[kWidth], bias;

  __device__ __forceinline__ void load_weights(const ConvArgs& p, int channel) {
    const float* from = p.weight.at(blockIdx.y) + static_cast<int64_t>(channel) * kWidth;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) weight[j] = __ldg(from + j);
    bias = __ldg(p.bias.at(blockIdx.y) + channel);
  }
  /// The tokens before t0, zero before the sequence; x points to the channel's first token.
  __device__ __forceinline__ void enter(const float* x, int64_t columns, int t0) {
    input[0] = 0;
#pragma unroll
    for (int j = 1; j < kWidth; ++j) {
      const int t = t0 - kWidth + j;
      input[j] = t >= 0 ? __ldg(x + t * columns) : 0.0f;
    }
  }
  __device__ __forceinline__ void push(float next) {
#pragma unroll
    for (int j = 0; j + 1 < kWidth; ++j) input[j] = input[j + 1];
    input[kWidth - 1] = next;
  }
  __device__ __forceinline__ float pre() const {
    float sum = bias;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) sum += weight[j] * input[j];
    return sum;
  }
};

template <int kWidth>
__global__ void __launch_bounds__(kThreads) convolve(const ConvArgs p) {
  const auto chunks = static_cast<unsigned>(p.chunks);
  const int column = static_cast<int>(blockIdx.x % chunks * 32 + threadIdx.x % 32);
  const int64_t item = static_cast<int64_t>(blockIdx.x / chunks) * kWalkers + threadIdx.x / 32;
  if (item >= p.items || column >= p.columns) return;  // there is no barrier in this kernel
  const int64_t columns = p.columns;
  const int t0 = static_cast<int>(item % p.tiles) * p.tile, t1 = min(t0 + p.tile, p.seqlen);
  const int64_t at = item / p.tiles * p.seqlen * columns + column;
  const float* x = p.x.at(blockIdx.y) + at;
  float* y = p.out.at(blockIdx.y) + at;
  const int channel = column - p.begin;
  if (channel < 0 || channel >= p.channels) {
#pragma unroll 8
    for (int t = t0; t < t1; ++t) y[t * columns] = __ldg(x + t * columns);
    return;
  }
  Taps<kWidth> taps;
  taps.load_weights(p, channel);
  taps.enter(x, columns, t0);
#pragma unroll 8
  for (int t = t0; t < t1; ++t) {
    taps.push(__ldg(x + t * columns));
    const float pre = taps.pre();
    y[t * columns] = pre / (1.0f + expf(-pre));
  }
}

template <int kWidth>
__global__ void __launch_bounds__(kThreads) convolve_bwd(const ConvArgs p) {
  __shared__ float shares[kWalkers][kWidth + 1][32];
  const auto chunks = static_cast<unsigned>(p.chunks);
  const int lane = static_cast<int>(threadIdx.x) % 32, walker = static_cast<int>(threadIdx.x) / 32;
  const int column = static_cast<int>(blockIdx.x % chunks) * 32 + lane;
  const int64_t run = blockIdx.x / chunks, columns = p.columns;
  const int channel = column - p.begin;
  const bool convolved = column < p.columns && channel >= 0 && channel < p.channels;
  float dw[kWidth] = {}, db = 0;
  Taps<kWidth> taps{};
  if (convolved) taps.load_weights(p, channel);
  const int64_t end = min((run + 1) * p.run, p.items);
  for (int64_t item = run * p.run + walker; item < end; item += kWalkers) {
    if (column >= p.columns) break;  // to the barrier below
    const int t0 = static_cast<int>(item % p.tiles) * p.tile, t1 = min(t0 + p.tile, p.seqlen);
    const int64_t at = item / p.tiles * p.seqlen * columns + column;
    const float *dy = p.dy.at(blockIdx.y) + at, *x = p.x.at(blockIdx.y) + at;
    float* dx = p.out.data == nullptr ? nullptr : p.out.at(blockIdx.y) + at;
    if (!convolved) {
      if (dx == nullptr) break;
#pragma unroll 8
      for (int t = t0; t < t1; ++t) dx[t * columns] = __ldg(dy + t * columns);
      continue;
    }
    taps.enter(x, columns, t0);
    float dpre[kWidth] = {};  // dpre[kWidth - 1] is the current token's
    // dx of token t - W + 1 is complete when token t is done, so the walk goes W - 1 tokens beyond the tile.
#pragma unroll 4
    for (int t = t0; t < t1 + kWidth - 1; ++t) {
      const bool inside = t < p.seqlen;
      taps.push(inside ? __ldg(x + t * columns) : 0.0f);
      const float dy_t = inside ? __ldg(dy + t * columns) : 0.0f;
      const float pre = taps.pre(), s = sigmoid(pre);
#pragma unroll
      for (int j = 0; j + 1 < kWidth; ++j) dpre[j] = dpre[j + 1];
      dpre[kWidth - 1] = inside ? dy_t * s * (1.0f + pre * (1.0f - s)) : 0.0f;
      if (t < t1) {
#pragma unroll
        for (int j = 0; j < kWidth; ++j) dw[j] += dpre[kWidth - 1] * taps.input[j];
        db += dpre[kWidth - 1];
      }
      if (t - (kWidth - 1) >= t0 && dx != nullptr) {
        float sum = 0;
#pragma unroll
        for (int j = 0; j < kWidth; ++j) sum += taps.weight[j] * dpre[kWidth - 1 - j];
        dx[(t - (kWidth - 1)) * columns] = sum;
      }
    }
  }
  if (p.partial.data == nullptr) return;  // the whole grid
#pragma unroll
  for (int j = 0; j < kWidth; ++j) shares[walker][j][lane] = dw[j];
  shares[walker][kWidth][lane] = db;
  __syncthreads();
  if (!convolved) return;
  float* partial = p.partial.at(blockIdx.y) + run * p.channels * (kWidth + 1);
  for (int j = walker; j <= kWidth; j += kWalkers) {
    float total = 0;
#pragma unroll
    for (int s = 0; s < kWalkers; ++s) total += shares[s][j][lane];
    partial[j < kWidth ? channel * kWidth + j : p.channels * kWidth + channel] = total;
  }
}

// ---- launch

/// Tiles of equal length, at most kTile tokens.
void set_shape(ConvArgs& p, const Attrs& a, const Shape& x) {
  p.seqlen = x[1], p.columns = x[2], p.begin = a.begin, p.channels = a.channels;
  p.tiles = static_cast<int>(ceil_div(p.seqlen, kTile));
  if (p.tiles < 1) p.tiles = 1;
  p.tile = static_cast<int>(ceil_div(p.seqlen, p.tiles));
  p.items = int64_t{x[0]} * p.tiles;
  p.chunks = static_cast<int>(ceil_div(p.columns, 32));
}

Runs item_runs(const ConvArgs& p) { return Runs(p.items, kMaxRuns, kWalkers); }

/// Calls f<width>().
template <class F>
void with_width(int width, F&& f) {
  switch (width) {
    case 1:
      return f.template operator()<1>();
    case 2:
      return f.template operator()<2>();
    case 3:
      return f.template operator()<3>();
    case 4:
      return f.template operator()<4>();
    case 5:
      return f.template operator()<5>();
    case 6:
      return f.template operator()<6>();
    case 7:
      return f.template operator()<7>();
    case 8:
      return f.template operator()<8>();
  }
  throw CudaError("causal_conv1d: launched at a width that its limit refuses");
}

std::string limit(const CallShapes& c) {
  const int width = c.attrs<Attrs>().width;
  if (width >= 1 && width <= kMaxWidth) return {};
  return "width must be 1.." + std::to_string(kMaxWidth) + " on a CUDA device, is " +
         std::to_string(width);
}

void launch_fwd(const CudaCall& call, CUstream_st* stream) {
  if (call.out[0].data == nullptr) return;
  const auto& a = call.attrs<Attrs>();
  ConvArgs p{};
  p.x = slices<const float>(call.in[0]), p.weight = slices<const float>(call.in[1]);
  p.bias = slices<const float>(call.in[2]), p.out = slices<float>(call.out[0]);
  set_shape(p, a, *call.in[0].shape);
  const dim3 grid = member_grid(ceil_div(p.items, kWalkers) * p.chunks, call.members);
  with_width(a.width, [&]<int kWidth>() { convolve<kWidth><<<grid, kThreads, 0, stream>>>(p); });
  check_launch("causal_conv1d");
}

int64_t workspace_bwd(const CallShapes& c) {
  const auto& a = c.attrs<Attrs>();
  ConvArgs p{};
  set_shape(p, a, c.in[1]->shape);
  return item_runs(p).count * a.channels * (a.width + 1) * 4;
}

void launch_bwd(const CudaCall& call, CUstream_st* stream) {
  const auto& a = call.attrs<Attrs>();
  const bool want_weights = call.out[1].data != nullptr || call.out[2].data != nullptr;
  ConvArgs p{};
  p.dy = slices<const float>(call.in[0]), p.x = slices<const float>(call.in[1]);
  p.weight = slices<const float>(call.in[2]), p.bias = slices<const float>(call.in[3]);
  p.out = slices<float>(call.out[0]);
  if (want_weights) p.partial = slices<float>(call.workspace);
  set_shape(p, a, *call.in[1].shape);
  const Runs runs = item_runs(p);
  p.run = runs.size;
  const dim3 grid = member_grid(runs.count * p.chunks, call.members);
  with_width(a.width,
             [&]<int kWidth>() { convolve_bwd<kWidth><<<grid, kThreads, 0, stream>>>(p); });
  check_launch("causal_conv1d_bwd");
  if (!want_weights) return;
  const int64_t weights = int64_t{a.channels} * a.width;
  sum_runs("causal_conv1d_bwd", call, runs.count, weights + a.channels, call.out[1], weights,
           call.out[2], stream);
}

}  // namespace

CudaKernel causal_conv1d_kernel() { return {nullptr, launch_fwd, limit}; }
CudaKernel causal_conv1d_bwd_kernel() { return {workspace_bwd, launch_bwd, limit}; }

}  // namespace statelab::cuda
