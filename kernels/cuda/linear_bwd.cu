// Both gradients of linear in one pass over dy, see RowGradients: dx = dy W, and parts of dW = dy^T x; with a norm before the layer
// its gradients too.
//
//   A block holds W and walks tiles of 32 rows. One group of warps brings them: its loads of the next tile are under way while it
//   splits this one's numbers into two bf16 and stores them as operands, which serve both products. Two groups multiply: the first
//   has dx (transposed, so that a thread keeps its columns) and some of dW's units of 64 x 64, the second the others, in registers
//   for the whole walk. Two tiles are in shared memory; groups wait for one another at barriers in memory, tile by tile.
//   launch    grid x: runs, y: members
//   traffic   dy and x once, dx once, with a norm x twice; W and a part of dW once per run
//   numerics  dx: one fp32 sum in the order of dy's columns. A part of dW: one fp32 sum in the order of its rows. The norm's sums
//             over a row: columns of a warp, then the warps. Runs and parts depend on shapes only
#include "kernels/cuda/check.cuh"
#include "kernels/cuda/linear_bwd.cuh"

namespace statelab::cuda {
namespace {

using namespace gradients;

/// What all roles of a block know.
struct Block {
  const GradientArgs& a;
  const Layout at;
  uint32_t memory;
  Rest& rest;
  int tiles;
  bool skips;

  __device__ __forceinline__ int first_row(int tile) const {
    return static_cast<int>(blockIdx.x + tile * gridDim.x) * kRows;
  }
  __device__ __forceinline__ int next(int tile) const {
    return skips ? next_used(rest.used, tile, tiles) : tile + 1;
  }
};

/// dW's units `begin` .. of a tile: 64 columns of dy, 64 of x each.
template <int kUnits, int kM>
__device__ __forceinline__ void multiply_units(float (&dw)[kUnits][32], const Block& b, int stage,
                                               int begin) {
  const Layout& at = b.at;
#pragma unroll
  for (int s = 0; s < kRows / 16; ++s) {
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      const int n_tile = (begin + u) / kM, k_tile = (begin + u) % kM;
      const uint32_t dy = b.memory + at.dy(stage) + n_tile * 8 * Layout::kDyStride +
                          s * 2 * kCoreBytes,
                     x = b.memory + at.x(stage) + k_tile * 8 * Layout::kXStride +
                         s * 2 * kCoreBytes;
      const uint64_t dy_hi = operand_at(dy, kCoreBytes, Layout::kDyStride),
                     dy_lo = operand_at(dy + at.dy_plane(), kCoreBytes, Layout::kDyStride),
                     x_hi = operand_at(x, kCoreBytes, Layout::kXStride),
                     x_lo = operand_at(x + at.x_plane(), kCoreBytes, Layout::kXStride);
      multiply_async<true, true>(dw[u], dy_lo, x_hi, true);
      multiply_async<true, true>(dw[u], dy_hi, x_lo, true);
      multiply_async<true, true>(dw[u], dy_hi, x_hi, true);
    }
  }
}

/// dx^T of a tile: 64 columns of x to each dx[m], 32 rows.
template <int kM>
__device__ __forceinline__ void multiply_rows(float (&dx)[kM][16], const Block& b, int stage) {
  const Layout& at = b.at;
  const uint64_t step_w = 2 * at.w_stride() / 16, step_dy = 2 * Layout::kDyStride / 16;
  uint64_t w_hi = operand_at(b.memory, at.w_stride(), kCoreBytes),
           w_lo = operand_at(b.memory + at.w_plane(), at.w_stride(), kCoreBytes);
  const uint32_t dy = b.memory + at.dy(stage);
  uint64_t dy_hi = operand_at(dy, Layout::kDyStride, kCoreBytes),
           dy_lo = operand_at(dy + at.dy_plane(), Layout::kDyStride, kCoreBytes);
  const int steps = at.n / 16;
#pragma unroll 1
  for (int s = 0; s < steps; ++s) {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      const uint64_t tile = m * 8 * kCoreBytes / 16;
      multiply_async<true, false>(dx[m], w_lo + tile, dy_hi, s > 0);
      multiply_async<true, false>(dx[m], w_hi + tile, dy_lo, true);
      multiply_async<true, false>(dx[m], w_hi + tile, dy_hi, true);
    }
    w_hi += step_w, w_lo += step_w, dy_hi += step_dy, dy_lo += step_dy;
  }
}

