// What the losses share: how many rows have a target, and the mean over them.
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

}  // namespace statelab::cuda
