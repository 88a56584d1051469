// What the losses share: how many rows have a target, the mean over them, a warp's sums over a row.
#pragma once

#include "kernels/cuda/reduce.cuh"

namespace statelab::cuda {

constexpr int kCountRuns = 32, kCountThreads = 256;

/// Runs of rows whose targets are counted, at most kCountRuns.
inline Runs count_runs(int64_t rows) { return Runs(rows, kCountRuns, kCountThreads); }

struct CountArgs {
  Slices<const int32_t> targets;
  Slices<int32_t> counts;  ///< by run
  int64_t rows, run;
};

static __global__ void __launch_bounds__(kCountThreads) count_supervised(const CountArgs p) {
  __shared__ int32_t shared[kCountThreads / 32];
  const int32_t* targets = p.targets.at(blockIdx.y);
  const int64_t begin = blockIdx.x * p.run, end = min(begin + p.run, p.rows);
  int32_t count = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kCountThreads)
    count += __ldg(targets + i) >= 0;
  count = block_sum<kCountThreads>(count, shared);
  if (threadIdx.x == 0) p.counts.at(blockIdx.y)[blockIdx.x] = count;
}

inline void launch_count(const char* name, const Slices<const int32_t>& targets,
                         const Slices<int32_t>& counts, int64_t rows, int members,
                         CUstream_st* stream) {
  const Runs runs = count_runs(rows);
  count_supervised<<<member_grid(runs.count, members), kCountThreads, 0, stream>>>(
      {targets, counts, rows, runs.size});
  check_launch(name);
}

/// dloss / supervised rows, from the counts of `runs` runs; all lanes of a warp take part.
__device__ __forceinline__ double loss_scale(const float* dloss, const int32_t* counts,
                                             int64_t runs, int lane) {
  static_assert(kCountRuns == 32, "a lane adds one run");
  const int count = lanes_sum<32>(lane < runs ? counts[lane] : 0);
  return static_cast<double>(dloss[0]) / static_cast<double>(max(count, 1));
}

/// Loss and accuracy, either of which may be null, from the sums (runs, 3) of loss, right answers and supervised rows.
/// A block of kThreads threads; all take part.
template <int kThreads>
__device__ __forceinline__ void mean_of_sums(const double* sums, int64_t runs, float* to_loss,
                                             float* to_accuracy,
                                             double (&shared)[3][kThreads / 32]) {
  double loss = 0, correct = 0, count = 0;
  for (int64_t i = threadIdx.x; i < runs; i += kThreads) {
    loss += sums[3 * i];
    correct += sums[3 * i + 1];
    count += sums[3 * i + 2];
  }
  loss = block_sum<kThreads>(loss, shared[0]);
  correct = block_sum<kThreads>(correct, shared[1]);
  count = block_sum<kThreads>(count, shared[2]);
  if (threadIdx.x != 0) return;
  const double n = count > 1 ? count : 1;
  if (to_loss != nullptr) *to_loss = static_cast<float>(loss / n);
  if (to_accuracy != nullptr) *to_accuracy = static_cast<float>(correct / n);
}

/// kCols neighbouring numbers of a lane.
template <int kCols>
__device__ __forceinline__ void load_columns(float (&to)[kCols], const float* from) {
  if constexpr (kCols == 1) {
    to[0] = *from;
  } else if constexpr (kCols == 2) {
    const float2 v = *reinterpret_cast<const float2*>(from);
    to[0] = v.x, to[1] = v.y;
  } else {
#pragma unroll
    for (int i = 0; i < kCols; i += 4) {
      const float4 v = *reinterpret_cast<const float4*>(from + i);
      to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
    }
  }
}
template <int kCols>
__device__ __forceinline__ void store_columns(float* to, const float (&from)[kCols]) {
  if constexpr (kCols == 1) {
    *to = from[0];
  } else if constexpr (kCols == 2) {
    *reinterpret_cast<float2*>(to) = make_float2(from[0], from[1]);
  } else {
#pragma unroll
    for (int i = 0; i < kCols; i += 4)
      *reinterpret_cast<float4*>(to + i) =
          make_float4(from[i], from[i + 1], from[i + 2], from[i + 3]);
  }
}

/// kV sums over the lanes of a warp; lane l gets that of share[l / (32 / kV)]. kHalf: of those that a lane still has.
template <int kV, int kHalf = kV / 2>
__device__ __forceinline__ float sums_by_lane(float (&share)[kV], int lane) {
  constexpr int kDistance = kHalf * 32 / kV;
  const bool high = (lane & kDistance) != 0;
#pragma unroll
  for (int i = 0; i < kHalf; ++i) {
    const float sent = high ? share[i] : share[i + kHalf],
                kept = high ? share[i + kHalf] : share[i];
    share[i] = kept + __shfl_xor_sync(kAllLanes, sent, kDistance);
  }
  if constexpr (kHalf > 1) {
    return sums_by_lane<kV, kHalf / 2>(share, lane);
  } else {
    float sum = share[0];
#pragma unroll
    for (int d = kDistance / 2; d >= 1; d /= 2) sum += __shfl_xor_sync(kAllLanes, sum, d);
    return sum;
  }
}

}  // namespace statelab::cuda
