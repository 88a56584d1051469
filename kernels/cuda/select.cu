// select: y_b = the row of x at sequence b's supervised position (its last target, the first position without one);
// select_bwd: dx = dy there, zeros elsewhere.
//
// A warp takes a sequence, backward a block.
//   launch    grid x: groups of warps, backward sequences; y: members
//   traffic   the targets, a row a sequence; backward all of dx
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/reduce.cuh"

namespace statelab::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

/// All lanes of a warp.
__device__ __forceinline__ int supervised_position(const int32_t* targets, int seqlen) {
  int p = 0;
  for (int t = static_cast<int>(threadIdx.x) % 32; t < seqlen; t += 32) {
    if (__ldg(targets + t) >= 0) p = t;
  }
  return __reduce_max_sync(kAllLanes, p);
}

struct SelectArgs {
  Slices<const int32_t> targets;
  int batch, seqlen, width;
};

/// T: an element of four bytes.
template <class T>
__global__ void __launch_bounds__(kThreads)
    select_rows(const SelectArgs a, Slices<const T> x, Slices<T> y) {
  const int64_t b = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (b >= a.batch) return;  // the whole warp
  const int p = supervised_position(a.targets.at(blockIdx.y) + b * a.seqlen, a.seqlen);
  const T* from = x.at(blockIdx.y) + (b * a.seqlen + p) * a.width;
  for (int c = static_cast<int>(threadIdx.x) % 32; c < a.width; c += 32)
    y.at(blockIdx.y)[b * a.width + c] = from[c];
}

/// A block a sequence. kVec: floats of a store.
template <int kVec>
__global__ void __launch_bounds__(kThreads)
    spread_rows(const SelectArgs a, Slices<const float> dy, Slices<float> dx) {
  const int64_t b = blockIdx.x;
  const int p = supervised_position(a.targets.at(blockIdx.y) + b * a.seqlen, a.seqlen);
  const float* from = dy.at(blockIdx.y) + b * a.width;
  float* const to = dx.at(blockIdx.y) + b * a.seqlen * a.width;
  const int packs = a.width / kVec, begin = p * packs;
  for (int i = static_cast<int>(threadIdx.x); i < a.seqlen * packs; i += kThreads) {
    float v[kVec] = {};
    if (i >= begin && i < begin + packs) load(v, from + (i - begin) * kVec);
    store(to + i * kVec, v);
  }
}

SelectArgs arguments(const CudaCall& call) {
  const Shape& targets = *call.in[1].shape;
  return {slices<const int32_t>(call.in[1]), targets[0], targets[1],
          call.out[0].shape->rank() == 2 ? 1 : call.out[0].shape->last()};
}

void launch(const CudaCall& call, CUstream_st* stream) {
  const SelectArgs a = arguments(call);
  const dim3 grid = member_grid(ceil_div(a.batch, kWarps), call.members);
  if (call.in[0].shape->rank() == 2) {
    select_rows<<<grid, kThreads, 0, stream>>>(a, slices<const int32_t>(call.in[0]),
                                               slices<int32_t>(call.out[0]));
  } else {
    select_rows<<<grid, kThreads, 0, stream>>>(a, slices<const float>(call.in[0]),
                                               slices<float>(call.out[0]));
  }
  check_launch("select");
}

void launch_bwd(const CudaCall& call, CUstream_st* stream) {
  const SelectArgs a = arguments(call);
  const dim3 grid = member_grid(a.batch, call.members);
  const auto dy = slices<const float>(call.in[0]);
  const auto dx = slices<float>(call.out[0]);
  if (a.width % 4 == 0) {
    spread_rows<4><<<grid, kThreads, 0, stream>>>(a, dy, dx);
  } else {
    spread_rows<1><<<grid, kThreads, 0, stream>>>(a, dy, dx);
  }
  check_launch("select_bwd");
}

}  // namespace

CudaKernel select_kernel() { return {nullptr, launch, nullptr}; }
CudaKernel select_bwd_kernel() { return {nullptr, launch_bwd, nullptr}; }

}  // namespace statelab::cuda
