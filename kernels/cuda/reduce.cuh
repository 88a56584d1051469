// What the kernels outside the scans and products share: slices of operands, partitions that shapes decide, and reductions
// in a fixed order.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/check.cuh"
#include "kernels/cuda/kernel.h"

namespace statelab::cuda {

constexpr unsigned kAllLanes = 0xFFFFFFFFu;

/// All members' slices of an operand; at() is nullptr where it is absent or, for an output, not wanted.
template <class T>
struct Slices {
  T* data = nullptr;
  int64_t stride = 0;  ///< elements from member to member: slices start at multiples of 64 bytes
  __device__ __forceinline__ T* at(unsigned member) const {
    return data == nullptr ? nullptr : data + static_cast<int64_t>(member) * stride;
  }
};

template <class T>
Slices<T> slices(const Operand& x) {
  return {x.at<T>(0), x.stride_bytes / static_cast<int64_t>(sizeof(T))};
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// n items in runs of equal size, a multiple of `multiple` (the last may be short); at least one run.
struct Runs {
  int64_t n, size, count;
  Runs(int64_t n, int64_t max_count, int64_t multiple)
      : n(n),
        size(ceil_div(ceil_div(n > 0 ? n : 1, max_count), multiple) * multiple),
        count(ceil_div(n > 0 ? n : 1, size)) {}
};

/// Blocks on x, members on y: x is the axis without a limit of 65535.
inline dim3 member_grid(int64_t blocks, int members) {
  return dim3(static_cast<unsigned>(blocks > 0 ? blocks : 1), static_cast<unsigned>(members));
}

template <int kVec>
__device__ __forceinline__ void load(float (&to)[kVec], const float* from) {
  static_assert(kVec == 1 || kVec == 4);
  if constexpr (kVec == 4) {
    const float4 v = __ldg(reinterpret_cast<const float4*>(from));
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
  } else {
    to[0] = __ldg(from);
  }
}

template <int kVec>
__device__ __forceinline__ void store(float* to, const float (&from)[kVec]) {
  if constexpr (kVec == 4) {
    *reinterpret_cast<float4*>(to) = make_float4(from[0], from[1], from[2], from[3]);
  } else {
    to[0] = from[0];
  }
}

/// Sum over each aligned group of kLanes lanes; every lane gets it. All lanes of the warp take part.
template <int kLanes, class T>
__device__ __forceinline__ T lanes_sum(T x) {
#pragma unroll
  for (int d = kLanes / 2; d >= 1; d /= 2) x += __shfl_xor_sync(kAllLanes, x, d);
  return x;
}

/// Sum over a block of kThreads threads; every thread gets it. `shared` holds kThreads / 32 values; a barrier must come
/// before its next use. All threads take part.
template <int kThreads, class T>
__device__ __forceinline__ T block_sum(T x, T* shared) {
  x = lanes_sum<32>(x);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  T total = 0;
#pragma unroll
  for (int w = 0; w < kThreads / 32; ++w) total += shared[w];
  return total;
}

/// First position of the largest of columns [begin, end), found by kLanes lanes. NaN never wins over a number, and nothing wins
/// over a NaN in the first column: as `if (l[i] > l[best]) best = i` has it. An empty range gives {-inf, end}.
struct Best {
  float value;
  int at;
};
/// The better of this lane's and that of the lane whose number differs in `distance`.
__device__ __forceinline__ Best better(const Best& best, int distance) {
  const float value = __shfl_xor_sync(kAllLanes, best.value, distance);
  const int at = __shfl_xor_sync(kAllLanes, best.at, distance);
  return value > best.value || (value == best.value && at < best.at) ? Best{value, at} : best;
}
template <int kLanes>
__device__ __forceinline__ Best first_argmax(const float* logits, int begin, int end, int lane) {
  const float infinity = __int_as_float(0x7F800000);
  Best best{-infinity, end};
  for (int i = begin + lane; i < end; i += kLanes) {
    float v = __ldg(logits + i);
    if (isnan(v)) v = i == begin ? infinity : -infinity;
    if (best.at == end || v > best.value) best = {v, i};
  }
#pragma unroll
  for (int d = kLanes / 2; d >= 1; d /= 2) best = better(best, d);
  return best;
}

/// log(sum exp(logits)) over columns [0, classes) in double, `top` being their maximum; every lane of the group gets it.
template <int kLanes>
__device__ __forceinline__ double logsumexp(const float* logits, int classes, double top,
                                            int lane) {
  double sum = 0;
  for (int i = lane; i < classes; i += kLanes)
    sum += exp(static_cast<double>(__ldg(logits + i)) - top);
  return top + log(lanes_sum<kLanes>(sum));
}

/// Lanes that share a row of so many columns.
inline int lanes_for(int columns) {
  return columns <= 4 ? 4 : columns <= 8 ? 8 : columns <= 16 ? 16 : 32;
}

/// out[i] = sum over `count` runs of parts[run][i], in a fixed order; columns from `begin[o]` on belong to out[o].
struct RunSums {
  Slices<const float> parts;
  int64_t width, count;
  Slices<float> out[2];
  int64_t begin[2];  ///< begin[0] = 0
};

/// 32 columns of a block x on the grid, 32 shares of the runs: blocks of 1024 threads.
__device__ __forceinline__ void sum_columns(const RunSums& p) {
  __shared__ float shares[32][33];
  const int lane = static_cast<int>(threadIdx.x) % 32, share = static_cast<int>(threadIdx.x) / 32;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * 32 + lane;
  float sum = 0;
  if (column < p.width) {
    const int64_t size = (p.count + 31) / 32, end = min(p.count, (share + 1) * size);
    const float* from = p.parts.at(blockIdx.y) + column;
#pragma unroll 8
    for (int64_t i = share * size; i < end; ++i) sum += from[i * p.width];
  }
  shares[share][lane] = sum;
  __syncthreads();
  if (share != 0 || column >= p.width) return;
  float total = 0;
#pragma unroll
  for (int s = 0; s < 32; ++s) total += shares[s][lane];
  const bool second = column >= p.begin[1];
  float* out = second ? p.out[1].at(blockIdx.y) : p.out[0].at(blockIdx.y);
  if (out != nullptr) out[column - (second ? p.begin[1] : 0)] = total;
}

/// Grid (ceil(width / 32), members).
static __global__ void __launch_bounds__(1024) sum_runs_kernel(const RunSums p) { sum_columns(p); }

inline void sum_runs(const char* name, const CudaCall& call, int64_t count, int64_t width,
                     const Operand& out, CUstream_st* stream) {
  const RunSums p{
      slices<const float>(call.workspace), width, count, {slices<float>(out), {}}, {0, width}};
  sum_runs_kernel<<<member_grid(ceil_div(width, 32), call.members), 1024, 0, stream>>>(p);
  check_launch(name);
}

/// Two outputs whose columns follow one another: the first has `first_width` of `width`.
inline void sum_runs(const char* name, const CudaCall& call, int64_t count, int64_t width,
                     const Operand& first, int64_t first_width, const Operand& second,
                     CUstream_st* stream) {
  const RunSums p{slices<const float>(call.workspace),
                  width,
                  count,
                  {slices<float>(first), slices<float>(second)},
                  {0, first_width}};
  sum_runs_kernel<<<member_grid(ceil_div(width, 32), call.members), 1024, 0, stream>>>(p);
  check_launch(name);
}

}  // namespace statelab::cuda
