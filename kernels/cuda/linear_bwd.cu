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

/// A tile's place in the walk: stages take turns, their barriers' phases alternate.
struct Turn {
  int count = 0;
  __device__ __forceinline__ int stage() const { return count % kStages; }
  __device__ __forceinline__ int parity() const { return count / kStages % 2; }
};

/// dW's units `kBegin` .. of a tile: 64 columns of dy, 64 of x each.
template <class V, int kBegin, int kUnits>
__device__ __forceinline__ void multiply_units(float (&dw)[kUnits][32], uint32_t dy, uint32_t x) {
  using At = typename V::At;
  const cuda::Operand<kCoreBytes, At::kDyStride> of_dy(dy);
  const cuda::Operand<kCoreBytes, At::kXStride> of_x(x);
#pragma unroll
  for (int s = 0; s < kRows / 16; ++s) {
#pragma unroll
    for (int term = 0; term < 3; ++term) {
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        const int n_tile = (kBegin + u) / V::kM, k_tile = (kBegin + u) % V::kM;
        multiply_async<true, true>(
            dw[u],
            of_dy.at(n_tile * 8 * At::kDyStride + s * 2 * kCoreBytes +
                     (term == 0 ? At::kDyPlane : 0)),
            of_x.at(k_tile * 8 * At::kXStride + s * 2 * kCoreBytes + (term == 1 ? At::kXPlane : 0)),
            true);
      }
    }
  }
}

/// dx^T of a tile: 64 columns of x to each dx[m], 32 rows.
template <class V>
__device__ __forceinline__ void multiply_rows(float (&dx)[V::kM][16], uint32_t w, uint32_t dy) {
  using At = typename V::At;
  const cuda::Operand<At::kWStride, kCoreBytes> of_w(w);
  const cuda::Operand<At::kDyStride, kCoreBytes> of_dy(dy);
#pragma unroll
  for (int s = 0; s < V::kN / 16; ++s) {
#pragma unroll
    for (int term = 0; term < 3; ++term) {
#pragma unroll
      for (int m = 0; m < V::kM; ++m)
        multiply_async<true, false>(
            dx[m],
            of_w.at(s * 2 * At::kWStride + m * 8 * kCoreBytes + (term == 0 ? At::kWPlane : 0)),
            of_dy.at(s * 2 * At::kDyStride + (term == 1 ? At::kDyPlane : 0)), s > 0 || term > 0);
    }
  }
}

template <int kArrays, int kFloats>
__device__ __forceinline__ void hold(float (&c)[kArrays][kFloats]) {
#pragma unroll
  for (int i = 0; i < kArrays; ++i) cuda::hold(c[i]);
}

/// Of a thread that holds dx^T: element i is row row_of(i) of the tile, column column_of(i).
__device__ __forceinline__ int row_of(int i) { return i / 4 * 8 + lane_id() % 4 * 2 + i % 2; }
__device__ __forceinline__ int column_of(int i) {
  return warp_id() % 4 * 16 + lane_id() / 4 + i / 2 % 2 * 8;
}

/// A tile's rows of the norm that precedes the layer, of which x has kWide columns: dx = its gradient of du [+ addend].
struct NormRows {
  float x[16], added[16];

  /// From the thread's first element to element i of a matrix of kWide columns.
  __device__ __forceinline__ static constexpr int offset_of(int i) {
    return (i / 4 * 8 + i % 2) * kWide + i / 2 % 2 * 8;
  }
  /// Asks for them; `left` rows exist from the thread's first on.
  __device__ __forceinline__ void start(const float* x_first, const float* addend_first, int left) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const bool in = i / 4 * 8 + i % 2 < left;
      x[i] = in ? __ldg(x_first + offset_of(i)) : 0;
      added[i] = addend_first != nullptr && in ? __ldg(addend_first + offset_of(i)) : 0;
    }
  }
  /// du becomes dx; adds to the thread's columns of dnorm. The threads of the group meet once.
  __device__ __forceinline__ void finish(const float (&weight)[2],
                                         const float (&inverse_rms)[kRows], float (&dots)[4][kRows],
                                         float (&du)[16], float (&dnorm)[2]) const {
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
      const int row = row_of(i / 2 * 4 + i % 2);
      float dot = 0;
#pragma unroll
      for (int w = 0; w < 4; ++w) dot += dots[w][row];
      const float inv = inverse_rms[row];
      dot = dot * inv / static_cast<float>(kWide);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int at = i / 2 * 4 + 2 * h + i % 2;
        const float normed = x[at] * inv;
        dnorm[h] += du[at] * normed;
        du[at] = __fmul_rn(inv, du[at] * weight[h] - normed * dot) + added[at];
      }
    }
  }
};

