// linear: y = x W^T [+ addend]; dx = dy W; dW = dy^T x; the last two also as one op, and with the norm before the layer.
//
// No library: a member's bits must be the same alone and in a cohort, and with inner extents of 32 to 128 these products are
// bound by memory, not by arithmetic. In tf32 and bf16 the kernels of linear_stream.h read each row once; what they do not take,
// and fp32, goes through the kernel below, whose block computes a 64 x 64 tile of one member's result. There every result
// element is one sum in the order of k. dW sums fixed runs of rows into the workspace, then the runs in order.
//
// bf16 is what tf32 is here: with single bf16 operands in these products no run of 24 learned parity at d_model 32, in three tries
// (experiments/configs/parity_sweep), and they would save a few per cent of a step. Neither drops below 16 bits of an operand up
// to 416 columns; wider layers that are left over take tf32's 11.
#include <algorithm>
#include <type_traits>

#include "kernels/cuda/check.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/linear_stream.h"
#include "kernels/cuda/product.cuh"
#include "kernels/cuda/reduce.cuh"

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
  const float* addend;  // as c, without splits, or null
  float* c;             // (a.m, b.m), row-major, by member and by split
  int64_t addend_member, c_member, c_split, k, split_k;
};

/// One asynchronous copy of kFloats reals into shared memory, zeros when !in.
template <int kFloats>
__device__ __forceinline__ void copy_async(float* to, const float* from, bool in) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  const int bytes = in ? 4 * kFloats : 0;
  if constexpr (kFloats == 4) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
                 "r"(bytes));
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from),
                 "n"(4 * kFloats), "r"(bytes));
  }
}

/// Starts the copy of a tile (kTile along m from m0, kDepth along k from k0), zero outside. kAlongK: k is the contiguous axis.
template <bool kAlongK, int kFloats>
__device__ __forceinline__ void copy_tile(float* tile, const float* data, int stride, int m_left,
                                          int k_left) {
  constexpr int kFast = kAlongK ? kDepth : kTile, kSlow = kAlongK ? kTile : kDepth;
  constexpr int kPitch = kAlongK ? kPitchK : kPitchM;
  constexpr int kPerRow = kFast / kFloats, kRowStep = kThreads / kPerRow;
  const int fast_left = kAlongK ? k_left : m_left, slow_left = kAlongK ? m_left : k_left;
  const int fast = static_cast<int>(threadIdx.x) % kPerRow * kFloats;
  const int first = static_cast<int>(threadIdx.x) / kPerRow;
  const bool fast_in = fast < fast_left;
  const float* from = data + static_cast<int64_t>(first) * stride + fast;
  float* to = tile + first * kPitch + fast;
#pragma unroll
  for (int slow = 0; slow < kSlow; slow += kRowStep) {
    const bool in = fast_in && first + slow < slow_left;
    copy_async<kFloats>(to + slow * kPitch, in ? from + static_cast<int64_t>(slow) * stride : data,
                        in);
  }
}

template <bool kAlongK, int kFloats>
__device__ __forceinline__ void copy_tile(float* tile, const Matrix& x, const float* data,
                                          int64_t m0, int64_t k0, int64_t k_end) {
  const int stride = static_cast<int>(x.stride);
  const int m_left = static_cast<int>(min(int64_t{kTile}, x.m - m0)),
            k_left = static_cast<int>(min(int64_t{kDepth}, k_end - k0));
  data += kAlongK ? m0 * stride + k0 : k0 * stride + m0;
  copy_tile<kAlongK, kFloats>(tile, data, stride, m_left, k_left);
}

/// Reals that can be copied at once: rows start, and end, at such multiples.
int copy_width(const LinearArgs& p, bool a_along_k, bool b_along_k) {
  int width = 4;
  for (; width > 1; width /= 2) {
    if (p.a.stride % width == 0 && p.b.stride % width == 0 &&
        (a_along_k ? p.k : p.a.m) % width == 0 && (b_along_k ? p.k : p.b.m) % width == 0)
      break;
  }
  return width;
}

/// Two tiles of each operand: one on its way while the other is multiplied.
constexpr int kStages = 2, kSharedFloats = kStages * 2 * kTileFloats;

