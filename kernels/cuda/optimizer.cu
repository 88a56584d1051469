// global_norm and adamw: what follows the gradients in a training step, with the ops of member_ops.cu. Equations and order of
// operations are those of kernels/cpu/optimizer.cpp.
//
// Tensors come to a kernel as a table in its parameters, which must fit into 4 KB: more tensors, more launches.
#include <algorithm>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/member_ops.cuh"
#include "kernels/cuda/reduce.cuh"

namespace statelab::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr size_t kParameterBytes = 4096;

/// The table's entry whose blocks include `block`: the last with first_block <= block.
template <class Entry>
__device__ __forceinline__ const Entry& entry_of(const Entry* table, int count, int64_t block) {
  int low = 0, high = count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table[middle].first_block <= block) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return table[low];
}

// ---- global_norm: sqrt of the sum of squares, in double

constexpr int kNormTensors = 64;
constexpr int64_t kNormRun = 4096;  // elements of a block

struct NormTensor {
  Slices<const float> data;
  int64_t n, first_block;
};
struct NormArgs {
  Slices<double> sums;
  int64_t first_sum;  // of this launch
  int tensors;
  NormTensor table[kNormTensors];
};
static_assert(sizeof(NormArgs) <= kParameterBytes);

__global__ void __launch_bounds__(kThreads) sum_squares(const __grid_constant__ NormArgs p) {
  __shared__ double shared[kWarps];
  const NormTensor& tensor = entry_of(p.table, p.tensors, blockIdx.x);
  const int64_t begin = (blockIdx.x - tensor.first_block) * kNormRun,
                end = min(begin + kNormRun, tensor.n);
  const float* data = tensor.data.at(blockIdx.y);
  double sum = 0;
#pragma unroll
  for (int i = 0; i < static_cast<int>(kNormRun) / 4 / kThreads; ++i) {
    const int64_t at = begin + 4 * (i * kThreads + static_cast<int>(threadIdx.x));
    float v[4] = {};
    if (at + 4 <= end) {
      load(v, data + at);
    } else {
      for (int k = 0; k < 4; ++k) v[k] = at + k < end ? data[at + k] : 0.0f;
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) sum += static_cast<double>(v[k]) * static_cast<double>(v[k]);
  }
  sum = block_sum<kThreads>(sum, shared);
  if (threadIdx.x == 0) p.sums.at(blockIdx.y)[p.first_sum + blockIdx.x] = sum;
}

int64_t norm_blocks(const Shape& shape) { return ceil_div(shape.size(), kNormRun); }

int64_t workspace_global_norm(const CallShapes& c) {
  int64_t blocks = 0;
  for (const ValueType* g : c.in) blocks += norm_blocks(g->shape);
  return blocks * static_cast<int64_t>(sizeof(double));
}

}  // namespace

int64_t launch_norm_sums(const CudaCall& call, CUstream_st* stream) {
  int64_t sums = 0;
  for (size_t first = 0; first < call.in.size(); first += kNormTensors) {
    const size_t end = std::min(call.in.size(), first + kNormTensors);
    NormArgs p{};
    p.sums = slices<double>(call.workspace), p.first_sum = sums;
    int64_t blocks = 0;
    for (size_t i = first; i < end; ++i) {
      const Shape& shape = *call.in[i].shape;
      if (shape.size() == 0) continue;
      p.table[p.tensors++] = {slices<const float>(call.in[i]), shape.size(), blocks};
      blocks += norm_blocks(shape);
    }
    if (blocks == 0) continue;
    sum_squares<<<member_grid(blocks, call.members), kThreads, 0, stream>>>(p);
    check_launch("global_norm");
    sums += blocks;
  }
  return sums;
}