/// Units of dW to the block's part; rows beyond dy's columns belong to nobody.
template <class V, int kBegin, int kUnits>
__device__ __forceinline__ void leave_units(const float (&dw)[kUnits][32], int n, float* part) {
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
    const int n0 = (kBegin + u) / V::kM * kWide, k0 = (kBegin + u) % V::kM * kWide;
#pragma unroll
    for (int i = 0; i < 32; i += 2) {
      const int row = n0 + column_of(i), column = k0 + i / 4 * 8 + lane_id() % 4 * 2;
      if (row < n)
        *reinterpret_cast<float2*>(part + row * V::kK + column) =
            make_float2(dw[u][i], dw[u][i + 1]);
    }
  }
}

/// A group of warps that has units of dW only.
template <class V, int kBegin, int kUnits>
__device__ __forceinline__ void reduce_tiles(const Block& b, int n, float* part) {
  float dw[kUnits][32] = {};
  Turn turn;
  for (int tile = b.next(-1); tile < b.tiles; tile = b.next(tile), ++turn.count) {
    const int stage = turn.stage();
    b.rest.full[stage].wait(turn.parity());
    hold(dw);
    begin_products();
    multiply_units<V, kBegin>(dw, b.memory + V::At::dy(stage), b.memory + V::At::x(stage));
    commit_products();
    wait_products<0>();
    hold(dw);
    if (lane_id() == 0) b.rest.empty[stage].arrive();
  }
  leave_units<V, kBegin>(dw, n, part);
}