template <Precision kPrecision, bool kAAlongK, bool kBAlongK, int kFloats>
__global__ void __launch_bounds__(kThreads, 5) product_kernel(const LinearArgs p) {
  __shared__ float4 memory[kSharedFloats / 4];  // float4: 16-byte aligned
  float* const tiles = reinterpret_cast<float*>(memory);
  const int64_t tiles_b = (p.b.m + kTile - 1) / kTile;
  const int64_t m0 = blockIdx.x / tiles_b * kTile, n0 = blockIdx.x % tiles_b * kTile;
  const int64_t split = blockIdx.y, member = blockIdx.z;
  const float* a = p.a.data + member * p.a.member_stride;
  const float* b = p.b.data + member * p.b.member_stride;
  const int64_t k_begin = split * p.split_k, k_end = min(p.k, k_begin + p.split_k);
  const int steps = static_cast<int>((k_end - k_begin + kDepth - 1) / kDepth);
  const int row0 = warp_id() * 16;
  auto start = [&](int step) {
    float* const tile = tiles + step % kStages * 2 * kTileFloats;
    const int64_t k0 = k_begin + static_cast<int64_t>(step) * kDepth;
    copy_tile<kAAlongK, kFloats>(tile, p.a, a, m0, k0, k_end);
    copy_tile<kBAlongK, kFloats>(tile + kTileFloats, p.b, b, n0, k0, k_end);
    asm volatile("cp.async.commit_group;");
  };
  float acc[8][4] = {};
  start(0);
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps) {
      start(step + 1);
      asm volatile("cp.async.wait_group 1;");
    } else {
      asm volatile("cp.async.wait_group 0;");
    }
    __syncthreads();
    const float* tile_a = tiles + step % kStages * 2 * kTileFloats;
    const float* tile_b = tile_a + kTileFloats;
    warp_product<kPrecision, Stored::kNone, true>(
        acc, 8, 0, kDepth,
        [&](int r, int k) {
          return kAAlongK ? tile_a[(row0 + r) * kPitchK + k] : tile_a[k * kPitchM + row0 + r];
        },
        [&](int k, int c) { return kBAlongK ? tile_b[c * kPitchK + k] : tile_b[k * kPitchM + c]; });
    __syncthreads();
  }
  float* c = p.c + member * p.c_member + split * p.c_split;
  const float* addend = p.addend == nullptr ? nullptr : p.addend + member * p.addend_member;
  const int g = lane_id() / 4, t = lane_id() % 4;
  const bool pairs = p.b.m % 2 == 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t row = m0 + row0 + g + half * 8;
    if (row >= p.a.m) continue;
    float* const to_row = c + row * p.b.m + n0;
    const int left = static_cast<int>(min(int64_t{kTile}, p.b.m - n0));
    if (addend != nullptr) {
      const float* const from_row = addend + row * p.b.m + n0;
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const int column = n * 8 + 2 * t;
        if (column < left) acc[n][2 * half] += from_row[column];
        if (column + 1 < left) acc[n][2 * half + 1] += from_row[column + 1];
      }
    }
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const int column = n * 8 + 2 * t;
      if (pairs && column < left) {
        *reinterpret_cast<float2*>(to_row + column) =
            make_float2(acc[n][2 * half], acc[n][2 * half + 1]);
      } else {
        if (column < left) to_row[column] = acc[n][2 * half];
        if (column + 1 < left) to_row[column + 1] = acc[n][2 * half + 1];
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
  auto start = [&](auto kernel) { kernel<<<grid, kThreads, 0, stream>>>(p); };
  auto of_precision = [&](auto width) {
    constexpr int kFloats = decltype(width)::value;
    return precision == Precision::kFp32
               ? start(product_kernel<Precision::kFp32, kAAlongK, kBAlongK, kFloats>)
               : start(product_kernel<Precision::kTf32, kAAlongK, kBAlongK, kFloats>);
  };
  switch (copy_width(p, kAAlongK, kBAlongK)) {
    case 4:
      of_precision(std::integral_constant<int, 4>());
      break;
    case 2:
      of_precision(std::integral_constant<int, 2>());
      break;
    default:
      of_precision(std::integral_constant<int, 1>());
  }
  check_launch("linear");
}

int64_t elements(const Operand& x) { return x.stride_bytes / static_cast<int64_t>(sizeof(float)); }

bool streams(const CudaCall& call) { return call.precision != Precision::kFp32; }

