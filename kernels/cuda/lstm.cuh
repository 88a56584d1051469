// What both directions of the LSTM share: how units and weights lie in a block, its products, the launch.
//
// shapes    proj, gates (batch, seqlen, 4 H); y, cells (batch, seqlen, H); W (4 H, H), rows by gate
// launch    grid x: runs of 8 sequences, y: members; a warp owns 16 units with their four gates, rounds of warps where there
//           are more than 256 units. 8 sequences are the columns of an mma, W's rows its rows: gates^T = W h^T.
// order     a block walks the tokens of its sequences. A lane owns the same (unit, sequence) pairs in every gate, so the cell's
//           arithmetic needs no exchange; only h (forward) and dproj (backward) pass through shared memory.
// weights   are packed into the operand fragments of a warp beforehand; as many columns as fit are kept in shared memory, the
//           rest is read from L2 at every token
// sums      over a token's products in the order of k; dW is linear_bwd_w of dproj and of y moved on by one token; db sums fixed
//           runs of rows, then the runs in order
// numerics  products in the call's precision; gates, cells and sums in float
// limits    hidden <= 1024, and what a step keeps in shared memory fits: see limit()
#pragma once

#include <algorithm>
#include <string>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/product.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/shared_memory.cuh"

namespace statelab::cuda::lstm {

constexpr int kSequences = 8;  ///< of a block
constexpr int kUnits = 16;     ///< of a warp at once
constexpr int kGates = 4, kPairs = 4;
constexpr int kMaxWarps = 16, kMaxHidden = 1024;
constexpr int kFragment = 32 * 16;  ///< bytes: a lane's uint4 of 16 units by kDepth<> columns

/// Columns of one fragment.
template <Precision kPrecision>
constexpr int kDepth = kPrecision == Precision::kBf16 ? 16 : 8;

inline int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

/// How H units are spread over a block; shapes decide.
struct Plan {
  int hidden,
      columns;  ///< columns of an operand row: hidden rounded up to whole fragments of every precision
  int tiles, rounds, warps;
  explicit Plan(int hidden)
      : hidden(hidden),
        columns(round_up(hidden, 16)),
        tiles((hidden + kUnits - 1) / kUnits),
        rounds((tiles + kMaxWarps - 1) / kMaxWarps),
        warps((tiles + rounds - 1) / rounds) {}
  /// Of a tile and gate, along k.
  int fragments(Precision p) const { return columns / (p == Precision::kBf16 ? 16 : 8); }
  /// In any precision; bf16 needs half of it.
  int64_t packed_bytes() const {
    return int64_t{tiles} * kGates * fragments(Precision::kTf32) * kFragment;
  }
  /// Bytes of an operand row in shared memory. Rows of 8 sequences fall into different banks: 4 words past a multiple of 8.
  int row_bytes(Precision p) const { return columns * (p == Precision::kBf16 ? 2 : 4) + 16; }
  /// Operand rows (forward two buffers of h, backward four gates), then lane-private values: c, or dc and dh.
  int step_bytes(Precision p, bool backward) const {
    return (backward ? kGates : 2) * kSequences * row_bytes(p) +
           (backward ? 2 : 1) * tiles * kUnits * kSequences * 4;
  }
};

// ---- weights as fragments

struct PackArgs {
  Slices<const float> weight;
  uint4* packed;
  int64_t packed_stride;  ///< uint4 from member to member
  int hidden, tiles, fragments;
};

/// Fragment (tile, gate, kb), lane by lane. Rows are the tile's units; columns are h's units (forward), or the gate's (backward:
/// the transposed weight). Zero outside.
template <Precision kPrecision, bool kBackward>
__global__ void __launch_bounds__(256) pack_kernel(const PackArgs p) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int lane = static_cast<int>(index % 32);
  const int64_t fragment = index / 32;
  const int kb = static_cast<int>(fragment % p.fragments),
            gate = static_cast<int>(fragment / p.fragments % kGates),
            tile = static_cast<int>(fragment / p.fragments / kGates);
  if (tile >= p.tiles) return;
  const int H = p.hidden, u0 = tile * kUnits, k0 = kb * kDepth<kPrecision>;
  const float* weight = p.weight.at(blockIdx.y) + static_cast<int64_t>(gate) * H * H;
  auto at = [&](int row, int column) {
    const int u = u0 + row, k = k0 + column;
    if (u >= H || k >= H) return 0.f;
    return kBackward ? weight[static_cast<int64_t>(k) * H + u]
                     : weight[static_cast<int64_t>(u) * H + k];
  };
  const int g = lane / 4, t = lane % 4;
  uint4 v;
  if constexpr (kPrecision == Precision::kFp32) {
    const int unit = lane % 16, k = lane / 16 * 4;
    v = {__float_as_uint(at(unit, k)), __float_as_uint(at(unit, k + 1)),
         __float_as_uint(at(unit, k + 2)), __float_as_uint(at(unit, k + 3))};
  } else if constexpr (kPrecision == Precision::kTf32) {
    v = {to_tf32(at(g, t)), to_tf32(at(g + 8, t)), to_tf32(at(g, t + 4)),
         to_tf32(at(g + 8, t + 4))};
  } else {
    v = {to_bf16x2(at(g, 2 * t), at(g, 2 * t + 1)),
         to_bf16x2(at(g + 8, 2 * t), at(g + 8, 2 * t + 1)),
         to_bf16x2(at(g, 2 * t + 8), at(g, 2 * t + 9)),
         to_bf16x2(at(g + 8, 2 * t + 8), at(g + 8, 2 * t + 9))};
  }
  p.packed[blockIdx.y * p.packed_stride + index] = v;
}

