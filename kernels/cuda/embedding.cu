// embedding:      y[r] = weight[tokens[r]]
// embedding_bwd:  dweight[v] = sum over rows r with tokens[r] = v of dy[r]
//
// Backward, a block belongs to one symbol, one run of rows and up to 128 columns: each of its warps lists the rows of its share
// that carry the symbol, 128 tokens at a time, and adds them in registers. Tokens are read once per symbol, from L2; a
// row of dy is read once. No table of the vocabulary is held anywhere, so any vocabulary works. A second kernel sums the runs.
#include <algorithm>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/reduce.cuh"

namespace statelab::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

struct EmbeddingArgs {
  Slices<const int32_t> tokens;
  Slices<const float> from;  // weight or dy
  Slices<float> to;          // y or the parts of dweight, (runs, vocab, d)
  int64_t rows, run;
  int vocab, d, chunks;  // chunks of columns
};

/// Block (lanes, rows): a thread takes packs threadIdx.x, + lanes, .. of its row.
template <int kVec>
__global__ void __launch_bounds__(kThreads) copy_rows(const EmbeddingArgs p) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= p.rows) return;
  const int64_t token = __ldg(p.tokens.at(blockIdx.y) + row);
  const float* from = p.from.at(blockIdx.y) + token * p.d;
  float* to = p.to.at(blockIdx.y) + row * p.d;
  for (int c = static_cast<int>(threadIdx.x) * kVec; c < p.d;
       c += static_cast<int>(blockDim.x) * kVec) {
    float v[kVec];
    load(v, from + c);
    store(to + c, v);
  }
}

void launch_fwd(const CudaCall& call, CUstream_st* stream) {
  if (call.out[0].data == nullptr) return;
  const Shape& weight = *call.in[1].shape;
  EmbeddingArgs p{};
  p.tokens = slices<const int32_t>(call.in[0]), p.from = slices<const float>(call.in[1]);
  p.to = slices<float>(call.out[0]);
  p.rows = call.in[0].shape->size(), p.d = weight[1];
  const int packs = p.d % 4 == 0 ? p.d / 4 : p.d;
  unsigned lanes = 1;
  while (lanes < static_cast<unsigned>(packs) && lanes < kThreads) lanes *= 2;
  const dim3 block(lanes, kThreads / lanes);
  const dim3 grid = member_grid(ceil_div(p.rows, block.y), call.members);
  if (p.d % 4 == 0) {
    copy_rows<4><<<grid, block, 0, stream>>>(p);
  } else {
    copy_rows<1><<<grid, block, 0, stream>>>(p);
  }
  check_launch("embedding");
}

// ---- backward

