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
  const int thread = hidden_thread();
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

/// The member's matrices. Computed at every use: kept, their addresses would fill a dozen registers.
struct Matrices {
  const RowGradients& p;
  const Walk& w;
  __device__ __forceinline__ const float* dy() const { return p.dy + w.member * p.dy_member; }
  __device__ __forceinline__ const float* x() const { return p.x + w.member * p.x_member; }
  __device__ __forceinline__ const float* weight() const {
    return p.weight + w.member * p.weight_member;
  }
  __device__ __forceinline__ const float* norm() const { return p.norm + w.member * p.norm_member; }
  __device__ __forceinline__ float* dx() const { return p.dx + w.member * p.dx_member; }
  __device__ __forceinline__ float* part(int i) const {
    return p.parts + w.member * p.parts_member + i * p.part_stride;
  }
};

/// Brings the tiles of a walk: the operands of one into a stage, the numbers of the next into registers.
template <class V, bool kNorm>
struct Rows {
  const RowGradients& p;
  const Matrices& of;
  uint32_t memory;
  Share<V, kNorm> share;

  /// The norm's weight at the thread's columns of x.
  __device__ __forceinline__ float4 scale() const {
    if constexpr (!kNorm) return make_float4(0, 0, 0, 0);
    return __ldg(reinterpret_cast<const float4*>(of.norm() + share.x_column()));
  }
  __device__ __forceinline__ void load(uint32_t step) {
    if (step != Walk::kEnd) share.load(p, of.dy(), of.x(), Walk::first_row(step));
  }
  /// A tile that will be loaded next. Its bytes come while others are loaded: one tile under way leaves the memory idle in between.
  __device__ __forceinline__ void expect(uint32_t step) {
    if (step != Walk::kEnd && threadIdx.x == kThreads - 1)
      share.expect(p, of.dy(), of.x(), Walk::first_row(step));
  }
  /// Of the tile whose numbers are there; `then` is the step after it, `after` the one after that.
  __device__ __forceinline__ void bring(int stage, uint32_t then, uint32_t after) {
    share.store(memory + V::At::dy(stage), memory + V::At::x(stage), scale(), p.eps);
    fence_for_products();  // before the loads: it would wait for them
    load(then);
    expect(after);
  }
};

/// The walk of group kRole, the operands of whose first step are in stage 0. All groups meet at the same barriers.
template <class V, bool kNorm, int kRole>
__device__ __forceinline__ void run(const RowGradients& p, const Matrices& of, const Walk& w,
                                    Rows<V, kNorm>& rows) {
  using At = typename V::At;
  constexpr int kK = V::kK, kM = V::kM, kUnits = V::kUnits[kRole], kBegin = V::kBegins[kRole];
  constexpr bool kFirst = kRole == 0;
  const uint32_t memory = rows.memory;
  const uint32_t* steps = w.steps;
  uint32_t step = steps[0], next = steps[1], then = steps[2];
  int stage = 0;
  for (int part = 0; part < w.parts; ++part) {
    float dw[kUnits > 0 ? kUnits : 1][32] = {};
    for (; Walk::part_of(step) == part; stage ^= 1) {
      float out[kFirst ? kM : 1][kFirst ? 16 : 1] = {};  // dx^T
      if constexpr (kFirst) hold(out);
      hold(dw);
      begin_products();
      const uint32_t dy = memory + At::dy(stage), x = memory + At::x(stage);
      if constexpr (kFirst) multiply_rows<V>(out, memory, dy);
      if constexpr (kUnits > 0) multiply_units<V, kBegin>(dw, dy, x);
      commit_products();
      const uint32_t after = then == Walk::kEnd ? then : steps[3];
      ++steps;
      if (next != Walk::kEnd) rows.bring(stage ^ 1, then, after);
      const int first = Walk::first_row(step) + row_of(0), left = static_cast<int>(p.rows) - first;
      float* const to =
          kFirst ? of.dx() + static_cast<int64_t>(first) * kK + column_of(0) : nullptr;
      wait_products<0>();
      if constexpr (kFirst) hold(out);
      hold(dw);
      if constexpr (kFirst) {
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
      step = next, next = then, then = after;
    }
    if constexpr (kUnits > 0) leave_units<V, kBegin>(dw, p.n, of.part(w.first_part + part));
  }
}

/// Blocks share all members' parts evenly, in order.
template <class V, bool kNorm>
__global__ void __launch_bounds__(kThreads, 1)
    row_gradients(const __grid_constant__ RowGradients p, const __grid_constant__ Division d,
                  const int members) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) unsigned char shared[];
  const uint32_t memory = shared_address(shared);
  Walk& w = *reinterpret_cast<Walk*>(shared + V::At::kRest);
  const Matrices of{p, w};
  const int64_t all = int64_t{d.parts} * members;
  const auto end = static_cast<int>(all * (blockIdx.x + 1) / gridDim.x);
  for (auto part = static_cast<int>(all * blockIdx.x / gridDim.x); part < end;) {
    plan(p, d, part, end, w);
    Rows<V, kNorm> rows{p, of, memory};
    rows.load(w.steps[0]);
    rows.expect(w.steps[1]);
    if (p.targets != nullptr) clear_unused(p, d, w, of.dx());
    hold_weight<V::kN, V::kK>(of.weight(), p.n, memory);
    if (w.steps[0] != Walk::kEnd) rows.bring(0, w.steps[1], w.steps[2]);
    fence_for_products();
    __syncthreads();
    switch (__shfl_sync(0xFFFFFFFFu, warp_id() / 4, 0)) {  // known to be the warp's
      case 0:
        run<V, kNorm, 0>(p, of, w, rows);
        break;
      case 1:
        run<V, kNorm, 1>(p, of, w, rows);
        break;
      case 2:
        run<V, kNorm, 2>(p, of, w, rows);
        break;
      default:
        run<V, kNorm, 3>(p, of, w, rows);
    }
    part += w.parts;
    __syncthreads();
  }
#endif
}

template <class V, bool kNorm>
void start(const RowGradients& p, const Division& d, int members, CUstream_st* stream) {
  const auto kernel = row_gradients<V, kNorm>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, V::kBytes),
        "cudaFuncSetAttribute");
  // As many blocks as run at once; which block takes a part decides no bit.
  const auto blocks =
      static_cast<unsigned>(std::min<int64_t>(multiprocessors(), int64_t{d.parts} * members));
  kernel<<<blocks, kThreads, V::kBytes, stream>>>(p, d, members);
  check_launch("linear_bwd");
}

}  // namespace

int row_gradient_parts(int64_t rows, int n, int k) {
  const Division d(rows, n, k);
  return d.possible ? d.parts : 0;
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
