// linear: y = x W^T; dx = dy W; dW = dy^T x. One block computes a 64 x 64 tile of one member's result.
//
// No library: a member's bits must be the same alone and in a cohort, and with inner extents of 32 to 128 these products are
// bound by memory, not by arithmetic. Every result element is one sum in the order of k; dW sums fixed runs of rows into the
// workspace, then the runs in order.
#include <algorithm>

#include "kernels/cuda/check.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/product.cuh"

namespace statelab::cuda {
namespace {

constexpr int kTile = 64, kDepth = 32, kThreads = 128;
constexpr int kPitchK = kDepth + 4;  // tile[m][k]: lanes 4 g + t hit banks 4 g + t
constexpr int kPitchM = kTile + 8;   // tile[k][m]: lanes hit banks 8 t + g
constexpr int kTileFloats = kTile * kPitchK > kDepth* kPitchM ? kTile* kPitchK : kDepth* kPitchM;

/// One operand: element (m, k) at data[m * stride_m + k * stride_k], one of the strides 1.
struct Matrix {
  const float* data;
  int64_t member_stride;  // elements
  int64_t m, stride;      // extent along m; stride of the other axis
};

struct LinearArgs {
  Matrix a, b;
  float* c;  // (a.m, b.m), row-major, by member and by split
  int64_t c_member, c_split, k, split_k;
};

/// Loads tile (kTile along m, kDepth along k) into shared memory, zero outside. kAlongK: k is the contiguous axis.
template <bool kAlongK>
__device__ __forceinline__ void load_tile(float* tile, const Matrix& x, const float* data,
                                          int64_t m0, int64_t k0, int64_t k_end) {
  constexpr int kFast = kAlongK ? kDepth : kTile, kSlow = kAlongK ? kTile : kDepth;
  constexpr int kPitch = kAlongK ? kPitchK : kPitchM;
  const int64_t fast0 = kAlongK ? k0 : m0, fast_end = kAlongK ? k_end : x.m;
  const int64_t slow0 = kAlongK ? m0 : k0, slow_end = kAlongK ? x.m : k_end;
  if (x.stride % 4 == 0 && fast0 + kFast <= fast_end) {
#pragma unroll
    for (int i = 0; i < kFast * kSlow / 4 / kThreads; ++i) {
      const int at = static_cast<int>(threadIdx.x) + i * kThreads;
      const int slow = at / (kFast / 4), fast = at % (kFast / 4) * 4;
      float4 v = make_float4(0, 0, 0, 0);
      if (slow0 + slow < slow_end)
        v = __ldg(reinterpret_cast<const float4*>(data + (slow0 + slow) * x.stride + fast0 + fast));
      *reinterpret_cast<float4*>(tile + slow * kPitch + fast) = v;
    }
  } else if (x.stride % 2 == 0 && fast_end % 2 == 0) {
#pragma unroll
    for (int i = 0; i < kFast * kSlow / 2 / kThreads; ++i) {
      const int at = static_cast<int>(threadIdx.x) + i * kThreads;
      const int slow = at / (kFast / 2), fast = at % (kFast / 2) * 2;
      float2 v = make_float2(0, 0);
      if (slow0 + slow < slow_end && fast0 + fast < fast_end)
        v = __ldg(reinterpret_cast<const float2*>(data + (slow0 + slow) * x.stride + fast0 + fast));
      *reinterpret_cast<float2*>(tile + slow * kPitch + fast) = v;
    }
  } else {
#pragma unroll 4
    for (int i = 0; i < kFast * kSlow / kThreads; ++i) {
      const int at = static_cast<int>(threadIdx.x) + i * kThreads;
      const int slow = at / kFast, fast = at % kFast;
      float v = 0;
      if (slow0 + slow < slow_end && fast0 + fast < fast_end)
        v = __ldg(data + (slow0 + slow) * x.stride + fast0 + fast);
      tile[slow * kPitch + fast] = v;
    }
  }
}

template <Precision kPrecision, bool kAAlongK, bool kBAlongK>
__global__ void __launch_bounds__(kThreads) product_kernel(const LinearArgs p) {
  __shared__ float4 memory[2 * kTileFloats / 4];  // float4: 16-byte aligned
  float *tile_a = reinterpret_cast<float*>(memory), *tile_b = tile_a + kTileFloats;
  const int64_t tiles_b = (p.b.m + kTile - 1) / kTile;
  const int64_t m0 = blockIdx.x / tiles_b * kTile, n0 = blockIdx.x % tiles_b * kTile;
  const int64_t split = blockIdx.y, member = blockIdx.z;
  const float* a = p.a.data + member * p.a.member_stride;
  const float* b = p.b.data + member * p.b.member_stride;
  const int64_t k_begin = split * p.split_k, k_end = min(p.k, k_begin + p.split_k);
  const int row0 = warp_id() * 16;
  const int nt = static_cast<int>(min(int64_t{8}, (p.b.m - n0 + 7) / 8));
  float acc[8][4] = {};
  for (int64_t k0 = k_begin; k0 < k_end; k0 += kDepth) {
    load_tile<kAAlongK>(tile_a, p.a, a, m0, k0, k_end);
    load_tile<kBAlongK>(tile_b, p.b, b, n0, k0, k_end);
    __syncthreads();
    warp_product<kPrecision>(
        acc, nt, 0, kDepth,
        [&](int r, int k) {
          return kAAlongK ? tile_a[(row0 + r) * kPitchK + k] : tile_a[k * kPitchM + row0 + r];
        },
        [&](int k, int c) { return kBAlongK ? tile_b[c * kPitchK + k] : tile_b[k * kPitchM + c]; });
    __syncthreads();
  }
  float* c = p.c + member * p.c_member + split * p.c_split;
  const int g = lane_id() / 4, t = lane_id() % 4;
  const bool pairs = p.b.m % 2 == 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t row = m0 + row0 + g + half * 8;
    if (row >= p.a.m) continue;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const int64_t column = n0 + n * 8 + 2 * t;
      float* to = c + row * p.b.m + column;
      if (pairs && column < p.b.m) {
        *reinterpret_cast<float2*>(to) = make_float2(acc[n][2 * half], acc[n][2 * half + 1]);
      } else {
        if (column < p.b.m) to[0] = acc[n][2 * half];
        if (column + 1 < p.b.m) to[1] = acc[n][2 * half + 1];
      }
    }
  }
}

