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
#include <algorithm>

#include "kernels/cuda/check.cuh"
#include "kernels/cuda/linear_stream.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/product.cuh"
#include "kernels/cuda/shared_memory.cuh"

namespace statelab::cuda {
namespace {

constexpr int kMaxWarps = 8, kMaxRowGroups = 4;
constexpr int kRows = 16, kColumns = 64;  // of a warp; the columns of dy and of x
constexpr int kM = kColumns / 16;         // its tiles of 16 columns
constexpr int kStepUnits =
    kM * 2 * kWarp;  // uint4 of W for 16 columns of dy: hi and lo of kM fragments
constexpr int kSums = kColumns * kColumns / 32;  // accumulators of dW a lane

struct GradientArgs {
  RowGradients p;
  int m_groups, n_groups,
      r_groups;           // of warps: along dy's columns, x's columns, the rows of a tile
  int columns;            // of dy, zeros from n on
  int pitch_dy, pitch_x;  // floats; 8 more than a multiple of 32: see the loads
  int64_t run;            // rows
};

int up(int a, int b) { return (a + b - 1) / b; }

/// How a block's warps share the work, the rows their runs, and the block its memory.
struct Division {
  GradientArgs args{};
  int64_t runs = 0;
  int slots = 0;  ///< tiles of rows in shared memory
  int bytes = 0;  ///< of shared memory
  bool possible = false;

  Division(int64_t rows, int n, int k) {
    GradientArgs& a = args;
    a.m_groups = up(n, kColumns), a.n_groups = up(k, kColumns);
    const int warps = a.m_groups * a.n_groups;
    if (n % 2 != 0 || k % 4 != 0 || n < 8 || k < 8 || warps > kMaxWarps) return;
    a.r_groups = 1;
    while (2 * a.r_groups * warps <= kMaxWarps && a.r_groups < kMaxRowGroups) a.r_groups *= 2;
    a.columns = std::max(kColumns, up(n, 32) * 32);
    a.pitch_dy = a.columns + 8, a.pitch_x = a.n_groups * kColumns + 8;
    // A part of dW is written and read again: runs of 160 rows where that leaves enough of them.
    const int tile_rows = kRows * a.r_groups;
    a.run = up(static_cast<int>((rows + tile_rows - 1) / tile_rows),
               static_cast<int>(std::clamp<int64_t>(rows / 160, 64, 128))) *
            tile_rows;
    runs = std::max<int64_t>(1, (rows + a.run - 1) / a.run);
    const int available = shared_bytes_per_block(),
              fixed = 16 * weight_units(a) + 8 * sum_floats(a), slot = 4 * slot_floats(a);
    slots = fixed + 3 * slot <= available ? 3 : 2;
    bytes = std::max(fixed + slots * slot, (a.r_groups - 1) * warps * kSums * kWarp * 4);
    possible = bytes <= available;
  }

  __host__ __device__ static int weight_units(const GradientArgs& a) {
    return a.n_groups * (a.columns / 16 + 1) * kStepUnits;
  }
  /// Of dx of a tile, by group of dy's columns; none where there is one.
  __host__ __device__ static int sum_floats(const GradientArgs& a) {
    return a.m_groups == 1 ? 0 : a.m_groups * a.n_groups * a.r_groups * kRows * kColumns;
  }
  __host__ __device__ static int slot_floats(const GradientArgs& a) {
    return a.r_groups * kRows * (a.pitch_dy + a.pitch_x);
  }
};

__device__ __forceinline__ float4 four(const float* from) {
  return *reinterpret_cast<const float4*>(from);
}

/// Copies of a row into shared memory, kFloats at a time; zeros when !in. All lanes of a warp take part.
template <int kFloats>
__device__ __forceinline__ void copy_row(float* to, const float* from, int columns, bool in) {
  if (in) {
    const uint32_t address = shared_address(to);
#pragma unroll 4
    for (int c = lane_id() * kFloats; c < columns; c += kWarp * kFloats)
      copy_async<4 * kFloats>(address + 4 * c, from + c);
  } else {
    for (int c = lane_id(); c < columns; c += kWarp) to[c] = 0;
  }
}

/// Four rows of a matrix, of each lane four columns of them, as two tiles of mma's left operand with the matrix transposed:
/// columns 4 g + {0, 1}, then + {2, 3}. The rows are inner indices 2 t, 2 t + 1, 2 t + 8, 2 t + 9.
__device__ __forceinline__ void transpose(const float4 (&v)[4], Fragment<true>& low,
                                          Fragment<true>& high) {
  low.set(0, v[0].x, v[1].x), low.set(1, v[0].y, v[1].y);
  low.set(2, v[2].x, v[3].x), low.set(3, v[2].y, v[3].y);
  high.set(0, v[0].z, v[1].z), high.set(1, v[0].w, v[1].w);
  high.set(2, v[2].z, v[3].z), high.set(3, v[2].w, v[3].w);
}

/// W of all groups as fragments of W^T. In step s a lane has rows 16 s + 4 t + {0, 1, 2, 3} of W; rows g and g + 8 of tile m
/// are columns 32 (m / 2) + 4 g + 2 (m % 2) + {0, 1} of W. Zeros outside: all the last step.
__device__ __forceinline__ void hold_weight(const GradientArgs& a, const float* w, uint4* to) {
  const int g = lane_id() / 4, t = lane_id() % 4, steps = a.columns / 16 + 1;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
#pragma unroll 2
  for (int i = warp_id(); i < a.n_groups * steps; i += warps) {
    const int row = i % steps * 16 + 4 * t, column = i / steps * kColumns + 4 * g;
    float4 v[2][4];
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int r = row + e % 4, c = column + e / 4 * 32;
      v[e / 4][e % 4] =
          __ldg(reinterpret_cast<const float4*>(w + min(r, a.p.n - 1) * a.p.k + min(c, a.p.k - 4)));
      if (r >= a.p.n || c >= a.p.k) v[e / 4][e % 4] = make_float4(0, 0, 0, 0);
    }
    Fragment<true> left[kM];
    transpose(v[0], left[0], left[1]);
    transpose(v[1], left[2], left[3]);
    uint4* const place = to + i * kStepUnits + lane_id();
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      const Fragment<true>& f = left[m];
      place[2 * m * kWarp] = make_uint4(f.hi[0], f.hi[1], f.hi[2], f.hi[3]);
      place[(2 * m + 1) * kWarp] = make_uint4(f.lo[0], f.lo[1], f.lo[2], f.lo[3]);
    }
  }
}