// ---- one block's view

/// Which (unit, sequence) of a tile this lane's pair j is: the accumulators' layout in mma.m16n8; in fp32 one unit a lane.
template <Precision kPrecision>
__device__ __forceinline__ int pair_unit(int j) {
  return kPrecision == Precision::kFp32 ? lane_id() % 16 : lane_id() / 4 + j / 2 * 8;
}
template <Precision kPrecision>
__device__ __forceinline__ int pair_sequence(int j) {
  return kPrecision == Precision::kFp32 ? lane_id() / 16 * 4 + j : lane_id() % 4 * 2 + j % 2;
}

/// Operand rows of 8 sequences in shared memory, in the products' precision.
template <Precision kPrecision>
struct OperandRows {
  std::byte* data;
  int row_bytes;
  __device__ __forceinline__ void store(int sequence, int k, float x) const {
    std::byte* row = data + sequence * row_bytes;
    if constexpr (kPrecision == Precision::kBf16) {
      reinterpret_cast<__nv_bfloat16*>(row)[k] = __float2bfloat16_rn(x);
    } else {
      reinterpret_cast<float*>(row)[k] = stored_operand<kPrecision>(x);
    }
  }
  __device__ __forceinline__ uint32_t word(int sequence, int i) const {
    return reinterpret_cast<const uint32_t*>(data + sequence * row_bytes)[i];
  }
  __device__ __forceinline__ float4 four(int sequence, int i) const {
    return reinterpret_cast<const float4*>(data + sequence * row_bytes)[i];
  }
};

/// The other operand's part of one fragment: kDepth rows by 8 sequences.
template <Precision kPrecision>
struct Columns {
  uint32_t word[2];
  float4 four[kPrecision == Precision::kFp32 ? 8 : 1];
  __device__ __forceinline__ void load(const OperandRows<kPrecision>& rows, int kb) {
    if constexpr (kPrecision == Precision::kFp32) {
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        four[2 * j] = rows.four(lane_id() / 16 * 4 + j, 2 * kb);
        four[2 * j + 1] = rows.four(lane_id() / 16 * 4 + j, 2 * kb + 1);
      }
    } else {
      word[0] = rows.word(lane_id() / 4, 8 * kb + lane_id() % 4);
      word[1] = rows.word(lane_id() / 4, 8 * kb + lane_id() % 4 + 4);
    }
  }
};

__device__ __forceinline__ float dot4(float sum, const uint4& a, const float4& b) {
  sum = fmaf(__uint_as_float(a.x), b.x, sum);
  sum = fmaf(__uint_as_float(a.y), b.y, sum);
  sum = fmaf(__uint_as_float(a.z), b.z, sum);
  return fmaf(__uint_as_float(a.w), b.w, sum);
}

/// acc += fragment * columns; `fragment` points at the 32 lanes' values.
template <Precision kPrecision>
__device__ __forceinline__ void multiply(float (&acc)[kPairs], const uint4* fragment,
                                         const Columns<kPrecision>& b) {
  if constexpr (kPrecision == Precision::kFp32) {
    const uint4 low = fragment[lane_id() % 16], high = fragment[16 + lane_id() % 16];
#pragma unroll
    for (int j = 0; j < kPairs; ++j)
      acc[j] = dot4(dot4(acc[j], low, b.four[2 * j]), high, b.four[2 * j + 1]);
  } else {
    const uint4 v = fragment[lane_id()];
    const uint32_t a[4] = {v.x, v.y, v.z, v.w};
    if constexpr (kPrecision == Precision::kTf32) {
      mma_tf32(acc, a, b.word[0], b.word[1]);
    } else {
      mma_bf16(acc, a, b.word[0], b.word[1]);
    }
  }
}

struct LstmArgs {
  Slices<const float> proj, bias;              // forward
  Slices<const float> dy, gates_in, cells_in;  // backward
  Slices<float> y, gates, cells, dproj;
  const uint4* packed;
  int64_t packed_stride;
  int batch, seqlen, hidden, tiles, rounds, fragments;
  int on_chip;  ///< fragments along k of each tile and gate that shared memory holds
  int row_bytes;
};

/// Weights of one tile: fragment kb of a gate lies in shared memory below on_chip, else in global memory.
struct TileWeights {
  const uint4 *shared, *global;
  int on_chip, fragments;
};

