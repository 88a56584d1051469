// lstm_bwd, from the last token to the first:
//   dh = dy_t + W^T dproj_{t+1};  dc = dc' + dh o (1 - tanh^2 c_t);  dproj_t = (dc g i (1 - i), dc c_{t-1} f (1 - f),
//   dc i (1 - g^2), dh tanh(c_t) o (1 - o));  dc' = dc f;  dW = sum dproj_t h_{t-1}^T;  db = sum dproj
// Layout, order and limits: lstm.cuh.
#include "kernels/cuda/lstm.cuh"
#include "kernels/error.h"

namespace statelab::cuda {
namespace {

using namespace lstm;  // NOLINT: the other half of this op

/// What a token's gradient reads, for one tile.
struct Token {
  float gates[kGates][kPairs], cell[kPairs], cell_before[kPairs], dy[kPairs];
};

template <Precision kPrecision>
__device__ __forceinline__ void load_token(Token& x, const LstmArgs& p, const float* dy,
                                           const float* gates, const float* cells, int first,
                                           int tile, int t) {
  const int H = p.hidden;
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int u = tile * kUnits + pair_unit<kPrecision>(j),
              b = first + pair_sequence<kPrecision>(j);
    const bool there = u < H && b < p.batch;
    const int64_t row = static_cast<int64_t>(b) * p.seqlen + t;
#pragma unroll
    for (int q = 0; q < kGates; ++q)
      x.gates[q][j] = there ? __ldg(gates + (row * 4 + q) * H + u) : 0.f;
    x.cell[j] = there ? __ldg(cells + row * H + u) : 0.f;
    x.cell_before[j] = there && t > 0 ? __ldg(cells + (row - 1) * H + u) : 0.f;
    x.dy[j] = there ? __ldg(dy + row * H + u) : 0.f;
  }
}

template <Precision kPrecision>
__global__ void __launch_bounds__(kMaxWarps * 32) lstm_kernel_bwd(const LstmArgs p) {
  extern __shared__ uint4 memory[];
  const int member = static_cast<int>(blockIdx.y),
            first = static_cast<int>(blockIdx.x) * kSequences;
  const int H = p.hidden, warps = static_cast<int>(blockDim.x) / 32;
  const uint4* global = p.packed + member * p.packed_stride;
  uint4* const weights = memory;
  std::byte* const rows = reinterpret_cast<std::byte*>(weights + p.tiles * kGates * p.on_chip * 32);
  const int buffer = kSequences * p.row_bytes, slots = p.tiles * kUnits * kSequences;
  float* const dc_slots = reinterpret_cast<float*>(rows + kGates * buffer);
  float* const dh_slots = dc_slots + slots;
  const float *dy = p.dy.at(member), *gates = p.gates_in.at(member), *cells = p.cells_in.at(member);
  float* dproj = p.dproj.at(member);
  fill_shared(p, weights, global, rows, kGates * buffer + 2 * slots * 4);
  __syncthreads();
  const OperandRows<kPrecision> later{rows, p.row_bytes};
  for (int t = p.seqlen - 1; t >= 0; --t) {
    Token x;
    const bool early = p.rounds == 1;  // its loads run beside the products
    if (early && warp_id() < p.tiles)
      load_token<kPrecision>(x, p, dy, gates, cells, first, warp_id(), t);
    if (t + 1 < p.seqlen) {
      for (int round = 0; round < p.rounds; ++round) {
        const int tile = round * warps + warp_id();
        if (tile >= p.tiles) break;
        float acc[kGates][kPairs] = {};
        tile_product<kPrecision, false>(acc, tile_weights(p, weights, global, tile), later);
#pragma unroll
        for (int j = 0; j < kPairs; ++j)
          dh_slots[(tile * kPairs + j) * 32 + lane_id()] =
              (acc[0][j] + acc[1][j]) + (acc[2][j] + acc[3][j]);
      }
    }
    __syncthreads();  // all have read the rows of t + 1
    for (int round = 0; round < p.rounds; ++round) {
      const int tile = round * warps + warp_id();
      if (tile >= p.tiles) break;
      if (!early) load_token<kPrecision>(x, p, dy, gates, cells, first, tile, t);
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        const int u = tile * kUnits + pair_unit<kPrecision>(j), s = pair_sequence<kPrecision>(j),
                  b = first + s, at = (tile * kPairs + j) * 32 + lane_id();
        if (u >= H || b >= p.batch) continue;
        const float i = x.gates[0][j], f = x.gates[1][j], g = x.gates[2][j], o = x.gates[3][j];
        const float tc = tanhf(x.cell[j]), dh = x.dy[j] + dh_slots[at];
        const float dc = fmaf(dh * o, fmaf(-tc, tc, 1.f), dc_slots[at]);
        const float d[kGates] = {dc * g * i * (1.f - i), dc * x.cell_before[j] * f * (1.f - f),
                                 dc * i * fmaf(-g, g, 1.f), dh * tc * o * (1.f - o)};
        dc_slots[at] = dc * f;
        float* to = dproj + (static_cast<int64_t>(b) * p.seqlen + t) * 4 * H + u;
#pragma unroll
        for (int q = 0; q < kGates; ++q) {
          to[q * H] = d[q];
          OperandRows<kPrecision>{rows + q * buffer, p.row_bytes}.store(s, u, d[q]);
        }
      }
    }
    __syncthreads();
  }
}

// ---- dW and db

