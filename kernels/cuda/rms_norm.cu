// rms_norm:      r = (mean x^2 + eps)^(-1/2),  y = x r w
// rms_norm_bwd:  dx = r (dy w - x r mean(dy w x) r) [+ addend],  dw = sum over rows of dy x r
//
// A group of 8, 16 or 32 lanes holds a row in registers. Backward, a block walks a run of rows, keeps its part of dw in
// registers too, and a second kernel sums the runs. Rows that do not fit go one by one through a block of their own.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/reduce.cuh"

namespace statelab::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int64_t kMaxRuns = 512;

struct NormArgs {
  Slices<const float> dy, x, weight, addend;
  Slices<float> out, partial;  // y or dx; (runs, n) when dw is wanted
  int64_t rows, run;
  int n;
  float eps;
};

__device__ __forceinline__ float inverse_rms(float sum_of_squares, const NormArgs& p) {
  return 1.0f / sqrtf(sum_of_squares / static_cast<float>(p.n) + p.eps);
}

/// kHeld packs of kVec a lane: n <= kVec * kLanes * kHeld.
template <int kVec, int kLanes, int kHeld>
__global__ void __launch_bounds__(kThreads) norm_rows(const NormArgs p) {
  constexpr int kRows = kThreads / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x / kLanes;
  const bool here = row < p.rows;  // no return: the lanes of other rows sum with these
  const float* x = p.x.at(blockIdx.y) + row * p.n;
  float v[kHeld][kVec] = {};
  float sum = 0;
#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    const int c = (h * kLanes + lane) * kVec;
    if (here && c < p.n) load(v[h], x + c);
#pragma unroll
    for (int k = 0; k < kVec; ++k) sum += v[h][k] * v[h][k];
  }
  const float inv = inverse_rms(lanes_sum<kLanes>(sum), p);
  const float* weight = p.weight.at(blockIdx.y);
  float* y = p.out.at(blockIdx.y) + row * p.n;
#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    const int c = (h * kLanes + lane) * kVec;
    if (!here || c >= p.n) continue;
    float w[kVec];
    load(w, weight + c);
#pragma unroll
    for (int k = 0; k < kVec; ++k) w[k] *= v[h][k] * inv;
    store(y + c, w);
  }
}

template <int kVec, int kLanes, int kHeld>
__global__ void __launch_bounds__(kThreads) norm_rows_bwd(const NormArgs p) {
  constexpr int kRows = kThreads / kLanes, kColumns = kVec * kLanes * kHeld;
  __shared__ float shares[kWarps][kColumns];
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const float* weight = p.weight.at(blockIdx.y);
  const float *dy = p.dy.at(blockIdx.y), *x = p.x.at(blockIdx.y);
  const float* addend = p.addend.at(blockIdx.y);
  float *dx = p.out.at(blockIdx.y), *partial = p.partial.at(blockIdx.y);
  float w[kHeld][kVec] = {}, dw[kHeld][kVec] = {};
#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    const int c = (h * kLanes + lane) * kVec;
    if (c < p.n) load(w[h], weight + c);
  }
  const int64_t begin = blockIdx.x * p.run, end = min(begin + p.run, p.rows);
  for (int64_t row0 = begin; row0 < end; row0 += kRows) {
    const int64_t row = row0 + threadIdx.x / kLanes;
    const bool here = row < end;
    float v[kHeld][kVec] = {}, g[kHeld][kVec] = {}, added[kHeld][kVec] = {};
    float sum = 0, dot = 0;
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      const int c = (h * kLanes + lane) * kVec;
      if (here && c < p.n) {
        load(v[h], x + row * p.n + c);
        load(g[h], dy + row * p.n + c);
        if (addend != nullptr) load(added[h], addend + row * p.n + c);
      }
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        sum += v[h][k] * v[h][k];
        dot += g[h][k] * w[h][k] * v[h][k];
      }
    }
    const float inv = inverse_rms(lanes_sum<kLanes>(sum), p);
    dot = lanes_sum<kLanes>(dot) * inv / static_cast<float>(p.n);
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      const int c = (h * kLanes + lane) * kVec;
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        const float normed = v[h][k] * inv;
        dw[h][k] += g[h][k] * normed;
        // Rounded before the addend, as where another op adds it.
        g[h][k] = __fmul_rn(inv, g[h][k] * w[h][k] - normed * dot);
        if (addend != nullptr) g[h][k] += added[h][k];
      }
      if (here && c < p.n && dx != nullptr) store(dx + row * p.n + c, g[h]);
    }
  }
  // The rows of a warp, then the warps in order.
  if (partial == nullptr) return;  // the whole block

#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
#pragma unroll
    for (int k = 0; k < kVec; ++k) {
#pragma unroll
      for (int d = kLanes; d < 32; d *= 2) dw[h][k] += __shfl_xor_sync(kAllLanes, dw[h][k], d);
      if (threadIdx.x % 32 < kLanes)
        shares[threadIdx.x / 32][(h * kLanes + lane) * kVec + k] = dw[h][k];
    }
  }
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.x); c < p.n; c += kThreads) {
    float total = 0;
#pragma unroll
    for (int s = 0; s < kWarps; ++s) total += shares[s][c];
    partial[blockIdx.x * static_cast<int64_t>(p.n) + c] = total;
  }
}

// ---- rows of any width: a block per row, thread i has columns i, i + kThreads, ..

__global__ void __launch_bounds__(kThreads) norm_wide(const NormArgs p) {
  __shared__ float shared[kWarps];
  const int64_t at = static_cast<int64_t>(blockIdx.x) * p.n;
  const float *x = p.x.at(blockIdx.y) + at, *weight = p.weight.at(blockIdx.y);
  float* y = p.out.at(blockIdx.y) + at;
  float sum = 0;
  for (int c = static_cast<int>(threadIdx.x); c < p.n; c += kThreads) sum += x[c] * x[c];
  const float inv = inverse_rms(block_sum<kThreads>(sum, shared), p);
  for (int c = static_cast<int>(threadIdx.x); c < p.n; c += kThreads) y[c] = x[c] * inv * weight[c];
}