/// Arithmetic of the kernel above. What the kernels of linear_stream.h leave to it because it is odd, narrow or of few rows, it multiplies
/// in fp32 in every precision: with tf32's 11 bits d_model 32 learned parity in 0 to 3 of 24 runs. Wide layers are multiplied in tf32.
Precision precision_of_tiles(const CudaCall& call, int n, int k) {
  constexpr int kWidest = 416;
  return call.precision == Precision::kFp32 || (n <= kWidest && k <= kWidest) ? Precision::kFp32
                                                                              : Precision::kTf32;
}

/// Of the op's first operand, its rows, with the second.
RowProduct row_product(const CudaCall& call, int k, int n, int weight_n, int weight_k) {
  RowProduct q{};
  q.x = call.in[0].at<const float>(0), q.x_member = elements(call.in[0]);
  q.weight = call.in[1].at<const float>(0), q.weight_member = elements(call.in[1]);
  q.y = call.out[0].at<float>(0), q.y_member = elements(call.out[0]);
  if (call.in.size() > 2 && call.in[2].data != nullptr)
    q.addend = call.in[2].at<const float>(0), q.addend_member = elements(call.in[2]);
  q.rows = call.in[0].shape->rows(), q.k = k, q.n = n;
  q.weight_n = weight_n, q.weight_k = weight_k;
  return q;
}

void launch_fwd(const CudaCall& call, CUstream_st* stream) {
  if (call.out[0].data == nullptr) return;
  const Shape& w = *call.in[1].shape;
  const RowProduct q = row_product(call, w[1], w[0], w[1], 1);
  if (streams(call) &&
      (launch_wide_product(q, call.members, stream) || launch_row_product(q, call.members, stream)))
    return;
  LinearArgs p{};
  p.a = {q.x, q.x_member, q.rows, w[1]};
  p.b = {q.weight, q.weight_member, w[0], w[1]};
  p.addend = q.addend, p.addend_member = q.addend_member;
  p.c = q.y, p.c_member = q.y_member;
  p.k = p.split_k = w[1];
  launch_product<true, true>(p, 1, call.members, precision_of_tiles(call, w[0], w[1]), stream);
}

