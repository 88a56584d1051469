// causal_conv1d:      pre[t] = b + sum_j w[j] x[t - W + 1 + j] per channel,  y = silu(pre); other channels pass unchanged
// causal_conv1d_bwd:  dpre = dy silu'(pre),  dx[t] = sum_j w[j] dpre[t + W - 1 - j],
//                     dw[j] = sum dpre[t] x[t - W + 1 + j],  db = sum dpre
//
// Rows that fit in shared memory run on the kernels of conv_rows.cuh. Wider ones run on those below: a warp has 32 kVec neighbouring
// columns of one tile of time. A thread first loads its whole tile, so that all its loads are on their way at once, then computes
// it in registers. Tiles read W - 1 tokens of their neighbours: forward those before, backward those after too.
// Backward, a block takes a run of tiles, and a second kernel sums the runs' dw and db.
// Exponential and quotient are the fast ones, good to a few units in the last place: a third of the forward kernel's instructions
// otherwise. An absent bias is zero. Given targets, nothing behind a sequence's last one is read, and zeros are written there.
#include <string>

#include "kernels/cuda/conv_rows.cuh"
#include "kernels/cuda/kernels.h"

namespace statelab::cuda {
namespace {

using Attrs = CausalConv1dAttrs;

constexpr int kWalkers = 8;  // warps of a block, each with an item of its own
constexpr int kThreads = 32 * kWalkers;
constexpr int kMaxWidth = 8;
constexpr int kTile = 16;
constexpr int64_t kMaxRuns = 384;

/// Tokens first .. first + kCount - 1 of a column, zero outside [0, end); `from` points to token 0.
template <int kCount, int kVec>
__device__ __forceinline__ void load_tokens(Columns<kVec> (&to)[kCount], const float* from,
                                            int64_t columns, int first, int end) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int t = first + i;
    to[i] = {};
    if (t >= 0 && t < end) to[i] = load_columns<kVec>(from + t * columns);
  }
}

template <int kWidth, int kVec>
__global__ void __launch_bounds__(kThreads) convolve(const ConvArgs p) {
  const auto chunks = static_cast<unsigned>(p.chunks);
  const int column = static_cast<int>(blockIdx.x % chunks * 32 + threadIdx.x % 32) * kVec;
  const int64_t item = static_cast<int64_t>(blockIdx.x / chunks) * kWalkers + threadIdx.x / 32;
  if (item >= p.items) return;  // there is no barrier in this kernel
  const int used = used_tokens(p.targets, static_cast<int>(item / p.tiles), p.seqlen);
  if (column >= p.columns) return;
  const int64_t columns = p.columns;
  const int t0 = static_cast<int>(item % p.tiles) * p.tile, t1 = min(t0 + p.tile, p.seqlen);
  const int64_t at = item / p.tiles * p.seqlen * columns + column;
  const float* x = p.x.at(blockIdx.y) + at;
  float* y = p.out.at(blockIdx.y) + at;
  const int channel = column - p.begin;
  if (channel < 0 || channel >= p.channels) {
    Columns<kVec> held[kTile];
    load_tokens(held, x, columns, t0, min(t1, used));
#pragma unroll
    for (int i = 0; i < kTile; ++i) {
      if (t0 + i < t1) store_columns(y + (t0 + i) * columns, held[i]);
    }
    return;
  }
  Columns<kVec> held[kTile + kWidth - 1];
  load_tokens(held, x, columns, t0 - kWidth + 1, min(t1, used));
  Filter<kWidth, kVec> filter;
  filter.load(p, channel);
#pragma unroll
  for (int i = 0; i < kTile; ++i) {
    if (t0 + i >= t1) continue;
    Columns<kVec> out;
#pragma unroll
    for (int c = 0; c < kVec; ++c) {
      const float pre = filter.pre(held, i, c);
      out.v[c] = t0 + i < used ? pre * sigmoid(pre) : 0.0f;
    }
    store_columns(y + (t0 + i) * columns, out);
  }
}

