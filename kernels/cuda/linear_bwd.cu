// Both gradients of linear in one pass over dy, see RowGradients: dx = dy W, and parts of dW = dy^T x.
//
//   A warp has 64 columns of dy by 64 of x, of W and of dW alike. dW stays in its registers for a run of rows; W lies in shared
//   memory as operand fragments. A warp multiplies 16 rows at a time, first with W, then with x. Where several warps share the
//   columns of dy, their shares of dx meet in shared memory and leave one tile later. Where few warps cover the result, tiles
//   are of 16 r_groups rows, which as many warps share and add in order at the end. Rows are copied one or two tiles ahead and
//   stay fp32 in shared memory; each warp splits what it reads, so one barrier a tile is all. No index of a product is in its
//   natural order: the numbers of a lane's operands lie side by side, 16 bytes to a load, and so do its results.
//   launch    grid x: runs, y: members
//   traffic   dy and x once, dx once; W and a part of dW once per run
//   numerics  dx: one fp32 sum over 64 columns of dy, then these sums in order. A part of dW: one fp32 sum in the order of its
//             tiles, then the r_groups in order. Runs and parts depend on shapes only
#include "kernels/cuda/check.cuh"
#include "kernels/cuda/linear_bwd.cuh"

namespace statelab::cuda {
namespace {

using namespace gradients;

template <bool kShares, int kSlots>
__global__ void __launch_bounds__(kMaxWarps* kWarp, 1)
    row_gradients(const __grid_constant__ GradientArgs a) {
  extern __shared__ uint4 memory[];
  const RowGradients& p = a.p;
  const int tile_rows = kRows * a.r_groups, sum_floats = Division::sum_floats(a),
            slot_floats = Division::slot_floats(a);
  float* const sums = reinterpret_cast<float*>(memory + Division::weight_units(a));  // two tiles
  float* const slots = sums + 2 * sum_floats;
  auto* const used = reinterpret_cast<uint32_t*>(slots + kSlots * slot_floats);
  const int lane = lane_id(), g = lane / 4, t = lane % 4;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int m_group = kShares ? warp_id() % a.m_groups : 0,
            n_group = warp_id() / a.m_groups % a.n_groups,
            r_group = warp_id() / (a.m_groups * a.n_groups);
  // The last group may begin among the columns of the one before it: these count there.
  const int m0 = min(m_group * kColumns, a.columns - kColumns), n0 = n_group * kColumns,
            row0 = r_group * kRows;
  const bool repeats = kShares && m0 != m_group * kColumns;
  const int rows = static_cast<int>(p.rows);
  const float* const dy = p.dy + blockIdx.y * p.dy_member;
  const float* const x = p.x + blockIdx.y * p.x_member;
  float* const dx = p.dx + blockIdx.y * p.dx_member;
  const auto blocks = static_cast<int>(gridDim.x);
  const int tiles = (a.tiles - static_cast<int>(blockIdx.x) + blocks - 1) / blocks;
  auto first_row = [&](int tile) {
    return (static_cast<int>(blockIdx.x) + tile * blocks) * tile_rows;
  };
  const bool skips = p.targets != nullptr && tiles <= kMostTiles;
  if (skips) find_used(a, tiles, used);
  auto next = [&](int at) { return skips ? next_used(used, at, tiles) : at + 1; };

  auto start = [&](int tile, int slot) {
    if (tile < tiles) {
      const int first = first_row(tile);
      const float *const dy_tile = at_row(dy, first, p.n), *const x_tile = at_row(x, first, p.k);
      float* const to = slots + slot * slot_floats;
      for (int r = warp_id(); r < tile_rows; r += warps) {
        const bool in = first + r < rows;
        const float* const from = dy_tile + r * p.n;
        if (p.n % 4 == 0) {
          copy_row<4>(to + r * a.pitch_dy, from, p.n, in);
        } else {
          copy_row<2>(to + r * a.pitch_dy, from, p.n, in);
        }
        copy_row<4>(to + tile_rows * a.pitch_dy + r * a.pitch_x, x_tile + r * p.k, p.k, in);
      }
    }
    commit_copies();
  };
  // `ahead` is the last tile that is on its way.
  int tile = next(-1), ahead = tile;
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    if (s > 0) ahead = next(ahead);
    start(ahead, s);
  }
  if (skips) clear_unused(a, used, tiles, dx);
  for (int r = warp_id(); r < kSlots * tile_rows; r += warps) {
    float* const to = slots + r / tile_rows * slot_floats;
    const int row = r % tile_rows;
    for (int c = p.n + lane; c < a.pitch_dy; c += kWarp) to[row * a.pitch_dy + c] = 0;
    for (int c = p.k + lane; c < a.pitch_x; c += kWarp)
      to[tile_rows * a.pitch_dy + row * a.pitch_x + c] = 0;
  }
  hold_weight(a, p.weight + blockIdx.y * p.weight_member, memory);
  wait_copies<kSlots - 1>();
  __syncthreads();