__device__ __forceinline__ TileWeights tile_weights(const LstmArgs& p, const uint4* shared,
                                                    const uint4* global, int tile) {
  return {shared + static_cast<int64_t>(tile) * kGates * p.on_chip * 32,
          global + static_cast<int64_t>(tile) * kGates * p.fragments * 32, p.on_chip, p.fragments};
}

/// acc[gate] += W_gate columns(gate), in the order of k. kShared: all gates have the same columns.
template <Precision kPrecision, bool kShared>
__device__ __forceinline__ void tile_product(float (&acc)[kGates][kPairs], const TileWeights& w,
                                             const OperandRows<kPrecision>& rows) {
  auto step = [&](const uint4* fragments, int pitch, int kb) {
    Columns<kPrecision> b;
    if (kShared) b.load(rows, kb);
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
      if (!kShared) {
        b.load({rows.data + gate * kSequences * rows.row_bytes, rows.row_bytes}, kb);
      }
      multiply<kPrecision>(acc[gate], fragments + (gate * pitch + kb) * 32, b);
    }
  };
#pragma unroll 2
  for (int kb = 0; kb < w.on_chip; ++kb) step(w.shared, w.on_chip, kb);
#pragma unroll 4
  for (int kb = w.on_chip; kb < w.fragments; ++kb) step(w.global, w.fragments, kb);
}

/// Copies the fragments that stay on chip; zeroes [zero, zero + zero_bytes). A barrier must follow.
__device__ __forceinline__ void fill_shared(const LstmArgs& p, uint4* shared, const uint4* global,
                                            std::byte* zero, int zero_bytes) {
  const int n = p.tiles * kGates * p.on_chip * 32;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) {
    const int of_gate = i / (p.on_chip * 32), within = i % (p.on_chip * 32);
    shared[i] = global[static_cast<int64_t>(of_gate) * p.fragments * 32 + within];
  }
  for (int i = static_cast<int>(threadIdx.x); i < zero_bytes / 16;
       i += static_cast<int>(blockDim.x))
    reinterpret_cast<uint4*>(zero)[i] = {0, 0, 0, 0};
}

// ---- launch

template <class F>
void of_precision(Precision precision, F&& f) {
  switch (precision) {
    case Precision::kFp32:
      return f.template operator()<Precision::kFp32>();
    case Precision::kTf32:
      return f.template operator()<Precision::kTf32>();
    case Precision::kBf16:
      return f.template operator()<Precision::kBf16>();
  }
}

/// One kernel a precision, in the order of the enumeration.
using Kernels = void (*const[3])(LstmArgs);

/// Packs the weights into the workspace's first part, then walks the tokens.
template <bool kBackward>
void launch_steps(const CudaCall& call, LstmArgs p, const Operand& weight, const Kernels& kernels,
                  CUstream_st* stream) {
  const auto workspace = slices<uint4>(call.workspace);
  const Plan plan(call.attrs<LstmAttrs>().hidden);
  const Precision precision = call.precision;
  p.packed = workspace.data, p.packed_stride = workspace.stride;
  p.hidden = plan.hidden, p.tiles = plan.tiles, p.rounds = plan.rounds;
  p.fragments = plan.fragments(precision), p.row_bytes = plan.row_bytes(precision);
  const int step = plan.step_bytes(precision, kBackward), column = plan.tiles * kGates * kFragment;
  p.on_chip = std::clamp((shared_bytes_per_block() - step) / column, 0, p.fragments);
  const int shared = step + p.on_chip * column;
  const PackArgs pack{slices<const float>(weight),
                      workspace.data,
                      workspace.stride,
                      plan.hidden,
                      plan.tiles,
                      p.fragments};
  const int64_t lanes = int64_t{plan.tiles} * kGates * p.fragments * 32;
  of_precision(precision, [&]<Precision kPrecision>() {
    pack_kernel<kPrecision, kBackward>
        <<<member_grid(ceil_div(lanes, 256), call.members), 256, 0, stream>>>(pack);
    check_launch("lstm weights");
    const auto kernel = kernels[static_cast<int>(kPrecision)];
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
          "lstm shared memory");
    kernel<<<member_grid(ceil_div(p.batch, kSequences), call.members), plan.warps * 32,
             static_cast<size_t>(shared), stream>>>(p);
    check_launch(op_name(call.op));
  });
}

/// Shared memory of a step in fp32, the widest precision.
inline std::string limit(const CallShapes& c) {
  const int hidden = c.attrs<LstmAttrs>().hidden;
  if (hidden > kMaxHidden) {
    return "hidden must be at most " + std::to_string(kMaxHidden) + " on a CUDA device, is " +
           std::to_string(hidden);
  }
  const bool backward = c.op == Op::kLstmBwd;
  const int limit = shared_bytes_per_block();
  if (Plan(hidden).step_bytes(Precision::kFp32, backward) <= limit) return {};
  int fits = hidden;
  while (fits > 1 && Plan(fits).step_bytes(Precision::kFp32, backward) > limit) --fits;
  return "hidden must be at most " + std::to_string(fits) + " on this CUDA device, is " +
         std::to_string(hidden);
}

}  // namespace statelab::cuda::lstm