/// Of a thread that holds dx^T: element i is row row_of(i) of the tile, column column_of(i).
__device__ __forceinline__ int row_of(int i) { return i / 4 * 8 + lane_id() % 4 * 2 + i % 2; }
__device__ __forceinline__ int column_of(int i) {
  return warp_id() % 4 * 16 + lane_id() / 4 + i / 2 % 2 * 8;
}

/// A tile's rows of the norm that precedes the layer, on their way: dx = its gradient of du [+ addend].
struct NormRows {
  float x[16], added[16];
  float inv[8];  // of rows 8 (i / 2) + lane % 4 * 2 + i % 2

  __device__ __forceinline__ void start(const RowGradients& p, const float* x_all,
                                        const float* addend, int first) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int row = first + row_of(i);
      const bool in = row < p.rows;
      const int64_t from = static_cast<int64_t>(in ? row : 0) * p.k + column_of(i);
      x[i] = in ? __ldg(x_all + from) : 0;
      added[i] = addend != nullptr && in ? __ldg(addend + from) : 0;
    }
  }
  __device__ __forceinline__ void take(const float (&inverse_rms)[kRows]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) inv[i] = inverse_rms[i / 2 * 8 + lane_id() % 4 * 2 + i % 2];
  }
  /// du becomes dx; adds to the thread's columns of dnorm. The threads of the group meet once.
  __device__ __forceinline__ void finish(const RowGradients& p, const float (&weight)[2],
                                         float (&dots)[4][kRows], float (&du)[16],
                                         float (&dnorm)[2]) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int low = i / 2 * 4 + i % 2;
      float dot = du[low] * weight[0] * x[low] + du[low + 2] * weight[1] * x[low + 2];
#pragma unroll
      for (int d = 4; d < kWarp; d *= 2) dot += __shfl_xor_sync(0xFFFFFFFFu, dot, d);
      if (lane_id() < 4) dots[warp_id() % 4][row_of(low)] = dot;
    }
    sync_threads(1, kWarpgroup);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float dot = 0;
#pragma unroll
      for (int w = 0; w < 4; ++w) dot += dots[w][row_of(i / 2 * 4 + i % 2)];
      dot = dot * inv[i] / static_cast<float>(p.k);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int at = i / 2 * 4 + 2 * h + i % 2;
        const float normed = x[at] * inv[i];
        dnorm[h] += du[at] * normed;
        du[at] = __fmul_rn(inv[i], du[at] * weight[h] - normed * dot) + added[at];
      }
    }
  }
};

/// Units of dW to the block's part; rows beyond dy's columns belong to nobody.
template <int kUnits, int kM>
__device__ __forceinline__ void leave_units(const float (&dw)[kUnits][32], const RowGradients& p,
                                            int begin, float* to) {
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
    const int n0 = (begin + u) / kM * kWide, k0 = (begin + u) % kM * kWide;
#pragma unroll
    for (int i = 0; i < 32; i += 2) {
      const int n = n0 + column_of(i), k = k0 + i / 4 * 8 + lane_id() % 4 * 2;
      if (n < p.n) *reinterpret_cast<float2*>(to + n * p.k + k) = make_float2(dw[u][i], dw[u][i + 1]);
    }
  }
}