  // Loads of 16 bytes hit all banks. Eight neighbouring lanes have g, g + 1 and all t; rows are eight banks apart. Along a row
  // of dy they read two rows that are two apart, modulo four, and along its columns rows t. Index i of a tile of mma is row
  // row_of(i).
  auto row_of = [](int i) { return (i / 4 * 6 + i / 2 % 2) ^ (i % 2 * 2); };
  const int along_row = (row0 + row_of(g)) * a.pitch_dy + m0 + 4 * t,
            along_column = (row0 + t) * a.pitch_dy + m0 + 4 * g,
            along_x = tile_rows * a.pitch_dy + (row0 + t) * a.pitch_x + n0 + 4 * g;
  const uint4* const weight = memory + n_group * (a.columns / 16 + 1) * kStepUnits + lane;
  const int zeros = a.columns / 16, step0 = m0 / 16;  // the last step of weight is zero
  const int step_at[kM] = {(repeats ? zeros : step0) * kStepUnits,
                           (repeats ? zeros : step0 + 1) * kStepUnits, (step0 + 2) * kStepUnits,
                           (step0 + 3) * kStepUnits};
  // A share of dx: 16-byte unit u of row r lies at u ^ (2 (r % 4)), so that the accumulators' stores hit all banks as well.
  auto unit_at = [](int row, int u) { return row * kColumns + 4 * (u ^ (row % 4 * 2)); };
  auto leave = [&](int tile, int buffer) {
    const int group = tile_rows * kColumns;
    for (int n = 0; n < a.n_groups; ++n) {
      const float* const from = sums + buffer * sum_floats + n * group;
      for (int i = static_cast<int>(threadIdx.x); i < group / 4;
           i += static_cast<int>(blockDim.x)) {
        const int u = i % (kColumns / 4), r = i / (kColumns / 4);
        const int column = n * kColumns + 4 * u, first = first_row(tile);
        if (column >= p.k || first + r >= rows) continue;
        const float* const share = from + unit_at(r, u);
        float4 v = four(share);
#pragma unroll
        for (int m = 1; m < kMaxWarps; ++m) {
          if (m >= a.m_groups) continue;
          const float4 other = four(share + m * a.n_groups * group);
          v.x += other.x, v.y += other.y, v.z += other.z, v.w += other.w;
        }
        *reinterpret_cast<float4*>(at_row(dx, first, p.k) + r * p.k + column) = v;
      }
    }
  };