namespace {

// ---- adamw

constexpr int kAdamWTensors = 40;
constexpr int64_t kAdamWRun = 4 * kThreads;  // elements of a block, four a thread

struct AdamWTensor {
  Slices<float> weight, exp_avg, exp_avg_sq;
  Slices<const float> grad;
  int64_t n;
  int first_block;
  int decays;
};
struct AdamWArgs {
  Slices<const float> norm;
  Slices<const double> lr, settings;
  Slices<const int32_t> optimizer_step, diverged_at;
  int tensors;
  AdamWTensor table[kAdamWTensors];
};
static_assert(sizeof(AdamWArgs) <= kParameterBytes);

/// A member's factors of this step, from double to float as on the CPU.
struct AdamWFactors {
  float grad, decay, b1, c1, b2, c2, step, correction2, eps;
};

__device__ __forceinline__ void adamw_element(const AdamWFactors& f, bool decays, float& w,
                                              float& m, float& v, float grad) {
  const float g = f.grad * grad;
  if (decays) w *= f.decay;
  m = f.b1 * m + f.c1 * g;
  v = f.b2 * v + f.c2 * (g * g);
  w -= f.step * m / (sqrtf(v) / f.correction2 + f.eps);
}

__global__ void __launch_bounds__(kThreads) adamw_tensors(const __grid_constant__ AdamWArgs p) {
  __shared__ AdamWFactors factors;
  if (p.diverged_at.at(blockIdx.y)[0] >= 0) return;  // frozen: the whole block
  const AdamWTensor& tensor = entry_of(p.table, p.tensors, blockIdx.x);
  const int64_t at =
      (blockIdx.x - tensor.first_block) * kAdamWRun + 4 * static_cast<int>(threadIdx.x);
  float* weight = tensor.weight.at(blockIdx.y) + at;
  float* exp_avg = tensor.exp_avg.at(blockIdx.y) + at;
  float* exp_avg_sq = tensor.exp_avg_sq.at(blockIdx.y) + at;
  const float* grad = tensor.grad.at(blockIdx.y) + at;
  const bool whole = at + 4 <= tensor.n;
  float4 w{}, m{}, v{}, g{};
  if (whole) {  // on their way while two warps raise the betas to their powers
    w = *reinterpret_cast<const float4*>(weight), m = *reinterpret_cast<const float4*>(exp_avg);
    v = *reinterpret_cast<const float4*>(exp_avg_sq), g = *reinterpret_cast<const float4*>(grad);
  }
  if (threadIdx.x == 0 || threadIdx.x == 32) {
    const double* s = p.settings.at(blockIdx.y);
    const double lr = p.lr.at(blockIdx.y)[0], b1 = s[kSettingBeta1], b2 = s[kSettingBeta2];
    const double t = static_cast<double>(p.optimizer_step.at(blockIdx.y)[0]) + 1;
    if (threadIdx.x == 0) {
      const double norm = static_cast<double>(p.norm.at(blockIdx.y)[0]), clip = s[kSettingClipNorm];
      const double share = clip / (norm + 1e-6);
      factors.grad = static_cast<float>(clip > 0 && share < 1.0 ? share : 1.0);
      factors.decay = static_cast<float>(1 - lr * s[kSettingWeightDecay]);
      factors.b1 = static_cast<float>(b1), factors.c1 = static_cast<float>(1 - b1);
      factors.eps = static_cast<float>(s[kSettingEps]);
      factors.step = static_cast<float>(lr / (1 - pow(b1, t)));
    } else {
      factors.b2 = static_cast<float>(b2), factors.c2 = static_cast<float>(1 - b2);
      factors.correction2 = static_cast<float>(sqrt(1 - pow(b2, t)));
    }
  }
  __syncthreads();
  const AdamWFactors f = factors;
  const bool decays = tensor.decays != 0;
  if (whole) {
    adamw_element(f, decays, w.x, m.x, v.x, g.x);
    adamw_element(f, decays, w.y, m.y, v.y, g.y);
    adamw_element(f, decays, w.z, m.z, v.z, g.z);
    adamw_element(f, decays, w.w, m.w, v.w, g.w);
    *reinterpret_cast<float4*>(weight) = w, *reinterpret_cast<float4*>(exp_avg) = m;
    *reinterpret_cast<float4*>(exp_avg_sq) = v;
  } else {
    for (int k = 0; k < 4 && at + k < tensor.n; ++k)
      adamw_element(f, decays, weight[k], exp_avg[k], exp_avg_sq[k], grad[k]);
  }
}

void launch_adamw(const CudaCall& call, CUstream_st* stream) {
  const std::vector<bool>& decays = call.attrs<AdamWAttrs>().decays;
  for (size_t first = 0; first < decays.size(); first += kAdamWTensors) {
    const size_t end = std::min(decays.size(), first + kAdamWTensors);
    AdamWArgs p{};
    p.norm = slices<const float>(call.in[0]), p.lr = slices<const double>(call.in[1]);
    p.optimizer_step = slices<const int32_t>(call.in[2]);
    p.settings = slices<const double>(call.in[3]);
    p.diverged_at = slices<const int32_t>(call.in[4]);
    int blocks = 0;
    for (size_t i = first; i < end; ++i) {
      const Operand* in = &call.in[5 + 4 * i];
      const int64_t n = in[0].shape->size();
      if (n == 0) continue;
      p.table[p.tensors++] = {slices<float>(in[0]),
                              slices<float>(in[1]),
                              slices<float>(in[2]),
                              slices<const float>(in[3]),
                              n,
                              blocks,
                              decays[i] ? 1 : 0};
      blocks += static_cast<int>(ceil_div(n, kAdamWRun));
    }
    if (blocks == 0) continue;
    adamw_tensors<<<member_grid(blocks, call.members), kThreads, 0, stream>>>(p);
    check_launch("adamw");
  }
}

}  // namespace

CudaKernel global_norm_kernel() { return {workspace_global_norm, launch_member_op, nullptr}; }
CudaKernel adamw_kernel() { return {nullptr, launch_adamw, nullptr}; }

}  // namespace statelab::cuda
