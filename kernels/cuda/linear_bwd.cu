// Both gradients of linear in one pass over dy, see RowGradients: dx = dy W, and parts of dW = dy^T x; with a norm before the layer
// its gradients too.
//
//   A block holds W and walks tiles of 32 rows, all threads alike: products of a tile run by themselves (wgmma) while the threads
//   split the next tile's numbers into two bf16 and store them as operands, which serve both results, and ask for the tile
//   after it. The first group of warps has dx, transposed, so that a thread keeps its columns; the others hold dW's units of 64 x 64
//   in registers for the whole walk. One barrier a tile.
//   launch    grid x: runs, y: members
//   traffic   dy and x once, dx once, with a norm x twice; W and a part of dW once per run
//   numerics  dx: one fp32 sum in the order of dy's columns. A part of dW: one fp32 sum in the order of its rows. The norm's sums
//             over a row: columns of a warp, then the warps. Runs and parts depend on shapes only
#include "kernels/cuda/check.cuh"
#include "kernels/cuda/linear_bwd.cuh"

namespace statelab::cuda {
namespace {

using namespace gradients;

/// A block's walk.
struct Walk {
  const uint32_t* used;
  int tiles;
  bool skips;

  __device__ __forceinline__ int first_row(int tile) const {
    return static_cast<int>(blockIdx.x + tile * gridDim.x) * kRows;
  }
  __device__ __forceinline__ int next(int tile) const {
    return skips ? next_used(used, tile, tiles) : tile + 1;
  }
};

/// dW's units `kBegin` .. of a tile: 64 columns of dy, 64 of x each.
template <class V, int kBegin, int kUnits>
__device__ __forceinline__ void multiply_units(float (&dw)[kUnits][32], uint32_t dy, uint32_t x) {
  using At = typename V::At;
  const Operand<Pattern::kRows128, 0, 1024> full(dy);
  const Operand<Pattern::kRows64, At::kBlock / 2, 512> half(dy);
  const Operand<Pattern::kCores, kCoreBytes, At::kXStride> of_x(x);
#pragma unroll
  for (int s = 0; s < kRows / 16; ++s) {
#pragma unroll
    for (int term = 0; term < 3; ++term) {
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        const int block = (kBegin + u) / V::kM, k_tile = (kBegin + u) % V::kM,
                  from = block * At::kBlock + (term == 0 ? At::kDyPlane : 0);
        multiply_async<true, true>(
            dw[u], block < At::kFull ? full.at(from + s * 2 * 1024) : half.at(from + s * 2 * 512),
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
  const Operand<Pattern::kRows128, 0, 1024> of_w(w);
  const Operand<Pattern::kRows128, 0, 1024> full(dy);
  const Operand<Pattern::kRows64, 0, 512> half(dy);
#pragma unroll
  for (int s = 0; s < V::kN / 16; ++s) {
#pragma unroll
    for (int term = 0; term < 3; ++term) {
#pragma unroll
      for (int m = 0; m < V::kM; ++m) {
        const int from = s / 4 * At::kBlock + s % 4 * 32 + (term == 1 ? At::kDyPlane : 0);
        multiply_async<true, false>(
            dx[m], of_w.at(s * 2 * 1024 + m * (V::kN * 128) + (term == 0 ? At::kWPlane : 0)),
            s / 4 < At::kFull ? full.at(from) : half.at(from), s > 0 || term > 0);
      }
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

/// What a block walks over, of its member.
struct Matrices {
  const float *dy, *x, *norm, *addend;
  float *dx, *part;
};

/// Brings tiles of a walk: the operands of one into a stage, the numbers of the next into registers.
template <class V, bool kNorm>
struct Rows {
  const RowGradients& p;
  const Matrices& of;
  const Walk& w;
  uint32_t memory;
  Rest& rest;
  Share<V, kNorm> share;
  float4 scale = make_float4(0, 0, 0, 0);  // kNorm: its weight at the thread's columns of x

  __device__ __forceinline__ void load(int tile) {
    if (tile < w.tiles) share.load(p, of.dy, of.x, w.first_row(tile));
  }
  /// A tile that will be loaded next. Its bytes come while others are loaded: one tile under way leaves the memory idle in between.
  __device__ __forceinline__ void expect(int tile) {
    if (tile < w.tiles && threadIdx.x == kThreads - 1)
      share.expect(p, of.dy, of.x, w.first_row(tile));
  }
  __device__ __forceinline__ void bring(int stage, int then) {
    share.store(memory + V::At::dy(stage), memory + V::At::x(stage), scale, p.eps,
                rest.inverse_rms[stage]);
    fence_for_products();  // before the loads: it would wait for them
    load(then);
    if (then < w.tiles) expect(w.next(then));
  }
};

/// The walk of group kRole from `tile` on, whose operands are in stage 0. All groups meet at the same barriers.
template <class V, bool kNorm, int kRole>
__device__ __forceinline__ void run(const RowGradients& p, const Matrices& of, const Walk& w,
                                    uint32_t memory, Rest& rest, Rows<V, kNorm>& rows, int tile) {
  using At = typename V::At;
  constexpr int kK = V::kK, kM = V::kM, kUnits = V::kUnits[kRole], kBegin = V::kBegins[kRole];
  constexpr bool kFirst = kRole == 0;
  float dw[kUnits > 0 ? kUnits : 1][32] = {};
  float weight[2] = {}, dnorm[2] = {};
  if constexpr (kFirst && kNorm)
    weight[0] = __ldg(of.norm + column_of(0)), weight[1] = __ldg(of.norm + column_of(2));
  for (int stage = 0; tile < w.tiles; stage ^= 1) {
    const int next = w.next(tile);
    const uint32_t dy = memory + At::dy(stage), x = memory + At::x(stage);
    const int first = w.first_row(tile) + row_of(0), left = static_cast<int>(p.rows) - first;
    const int64_t place = static_cast<int64_t>(first) * kK + column_of(0);
    float out[kM][16] = {};
    hold(out), hold(dw);
    begin_products();
    if constexpr (kFirst) multiply_rows<V>(out, memory, dy);
    if constexpr (kUnits > 0) multiply_units<V, kBegin>(dw, dy, x);
    commit_products();
    NormRows around;
    if constexpr (kFirst && kNorm)
      around.start(of.x + place, of.addend == nullptr ? nullptr : of.addend + place, left);
    if (next < w.tiles) rows.bring(stage ^ 1, w.next(next));
    wait_products<0>();
    hold(out), hold(dw);
    if constexpr (kFirst) {
      if constexpr (kNorm)
        around.finish(weight, rest.inverse_rms[stage], rest.dots[stage], out[0], dnorm);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int i = 0; i < 16; ++i) {
          if (i / 4 * 8 + i % 2 < left)
            of.dx[place + (i / 4 * 8 + i % 2) * kK + i / 2 % 2 * 8 + m * kWide] = out[m][i];
        }
      }
    }
    sync_threads(2, kThreads);
    tile = next;
  }
  if constexpr (kUnits > 0) leave_units<V, kBegin>(dw, p.n, of.part);
  if constexpr (kFirst && kNorm) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float sum = dnorm[h];
      sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
      sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
      if (lane_id() % 4 == 0) of.part[p.n * kK + column_of(2 * h)] = sum;
    }
  }
}

template <class V, bool kNorm>
__global__ void __launch_bounds__(kThreads, 1)
    row_gradients(const __grid_constant__ RowGradients p, const int all_tiles) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) unsigned char shared[];
  Rest& rest = *reinterpret_cast<Rest*>(shared + V::At::kRest);
  const auto member = blockIdx.y;
  const Matrices of{p.dy + member * p.dy_member,
                    p.x + member * p.x_member,
                    kNorm ? p.norm + member * p.norm_member : nullptr,
                    kNorm && p.addend != nullptr ? p.addend + member * p.addend_member : nullptr,
                    p.dx + member * p.dx_member,
                    p.parts + member * p.parts_member + blockIdx.x * p.part_stride};
  const auto blocks = static_cast<int>(gridDim.x);
  const int tiles = (all_tiles - static_cast<int>(blockIdx.x) + blocks - 1) / blocks;
  const Walk w{rest.used, tiles, p.targets != nullptr && tiles <= kMostTiles};
  if (w.skips) find_used(p, tiles, rest.used);
  const uint32_t memory = shared_address(shared);
  Rows<V, kNorm> rows{p, of, w, memory, rest};
  if constexpr (kNorm)
    rows.scale = __ldg(reinterpret_cast<const float4*>(of.norm + Share<V, kNorm>::x_column()));
  const int tile = w.next(-1);
  rows.load(tile);
  if (tile < w.tiles) rows.expect(w.next(tile));
  if (w.skips) fill_unused(p, w.used, w.tiles, of.addend, of.dx);
  hold_weight<V>(p, p.weight + member * p.weight_member, memory);
  if (tile < w.tiles) rows.bring(0, w.next(tile));
  fence_for_products();
  __syncthreads();
  switch (__shfl_sync(0xFFFFFFFFu, warp_id() / 4, 0)) {  // known to be the warp's
    case 0:
      return run<V, kNorm, 0>(p, of, w, memory, rest, rows, tile);
    case 1:
      return run<V, kNorm, 1>(p, of, w, memory, rest, rows, tile);
    case 2:
      return run<V, kNorm, 2>(p, of, w, memory, rest, rows, tile);
    default:
      return run<V, kNorm, 3>(p, of, w, memory, rest, rows, tile);
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
      if (p.norm != nullptr) return start<typename V::BesideNorm, true>(p, d, members, stream);
    }
    start<V, false>(p, d, members, stream);
  });
}

}  // namespace statelab::cuda