  // Accumulators [q][j][m][h]: of columns 32 (m / 2) + 4 g + 2 (m % 2) + {0, 1} of dy and 32 q + 8 t + 2 j + h + {0, 4} of x.
  float acc[2][2][kM][2][4] = {};
  int slot = 0, before = -1, buffer = 0;  // the tile before, where the shares of this one meet
  while (tile < tiles) {
    const float* const held = slots + slot * slot_floats;
    {
      // [m][h]: columns 32 (m / 2) + 4 g + 2 (m % 2) + {0, 1} of dx, its rows 8 h + row_of(2 t + {0, 1}).
      float part[kM][2][4] = {};
#pragma unroll
      for (int s = 0; s < kM; ++s) {
        const float4 low = four(held + along_row + 16 * s),
                     high = four(held + along_row + 8 * a.pitch_dy + 16 * s);
        Fragment<true> left[kM], right;
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          const uint4 hi = weight[step_at[s] + 2 * m * kWarp],
                      lo = weight[step_at[s] + (2 * m + 1) * kWarp];
          left[m].hi[0] = hi.x, left[m].hi[1] = hi.y, left[m].hi[2] = hi.z, left[m].hi[3] = hi.w;
          left[m].lo[0] = lo.x, left[m].lo[1] = lo.y, left[m].lo[2] = lo.z, left[m].lo[3] = lo.w;
        }
        right.set(0, low.x, low.y), right.set(1, low.z, low.w);
        right.set(2, high.x, high.y), right.set(3, high.z, high.w);
        multiply(part, left, right);
      }
      float* const share =
          sums + buffer * sum_floats + (m_group * a.n_groups + n_group) * tile_rows * kColumns;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int h = i / 2, e = i % 2, row = row0 + 8 * h + row_of(2 * t + e);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float(&low)[4] = part[2 * half][h], (&high)[4] = part[2 * half + 1][h];
          const float4 v = make_float4(low[e], low[2 + e], high[e], high[2 + e]);
          if constexpr (kShares) {
            *reinterpret_cast<float4*>(share + unit_at(row, 8 * half + g)) = v;
          } else {
            const int column = n0 + 32 * half + 4 * g, first = first_row(tile);
            if (first + row < rows && column < p.k)
              *reinterpret_cast<float4*>(at_row(dx, first, p.k) + row * p.k + column) = v;
          }
        }
      }
    }
    if constexpr (kShares) {
      if (before >= 0) leave(before, buffer ^ 1);
    }
    // Rows t, t + 4, t + 8, t + 12 are inner indices 2 t, 2 t + 1, 2 t + 8, 2 t + 9.
    Fragment<true> left[kM];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float4 v[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) v[j] = four(held + along_column + 4 * j * a.pitch_dy + 32 * half);
      transpose(v, left[2 * half], left[2 * half + 1]);
    }
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      float4 v[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) v[j] = four(held + along_x + 4 * j * a.pitch_x + 32 * q);
      Fragment<true> right;
      right.set(0, v[0].x, v[1].x), right.set(1, v[2].x, v[3].x);
      right.set(2, v[0].y, v[1].y), right.set(3, v[2].y, v[3].y);
      multiply(acc[q][0], left, right);
      right.set(0, v[0].z, v[1].z), right.set(1, v[2].z, v[3].z);
      right.set(2, v[0].w, v[1].w), right.set(3, v[2].w, v[3].w);
      multiply(acc[q][1], left, right);
    }
    wait_copies<kSlots - 2>();
    __syncthreads();
    ahead = next(ahead);
    start(ahead, slot);
    slot = slot + 1 == kSlots ? 0 : slot + 1;
    before = tile, buffer ^= 1;
    tile = next(tile);
  }
  if constexpr (kShares) {
    if (before >= 0) leave(before, buffer ^ 1);
  }
  if (a.r_groups > 1) {
    // Element e of a lane lies at [e][lane]; no copies are under way any more.
    __syncthreads();
    const int sharing = a.m_groups * a.n_groups;
    float* const mine = reinterpret_cast<float*>(memory) +
                        ((r_group - 1) * sharing + warp_id() % sharing) * (kSums * kWarp) + lane;
    if (r_group > 0) {
#pragma unroll
      for (int e = 0; e < kSums; ++e)
        mine[e * kWarp] = acc[e / 64][e / 32 % 2][e / 8 % kM][e / 4 % 2][e % 4];
    }
    __syncthreads();
    if (r_group > 0) return;
    for (int r = 1; r < a.r_groups; ++r) {
      const float* from = mine + r * sharing * (kSums * kWarp);
#pragma unroll
      for (int e = 0; e < kSums; ++e)
        acc[e / 64][e / 32 % 2][e / 8 % kM][e / 4 % 2][e % 4] += from[e * kWarp];
    }
  }
  float* to = p.parts + blockIdx.y * p.parts_member + blockIdx.x * p.part_stride;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    if (repeats && m < 2) continue;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int n = m0 + 32 * (m / 2) + 4 * g + 2 * (m % 2) + e;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int q = i / 2, of = 2 * e + i % 2, k = n0 + 32 * q + 8 * t + 4 * (i % 2);
        const auto(&sum)[2][kM][2][4] = acc[q];
        if (n < p.n && k < p.k)
          *reinterpret_cast<float4*>(to + n * p.k + k) =
              make_float4(sum[0][m][0][of], sum[0][m][1][of], sum[1][m][0][of], sum[1][m][1][of]);
      }
    }
  }
}

template <bool kShares, int kSlots>
void start(const Division& d, int members, CUstream_st* stream) {
  const GradientArgs& a = d.args;
  const auto kernel = row_gradients<kShares, kSlots>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, d.bytes),
        "cudaFuncSetAttribute");
  const dim3 grid(static_cast<unsigned>(d.runs), static_cast<unsigned>(members));
  kernel<<<grid, a.m_groups * a.n_groups * a.r_groups * kWarp, static_cast<size_t>(d.bytes),
           stream>>>(a);
  check_launch("linear_bwd");
}

}  // namespace

int row_gradient_parts(int64_t rows, int n, int k) {
  const Division d(rows, n, k);
  return d.possible ? static_cast<int>(d.runs) : 0;
}

bool launch_row_gradients(const RowGradients& p, int members, CUstream_st* stream) {
  Division d(p.rows, p.n, p.k);
  if (!d.possible) return false;
  d.args.p = p;
  const bool shares = d.args.m_groups > 1;
  if (d.slots == 3) {
    shares ? start<true, 3>(d, members, stream) : start<false, 3>(d, members, stream);
  } else {
    shares ? start<true, 2>(d, members, stream) : start<false, 2>(d, members, stream);
  }
  return true;
}

}  // namespace statelab::cuda