template <class V, bool kNorm>
__global__ void __launch_bounds__(kThreads, 1)
    row_gradients(const __grid_constant__ RowGradients p, const int all_tiles) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ uint4 shared[];
  using At = typename V::At;
  constexpr int kK = V::kK, kM = V::kM, kUnits0 = V::kUnits[0], kUnits1 = V::kUnits[1];
  Rest& rest = *reinterpret_cast<Rest*>(reinterpret_cast<char*>(shared) + At::kRest);
  const float *const dy = p.dy + blockIdx.y * p.dy_member, *const x = p.x + blockIdx.y * p.x_member;
  float* const dx = p.dx + blockIdx.y * p.dx_member;
  float* const part = p.parts + blockIdx.y * p.parts_member + blockIdx.x * p.part_stride;
  const float* const norm = kNorm ? p.norm + blockIdx.y * p.norm_member : nullptr;
  const float* const addend =
      kNorm && p.addend != nullptr ? p.addend + blockIdx.y * p.addend_member : nullptr;
  const auto blocks = static_cast<int>(gridDim.x);
  const int tiles = (all_tiles - static_cast<int>(blockIdx.x) + blocks - 1) / blocks;
  const Block b{shared_address(shared), rest, tiles, p.targets != nullptr && tiles <= kMostTiles};
  const int role = __shfl_sync(0xFFFFFFFFu, warp_id() / 4, 0);  // known to be the warp's

  if (threadIdx.x == 0) {
#pragma unroll
    for (int s = 0; s < kStages; ++s) rest.full[s].init(4), rest.empty[s].init(12);
  }
  if (b.skips) {
    find_used(p, tiles, rest.used);
  }
  __syncthreads();

  if (role == 3) {
    Bringing<V, kNorm> rows{p, dy, x};
    int tile = b.next(-1);
    auto after = [&](int at) { return at < tiles ? b.next(at) : tiles; };
    auto expect = [&](int at) {
      if (at < tiles && threadIdx.x % kWarpgroup == 0) rows.expect(b.first_row(at));
    };
    if constexpr (kNorm)
      rows.weight = __ldg(reinterpret_cast<const float4*>(norm + lane_id() % (kK / 4) * 4));
    if (tile < tiles) rows.start(b.first_row(tile));
    expect(after(tile));
    for (Turn turn; tile < tiles; ++turn.count) {
      const int next = b.next(tile), first = b.first_row(tile), stage = turn.stage();
      expect(after(next));
      rest.empty[stage].wait(turn.parity() ^ 1);
      rows.bring(first, next < tiles ? b.first_row(next) : first, b.memory + At::dy(stage),
                 b.memory + At::x(stage), rest.inverse_rms[turn.count % kInverses]);
      fence_for_products();
      __syncwarp();
      if (lane_id() == 0) rest.full[stage].arrive();
      tile = next;
    }
    return;
  }
  if (b.skips) fill_unused(p, rest.used, tiles, addend, dx);
  hold_weight<V>(p, p.weight + blockIdx.y * p.weight_member, b.memory);
  fence_for_products();
  sync_threads(2, kThreads - kWarpgroup);
  if (role == 2) {
    reduce_tiles<V, kUnits0 + kUnits1, V::kUnits[2]>(b, p.n, part);
  } else if (role == 1) {
    reduce_tiles<V, kUnits0, kUnits1>(b, p.n, part);
  } else {
    constexpr int kHeld = kUnits0 > 0 ? kUnits0 : 1;
    float dw[kHeld][32] = {};
    float weight[2] = {}, dnorm[2] = {};
    if constexpr (kNorm)
      weight[0] = __ldg(norm + column_of(0)), weight[1] = __ldg(norm + column_of(2));
    Turn turn;
    for (int tile = b.next(-1); tile < tiles; tile = b.next(tile), ++turn.count) {
      const int first = b.first_row(tile) + row_of(0), stage = turn.stage(),
                left = static_cast<int>(p.rows) - first;
      const int64_t place = static_cast<int64_t>(first) * kK + column_of(0);
      float out[kM][16] = {};
      NormRows around;
      if constexpr (kNorm)
        around.start(x + place, addend == nullptr ? nullptr : addend + place, left);
      rest.full[stage].wait(turn.parity());
      hold(out), hold(dw);
      begin_products();
      multiply_rows<V>(out, b.memory, b.memory + At::dy(stage));
      if constexpr (kUnits0 > 0)
        multiply_units<V, 0>(dw, b.memory + At::dy(stage), b.memory + At::x(stage));
      commit_products();
      wait_products<0>();
      hold(out), hold(dw);
      if (lane_id() == 0) rest.empty[stage].arrive();
      if constexpr (kNorm)
        around.finish(weight, rest.inverse_rms[turn.count % kInverses], rest.dots[stage], out[0],
                      dnorm);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int i = 0; i < 16; ++i) {
          if (i / 4 * 8 + i % 2 < left)
            dx[place + (i / 4 * 8 + i % 2) * kK + i / 2 % 2 * 8 + m * kWide] = out[m][i];
        }
      }
    }
    if constexpr (kUnits0 > 0) leave_units<V, 0>(dw, p.n, part);
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

template <class V, bool kNorm>
void start(const RowGradients& p, const Division& d, int members, CUstream_st* stream) {
  const auto kernel = row_gradients<V, kNorm>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, V::kBytes),
        "cudaFuncSetAttribute");
  const dim3 grid(static_cast<unsigned>(d.runs), static_cast<unsigned>(members));
  kernel<<<grid, kThreads, V::kBytes, stream>>>(p, d.tiles);
  check_launch("linear_bwd");
}

}  // namespace

int row_gradient_parts(int64_t rows, int n, int k) {
  const Division d(rows, n, k);
  return d.possible ? d.runs : 0;
}

bool takes_norm(int n, int k) { return k == kWide && Division(1, n, k).possible; }

bool launch_row_gradients(const RowGradients& p, int members, CUstream_st* stream) {
  const Division d(p.rows, p.n, p.k);
  if (!d.possible || (p.norm != nullptr && !takes_norm(p.n, p.k))) return false;
  return with_variant(p.n, p.k, [&]<class V>() {
    if constexpr (V::kK == kWide) {
      if (p.norm != nullptr) return start<V, true>(p, d, members, stream);
    }
    start<V, false>(p, d, members, stream);
  });
}

}  // namespace statelab::cuda