void launch_bwd_x(const CudaCall& call, CUstream_st* stream) {
  if (call.out[0].data == nullptr) return;
  const Shape& w = *call.in[1].shape;
  const RowProduct q = row_product(call, w[0], w[1], 1, w[1]);
  if (streams(call) && launch_row_product(q, call.members, stream)) return;
  LinearArgs p{};
  p.a = {q.x, q.x_member, q.rows, w[0]};
  p.b = {q.weight, q.weight_member, w[1], w[1]};
  p.c = q.y, p.c_member = q.y_member;
  p.k = p.split_k = w[0];
  launch_product<true, false>(p, 1, call.members, precision_of_tiles(call, w[0], w[1]), stream);
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

int64_t parts_bytes(int parts, const Shape& dw) { return parts == 1 ? 0 : parts * dw.size() * 4; }

int64_t workspace_bwd_w(const CallShapes& c) {
  const Shape &dy = c.in[0]->shape, &dw = c.out.back().shape;
  return parts_bytes(
      std::max(Splits(dy.rows()).count, row_reduction_parts(dy.rows(), dw[0], dw[1])), dw);
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

constexpr int kSumShares = 8;

/// out = sum of many parts, shares of them in order, then the shares; 128 elements a block, n a multiple of 4.
__global__ void __launch_bounds__(32 * kSumShares)
    sum_parts(Slices<const float> parts, Slices<float> out, int64_t n, int count) {
  __shared__ float4 shares[kSumShares][32];
  const int lane = static_cast<int>(threadIdx.x) % 32, share = static_cast<int>(threadIdx.x) / 32;
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * 32 + lane) * 4;
  const int size = (count + kSumShares - 1) / kSumShares, end = min(count, (share + 1) * size);
  float4 sum = make_float4(0, 0, 0, 0);
  auto plus = [&](const float4& v) { sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w; };
  if (at < n) {
    const float* from = parts.at(blockIdx.y) + at;
#pragma unroll 8
    for (int i = share * size; i < end; ++i)
      plus(__ldg(reinterpret_cast<const float4*>(from + i * n)));
  }
  shares[share][lane] = sum;
  __syncthreads();
  if (share != 0 || at >= n) return;
#pragma unroll
  for (int s = 1; s < kSumShares; ++s) plus(shares[s][lane]);
  *reinterpret_cast<float4*>(out.at(blockIdx.y) + at) = sum;
}

/// The parts of dW that lie in the workspace.
void launch_sum(const CudaCall& call, int parts, CUstream_st* stream) {
  if (parts == 1) return;
  const Operand& dw = call.out.back();
  const int64_t n = dw.shape->size();
  sum_parts<<<member_grid(ceil_div(n, 128), call.members), 32 * kSumShares, 0, stream>>>(
      slices<const float>(call.workspace), slices<float>(dw), n, parts);
  check_launch("linear_bwd_w");
}

void launch_bwd_w(const CudaCall& call, CUstream_st* stream) {
  if (call.out[0].data == nullptr) return;
  const Shape &dy = *call.in[0].shape, &x = *call.in[1].shape;
  const int64_t n = call.out[0].shape->size();
  auto to = [&](int parts) -> const Operand& { return parts == 1 ? call.out[0] : call.workspace; };
  int parts = row_reduction_parts(dy.rows(), dy.last(), x.last());
  RowReduction q{};
  q.dy = call.in[0].at<const float>(0), q.dy_member = elements(call.in[0]);
  q.x = call.in[1].at<const float>(0), q.x_member = elements(call.in[1]);
  q.parts = to(parts).at<float>(0), q.parts_member = elements(to(parts));
  q.rows = dy.rows(), q.n = dy.last(), q.k = x.last();
  if (streams(call) && launch_row_reduction(q, call.members, stream))
    return launch_sum(call, parts, stream);
  const Splits splits(dy.rows());
  parts = splits.count;
  LinearArgs p{};
  p.a = {q.dy, q.dy_member, dy.last(), dy.last()};
  p.b = {q.x, q.x_member, x.last(), x.last()};
  p.c = to(parts).at<float>(0), p.c_member = elements(to(parts)), p.c_split = n;
  p.k = dy.rows(), p.split_k = splits.rows;
  launch_product<false, false>(p, parts, call.members,
                               precision_of_tiles(call, dy.last(), x.last()), stream);
  if (parts == 1) return;
  sum_splits<<<member_grid(ceil_div(n, 256), call.members), 256, 0, stream>>>(
      p.c, p.c_member, n, parts, call.out[0].at<float>(0), elements(call.out[0]), n);
  check_launch("linear_bwd_w");
}

// ---- dx and dW

int64_t workspace_bwd(const CallShapes& c) {
  const Shape& dw = c.out[1].shape;
  const int parts = row_gradient_parts(c.in[0]->shape.rows(), dw[0], dw[1]);
  return std::max(workspace_bwd_w(c), parts_bytes(parts, dw));
}

/// linear_bwd in one kernel, with a norm norm_linear_bwd. False, with nothing enqueued, where one kernel does
/// not compute both.
bool launch_both(const CudaCall& call, const Operand* norm, const Operand* targets,
                 CUstream_st* stream) {
  const Operand &dy = call.in[0], &weight = call.in[1], &x = call.in[2], &dx = call.out[0],
                &dw = call.out[1];
  if (!streams(call) || dx.data == nullptr || dw.data == nullptr) return false;
  RowGradients q{};
  q.rows = dy.shape->rows(), q.n = dy.shape->last(), q.k = x.shape->last();
  const int parts = row_gradient_parts(q.rows, q.n, q.k);
  const Operand& to = parts == 1 ? dw : call.workspace;
  q.dy = dy.at<const float>(0), q.dy_member = elements(dy);
  q.weight = weight.at<const float>(0), q.weight_member = elements(weight);
  q.x = x.at<const float>(0), q.x_member = elements(x);
  q.dx = dx.at<float>(0), q.dx_member = elements(dx);
  q.parts = to.at<float>(0), q.parts_member = elements(to), q.part_stride = dw.shape->size();
  if (targets != nullptr && targets->data != nullptr) {
    q.targets = targets->at<const int32_t>(0), q.targets_member = elements(*targets);
    q.seqlen = targets->shape->last();
  }
  if (norm != nullptr) {
    q.norm = norm->at<const float>(0), q.norm_member = elements(*norm);
    q.eps = static_cast<float>(call.attrs<RmsNormAttrs>().eps);
  }
  if (!launch_row_gradients(q, call.members, stream)) return false;
  launch_sum(call, parts, stream);
  return true;
}

/// linear_bwd as the two ops; `x` stands for its third operand.
void launch_one_by_one(const CudaCall& call, const Operand& x, CUstream_st* stream) {
  const Operand of_x[] = {call.in[0], call.in[1]}, of_w[] = {call.in[0], x};
  CudaCall one = call;
  one.in = of_x, one.out = call.out.first(1);
  launch_bwd_x(one, stream);
  one.in = of_w, one.out = call.out.last(1);
  launch_bwd_w(one, stream);
}

void launch_bwd(const CudaCall& call, CUstream_st* stream) {
  if (launch_both(call, nullptr, call.in.size() > 3 ? &call.in[3] : nullptr, stream)) return;
  launch_one_by_one(call, call.in[2], stream);
}

// ---- the norm before the layer

/// Why the fused kernels do not take it: the ops that it stands for do.
std::string limit_norm(const Shape& weight) {
  if (takes_wide_product(weight[0], weight[1]) && takes_norm(weight[0], weight[1])) return "";
  return "takes 64 columns to an even number of 130 to 416, on devices of compute capability 9.0";
}
std::string limit_norm_fwd(const CallShapes& c) { return limit_norm(c.in[2]->shape); }
std::string limit_norm_bwd(const CallShapes& c) { return limit_norm(c.in[1]->shape); }

int64_t normed_bytes(const Shape& x) { return (x.size() * 4 + 63) / 64 * 64; }
int64_t workspace_norm_fwd(const CallShapes& c) { return normed_bytes(c.in[0]->shape); }
int64_t workspace_norm_bwd(const CallShapes& c) {
  return normed_bytes(c.in[2]->shape) + workspace_bwd(c);
}

/// rms_norm(x) into the first bytes of the workspace, where fp32 needs it stored.
Operand normed(const CudaCall& call, const Operand& x, const Operand& norm, CUstream_st* stream) {
  const Operand out{call.workspace.data, call.workspace.stride_bytes, x.shape};
  const Operand in[] = {x, norm};
  CudaCall one = call;
  one.in = in, one.out = {&out, 1};
  rms_norm_kernel().launch(one, stream);
  return out;
}

void launch_norm_fwd(const CudaCall& call, CUstream_st* stream) {
  if (call.out[0].data == nullptr) return;
  const Shape& w = *call.in[2].shape;
  const Operand of_linear[] = {call.in[0], call.in[2]};
  CudaCall one = call;
  one.in = of_linear;
  RowProduct q = row_product(one, w[1], w[0], w[1], 1);
  q.norm = call.in[1].at<const float>(0), q.norm_member = elements(call.in[1]);
  q.eps = static_cast<float>(call.attrs<RmsNormAttrs>().eps);
  if (streams(call) && launch_wide_product(q, call.members, stream)) return;
  const Operand stored[] = {normed(call, call.in[0], call.in[1], stream), call.in[2]};
  one.in = stored;
  launch_fwd(one, stream);
}

void launch_norm_bwd(const CudaCall& call, CUstream_st* stream) {
  const Operand& norm = call.in[3];
  CudaCall one = call;
  const int64_t front = normed_bytes(*call.in[2].shape);
  one.workspace.data += front;
  if (launch_both(one, &norm, call.in.size() > 4 ? &call.in[4] : nullptr, stream)) return;
  launch_one_by_one(one, normed(call, call.in[2], norm, stream), stream);
}

}  // namespace

CudaKernel linear_kernel() { return {nullptr, launch_fwd, nullptr}; }
CudaKernel linear_bwd_x_kernel() { return {nullptr, launch_bwd_x, nullptr}; }
CudaKernel linear_bwd_w_kernel() { return {workspace_bwd_w, launch_bwd_w, nullptr}; }
CudaKernel linear_bwd_kernel() { return {workspace_bwd, launch_bwd, nullptr}; }
CudaKernel norm_linear_kernel() { return {workspace_norm_fwd, launch_norm_fwd, limit_norm_fwd}; }
CudaKernel norm_linear_bwd_kernel() {
  return {workspace_norm_bwd, launch_norm_bwd, limit_norm_bwd};
}

}  // namespace statelab::cuda
