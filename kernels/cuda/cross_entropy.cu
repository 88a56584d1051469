// cross_entropy:      loss = mean over rows with target >= 0 of lse - logit[target], accuracy = share of first argmax = target
// cross_entropy_bwd:  dlogits = dloss / supervised * (exp(logit - lse) - onehot), zero elsewhere
//
// 4 to 32 lanes hold a row; exponentials and sums are double, as on the CPU. Forward, a block sums a run of rows and a second
// kernel the blocks. Backward, a first kernel counts the supervised rows by runs, and every block of the second adds up
// these few integers itself.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/loss.cuh"
#include "kernels/cuda/reduce.cuh"

namespace statelab::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

struct LossArgs {
  Slices<const float> dloss, logits;
  Slices<const int32_t> targets;
  Slices<double> sums;     // forward: (runs, 3): loss, correct, supervised
  Slices<int32_t> counts;  // backward: (runs) supervised, at most kCountRuns
  Slices<float> loss, accuracy, dlogits;
  int64_t rows, run, runs;
  int width, classes;
};

// ---- forward

template <int kLanes>
__global__ void __launch_bounds__(kThreads) loss_of_rows(const LossArgs p) {
  constexpr int kRows = kThreads / kLanes;
  __shared__ double shared[3][kWarps];
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const float* logits = p.logits.at(blockIdx.y);
  const int32_t* targets = p.targets.at(blockIdx.y);
  const int64_t begin = blockIdx.x * p.run, end = min(begin + p.run, p.rows);
  double loss = 0, correct = 0, count = 0;
  for (int64_t row0 = begin; row0 < end; row0 += kRows) {
    const int64_t row = row0 + threadIdx.x / kLanes;
    const int target = row < end ? __ldg(targets + row) : -1;
    if (!__any_sync(kAllLanes, target >= 0)) continue;  // the whole warp
    const int classes = target >= 0 ? p.classes : 0;    // lanes of other rows only sum along
    const float* l = logits + row * p.width;
    const Best best = first_argmax<kLanes>(l, 0, classes, lane);
    const double lse = logsumexp<kLanes>(l, classes, best.value, lane);
    if (lane == 0 && target >= 0) {
      loss += lse - static_cast<double>(__ldg(l + target));
      correct += best.at == target ? 1 : 0;
      count += 1;
    }
  }
  loss = block_sum<kThreads>(loss, shared[0]);
  correct = block_sum<kThreads>(correct, shared[1]);
  count = block_sum<kThreads>(count, shared[2]);
  if (threadIdx.x == 0) {
    double* sums = p.sums.at(blockIdx.y) + 3 * static_cast<int64_t>(blockIdx.x);
    sums[0] = loss, sums[1] = correct, sums[2] = count;
  }
}

/// One block per member.
__global__ void __launch_bounds__(kThreads) mean_loss(const LossArgs p) {
  __shared__ double shared[3][kWarps];
  mean_of_sums<kThreads>(p.sums.at(blockIdx.y), p.runs, p.loss.at(blockIdx.y),
                         p.accuracy.at(blockIdx.y), shared);
}

Runs loss_runs(int64_t rows) { return Runs(rows, 512, 64); }

int64_t workspace_fwd(const CallShapes& c) {
  return loss_runs(c.in[1]->shape.size()).count * 3 * static_cast<int64_t>(sizeof(double));
}

void launch_fwd(const CudaCall& call, CUstream_st* stream) {
  if (call.out[0].data == nullptr && call.out[1].data == nullptr) return;
  LossArgs p{};
  p.logits = slices<const float>(call.in[0]), p.targets = slices<const int32_t>(call.in[1]);
  p.sums = slices<double>(call.workspace);
  p.loss = slices<float>(call.out[0]), p.accuracy = slices<float>(call.out[1]);
  p.rows = call.in[1].shape->size();
  p.width = call.in[0].shape->last(), p.classes = call.attrs<CrossEntropyAttrs>().classes;
  const Runs runs = loss_runs(p.rows);
  p.run = runs.size, p.runs = runs.count;
  const dim3 grid = member_grid(p.runs, call.members);
  switch (lanes_for(p.classes)) {
    case 4:
      loss_of_rows<4><<<grid, kThreads, 0, stream>>>(p);
      break;
    case 8:
      loss_of_rows<8><<<grid, kThreads, 0, stream>>>(p);
      break;
    case 16:
      loss_of_rows<16><<<grid, kThreads, 0, stream>>>(p);
      break;
    default:
      loss_of_rows<32><<<grid, kThreads, 0, stream>>>(p);
  }
  check_launch("cross_entropy");
  mean_loss<<<member_grid(1, call.members), kThreads, 0, stream>>>(p);
  check_launch("cross_entropy");
}

