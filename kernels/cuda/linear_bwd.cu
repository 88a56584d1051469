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

/// Units of dW to the block's part; rows beyond dy's columns belong to nobody.
template <class V, int kBegin, int kUnits>
__device__ __forceinline__ void leave_units(const float (&dw)[kUnits][32], int n, float* part) {
  int thread;  // hidden: the compiler would compute all places before the walk and keep them through it
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  const int first = thread / kWarp % 4 * 16 + thread % kWarp / 4, column = thread % 4 * 2;
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
    const int row = (kBegin + u) / V::kM * kWide + first;
    float* const to = part + row * V::kK + (kBegin + u) % V::kM * kWide + column;
#pragma unroll
    for (int i = 0; i < 32; i += 2) {
      const int down = i / 2 % 2 * 8;
      if (row + down < n)
        *reinterpret_cast<float2*>(to + down * V::kK + i / 4 * 8) =
            make_float2(dw[u][i], dw[u][i + 1]);
    }
  }
}

/// The member's matrices. Computed anew at every use: kept, twelve registers would hold them.
struct Matrices {
  const RowGradients& p;
  __device__ __forceinline__ static int64_t member() {
    unsigned y;
    asm volatile("mov.u32 %0, %%ctaid.y;" : "=r"(y));
    return y;
  }
  __device__ __forceinline__ const float* dy() const { return p.dy + member() * p.dy_member; }
  __device__ __forceinline__ const float* x() const { return p.x + member() * p.x_member; }
  __device__ __forceinline__ const float* weight() const {
    return p.weight + member() * p.weight_member;
  }
  __device__ __forceinline__ const float* norm() const { return p.norm + member() * p.norm_member; }
  /// Null where there is none.
  __device__ __forceinline__ const float* addend() const {
    return p.addend == nullptr ? nullptr : p.addend + member() * p.addend_member;
  }
  __device__ __forceinline__ float* dx() const { return p.dx + member() * p.dx_member; }
  __device__ __forceinline__ float* part() const {
    return p.parts + member() * p.parts_member + blockIdx.x * p.part_stride;
  }
};

/// Brings tiles of a walk: the operands of one into a stage, the numbers of the next into registers.
template <class V, bool kNorm>
struct Rows {
  const RowGradients& p;
  const Matrices& of;
  const Walk& w;
  uint32_t memory;
  Share<V, kNorm> share;

  /// The norm's weight at the thread's columns of x. Asked for anew at every use, as Matrices are.
  __device__ __forceinline__ float4 scale() const {
    if constexpr (!kNorm) return make_float4(0, 0, 0, 0);
    float4 v;
    asm volatile("ld.global.nc.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "l"(of.norm() + share.x_column()));
    return v;
  }

  __device__ __forceinline__ void load(int tile) {
    if (tile < w.tiles) share.load(p, of.dy(), of.x(), w.first_row(tile));
  }
  /// A tile that will be loaded next. Its bytes come while others are loaded: one tile under way leaves the memory idle in between.
  __device__ __forceinline__ void expect(int tile) {
    if (tile < w.tiles && threadIdx.x == kThreads - 1)
      share.expect(p, of.dy(), of.x(), of.addend(), w.first_row(tile));
  }
  __device__ __forceinline__ void bring(int stage, int then) {
    share.store(memory + V::At::dy(stage), memory + V::At::x(stage), scale(), p.eps);
    fence_for_products();  // before the loads: it would wait for them
    load(then);
    if (then < w.tiles) expect(w.next(then));
  }
};

/// The gradient of the norm before the layer: dx = its gradient of du [+ addend]. du passes through shared memory: a thread of any
/// group has four columns of a row, 16 lanes the row.
struct NormGradient {
  static constexpr int kPitch = kWide + 4, kLanes = kWide / 4;
  float sums[4] = {};  // of dnorm at the thread's columns

