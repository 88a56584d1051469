// parts of dW = dy^T x, see RowReduction: a block walks a run of rows, reading each once, with the whole result in registers.
//
//   A warp has 32 columns of dy by 64 of x. Tiles of 16 rows go through shared memory, two on their way and two as bf16, one
//   barrier a tile; both operands are read transposed by ldmatrix. Where few warps cover the result, tiles are of 16 r_groups
//   rows, which as many warps share and add in order at the end.
//   launch    grid x: runs, y: members
//   traffic   dy and x once; the result once per part
//   numerics  a part is one fp32 sum in the order of its rows; runs and parts depend on shapes only
#include <algorithm>

#include "kernels/cuda/check.cuh"
#include "kernels/cuda/linear_stream.h"
#include "kernels/cuda/row_tile.cuh"
#include "kernels/cuda/shared_memory.cuh"

namespace statelab::cuda {
namespace {

constexpr int kMaxWarps = 13, kChunks = 4;
constexpr int kM = 2, kN = 8;  // 16-column tiles of dy and 8-column tiles of x of a warp
constexpr int64_t kMaxRuns = 128;
// Fewer rows leave most of the device idle, or parts larger than what they were summed from: for 10,240 rows, 64 -> 406, the
// tiles of linear.cu took 18 us where this kernel took 30 (H100).
constexpr int64_t kFewestRows = 32768;

int up(int a, int b) { return (a + b - 1) / b; }

/// How a block's warps share the result, and the rows their runs.
struct Division {
  int m_groups, n_groups, r_groups, tile_rows;
  int64_t run, runs;
  bool possible;

  Division(int64_t rows, int n, int k) {
    m_groups = up(n, 16 * kM), n_groups = up(k, 8 * kN);
    const int warps = m_groups * n_groups;
    r_groups = std::clamp(kMaxWarps / std::max(warps, 1), 1, 4);
    tile_rows = 16 * r_groups;
    const int threads = warps * r_groups * kWarp;
    possible = n % 2 == 0 && k % 2 == 0 && n >= 8 && k >= 8 && warps <= kMaxWarps &&
               rows >= kFewestRows && tile_rows * std::max(n, k) <= 4 * kChunks * threads;
    run = (rows + kMaxRuns - 1) / kMaxRuns;
    run = (run + tile_rows - 1) / tile_rows * tile_rows;
    runs = std::max<int64_t>(1, (rows + run - 1) / run);
  }
};

struct ReduceArgs {
  RowReduction p;
  int m_groups, n_groups, r_groups, tile_rows, pitch_dy, pitch_x;
  int64_t run;
};

__global__ void __launch_bounds__(kMaxWarps* kWarp, 1)
    reduce_rows(const __grid_constant__ ReduceArgs a) {
  constexpr int kCount = 2;  // hi and lo
  extern __shared__ uint4 memory[];
  const RowReduction& p = a.p;
  const int dy_plane = a.tile_rows * a.pitch_dy, x_plane = a.tile_rows * a.pitch_x;
  const int buffer = kCount * (dy_plane + x_plane);
  float* const slots = reinterpret_cast<float*>(memory);  // two tiles of dy, two of x
  auto* const buffers = reinterpret_cast<__nv_bfloat16*>(slots + 2 * a.tile_rows * (p.n + p.k));
  const int lane = lane_id(), g = lane / 4, t = lane % 4;
  const int m0 = warp_id() % a.m_groups * 16 * kM,
            n0 = warp_id() / a.m_groups % a.n_groups * 8 * kN,
            r_group = warp_id() / (a.m_groups * a.n_groups);
  const int64_t begin = blockIdx.x * a.run, end = min(begin + a.run, p.rows);
  const float* dy = p.dy + blockIdx.y * p.dy_member + begin * p.n;
  const float* x = p.x + blockIdx.y * p.x_member + begin * p.k;
  const int tiles = static_cast<int>((end - begin + a.tile_rows - 1) / a.tile_rows);
  RowTile<kChunks> rows_dy(a.tile_rows, p.n, a.pitch_dy, slots),
      rows_x(a.tile_rows, p.k, a.pitch_x, slots + 2 * a.tile_rows * p.n);
  auto start = [&](int tile) {
    if (tile < tiles) {
      const int64_t row = static_cast<int64_t>(tile) * a.tile_rows, left = end - begin - row;
      rows_dy.start(tile % 2, dy + row * p.n, left * p.n);
      rows_x.start(tile % 2, x + row * p.k, left * p.k);
    }
    commit_copies();
  };
  auto split = [&](int tile) {
    const uint32_t to = shared_address(buffers) + 2 * (tile % 2 * buffer);
    rows_dy.template split<true>(tile % 2, to, dy_plane);
    rows_x.template split<true>(tile % 2, to + 2 * kCount * dy_plane, x_plane);
  };
  start(0);
  start(1);
  wait_copies<1>();
  split(0);  // pad columns stay as they are: what they are multiplied into is not stored
  start(2);
  __syncthreads();
  // ldmatrix, transposed. dy: matrices are (rows 0..7 | 8..15) outside, columns 0..7 | 8..15 inside; x: the other way round.
  const int row = r_group * 16 + lane % 8;
  const int at_dy = (row + lane / 16 * 8) * a.pitch_dy + m0 + lane / 8 % 2 * 8;
  const int at_x = kCount * dy_plane + (row + lane / 8 % 2 * 8) * a.pitch_x + n0 + lane / 16 * 8;
  float acc[kM][kN][4] = {};
  for (int tile = 0; tile < tiles; ++tile) {
    const __nv_bfloat16* const held = buffers + tile % 2 * buffer;
    Fragment<true> left[kM];
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      const uint32_t from = shared_address(held + at_dy + 16 * m);
      ldmatrix_transposed(left[m].hi, from);
      ldmatrix_transposed(left[m].lo, from + 2 * dy_plane);
    }
#pragma unroll
    for (int n = 0; n < kN; n += 2) {
      const uint32_t from = shared_address(held + at_x + 8 * n);
      Fragment<true> right;
      ldmatrix_transposed(right.hi, from);
      ldmatrix_transposed(right.lo, from + 2 * x_plane);
#pragma unroll
      for (int m = 0; m < kM; ++m) mma_step(acc[m][n], acc[m][n + 1], left[m], right);
    }
    wait_copies<1>();
    if (tile + 1 < tiles) split(tile + 1);
    start(tile + 3);
    __syncthreads();
  }
  if (a.r_groups > 1) {
    // Element e of a lane lies at [e][lane]; no copies are under way any more.
    const int warps = a.m_groups * a.n_groups;
    float* const mine =
        slots + ((r_group - 1) * warps + warp_id() % warps) * (kM * kN * 4 * kWarp) + lane;
    if (r_group > 0) {
#pragma unroll
      for (int e = 0; e < kM * kN * 4; ++e) mine[e * kWarp] = acc[e / (kN * 4)][e / 4 % kN][e % 4];
    }
    __syncthreads();
    if (r_group > 0) return;
    for (int r = 1; r < a.r_groups; ++r) {
      const float* from = mine + r * warps * (kM * kN * 4 * kWarp);
#pragma unroll
      for (int e = 0; e < kM * kN * 4; ++e) acc[e / (kN * 4)][e / 4 % kN][e % 4] += from[e * kWarp];
    }
  }
  float* to = p.parts + blockIdx.y * p.parts_member + static_cast<int64_t>(blockIdx.x) * p.n * p.k;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int n = m0 + 16 * m + g + 8 * half;
#pragma unroll
      for (int j = 0; j < kN; ++j) {
        const int k = n0 + 8 * j + 2 * t;
        if (n < p.n && k < p.k)
          *reinterpret_cast<float2*>(to + static_cast<int64_t>(n) * p.k + k) =
              make_float2(acc[m][j][2 * half], acc[m][j][2 * half + 1]);
      }
    }
  }
}