// ---- backward

/// kHeld exponentials a lane stay in registers, so classes <= kLanes * kHeld; kHeld = 0: computed again.
template <int kLanes, int kHeld>
__global__ void __launch_bounds__(kThreads) dlogits_of_rows(const LossArgs p) {
  constexpr int kRows = kThreads / kLanes;
  __shared__ double scale;
  if (threadIdx.x < 32) {
    const int lane = static_cast<int>(threadIdx.x);
    const double mean = loss_scale(p.dloss.at(blockIdx.y), p.counts.at(blockIdx.y), p.runs, lane);
    if (lane == 0) scale = mean;
  }
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x / kLanes;
  const bool here = row < p.rows;
  const int target = here ? __ldg(p.targets.at(blockIdx.y) + row) : -1;
  float* d = p.dlogits.at(blockIdx.y) + row * p.width;
  const int classes = target >= 0 ? p.classes : 0;
  if (__any_sync(kAllLanes, target >= 0)) {
    const float* l = p.logits.at(blockIdx.y) + row * p.width;
    const double top = first_argmax<kLanes>(l, 0, classes, lane).value;
    if constexpr (kHeld > 0) {
      double e[kHeld], sum = 0;
#pragma unroll
      for (int k = 0; k < kHeld; ++k) {
        const int i = k * kLanes + lane;
        e[k] = i < classes ? exp(static_cast<double>(__ldg(l + i)) - top) : 0;
        sum += e[k];
      }
      sum = lanes_sum<kLanes>(sum);
#pragma unroll
      for (int k = 0; k < kHeld; ++k) {
        const int i = k * kLanes + lane;
        if (i < classes)
          d[i] = static_cast<float>(scale * (e[k] / sum - (i == target ? 1.0 : 0.0)));
      }
    } else {
      const double lse = logsumexp<kLanes>(l, classes, top, lane);
      for (int i = lane; i < classes; i += kLanes) {
        d[i] = static_cast<float>(
            scale * (exp(static_cast<double>(__ldg(l + i)) - lse) - (i == target ? 1.0 : 0.0)));
      }
    }
  }
  if (!here) return;
  for (int i = classes + lane; i < p.width; i += kLanes) d[i] = 0;
}

int64_t workspace_bwd(const CallShapes& c) {
  return count_runs(c.in[2]->shape.size()).count * static_cast<int64_t>(sizeof(int32_t));
}

template <int kLanes, int kHeld>
void launch_rows(const LossArgs& p, int members, CUstream_st* stream) {
  dlogits_of_rows<kLanes, kHeld>
      <<<member_grid(ceil_div(p.rows, kThreads / kLanes), members), kThreads, 0, stream>>>(p);
  check_launch("cross_entropy_bwd");
}

void launch_bwd(const CudaCall& call, CUstream_st* stream) {
  if (call.out[0].data == nullptr) return;
  LossArgs p{};
  p.dloss = slices<const float>(call.in[0]), p.logits = slices<const float>(call.in[1]);
  p.targets = slices<const int32_t>(call.in[2]);
  p.counts = slices<int32_t>(call.workspace);
  p.dlogits = slices<float>(call.out[0]);
  p.rows = call.in[2].shape->size();
  p.width = call.in[1].shape->last(), p.classes = call.attrs<CrossEntropyAttrs>().classes;
  p.runs = count_runs(p.rows).count;
  launch_count("cross_entropy_bwd", p.targets, p.counts, p.rows, call.members, stream);
  // As many lanes as the row is wide rather than has classes: every column is written.
  switch (lanes_for(p.width)) {
    case 4:
      return launch_rows<4, 1>(p, call.members, stream);
    case 8:
      return launch_rows<8, 1>(p, call.members, stream);
    case 16:
      return launch_rows<16, 1>(p, call.members, stream);
    default:
      if (p.classes <= 32) return launch_rows<32, 1>(p, call.members, stream);
      if (p.classes <= 64) return launch_rows<32, 2>(p, call.members, stream);
      if (p.classes <= 128) return launch_rows<32, 4>(p, call.members, stream);
      if (p.classes <= 256) return launch_rows<32, 8>(p, call.members, stream);
      return launch_rows<32, 0>(p, call.members, stream);
  }
}

}  // namespace

CudaKernel cross_entropy_kernel() { return {workspace_fwd, launch_fwd, nullptr}; }
CudaKernel cross_entropy_bwd_kernel() { return {workspace_bwd, launch_bwd, nullptr}; }

}  // namespace statelab::cuda
