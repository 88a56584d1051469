// lstm: (i, f, g, o) = proj_t + W h_{t-1} + b;  c_t = s(f) c_{t-1} + s(i) tanh(g);  h_t = s(o) tanh(c_t), s the sigmoid.
// Layout, order and limits: lstm.cuh.
#include "kernels/cuda/lstm.cuh"

namespace statelab::cuda {
namespace {

using namespace lstm;  // NOLINT: the other half of this op

/// __expf and __fdividef are good to a few units of the last place where the result is not tiny; they stand between two
/// tokens, where nothing else can run. Infinity and NaN come out right.
__device__ __forceinline__ float fast_sigmoid(float x) { return __fdividef(1.f, 1.f + __expf(-x)); }

template <Precision kPrecision>
__global__ void __launch_bounds__(kMaxWarps * 32) lstm_kernel_fwd(const LstmArgs p) {
  extern __shared__ uint4 memory[];
  const int member = static_cast<int>(blockIdx.y),
            first = static_cast<int>(blockIdx.x) * kSequences;
  const int H = p.hidden, warps = static_cast<int>(blockDim.x) / 32;
  const uint4* global = p.packed + member * p.packed_stride;
  uint4* const weights = memory;
  std::byte* const rows = reinterpret_cast<std::byte*>(weights + p.tiles * kGates * p.on_chip * 32);
  const int buffer = kSequences * p.row_bytes;
  float* const cell_slots = reinterpret_cast<float*>(rows + 2 * buffer);
  const float *proj = p.proj.at(member), *bias = p.bias.at(member);
  float *y = p.y.at(member), *gates = p.gates.at(member), *cells = p.cells.at(member);
  fill_shared(p, weights, global, rows, 2 * buffer + p.tiles * kUnits * kSequences * 4);
  // Of this lane's units: pairs 0, 1 and 2, 3 share one.
  float held[kGates][2];
  auto load_bias = [&](int tile) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int u = tile * kUnits + pair_unit<kPrecision>(2 * i);
#pragma unroll
      for (int q = 0; q < kGates; ++q) held[q][i] = u < H ? __ldg(bias + q * H + u) : 0.f;
    }
  };
  if (p.rounds == 1) load_bias(warp_id());
  __syncthreads();
  for (int t = 0; t < p.seqlen; ++t) {
    const OperandRows<kPrecision> before{rows + t % 2 * buffer, p.row_bytes},
        after{rows + (t + 1) % 2 * buffer, p.row_bytes};
    for (int round = 0; round < p.rounds; ++round) {
      const int tile = round * warps + warp_id();
      if (tile >= p.tiles) break;
      if (p.rounds > 1) load_bias(tile);
      float in[kGates][kPairs], acc[kGates][kPairs] = {};
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        const int u = tile * kUnits + pair_unit<kPrecision>(j),
                  b = first + pair_sequence<kPrecision>(j);
        const bool there = u < H && b < p.batch;
        const float* from = proj + (static_cast<int64_t>(b) * p.seqlen + t) * 4 * H + u;
#pragma unroll
        for (int q = 0; q < kGates; ++q) in[q][j] = there ? __ldg(from + q * H) : 0.f;
      }
      if (t > 0)
        tile_product<kPrecision, true>(acc, tile_weights(p, weights, global, tile), before);
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        const int u = tile * kUnits + pair_unit<kPrecision>(j), s = pair_sequence<kPrecision>(j),
                  b = first + s;
        float* const slot = cell_slots + (tile * kPairs + j) * 32 + lane_id();
        auto before_activation = [&](int q) { return in[q][j] + held[q][j / 2] + acc[q][j]; };
        const float i = fast_sigmoid(before_activation(0)), f = fast_sigmoid(before_activation(1)),
                    g = tanhf(before_activation(2)), o = fast_sigmoid(before_activation(3));
        const float c = fmaf(f, *slot, i * g), h = o * tanhf(c);
        if (u < H && b < p.batch) {
          *slot = c;
          after.store(s, u, h);
          const int64_t row = static_cast<int64_t>(b) * p.seqlen + t;
          if (y != nullptr) y[row * H + u] = h;
          if (cells != nullptr) cells[row * H + u] = c;
          if (gates != nullptr) {
            float* to = gates + row * 4 * H + u;
            to[0] = i, to[H] = f, to[2 * H] = g, to[3 * H] = o;
          }
        }
      }
    }
    __syncthreads();
  }
}

int64_t workspace_fwd(const CallShapes& c) {
  return Plan(c.attrs<LstmAttrs>().hidden).packed_bytes();
}

void launch_fwd(const CudaCall& call, CUstream_st* stream) {
  const Shape& proj = *call.in[0].shape;
  LstmArgs p{};
  p.proj = slices<const float>(call.in[0]), p.bias = slices<const float>(call.in[2]);
  p.y = slices<float>(call.out[0]), p.gates = slices<float>(call.out[1]);
  p.cells = slices<float>(call.out[2]);
  p.batch = proj[0], p.seqlen = proj[1];
  launch_steps<false>(call, p, call.in[1],
                      {lstm_kernel_fwd<Precision::kFp32>, lstm_kernel_fwd<Precision::kTf32>,
                       lstm_kernel_fwd<Precision::kBf16>},
                      stream);
}

}  // namespace

CudaKernel lstm_kernel() { return {workspace_fwd, launch_fwd, limit}; }

}  // namespace statelab::cuda