/// to[b, t] = from[b, t - 1], zero at t = 0.
struct ShiftArgs {
  Slices<const float> from;
  float* to;
  int64_t to_stride, elements;
  int seqlen, hidden;
};
__global__ void __launch_bounds__(256) shift_kernel(const ShiftArgs p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= p.elements) return;
  const bool begins = i / p.hidden % p.seqlen == 0;
  p.to[blockIdx.y * p.to_stride + i] = begins ? 0.f : __ldg(p.from.at(blockIdx.y) + i - p.hidden);
}

/// parts[run][column] = sum of the run's rows, in order.
struct ColumnSums {
  Slices<const float> from;
  float* parts;
  int64_t parts_stride, rows, run;
  int columns;
};
__global__ void __launch_bounds__(128) column_sums_kernel(const ColumnSums p) {
  const int column = static_cast<int>(blockIdx.x) * 128 + static_cast<int>(threadIdx.x);
  if (column >= p.columns) return;
  const int64_t begin = blockIdx.y * p.run, end = min(p.rows, begin + p.run);
  const float* from = p.from.at(blockIdx.z) + column;
  float sum = 0;
#pragma unroll 8
  for (int64_t r = begin; r < end; ++r) sum += __ldg(from + r * p.columns);
  p.parts[blockIdx.z * p.parts_stride + blockIdx.y * p.columns + column] = sum;
}

// ---- launches

/// Parts of a member's workspace, in bytes; each begins at a multiple of 64.
struct Workspace {
  int64_t packed, shifted, parts, product;
  static int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }
  Workspace(const Shape& proj, int hidden)
      : packed(aligned(Plan(hidden).packed_bytes())),
        shifted(aligned(proj.rows() * hidden * 4)),
        parts(aligned(runs(proj).count * 4 * hidden * 4)),
        product(0) {
    const ValueType dproj{DType::kReal, proj}, h{DType::kReal, {proj[0], proj[1], hidden}},
        weight{DType::kReal, {4 * hidden, hidden}};
    const ValueType* in[] = {&dproj, &h};
    const Attributes none;
    const CudaKernel linear = linear_bwd_w_kernel();
    if (linear.workspace_bytes)
      product = aligned(linear.workspace_bytes({Op::kLinearBwdW, &none, in, {&weight, 1}}));
  }
  static Runs runs(const Shape& proj) { return Runs(proj.rows(), 128, 32); }
  int64_t bytes() const { return packed + shifted + parts + product; }
};

int64_t workspace_bwd(const CallShapes& c) {
  return Workspace(c.in[1]->shape, c.attrs<LstmAttrs>().hidden).bytes();
}

/// The part of the workspace that begins `offset` bytes into each member's slice.
Operand part(const Operand& workspace, int64_t offset, const Shape* shape) {
  return {workspace.data + offset, workspace.stride_bytes, shape};
}

void launch_bwd(const CudaCall& call, CUstream_st* stream) {
  const Shape& proj = *call.in[1].shape;
  const int hidden = call.attrs<LstmAttrs>().hidden;
  if (call.out[0].data == nullptr)
    throw UnsupportedOp(op_name(call.op),
                        "computes its other gradients from dproj, which must be kept");
  LstmArgs p{};
  p.dy = slices<const float>(call.in[0]), p.gates_in = slices<const float>(call.in[5]);
  p.cells_in = slices<const float>(call.in[6]), p.dproj = slices<float>(call.out[0]);
  p.batch = proj[0], p.seqlen = proj[1];
  launch_steps<true>(call, p, call.in[2],
                     {lstm_kernel_bwd<Precision::kFp32>, lstm_kernel_bwd<Precision::kTf32>,
                      lstm_kernel_bwd<Precision::kBf16>},
                     stream);

  const Workspace space(proj, hidden);
  const Shape rows{proj[0], proj[1], hidden};
  if (call.out[1].data != nullptr) {
    const Operand shifted = part(call.workspace, space.packed, &rows);
    const ShiftArgs shift{slices<const float>(call.in[4]),
                          shifted.at<float>(0),
                          shifted.stride_bytes / 4,
                          rows.size(),
                          proj[1],
                          hidden};
    shift_kernel<<<member_grid(ceil_div(rows.size(), 256), call.members), 256, 0, stream>>>(shift);
    check_launch("lstm_bwd shift");
    const Operand in[] = {{call.out[0].data, call.out[0].stride_bytes, &proj}, shifted};
    const Attributes none;
    CudaCall product{Op::kLinearBwdW, &none,         in, {&call.out[1], 1}, {},
                     call.members,    call.precision};
    product.workspace = part(call.workspace, space.packed + space.shifted + space.parts, nullptr);
    linear_bwd_w_kernel().launch(product, stream);
  }
  if (call.out[2].data != nullptr) {
    const Runs runs = Workspace::runs(proj);
    const Operand parts = part(call.workspace, space.packed + space.shifted, nullptr);
    const ColumnSums sums{slices<const float>(call.out[0]),
                          parts.at<float>(0),
                          parts.stride_bytes / 4,
                          proj.rows(),
                          runs.size,
                          4 * hidden};
    const dim3 grid(static_cast<unsigned>(ceil_div(4 * hidden, 128)),
                    static_cast<unsigned>(runs.count), static_cast<unsigned>(call.members));
    column_sums_kernel<<<grid, 128, 0, stream>>>(sums);
    check_launch("lstm_bwd bias");
    CudaCall reduce = call;
    reduce.workspace = parts;
    sum_runs("lstm_bwd bias", reduce, runs.count, 4 * hidden, call.out[2], stream);
  }
}

}  // namespace

CudaKernel lstm_bwd_kernel() { return {workspace_bwd, launch_bwd, limit}; }

}  // namespace statelab::cuda