template <int kUnits0, int kUnits1, int kM, int kChunks, bool kNorm>
__global__ void __launch_bounds__(kThreads, 1)
    row_gradients(const __grid_constant__ GradientArgs a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ uint4 memory[];
  constexpr int kK = kM * kWide;
  const RowGradients& p = a.p;
  const Layout at(kK, p.n);
  Rest& rest = *reinterpret_cast<Rest*>(reinterpret_cast<char*>(memory) + at.rest());
  const float *const dy = p.dy + blockIdx.y * p.dy_member, *const x = p.x + blockIdx.y * p.x_member;
  float* const dx = p.dx + blockIdx.y * p.dx_member;
  float* const part = p.parts + blockIdx.y * p.parts_member + blockIdx.x * p.part_stride;
  const float* const norm = kNorm ? p.norm + blockIdx.y * p.norm_member : nullptr;
  const float* const addend =
      kNorm && p.addend != nullptr ? p.addend + blockIdx.y * p.addend_member : nullptr;
  const auto blocks = static_cast<int>(gridDim.x);
  const int tiles = (a.tiles - static_cast<int>(blockIdx.x) + blocks - 1) / blocks;
  const Block b{a, at, shared_address(memory), rest, tiles,
                p.targets != nullptr && tiles <= kMostTiles};
  const int role = __shfl_sync(0xFFFFFFFFu, warp_id() / 4, 0);  // known to be the warp's

  if (threadIdx.x == 0) {
#pragma unroll
    for (int s = 0; s < kStages; ++s) rest.full[s].init(4), rest.empty[s].init(8);
  }
  if (b.skips) find_used(a, tiles, rest.used);
  Bringing<kChunks, kK, kNorm> rows;
  if (role == 2) {
    if constexpr (kNorm)
      rows.weight = __ldg(
          reinterpret_cast<const float4*>(norm + lane_id() % (kK / 4) * 4));
    rows.start(p, dy, x, b.first_row(min(b.next(-1), tiles - 1)));
  }
  if (b.skips) fill_unused(a, rest.used, tiles, addend, dx);
  hold_weight(p, at, p.weight + blockIdx.y * p.weight_member, b.memory);
  clear_padding(p.n, at, b.memory);
  fence_for_products();
  __syncthreads();

  // Tile i of the walk is in stage i % 2; barriers' phases alternate every second tile.
  if (role == 2) {
    int stage = 0, parity = 1;
    for (int tile = b.next(-1); tile < tiles;) {
      const int next = b.next(tile);
      rest.empty[stage].wait(parity);
      rows.bring(p, at, dy, x, b.memory + at.dy(stage), b.memory + at.x(stage),
                 rest.inverse_rms[stage], b.first_row(next < tiles ? next : tile));
      fence_for_products();
      __syncwarp();
      if (lane_id() == 0) rest.full[stage].arrive();
      tile = next, stage ^= 1;
      if (stage == 0) parity ^= 1;
    }
  } else if (role == 1) {
    float dw[kUnits1][32] = {};
    int stage = 0, parity = 0;
    for (int tile = b.next(-1); tile < tiles; tile = b.next(tile)) {
      rest.full[stage].wait(parity);
#pragma unroll
      for (int u = 0; u < kUnits1; ++u) hold(dw[u]);
      begin_products();
      multiply_units<kUnits1, kM>(dw, b, stage, kUnits0);
      commit_products();
      wait_products<0>();
#pragma unroll
      for (int u = 0; u < kUnits1; ++u) hold(dw[u]);
      if (lane_id() == 0) rest.empty[stage].arrive();
      stage ^= 1;
      if (stage == 0) parity ^= 1;
    }
    leave_units<kUnits1, kM>(dw, p, kUnits0, part);
  } else {
    constexpr int kHeld = kUnits0 > 0 ? kUnits0 : 1;
    float dw[kHeld][32] = {};
    float weight[2] = {}, dnorm[2] = {};
    if constexpr (kNorm) weight[0] = __ldg(norm + column_of(0)), weight[1] = __ldg(norm + column_of(2));
    int stage = 0, parity = 0;
    for (int tile = b.next(-1); tile < tiles; tile = b.next(tile)) {
      const int first = b.first_row(tile);
      float out[kM][16] = {};
      NormRows around;
      if constexpr (kNorm) around.start(p, x, addend, first);
      rest.full[stage].wait(parity);
#pragma unroll
      for (int m = 0; m < kM; ++m) hold(out[m]);
#pragma unroll
      for (int u = 0; u < kHeld; ++u) hold(dw[u]);
      begin_products();
      multiply_rows<kM>(out, b, stage);
      if constexpr (kUnits0 > 0) multiply_units<kHeld, kM>(dw, b, stage, 0);
      commit_products();
      if constexpr (kNorm) around.take(rest.inverse_rms[stage]);
      wait_products<0>();
#pragma unroll
      for (int m = 0; m < kM; ++m) hold(out[m]);
#pragma unroll
      for (int u = 0; u < kHeld; ++u) hold(dw[u]);
      __syncwarp();
      if (lane_id() == 0) rest.empty[stage].arrive();
      if constexpr (kNorm) around.finish(p, weight, rest.dots[stage], out[0], dnorm);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int i = 0; i < 16; ++i) {
          const int row = first + row_of(i);
          if (row < p.rows) dx[static_cast<int64_t>(row) * kK + m * kWide + column_of(i)] = out[m][i];
        }
      }
      stage ^= 1;
      if (stage == 0) parity ^= 1;
    }
    if constexpr (kUnits0 > 0) leave_units<kHeld, kM>(dw, p, 0, part);
    if constexpr (kNorm) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float sum = dnorm[h];
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
        if (lane_id() % 4 == 0) part[p.n * kK + column_of(2 * h)] = sum;
      }
    }
  }