template <int kWidth, int kVec>
__global__ void __launch_bounds__(kThreads, 2) convolve_bwd(const ConvArgs p) {
  __shared__ float shares[kWalkers][kWidth + 1][32 * kVec];
  const auto chunks = static_cast<unsigned>(p.chunks);
  const int lane = static_cast<int>(threadIdx.x) % 32, walker = static_cast<int>(threadIdx.x) / 32;
  const int column = (static_cast<int>(blockIdx.x % chunks) * 32 + lane) * kVec;
  const int64_t run = blockIdx.x / chunks, columns = p.columns;
  const int channel = column - p.begin;
  const bool convolved = column < p.columns && channel >= 0 && channel < p.channels;
  float dw[kVec][kWidth] = {}, db[kVec] = {};
  Filter<kWidth, kVec> filter{};
  if (convolved) filter.load(p, channel);
  const int64_t end = min((run + 1) * p.run, p.items);
  for (int64_t item = run * p.run + walker; item < end; item += kWalkers) {
    const int used = used_tokens(p.targets, static_cast<int>(item / p.tiles), p.seqlen);
    if (column >= p.columns) continue;
    const int t0 = static_cast<int>(item % p.tiles) * p.tile, t1 = min(t0 + p.tile, p.seqlen);
    const int64_t at = item / p.tiles * p.seqlen * columns + column;
    const float *dy = p.dy.at(blockIdx.y) + at, *x = p.x.at(blockIdx.y) + at;
    float* dx = p.out.data == nullptr ? nullptr : p.out.at(blockIdx.y) + at;
    if (!convolved) {
      if (dx == nullptr) continue;
      Columns<kVec> held[kTile];
      load_tokens(held, dy, columns, t0, min(t1, used));
#pragma unroll
      for (int i = 0; i < kTile; ++i) {
        if (t0 + i < t1) store_columns(dx + (t0 + i) * columns, held[i]);
      }
      continue;
    }
    // dx of a token needs dpre of the W - 1 tokens after it, and these their inputs.
    const int t2 = min(t1 + kWidth - 1, used);
    Columns<kVec> held_x[kTile + 2 * (kWidth - 1)], dpre[kTile + kWidth - 1];
    load_tokens(held_x, x, columns, t0 - kWidth + 1, t2);
    load_tokens(dpre, dy, columns, t0, t2);
#pragma unroll
    for (int c = 0; c < kVec; ++c) {
#pragma unroll
      for (int i = 0; i < kTile + kWidth - 1; ++i) {
        const float pre = filter.pre(held_x, i, c), s = sigmoid(pre);
        dpre[i].v[c] *= s * (1.0f + pre * (1.0f - s));  // dy is zero past the tokens used
        if (i >= kTile) continue;
        const float mine = t0 + i < t1 ? dpre[i].v[c] : 0.0f;
#pragma unroll
        for (int j = 0; j < kWidth; ++j) dw[c][j] += mine * held_x[i + j].v[c];
        db[c] += mine;
      }
    }
    if (dx == nullptr) continue;
#pragma unroll
    for (int i = 0; i < kTile; ++i) {
      if (t0 + i >= t1) continue;
      Columns<kVec> sum{};
#pragma unroll
      for (int c = 0; c < kVec; ++c) {
#pragma unroll
        for (int j = 0; j < kWidth; ++j)
          sum.v[c] += filter.weight[c][j] * dpre[i + kWidth - 1 - j].v[c];
      }
      store_columns(dx + (t0 + i) * columns, sum);
    }
  }
  if (p.partial.data == nullptr) return;  // the whole grid
#pragma unroll
  for (int c = 0; c < kVec; ++c) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) shares[walker][j][lane * kVec + c] = dw[c][j];
    shares[walker][kWidth][lane * kVec + c] = db[c];
  }
  __syncthreads();
  if (!convolved) return;
  float* partial = p.partial.at(blockIdx.y) + run * p.channels * (kWidth + 1);
  for (int j = walker; j <= kWidth; j += kWalkers) {
#pragma unroll
    for (int c = 0; c < kVec; ++c) {
      float total = 0;
#pragma unroll
      for (int s = 0; s < kWalkers; ++s) total += shares[s][j][lane * kVec + c];
      const int mine = channel + c;
      partial[j < kWidth ? mine * kWidth + j : p.channels * kWidth + mine] = total;
    }
  }
}