/// kLanes lanes hold a row's columns, so a warp adds 32 / kLanes rows at once.
template <int kVec, int kLanes>
__global__ void __launch_bounds__(kThreads) sum_rows_of_symbol(const EmbeddingArgs p) {
  constexpr int kGroups = 32 / kLanes, kColumns = kVec * kLanes, kScan = 128;
  __shared__ int found[kWarps][kScan];
  __shared__ float shares[kWarps][kColumns];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const auto vocab = static_cast<unsigned>(p.vocab), chunks = static_cast<unsigned>(p.chunks);
  // Symbols are the fastest axis: blocks that run at the same time then share lines of dy.
  const int symbol = static_cast<int>(blockIdx.x % vocab);
  const int chunk = static_cast<int>(blockIdx.x / vocab % chunks);
  const int64_t run = blockIdx.x / vocab / chunks;
  const int column = chunk * kColumns + lane % kLanes * kVec;
  const int64_t share = p.run / kWarps, begin = run * p.run + warp * share,
                end = min(begin + share, p.rows);
  const int32_t* tokens = p.tokens.at(blockIdx.y);
  const float* dy = p.from.at(blockIdx.y);
  float sum[kVec] = {};
  for (int64_t base = begin; base < end; base += kScan) {
    bool match[kScan / 32];
#pragma unroll
    for (int i = 0; i < kScan / 32; ++i) {
      const int64_t row = base + i * 32 + lane;
      match[i] = row < end && __ldg(tokens + row) == symbol;
    }
    int count = 0;
#pragma unroll
    for (int i = 0; i < kScan / 32; ++i) {
      const unsigned mask = __ballot_sync(kAllLanes, match[i]);
      if (match[i]) found[warp][count + __popc(mask & ((1u << lane) - 1))] = i * 32 + lane;
      count += __popc(mask);
    }
    __syncwarp();
    if (column < p.d) {
#pragma unroll 4
      for (int k = lane / kLanes; k < count; k += kGroups) {
        float v[kVec];
        load(v, dy + (base + found[warp][k]) * p.d + column);
#pragma unroll
        for (int e = 0; e < kVec; ++e) sum[e] += v[e];
      }
    }
    __syncwarp();
  }
#pragma unroll
  for (int e = 0; e < kVec; ++e) {
#pragma unroll
    for (int d = kLanes; d < 32; d *= 2) sum[e] += __shfl_xor_sync(kAllLanes, sum[e], d);
    if (lane < kLanes) shares[warp][lane * kVec + e] = sum[e];
  }
  __syncthreads();
  const int at = static_cast<int>(threadIdx.x), c = chunk * kColumns + at;
  if (at >= kColumns || c >= p.d) return;
  float total = 0;
#pragma unroll
  for (int s = 0; s < kWarps; ++s) total += shares[s][at];
  p.to.at(blockIdx.y)[(run * p.vocab + symbol) * p.d + c] = total;
}

/// Fewer runs for larger vocabularies, whose symbols make blocks enough: what the second kernel reads stays small.
Runs row_runs(int64_t rows, int vocab) {
  return Runs(rows, std::clamp<int64_t>(1024 / std::max(vocab, 1), 4, 64), 32 * kWarps);
}

int64_t workspace_bwd(const CallShapes& c) {
  const Shape& weight = c.out[0].shape;
  const Runs runs = row_runs(c.in[0]->shape.size(), weight[0]);
  return runs.count == 1 ? 0 : runs.count * weight.size() * 4;
}

template <int kVec>
void launch_sums(EmbeddingArgs p, int64_t runs, int members, CUstream_st* stream) {
  const int packs = p.d / kVec, lanes = packs <= 8 ? 8 : packs <= 16 ? 16 : 32;
  p.chunks = static_cast<int>(ceil_div(packs, lanes));
  const dim3 grid = member_grid(runs * p.vocab * p.chunks, members);
  if (lanes == 8) {
    sum_rows_of_symbol<kVec, 8><<<grid, kThreads, 0, stream>>>(p);
  } else if (lanes == 16) {
    sum_rows_of_symbol<kVec, 16><<<grid, kThreads, 0, stream>>>(p);
  } else {
    sum_rows_of_symbol<kVec, 32><<<grid, kThreads, 0, stream>>>(p);
  }
  check_launch("embedding_bwd");
}

void launch_bwd(const CudaCall& call, CUstream_st* stream) {
  if (call.out[0].data == nullptr) return;
  const Shape& weight = *call.out[0].shape;
  EmbeddingArgs p{};
  p.tokens = slices<const int32_t>(call.in[0]), p.from = slices<const float>(call.in[1]);
  p.rows = call.in[0].shape->size(), p.vocab = weight[0], p.d = weight[1];
  const Runs runs = row_runs(p.rows, p.vocab);
  p.run = runs.size;
  p.to = slices<float>(runs.count == 1 ? call.out[0] : call.workspace);
  if (p.d % 4 == 0) {
    launch_sums<4>(p, runs.count, call.members, stream);
  } else {
    launch_sums<1>(p, runs.count, call.members, stream);
  }
  if (runs.count > 1)
    sum_runs("embedding_bwd", call, runs.count, weight.size(), call.out[0], stream);
}

}  // namespace

CudaKernel embedding_kernel() { return {nullptr, launch_fwd, nullptr}; }
CudaKernel embedding_bwd_kernel() { return {workspace_bwd, launch_bwd, nullptr}; }

}  // namespace statelab::cuda
