// constant, add and swiglu: elementwise ops without reductions; bound by memory, 16 bytes a thread where rows allow it.
//   swiglu      y = u silu(g)                                     ug (rows, 2 F): value u, then gate g
//   swiglu_bwd  s = sigmoid(g),  du = dy g s,  dg = dy u s (1 + g (1 - s))
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/reduce.cuh"

namespace statelab::cuda {
namespace {

constexpr int kThreads = 256;

// ---- constant

__global__ void constant_fill(Slices<float> out, float value, int members) {
  const unsigned member = blockIdx.x * blockDim.x + threadIdx.x;
  if (member < static_cast<unsigned>(members)) out.at(member)[0] = value;
}

void launch_constant(const CudaCall& call, CUstream_st* stream) {
  if (call.out[0].data == nullptr) return;
  constant_fill<<<static_cast<unsigned>(ceil_div(call.members, 64)), 64, 0, stream>>>(
      slices<float>(call.out[0]), static_cast<float>(call.attrs<ConstantAttrs>().value),
      call.members);
  check_launch("constant");
}

// ---- add

/// Threads 0 .. n / 4 - 1 take four elements each, the n % 4 after them one: slices start at multiples of 64 bytes.
__global__ void __launch_bounds__(kThreads)
    add_elements(Slices<const float> a, Slices<const float> b, Slices<float> out, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, packs = n / 4;
  const unsigned m = blockIdx.y;
  if (i < packs) {
    float left[4], right[4];
    load(left, a.at(m) + 4 * i);
    load(right, b.at(m) + 4 * i);
#pragma unroll
    for (int k = 0; k < 4; ++k) left[k] += right[k];
    store(out.at(m) + 4 * i, left);
  } else if (i < packs + n % 4) {
    const int64_t at = 4 * packs + (i - packs);
    out.at(m)[at] = a.at(m)[at] + b.at(m)[at];
  }
}

void launch_add(const CudaCall& call, CUstream_st* stream) {
  if (call.out[0].data == nullptr) return;
  const int64_t n = call.out[0].shape->size();
  const dim3 grid = member_grid(ceil_div(n / 4 + n % 4, kThreads), call.members);
  add_elements<<<grid, kThreads, 0, stream>>>(slices<const float>(call.in[0]),
                                              slices<const float>(call.in[1]),
                                              slices<float>(call.out[0]), n);
  check_launch("add");
}

// ---- swiglu

struct SwigluArgs {
  Slices<const float> dy, ug;
  Slices<float> out;  // y or dug
  int64_t rows;
  int F;
};

/// Block (lanes, rows): a thread takes columns threadIdx.x, + lanes, .. of its row, in packs of kVec.
template <int kVec>
__global__ void __launch_bounds__(kThreads) swiglu_rows(const SwigluArgs p) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= p.rows) return;
  const float* ug = p.ug.at(blockIdx.y) + row * 2 * p.F;
  float* y = p.out.at(blockIdx.y) + row * p.F;
  for (int c = static_cast<int>(threadIdx.x) * kVec; c < p.F;
       c += static_cast<int>(blockDim.x) * kVec) {
    float u[kVec], g[kVec];
    load(u, ug + c);
    load(g, ug + p.F + c);
#pragma unroll
    for (int k = 0; k < kVec; ++k) u[k] = u[k] * g[k] / (1.0f + expf(-g[k]));
    store(y + c, u);
  }
}

template <int kVec>
__global__ void __launch_bounds__(kThreads) swiglu_rows_bwd(const SwigluArgs p) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= p.rows) return;
  const float* dy = p.dy.at(blockIdx.y) + row * p.F;
  const float* ug = p.ug.at(blockIdx.y) + row * 2 * p.F;
  float* dug = p.out.at(blockIdx.y) + row * 2 * p.F;
  for (int c = static_cast<int>(threadIdx.x) * kVec; c < p.F;
       c += static_cast<int>(blockDim.x) * kVec) {
    float d[kVec], u[kVec], g[kVec];
    load(d, dy + c);
    load(u, ug + c);
    load(g, ug + p.F + c);
#pragma unroll
    for (int k = 0; k < kVec; ++k) {
      const float s = 1.0f / (1.0f + expf(-g[k]));
      const float dg = d[k] * u[k] * s * (1.0f + g[k] * (1.0f - s));
      u[k] = d[k] * g[k] * s;
      g[k] = dg;
    }
    store(dug + c, u);
    store(dug + p.F + c, g);
  }
}

/// Lanes per row: the power of two that covers it, at most the block.
dim3 row_block(int packs) {
  int lanes = 1;
  while (lanes < packs && lanes < kThreads) lanes *= 2;
  return dim3(static_cast<unsigned>(lanes), static_cast<unsigned>(kThreads / lanes));
}

void launch_swiglu(const CudaCall& call, CUstream_st* stream) {
  if (call.out[0].data == nullptr) return;
  const Shape& shape = *call.in[0].shape;
  const SwigluArgs p{{},
                     slices<const float>(call.in[0]),
                     slices<float>(call.out[0]),
                     shape.rows(),
                     shape.last() / 2};
  const dim3 block = row_block(p.F % 4 == 0 ? p.F / 4 : p.F);
  const dim3 grid = member_grid(ceil_div(p.rows, block.y), call.members);
  if (p.F % 4 == 0) {
    swiglu_rows<4><<<grid, block, 0, stream>>>(p);
  } else {
    swiglu_rows<1><<<grid, block, 0, stream>>>(p);
  }
  check_launch("swiglu");
}

void launch_swiglu_bwd(const CudaCall& call, CUstream_st* stream) {
  if (call.out[0].data == nullptr) return;
  const Shape& shape = *call.in[1].shape;
  const SwigluArgs p{slices<const float>(call.in[0]), slices<const float>(call.in[1]),
                     slices<float>(call.out[0]), shape.rows(), shape.last() / 2};
  const dim3 block = row_block(p.F % 4 == 0 ? p.F / 4 : p.F);
  const dim3 grid = member_grid(ceil_div(p.rows, block.y), call.members);
  if (p.F % 4 == 0) {
    swiglu_rows_bwd<4><<<grid, block, 0, stream>>>(p);
  } else {
    swiglu_rows_bwd<1><<<grid, block, 0, stream>>>(p);
  }
  check_launch("swiglu_bwd");
}

}  // namespace

CudaKernel constant_kernel() { return {nullptr, launch_constant, nullptr}; }
CudaKernel add_kernel() { return {nullptr, launch_add, nullptr}; }
CudaKernel swiglu_kernel() { return {nullptr, launch_swiglu, nullptr}; }
CudaKernel swiglu_bwd_kernel() { return {nullptr, launch_swiglu_bwd, nullptr}; }

}  // namespace statelab::cuda