// ---- launch

/// Two columns a thread where rows, and the convolved ones, begin and end at even columns. Wide filters need the registers.
int vector_width(const Attrs& a, const Shape& x) {
  return a.width <= 4 && x[2] % 2 == 0 && a.begin % 2 == 0 && a.channels % 2 == 0 ? 2 : 1;
}

bool rows_fit(const Attrs& a, const Shape& x) {
  return tile_fits(int64_t{x[0]} * x[1], x[2], a.channels, a.width);
}

/// Tiles of rows, or of equal length, at most kTile tokens.
void set_shape(ConvArgs& p, const Attrs& a, const Shape& x) {
  p.seqlen = x[1], p.columns = x[2], p.begin = a.begin, p.channels = a.channels;
  if (rows_fit(a, x)) {
    p.rows = x[0] * x[1];
    p.items = ceil_div(p.rows, kTileRows);
    return;
  }
  p.tiles = static_cast<int>(ceil_div(p.seqlen, kTile));
  if (p.tiles < 1) p.tiles = 1;
  p.tile = static_cast<int>(ceil_div(p.seqlen, p.tiles));
  p.items = int64_t{x[0]} * p.tiles;
  p.chunks = static_cast<int>(ceil_div(p.columns, 32 * vector_width(a, x)));
}

Runs item_runs(const ConvArgs& p) { return Runs(p.items, kMaxRuns, p.rows > 0 ? 1 : kWalkers); }

MemberArray<const int32_t> targets_of(const CudaCall& call, size_t at) {
  return at < call.in.size() ? member_array<const int32_t>(call.in[at])
                             : MemberArray<const int32_t>{};
}

/// `bytes` of shared memory a block.
template <class Kernel>
void launch_rows(Kernel kernel, int64_t blocks, const ConvArgs& p, int64_t bytes, int members,
                 CUstream_st* stream) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "cudaFuncSetAttribute");
  kernel<<<member_grid(blocks, members), kRowThreads, static_cast<size_t>(bytes), stream>>>(p);
}

/// Calls f<width, columns of a thread>().
template <class F>
void with_width(int width, int vec, F&& f) {
  auto narrow = [&]<int kWidth>() {
    return vec == 2 ? f.template operator()<kWidth, 2>() : f.template operator()<kWidth, 1>();
  };
  switch (width) {
    case 1:
      return narrow.template operator()<1>();
    case 2:
      return narrow.template operator()<2>();
    case 3:
      return narrow.template operator()<3>();
    case 4:
      return narrow.template operator()<4>();
    case 5:
      return f.template operator()<5, 1>();
    case 6:
      return f.template operator()<6, 1>();
    case 7:
      return f.template operator()<7, 1>();
    case 8:
      return f.template operator()<8, 1>();
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
  p.targets = targets_of(call, 3);
  set_shape(p, a, *call.in[0].shape);
  const dim3 grid = member_grid(ceil_div(p.items, kWalkers) * p.chunks, call.members);
  with_width(a.width, vector_width(a, *call.in[0].shape), [&]<int kWidth, int kVec>() {
    if (p.rows > 0) {
      launch_rows(convolve_rows<kWidth>, p.items, p,
                  tile_bytes(p.columns, p.channels, kWidth, false), call.members, stream);
    } else {
      convolve<kWidth, kVec><<<grid, kThreads, 0, stream>>>(p);
    }
  });
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
  p.targets = targets_of(call, 4);
  set_shape(p, a, *call.in[1].shape);
  const Runs runs = item_runs(p);
  p.run = runs.size;
  const dim3 grid = member_grid(runs.count * p.chunks, call.members);
  with_width(a.width, vector_width(a, *call.in[1].shape), [&]<int kWidth, int kVec>() {
    if (p.rows > 0) {
      launch_rows(convolve_rows_bwd<kWidth>, runs.count, p,
                  tile_bytes(p.columns, p.channels, kWidth, true), call.members, stream);
    } else {
      convolve_bwd<kWidth, kVec><<<grid, kThreads, 0, stream>>>(p);
    }
  });
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