/// A column of the partial belongs to one thread, which adds to it row by row in memory.
__global__ void __launch_bounds__(kThreads) norm_wide_bwd(const NormArgs p) {
  __shared__ float shared_sum[kWarps], shared_dot[kWarps];
  const float *dy = p.dy.at(blockIdx.y), *x = p.x.at(blockIdx.y), *w = p.weight.at(blockIdx.y);
  const float* addend = p.addend.at(blockIdx.y);
  float *dx = p.out.at(blockIdx.y), *partial = p.partial.at(blockIdx.y);
  if (partial != nullptr) partial += blockIdx.x * static_cast<int64_t>(p.n);
  const int64_t begin = blockIdx.x * p.run, end = min(begin + p.run, p.rows);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = row * p.n;
    float sum = 0, dot = 0;
    for (int c = static_cast<int>(threadIdx.x); c < p.n; c += kThreads) {
      sum += x[at + c] * x[at + c];
      dot += dy[at + c] * w[c] * x[at + c];
    }
    const float inv = inverse_rms(block_sum<kThreads>(sum, shared_sum), p);
    dot = block_sum<kThreads>(dot, shared_dot) * inv / static_cast<float>(p.n);
    for (int c = static_cast<int>(threadIdx.x); c < p.n; c += kThreads) {
      const float g = dy[at + c], normed = x[at + c] * inv;
      if (partial != nullptr) partial[c] = (row == begin ? 0.0f : partial[c]) + g * normed;
      if (dx == nullptr) continue;
      const float d = __fmul_rn(inv, g * w[c] - normed * dot);
      dx[at + c] = addend == nullptr ? d : d + addend[at + c];
    }
    __syncthreads();  // before the next row writes the shared sums
  }
}

// ---- launch

/// Calls f<kVec, kLanes, kHeld>() for rows of n, false when they are too wide for registers.
template <int kVec, class F>
bool held_row(int n, F&& f) {
  const int packs = n / kVec;
  if (packs <= 8) {
    f.template operator()<kVec, 8, 1>();
  } else if (packs <= 16) {
    f.template operator()<kVec, 16, 1>();
  } else if (packs <= 32) {
    f.template operator()<kVec, 32, 1>();
  } else if (packs <= 64) {
    f.template operator()<kVec, 32, 2>();
  } else if (packs <= 128) {
    f.template operator()<kVec, 32, 4>();
  } else {
    return false;
  }
  return true;
}

template <class F>
bool held_row(int n, F&& f) {
  return n % 4 == 0 ? held_row<4>(n, f) : held_row<1>(n, f);
}

void launch_fwd(const CudaCall& call, CUstream_st* stream) {
  if (call.out[0].data == nullptr) return;
  const Shape& shape = *call.in[0].shape;
  NormArgs p{};
  p.x = slices<const float>(call.in[0]), p.weight = slices<const float>(call.in[1]);
  p.out = slices<float>(call.out[0]);
  p.rows = shape.rows(), p.n = shape.last();
  p.eps = static_cast<float>(call.attrs<RmsNormAttrs>().eps);
  const bool held = held_row(p.n, [&]<int kVec, int kLanes, int kHeld>() {
    const dim3 grid = member_grid(ceil_div(p.rows, kThreads / kLanes), call.members);
    norm_rows<kVec, kLanes, kHeld><<<grid, kThreads, 0, stream>>>(p);
  });
  if (!held) norm_wide<<<member_grid(p.rows, call.members), kThreads, 0, stream>>>(p);
  check_launch("rms_norm");
}

/// Whole passes of the narrowest layout, 32 rows of 8 lanes.
Runs row_runs(int64_t rows) { return Runs(rows, kMaxRuns, 32); }

int64_t workspace_bwd(const CallShapes& c) {
  return row_runs(c.in[1]->shape.rows()).count * c.in[1]->shape.last() * 4;
}

void launch_bwd(const CudaCall& call, CUstream_st* stream) {
  const Shape& shape = *call.in[1].shape;
  const Runs runs = row_runs(shape.rows());
  const bool want_weight = call.out[1].data != nullptr;
  NormArgs p{};
  p.dy = slices<const float>(call.in[0]), p.x = slices<const float>(call.in[1]);
  p.weight = slices<const float>(call.in[2]);
  if (call.in.size() > 3) p.addend = slices<const float>(call.in[3]);
  p.out = slices<float>(call.out[0]);
  if (want_weight) p.partial = slices<float>(call.workspace);
  p.rows = shape.rows(), p.run = runs.size, p.n = shape.last();
  p.eps = static_cast<float>(call.attrs<RmsNormAttrs>().eps);
  const dim3 grid = member_grid(runs.count, call.members);
  const bool held = held_row(p.n, [&]<int kVec, int kLanes, int kHeld>() {
    norm_rows_bwd<kVec, kLanes, kHeld><<<grid, kThreads, 0, stream>>>(p);
  });
  if (!held) norm_wide_bwd<<<grid, kThreads, 0, stream>>>(p);
  check_launch("rms_norm_bwd");
  if (want_weight) sum_runs("rms_norm_bwd", call, runs.count, p.n, call.out[1], stream);
}

}  // namespace

CudaKernel rms_norm_kernel() { return {nullptr, launch_fwd, nullptr}; }
CudaKernel rms_norm_bwd_kernel() { return {workspace_bwd, launch_bwd, nullptr}; }

}  // namespace statelab::cuda