#endif
}

template <int kUnits0, int kUnits1, int kM, int kChunks, bool kNorm>
void start(const Division& d, int members, CUstream_st* stream) {
  const auto kernel = row_gradients<kUnits0, kUnits1, kM, kChunks, kNorm>;
  // Units beyond dy's columns read what follows.
  constexpr int kColumns = (kUnits0 + kUnits1) / kM * kWide;
  const Layout at(kM * kWide, d.args.p.n);
  const int bytes =
      std::max(d.bytes, at.dy(1) + at.dy_plane() + kColumns / 8 * Layout::kDyStride);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "cudaFuncSetAttribute");
  const dim3 grid(static_cast<unsigned>(d.runs), static_cast<unsigned>(members));
  kernel<<<grid, kThreads, static_cast<size_t>(bytes), stream>>>(d.args);
  check_launch("linear_bwd");
}

}  // namespace

int row_gradient_parts(int64_t rows, int n, int k) {
  const Division d(rows, n, k);
  return d.possible ? d.runs : 0;
}

bool takes_norm(int n, int k) { return k == kWide && Division(1, n, k).possible; }

bool launch_row_gradients(const RowGradients& p, int members, CUstream_st* stream) {
  Division d(p.rows, p.n, p.k);
  if (!d.possible || (p.norm != nullptr && p.k != kWide)) return false;
  d.args.p = p;
  const int wide = up(p.n, kWide);
  if (p.k == 2 * kWide) {
    wide == 1 ? start<0, 2, 2, 8, false>(d, members, stream)
              : start<0, 4, 2, 16, false>(d, members, stream);
  } else if (p.norm == nullptr) {
    wide <= 2 ? start<0, 2, 1, 16, false>(d, members, stream)
              : start<3, 4, 1, 52, false>(d, members, stream);
  } else {
    wide <= 2 ? start<0, 2, 1, 16, true>(d, members, stream)
              : start<3, 4, 1, 52, true>(d, members, stream);
  }
  return true;
}

}  // namespace statelab::cuda