/// c[m] (16 x 16) += a[m] b; eight accumulators between two products of one.
__device__ __forceinline__ void multiply(float (&c)[kM][2][4], const Fragment<true> (&a)[kM],
                                         const Fragment<true>& b) {
#pragma unroll
  for (int term = 0; term < 3; ++term) {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint32_t(&right)[4] = term == 1 ? b.lo : b.hi;
        mma_m16n8k16(c[m][h], term == 0 ? a[m].lo : a[m].hi, right[2 * h], right[2 * h + 1]);
      }
    }
  }
}

template <bool kShares, int kSlots>
__global__ void __launch_bounds__(kMaxWarps* kWarp, 1)
    row_gradients(const __grid_constant__ GradientArgs a) {
  extern __shared__ uint4 memory[];
  const RowGradients& p = a.p;
  const int tile_rows = kRows * a.r_groups, sum_floats = Division::sum_floats(a),
            slot_floats = Division::slot_floats(a);
  float* const sums = reinterpret_cast<float*>(memory + Division::weight_units(a));  // two tiles
  float* const slots = sums + 2 * sum_floats;
  const int lane = lane_id(), g = lane / 4, t = lane % 4;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int m_group = warp_id() % a.m_groups, n_group = warp_id() / a.m_groups % a.n_groups,
            r_group = warp_id() / (a.m_groups * a.n_groups);
  // The last group may begin among the columns of the one before it: these count there.
  const int m0 = min(m_group * kColumns, a.columns - kColumns), n0 = n_group * kColumns,
            row0 = r_group * kRows;
  const bool repeats = m0 != m_group * kColumns;
  const int64_t begin = blockIdx.x * a.run;
  const int rows = static_cast<int>(min(a.run, p.rows - begin));
  const float* const dy = p.dy + blockIdx.y * p.dy_member + begin * p.n;
  const float* const x = p.x + blockIdx.y * p.x_member + begin * p.k;
  float* const dx = p.dx + blockIdx.y * p.dx_member + begin * p.k;
  const int tiles = (rows + tile_rows - 1) / tile_rows;

  auto start = [&](int tile, int slot) {
    if (tile < tiles) {
      float* const to = slots + slot * slot_floats;
      for (int r = warp_id(); r < tile_rows; r += warps) {
        const int row = tile * tile_rows + r;
        const float* const from = dy + row * p.n;
        if (p.n % 4 == 0) {
          copy_row<4>(to + r * a.pitch_dy, from, p.n, row < rows);
        } else {
          copy_row<2>(to + r * a.pitch_dy, from, p.n, row < rows);
        }
        copy_row<4>(to + tile_rows * a.pitch_dy + r * a.pitch_x, x + row * p.k, p.k, row < rows);
      }
    }
    commit_copies();
  };
#pragma unroll
  for (int s = 0; s < kSlots; ++s) start(s, s);
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
  auto leave = [&](int tile) {
    const int group = tile_rows * kColumns;
    for (int n = 0; n < a.n_groups; ++n) {
      const float* const from = sums + tile % 2 * sum_floats + n * group;
      for (int i = static_cast<int>(threadIdx.x); i < group / 4;
           i += static_cast<int>(blockDim.x)) {
        const int u = i % (kColumns / 4), r = i / (kColumns / 4);
        const int column = n * kColumns + 4 * u, row = tile * tile_rows + r;
        if (column >= p.k || row >= rows) continue;
        const float* const share = from + unit_at(r, u);
        float4 v = four(share);
#pragma unroll
        for (int m = 1; m < kMaxWarps; ++m) {
          if (m >= a.m_groups) continue;
          const float4 other = four(share + m * a.n_groups * group);
          v.x += other.x, v.y += other.y, v.z += other.z, v.w += other.w;
        }
        *reinterpret_cast<float4*>(dx + row * p.k + column) = v;
      }
    }
  };

  // Accumulators [q][j][m][h]: of columns 32 (m / 2) + 4 g + 2 (m % 2) + {0, 1} of dy and 32 q + 8 t + 2 j + h + {0, 4} of x.
  float acc[2][2][kM][2][4] = {};
  int slot = 0;
  for (int tile = 0; tile < tiles; ++tile) {
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
          sums + tile % 2 * sum_floats + (m_group * a.n_groups + n_group) * tile_rows * kColumns;
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
            const int column = n0 + 32 * half + 4 * g, at = tile * tile_rows + row;
            if (at < rows && column < p.k) *reinterpret_cast<float4*>(dx + at * p.k + column) = v;
          }
        }
      }
    }
    if constexpr (kShares) {
      if (tile > 0) leave(tile - 1);
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
    start(tile + kSlots, slot);
    slot = slot + 1 == kSlots ? 0 : slot + 1;
  }
  if constexpr (kShares) leave(tiles - 1);
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
  float* to = p.parts + blockIdx.y * p.parts_member + static_cast<int64_t>(blockIdx.x) * p.n * p.k;
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