  __device__ __forceinline__ static int row() { return static_cast<int>(threadIdx.x) / kLanes; }
  __device__ __forceinline__ static int column() {
    return static_cast<int>(threadIdx.x) % kLanes * 4;
  }
  /// Of the group that holds du.
  __device__ __forceinline__ static void leave(const float (&du)[16], float* to) {
#pragma unroll
    for (int i = 0; i < 16; ++i) to[row_of(i) * kPitch + column_of(i)] = du[i];
  }
  __device__ __forceinline__ static float4 take(const float* from) {
    return *reinterpret_cast<const float4*>(from + row() * kPitch + column());
  }
  /// As rms_norm_bwd has it.
  __device__ __forceinline__ void finish(const float4& du, const float4& x, const float4& weight,
                                         const float4& added, float eps, float* dx) {
    const float inv = inverse_rms<kLanes>(x, eps);
    float dot = 0;
    dot += du.x * weight.x * x.x, dot += du.y * weight.y * x.y;
    dot += du.z * weight.z * x.z, dot += du.w * weight.w * x.w;
    dot = lanes_sum<kLanes>(dot) * inv / static_cast<float>(kWide);
    auto column = [&](float g, float v, float w, float& sum, float add) {
      const float normed = v * inv;
      sum += g * normed;
      return __fmul_rn(inv, g * w - normed * dot) + add;
    };
    float4 out;
    out.x = column(du.x, x.x, weight.x, sums[0], added.x);
    out.y = column(du.y, x.y, weight.y, sums[1], added.y);
    out.z = column(du.z, x.z, weight.z, sums[2], added.z);
    out.w = column(du.w, x.w, weight.w, sums[3], added.w);
    if (dx != nullptr) *reinterpret_cast<float4*>(dx) = out;
  }
  /// dnorm: rows of a warp, then the warps in order. All threads; `shared` has kWarps rows of kWide.
  __device__ __forceinline__ void leave_sums(float* shared, float* dnorm) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      sums[e] += __shfl_xor_sync(0xFFFFFFFFu, sums[e], kLanes);
      if (lane_id() < kLanes) shared[warp_id() * kWide + column() + e] = sums[e];
    }
    sync_threads(2, kThreads);
    const int c = static_cast<int>(threadIdx.x);
    if (c >= kWide) return;
    float total = 0;
#pragma unroll
    for (int s = 0; s < kWarps; ++s) total += shared[s * kWide + c];
    dnorm[c] = total;
  }
};