bool start(const ReduceArgs& a, int64_t runs, int members, CUstream_st* stream) {
  const int tiles_bytes =
      8 * a.tile_rows * (a.p.n + a.p.k) + 8 * a.tile_rows * (a.pitch_dy + a.pitch_x);
  const int bytes = std::max(tiles_bytes, (a.r_groups - 1) * a.m_groups * a.n_groups * kM * kN * 4 *
                                              kWarp * static_cast<int>(sizeof(float)));
  if (bytes > shared_bytes_per_block()) return false;
  check(cudaFuncSetAttribute(reduce_rows, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "cudaFuncSetAttribute");
  const dim3 grid(static_cast<unsigned>(runs), static_cast<unsigned>(members));
  reduce_rows<<<grid, a.m_groups * a.n_groups * a.r_groups * kWarp, static_cast<size_t>(bytes),
                stream>>>(a);
  check_launch("linear_bwd_w");
  return true;
}

}  // namespace

int row_reduction_parts(int64_t rows, int n, int k) {
  const Division d(rows, n, k);
  return d.possible ? static_cast<int>(d.runs) : 0;
}

bool launch_row_reduction(const RowReduction& p, int members, CUstream_st* stream) {
  const Division d(p.rows, p.n, p.k);
  if (!d.possible) return false;
  ReduceArgs a{};
  a.p = p;
  a.m_groups = d.m_groups, a.n_groups = d.n_groups, a.r_groups = d.r_groups;
  a.tile_rows = d.tile_rows, a.run = d.run;
  a.pitch_dy = tile_pitch(d.m_groups * 16 * kM), a.pitch_x = tile_pitch(d.n_groups * 8 * kN);
  return start(a, d.runs, members, stream);
}

}  // namespace statelab::cuda