template <bool kAAlongK, bool kBAlongK>
void launch_product(const LinearArgs& p, int splits, int members, Precision precision,
                    CUstream_st* stream) {
  const int64_t tiles = (p.a.m + kTile - 1) / kTile * ((p.b.m + kTile - 1) / kTile);
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(splits),
                  static_cast<unsigned>(members));
  switch (precision) {
    case Precision::kFp32:
      product_kernel<Precision::kFp32, kAAlongK, kBAlongK><<<grid, kThreads, 0, stream>>>(p);
      break;
    case Precision::kTf32:
      product_kernel<Precision::kTf32, kAAlongK, kBAlongK><<<grid, kThreads, 0, stream>>>(p);
      break;
    case Precision::kBf16:
      product_kernel<Precision::kBf16, kAAlongK, kBAlongK><<<grid, kThreads, 0, stream>>>(p);
      break;
  }
  check_launch("linear");
}

int64_t elements(const Operand& x) { return x.stride_bytes / static_cast<int64_t>(sizeof(float)); }

void launch_fwd(const CudaCall& call, CUstream_st* stream) {
  const Shape &x = *call.in[0].shape, &w = *call.in[1].shape;
  LinearArgs p{};
  p.a = {call.in[0].at<const float>(0), elements(call.in[0]), x.rows(), w[1]};
  p.b = {call.in[1].at<const float>(0), elements(call.in[1]), w[0], w[1]};
  p.c = call.out[0].at<float>(0), p.c_member = elements(call.out[0]);
  p.k = p.split_k = w[1];
  launch_product<true, true>(p, 1, call.members, call.precision, stream);
}

void launch_bwd_x(const CudaCall& call, CUstream_st* stream) {
  const Shape &dy = *call.in[0].shape, &w = *call.in[1].shape;
  LinearArgs p{};
  p.a = {call.in[0].at<const float>(0), elements(call.in[0]), dy.rows(), w[0]};
  p.b = {call.in[1].at<const float>(0), elements(call.in[1]), w[1], w[1]};
  p.c = call.out[0].at<float>(0), p.c_member = elements(call.out[0]);
  p.k = p.split_k = w[0];
  launch_product<true, false>(p, 1, call.members, call.precision, stream);
}

// ---- dW

/// Runs of rows: at most 80, of at least 256 rows; whole tiles.
struct Splits {
  int64_t rows;
  int count;
  explicit Splits(int64_t total) {
    rows = std::max<int64_t>(256, (total + 79) / 80);
    rows = (rows + kDepth - 1) / kDepth * kDepth;
    count = static_cast<int>(std::max<int64_t>(1, (total + rows - 1) / rows));
  }
};

int64_t workspace_bwd_w(const CallShapes& c) {
  const Splits splits(c.in[0]->shape.rows());
  return splits.count == 1 ? 0 : splits.count * c.out[0].shape.size() * 4;
}

__global__ void sum_splits(const float* parts, int64_t member_stride, int64_t split_stride,
                           int splits, float* out, int64_t out_stride, int64_t n) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i >= n) return;
  const float* from = parts + blockIdx.y * member_stride + i;
  float sum = 0;
#pragma unroll 8
  for (int s = 0; s < splits; ++s) sum += from[s * split_stride];
  out[blockIdx.y * out_stride + i] = sum;
}

void launch_bwd_w(const CudaCall& call, CUstream_st* stream) {
  const Shape &dy = *call.in[0].shape, &x = *call.in[1].shape;
  const Splits splits(dy.rows());
  const int64_t n = call.out[0].shape->size();
  LinearArgs p{};
  p.a = {call.in[0].at<const float>(0), elements(call.in[0]), dy.last(), dy.last()};
  p.b = {call.in[1].at<const float>(0), elements(call.in[1]), x.last(), x.last()};
  const Operand& to = splits.count == 1 ? call.out[0] : call.workspace;
  p.c = to.at<float>(0), p.c_member = elements(to), p.c_split = n;
  p.k = dy.rows(), p.split_k = splits.rows;
  launch_product<false, false>(p, splits.count, call.members, call.precision, stream);
  if (splits.count == 1) return;
  const dim3 grid(static_cast<unsigned>((n + 255) / 256), static_cast<unsigned>(call.members));
  sum_splits<<<grid, 256, 0, stream>>>(p.c, p.c_member, n, splits.count, call.out[0].at<float>(0),
                                       elements(call.out[0]), n);
  check_launch("linear_bwd_w");
}

}  // namespace

CudaKernel linear_kernel() { return {nullptr, launch_fwd, nullptr}; }
CudaKernel linear_bwd_x_kernel() { return {nullptr, launch_bwd_x, nullptr}; }
CudaKernel linear_bwd_w_kernel() { return {workspace_bwd_w, launch_bwd_w, nullptr}; }

}  // namespace statelab::cuda
