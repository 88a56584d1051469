// lstm: (i, f, g, o) = proj_t + W h_{t-1} + b;  c_t = s(f) c_{t-1} + s(i) tanh(g);  h_t = s(o) tanh(c_t). Backwards:
//   dh = dy_t + W^T dproj_{t+1};  dc = dc' + dh o (1 - tanh^2 c_t);  dproj_t = (dc g i (1 - i), dc c_{t-1} f (1 - f),
//   dc i (1 - g^2), dh tanh(c_t) o (1 - o));  dc' = dc f;  dW = sum dproj_t h_{t-1}^T;  db = sum dproj
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
#include <algorithm>
#include <stdexcept>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/product.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/error.h"

namespace statelab::cuda {
namespace {

constexpr int kSequences = 8;  ///< of a block
constexpr int kUnits = 16;     ///< of a warp at once
constexpr int kGates = 4, kPairs = 4;
constexpr int kMaxWarps = 16, kMaxHidden = 1024;
constexpr int kFragment = 32 * 16;  ///< bytes: a lane's uint4 of 16 units by kDepth<> columns

/// Columns of one fragment.
template <Precision kPrecision>
constexpr int kDepth = kPrecision == Precision::kBf16 ? 16 : 8;

int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

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

int shared_limit() {
  int device = 0, bytes = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) !=
          cudaSuccess) {
    cudaGetLastError();  // no device is an answer here, not an error
    bytes = 227 * 1024;
  }
  return bytes;
}

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

/// Packs the weights into `packed`, then walks the tokens.
template <bool kBackward>
void launch_steps(const CudaCall& call, LstmArgs p, const Operand& weight, uint4* packed,
                  int64_t packed_stride, CUstream_st* stream) {
  const Plan plan(call.attrs<LstmAttrs>().hidden);
  const Precision precision = call.precision;
  p.packed = packed, p.packed_stride = packed_stride;
  p.hidden = plan.hidden, p.tiles = plan.tiles, p.rounds = plan.rounds;
  p.fragments = plan.fragments(precision), p.row_bytes = plan.row_bytes(precision);
  const int step = plan.step_bytes(precision, kBackward), column = plan.tiles * kGates * kFragment;
  p.on_chip = std::clamp((shared_limit() - step) / column, 0, p.fragments);
  const int shared = step + p.on_chip * column;
  const PackArgs pack{
      slices<const float>(weight), packed, packed_stride, plan.hidden, plan.tiles, p.fragments};
  const int64_t lanes = int64_t{plan.tiles} * kGates * p.fragments * 32;
  of_precision(precision, [&]<Precision kPrecision>() {
    pack_kernel<kPrecision, kBackward>
        <<<member_grid(ceil_div(lanes, 256), call.members), 256, 0, stream>>>(pack);
    check_launch("lstm weights");
    auto kernel = kBackward ? lstm_kernel_bwd<kPrecision> : lstm_kernel_fwd<kPrecision>;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
          "lstm shared memory");
    kernel<<<member_grid(ceil_div(p.batch, kSequences), call.members), plan.warps * 32,
             static_cast<size_t>(shared), stream>>>(p);
    check_launch(op_name(call.op));
  });
}

/// Parts of a member's workspace, in bytes; each begins at a multiple of 64.
struct Workspace {
  int64_t packed, shifted, parts, product;
  static int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }
  Workspace(const Shape& proj, int hidden, bool backward)
      : packed(aligned(Plan(hidden).packed_bytes())),
        shifted(backward ? aligned(proj.rows() * hidden * 4) : 0),
        parts(backward ? aligned(runs(proj).count * 4 * hidden * 4) : 0),
        product(0) {
    if (!backward) return;
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

int64_t workspace_fwd(const CallShapes& c) {
  return Workspace(c.in[0]->shape, c.attrs<LstmAttrs>().hidden, false).bytes();
}
int64_t workspace_bwd(const CallShapes& c) {
  return Workspace(c.in[1]->shape, c.attrs<LstmAttrs>().hidden, true).bytes();
}

/// The part of the workspace that begins `offset` bytes into each member's slice.
Operand part(const Operand& workspace, int64_t offset, const Shape* shape) {
  return {workspace.data + offset, workspace.stride_bytes, shape};
}

void launch_fwd(const CudaCall& call, CUstream_st* stream) {
  const Shape& proj = *call.in[0].shape;
  LstmArgs p{};
  p.proj = slices<const float>(call.in[0]), p.bias = slices<const float>(call.in[2]);
  p.y = slices<float>(call.out[0]), p.gates = slices<float>(call.out[1]);
  p.cells = slices<float>(call.out[2]);
  p.batch = proj[0], p.seqlen = proj[1];
  const auto packed = slices<uint4>(call.workspace);
  launch_steps<false>(call, p, call.in[1], packed.data, packed.stride, stream);
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
  const auto packed = slices<uint4>(call.workspace);
  launch_steps<true>(call, p, call.in[2], packed.data, packed.stride, stream);

  const Workspace space(proj, hidden, true);
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

/// Shared memory of a step in fp32, the widest precision.
std::string limit(const CallShapes& c) {
  const int hidden = c.attrs<LstmAttrs>().hidden;
  if (hidden > kMaxHidden) {
    return "hidden must be at most " + std::to_string(kMaxHidden) + " on a CUDA device, is " +
           std::to_string(hidden);
  }
  const bool backward = c.op == Op::kLstmBwd;
  const int limit = shared_limit();
  if (Plan(hidden).step_bytes(Precision::kFp32, backward) <= limit) return {};
  int fits = hidden;
  while (fits > 1 && Plan(fits).step_bytes(Precision::kFp32, backward) > limit) --fits;
  return "hidden must be at most " + std::to_string(fits) + " on this CUDA device, is " +
         std::to_string(hidden);
}

}  // namespace

CudaKernel lstm_kernel() { return {workspace_fwd, launch_fwd, limit}; }
CudaKernel lstm_bwd_kernel() { return {workspace_bwd, launch_bwd, limit}; }

}  // namespace statelab::cuda