/// The walk of group kRole from `tile` on, whose operands are in stage 0. All groups meet at the same barriers.
template <class V, bool kNorm, int kRole>
__device__ __forceinline__ void run(const RowGradients& p, const Matrices& of, const Walk& w,
                                    unsigned char* shared, Rows<V, kNorm>& rows, int tile) {
  using At = typename V::At;
  constexpr int kK = V::kK, kM = V::kM, kUnits = V::kUnits[kRole], kBegin = V::kBegins[kRole];
  constexpr bool kFirst = kRole == 0;
  const uint32_t memory = rows.memory;
  float dw[kUnits > 0 ? kUnits : 1][32] = {};
  NormGradient norm;
  // Of the tile before, whose du waits where its dy lay: before others write there, all must have taken their share.
  int before = w.tiles;
  float4 x_before = make_float4(0, 0, 0, 0), added_before = x_before;
  // The thread's columns of its row of that tile, of the first row where it has none.
  auto place_in = [&](bool& in) {
    const int row = w.first_row(before) + norm.row();
    in = row < p.rows;
    return static_cast<int64_t>(in ? row : 0) * kK + norm.column();
  };
  auto ask = [&] {
    bool in;
    const int64_t place = place_in(in);
    x_before = __ldg(reinterpret_cast<const float4*>(of.x() + place));
    if (p.addend != nullptr)
      added_before = __ldg(reinterpret_cast<const float4*>(of.addend() + place));
  };
  auto finish_before = [&](int stage) {
    sync_threads(2, kThreads);
    float4 du = norm.take(reinterpret_cast<const float*>(shared + At::dy(stage)));
    sync_threads(2, kThreads);
    bool in;
    const int64_t place = place_in(in);
    if (!in) du = make_float4(0, 0, 0, 0);
    norm.finish(du, x_before, rows.scale(), added_before, p.eps, in ? of.dx() + place : nullptr);
  };
  int stage = 0;
  for (; tile < w.tiles; stage ^= 1) {
    const int next = w.next(tile);
    const uint32_t dy = memory + At::dy(stage), x = memory + At::x(stage);
    float out[kFirst ? kM : 1][kFirst ? 16 : 1] = {};  // dx^T
    if constexpr (kNorm) {
      if (before < w.tiles) ask();
    }
    if constexpr (kFirst) hold(out);
    hold(dw);
    begin_products();
    if constexpr (kFirst) multiply_rows<V>(out, memory, dy);
    if constexpr (kUnits > 0) multiply_units<V, kBegin>(dw, dy, x);
    commit_products();
    if constexpr (kNorm) {
      if (before < w.tiles) finish_before(stage ^ 1);
    }
    if (next < w.tiles) rows.bring(stage ^ 1, w.next(next));
    wait_products<0>();
    if constexpr (kFirst) hold(out);
    hold(dw);
    if constexpr (kFirst && !kNorm) {
      const int first = w.first_row(tile) + row_of(0), left = static_cast<int>(p.rows) - first;
      float* const to = of.dx() + static_cast<int64_t>(first) * kK + column_of(0);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int i = 0; i < 16; ++i) {
          const int row = i / 4 * 8 + i % 2;
          if (row < left) to[row * kK + i / 2 % 2 * 8 + m * kWide] = out[m][i];
        }
      }
    }
    sync_threads(2, kThreads);
    if constexpr (kFirst && kNorm)
      norm.leave(out[0], reinterpret_cast<float*>(shared + At::dy(stage)));
    before = tile, tile = next;
  }
  if constexpr (kNorm) {
    if (before < w.tiles) ask(), finish_before(stage ^ 1);
    norm.leave_sums(reinterpret_cast<float*>(shared + At::dy(stage)), of.part() + p.n * kK);
  }
  if constexpr (kUnits > 0) leave_units<V, kBegin>(dw, p.n, of.part());
}

template <class V, bool kNorm>
__global__ void __launch_bounds__(kThreads, 1)
    row_gradients(const __grid_constant__ RowGradients p, const int all_tiles) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) unsigned char shared[];
  uint32_t* const used = reinterpret_cast<Rest*>(shared + V::At::kRest)->used;
  const Matrices of{p};
  const auto blocks = static_cast<int>(gridDim.x);
  const int tiles = (all_tiles - static_cast<int>(blockIdx.x) + blocks - 1) / blocks;
  const Walk w{used, tiles, p.targets != nullptr && tiles <= kMostTiles};
  if (w.skips) find_used(p, tiles, used);
  const uint32_t memory = shared_address(shared);
  Rows<V, kNorm> rows{p, of, w, memory};
  const int tile = w.next(-1);
  rows.load(tile);
  if (tile < w.tiles) rows.expect(w.next(tile));
  if (w.skips) fill_unused(p, w.used, w.tiles, of.addend(), of.dx());
  hold_weight<V>(p, of.weight(), memory);
  if (tile < w.tiles) rows.bring(0, w.next(tile));
  fence_for_products();
  __syncthreads();
  switch (__shfl_sync(0xFFFFFFFFu, warp_id() / 4, 0)) {  // known to be the warp's
    case 0:
      return run<V, kNorm, 0>(p, of, w, shared, rows, tile);
    case 1:
      return run<V, kNorm, 1>(p, of, w, shared, rows, tile);
    case 2:
      return run<V, kNorm, 2>(p, of, w, shared, rows, tile);
    default:
      return run<V, kNorm, 3>(p, of, w, shared, rows, tile);
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
