// y = x B^T [+ addend], see RowProduct. The weight lives in the registers of a block's warps, rows stream past it.
//
//   A warp holds kM x 16 columns of y by kK x 16 of the inner extent of the weight as mma's left operand, so an accumulator is a
//   tile of y^T: columns 2 g, 2 g + 1 of rows 2 t, 2 t + 1 (g = lane / 4, t = lane % 4), and a store writes 64 bytes of each of
//   four rows. Warps share columns (n_groups), the inner extent (k_groups, summed through shared memory in order) and rows
//   (r_groups). Tiles of rows go through shared memory: two on their way, two split, one barrier a tile.
//   launch    grid x: blocks that take tiles in turn, times column groups; y: members
//   traffic   x once per column group, y once; the weight once per block. Rows of y that begin inside a 32-byte sector are
//             gathered in shared memory and leave as one run of floats: written in pieces they cost the L2 1.7 times the sectors
//   numerics  an element is one fp32 sum in the order of k within a group, then the groups in order; rows never meet
#include <algorithm>

#include "kernels/cuda/check.cuh"
#include "kernels/cuda/linear_stream.h"
#include "kernels/cuda/row_tile.cuh"

namespace statelab::cuda {
namespace {

constexpr int kMaxWarps = 13, kChunks = 4;  // 13 warps of 32 columns, or of 32 inner indices: 416

/// How results leave a block.
enum class Leave {
  kDirectly,
  kGathered,  ///< one tile later, from shared memory
  kSummed     ///< likewise, over the k_groups
};

struct RowArgs {
  RowProduct p;
  int column_groups, n_groups, k_groups, r_groups, subs;  // subs: times 16 r_groups rows are a tile
  int pitch, tile_rows;
  int out_floats;  // of shared memory that a tile's results take, unless they leave directly
  int64_t tiles;
};

/// `floats` gathered floats, an even number, to y. All threads take part; no barrier inside. Hopper's bulk copy takes them, and
/// wait_gathered() waits until it has read them.
__device__ __forceinline__ void leave_gathered(const float* from, float* y, int floats) {
  const int whole = floats / 4 * 4;
#if __CUDA_ARCH__ >= 900
  if (threadIdx.x == 0) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(y),
                 "r"(shared_address(from)), "r"(4 * whole)
                 : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
  }
#else
  for (int i = 4 * static_cast<int>(threadIdx.x); i < whole; i += 4 * static_cast<int>(blockDim.x))
    *reinterpret_cast<float4*>(y + i) = *reinterpret_cast<const float4*>(from + i);
#endif
  if (threadIdx.x == 0 && floats > whole)
    *reinterpret_cast<float2*>(y + whole) = *reinterpret_cast<const float2*>(from + whole);
}
__device__ __forceinline__ void wait_gathered() {
#if __CUDA_ARCH__ >= 900
  if (threadIdx.x == 0) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
#endif
}
/// Of each thread between its writes to gathered memory and the barrier after them: the bulk copy is another kind of access.
__device__ __forceinline__ void fence_gathered() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

__device__ __forceinline__ float2 added_pair(const float* from) {
  return __ldg(reinterpret_cast<const float2*>(from));
}

/// Sums of the k_groups' tiles, kWidth columns from n0 of y on.
template <int kWidth>
__device__ __forceinline__ void leave_summed(const RowArgs& a, const float* from,
                                             const float* addend, int n0, float* y, int rows) {
  constexpr int kQuads = kWidth / 4, kPitch = kWidth + 4;
  const int group = a.tile_rows * kPitch;
  for (int i = static_cast<int>(threadIdx.x); i < rows * kQuads;
       i += static_cast<int>(blockDim.x)) {
    const int r = i / kQuads, n = n0 + i % kQuads * 4;
    if (n >= a.p.n) continue;
    const float* part = from + r * kPitch + n - n0;
    float4 v = make_float4(0, 0, 0, 0);
#pragma unroll 8
    for (int k = 0; k < a.k_groups; ++k) {
      const float4 other = *reinterpret_cast<const float4*>(part + k * group);
      v.x += other.x, v.y += other.y, v.z += other.z, v.w += other.w;
    }
    const int at = r * a.p.n + n;
    const bool four = n + 2 < a.p.n;
    if (addend != nullptr) {
      const float2 low = added_pair(addend + at);
      v.x += low.x, v.y += low.y;
      if (four) {
        const float2 high = added_pair(addend + at + 2);
        v.z += high.x, v.w += high.y;
      }
    }
    *reinterpret_cast<float2*>(y + at) = make_float2(v.x, v.y);
    if (four) *reinterpret_cast<float2*>(y + at + 2) = make_float2(v.z, v.w);
  }
}

template <Precision kPrecision, int kM, int kK, Leave kLeave, bool kAdds>
__global__ void __launch_bounds__(kMaxWarps* kWarp, 1)
    row_product(const __grid_constant__ RowArgs a) {
  constexpr bool kSplit = kPrecision == Precision::kTf32;
  constexpr int kCount = kSplit ? 2 : 1;
  extern __shared__ uint4 memory[];
  const RowProduct& p = a.p;
  const int plane = a.tile_rows * a.pitch, tile_x = a.tile_rows * p.k;
  float* const outs = reinterpret_cast<float*>(memory);  // two of out_floats
  float* const slots = outs + 2 * a.out_floats;          // two tiles of x
  auto* const tiles = reinterpret_cast<__nv_bfloat16*>(slots + 2 * tile_x);
  const int lane = lane_id(), g = lane / 4, t = lane % 4;
  const int n_group = warp_id() % a.n_groups, k_group = warp_id() / a.n_groups % a.k_groups,
            r_group = warp_id() / (a.n_groups * a.k_groups);
  const int column_group = static_cast<int>(blockIdx.x) % a.column_groups;
  const int block_n = column_group * a.n_groups * kM * 16;
  const int n0 = block_n + n_group * kM * 16, k0 = k_group * kK * 16;
  const int64_t stride = gridDim.x / static_cast<unsigned>(a.column_groups);
  const int64_t first = blockIdx.x / static_cast<unsigned>(a.column_groups);
  const float* x = p.x + blockIdx.y * p.x_member;
  float* const y = p.y + blockIdx.y * p.y_member;
  const float* const addend = kAdds ? p.addend + blockIdx.y * p.addend_member : nullptr;

  RowTile<kChunks> rows(a.tile_rows, p.k, a.pitch, slots);
  auto start = [&](int64_t tile, int slot) {
    if (tile < a.tiles) rows.start(slot, x + tile * tile_x, p.rows * p.k - tile * tile_x);
    commit_copies();
  };
  start(first, 0);
  start(first + stride, 1);
  clear_columns(tiles, 2 * kCount * a.tile_rows, a.pitch, p.k);
  // Rows g, g + 8 of mma's tile are columns 2 g, 2 g + 1 of y. Indices past the end repeat the last pair: their columns of y are
  // not stored, their inner indices meet zeros of x.
  Fragment<kSplit> weight[kM][kK];
  {
    const float* w = p.weight + blockIdx.y * p.weight_member;
    auto pair = [](const float* from) { return __ldg(reinterpret_cast<const float2*>(from)); };
    auto n_of = [&](int m) { return min(n0 + 16 * m + 2 * g, p.n - 2); };
    auto k_of = [&](int s, int h) { return min(k0 + 16 * s + 8 * h + 2 * t, p.k - 2); };
    if (p.weight_k == 1) {
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        const float *low = w + n_of(m) * p.weight_n, *high = low + p.weight_n;
#pragma unroll
        for (int s = 0; s < kK; ++s) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const float2 a = pair(low + k_of(s, h)), b = pair(high + k_of(s, h));
            weight[m][s].set(2 * h, a.x, a.y);
            weight[m][s].set(2 * h + 1, b.x, b.y);
          }
        }
      }
    } else {  // weight_n is 1
#pragma unroll
      for (int s = 0; s < kK; ++s) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float *low = w + k_of(s, h) * p.weight_k, *high = low + p.weight_k;
#pragma unroll
          for (int m = 0; m < kM; ++m) {
            const float2 a = pair(low + n_of(m)), b = pair(high + n_of(m));
            weight[m][s].set(2 * h, a.x, b.x);
            weight[m][s].set(2 * h + 1, a.y, b.y);
          }
        }
      }
    }
  }
  wait_copies<1>();
  const uint32_t tile0 = shared_address(tiles), tile_bytes = 2 * kCount * plane;
  rows.template split<kSplit>(0, tile0, plane);
  start(first + 2 * stride, 0);
  __syncthreads();

  // ldmatrix: matrices 0, 1 are rows 0..7 at k and k + 8, matrices 2, 3 rows 8..15.
  const uint32_t lane_at =
      tile0 + 2 * ((lane / 16 * 8 + lane % 8) * a.pitch + k0 + lane / 8 % 2 * 8);
  auto leave = [&](int64_t tile, int buffer) {
    const int64_t row = tile * a.tile_rows;
    const int here = static_cast<int>(min(int64_t{a.tile_rows}, p.rows - row));
    const float* from = outs + buffer * a.out_floats;
    if constexpr (kLeave == Leave::kGathered) {
      leave_gathered(from, y + row * p.n, here * p.n);
    } else if constexpr (kLeave == Leave::kSummed) {
      leave_summed<kM * 16>(a, from, kAdds ? addend + row * p.n : nullptr, block_n, y + row * p.n,
                            here);
    }
  };
  int current = 0;
  for (int64_t tile = first; tile < a.tiles; tile += stride, current ^= 1) {
    if (tile != first) leave(tile - stride, current ^ 1);
    for (int sub = 0; sub < a.subs; ++sub) {
      const int sub_row = (sub * a.r_groups + r_group) * 16;
      const uint32_t from = lane_at + current * tile_bytes + 2 * sub_row * a.pitch;
      // Accumulators [m][j][e], [m][j][2 + e] are two columns of row 8 j + e. Where registers allow it the addend comes during
      // the products.
      const int64_t row0 = tile * a.tile_rows + sub_row + 2 * t;
      const int left = static_cast<int>(min(int64_t{16}, p.rows - row0));
      constexpr bool kEarly = kAdds && kM == 1;
      float2 added[kEarly ? 4 : 1];
      auto addend_of = [&](int i, int m) {
        const int next = 8 * (i / 2) + i % 2;
        const bool in = next < left && n0 + 16 * m + 2 * g < p.n;
        return in ? added_pair(addend + (row0 + next) * p.n + n0 + 2 * g + 16 * m)
                  : make_float2(0, 0);
      };
      if constexpr (kEarly) {
#pragma unroll
        for (int i = 0; i < 4; ++i) added[i] = addend_of(i, 0);
      }
      float acc[kM][2][4] = {};
#pragma unroll
      for (int s = 0; s < kK; ++s) {
        Fragment<kSplit> right;
        ldmatrix(right.hi, from + 32 * s);
        if constexpr (kSplit) ldmatrix(right.lo, from + 2 * plane + 32 * s);
#pragma unroll
        for (int m = 0; m < kM; ++m) mma_step(acc[m][0], acc[m][1], weight[m][s], right);
      }
      if constexpr (kAdds && kLeave != Leave::kSummed) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int m = 0; m < kM; ++m) {
            const float2 two = kEarly ? added[kEarly ? i : 0] : addend_of(i, m);
            acc[m][i / 2][i % 2] += two.x;
            acc[m][i / 2][2 + i % 2] += two.y;
          }
        }
      }
      // Rows sub_row + 2 t + {0, 1, 8, 9}.
      if constexpr (kLeave == Leave::kDirectly) {
        float* const to = y + row0 * p.n + n0 + 2 * g;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int j = i / 2, e = i % 2, next = (8 * j + e) * p.n;
          if (8 * j + e >= left) continue;
#pragma unroll
          for (int m = 0; m < kM; ++m) {
            if (n0 + 16 * m + 2 * g >= p.n) continue;
            *reinterpret_cast<float2*>(to + next + 16 * m) =
                make_float2(acc[m][j][e], acc[m][j][2 + e]);
          }
        }
      } else {
        constexpr bool kSums = kLeave == Leave::kSummed;
        const int out_pitch = kSums ? kM * 16 + 4 : p.n;
        float* const to = outs + current * a.out_floats + n0 - block_n + 2 * g +
                          ((kSums ? k_group * a.tile_rows : 0) + sub_row + 2 * t) * out_pitch;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int j = i / 2, e = i % 2, next = (8 * j + e) * out_pitch;
#pragma unroll
          for (int m = 0; m < kM; ++m) {
            if (!kSums && n0 + 16 * m + 2 * g >= p.n) continue;
            *reinterpret_cast<float2*>(to + next + 16 * m) =
                make_float2(acc[m][j][e], acc[m][j][2 + e]);
          }
        }
      }
    }
    wait_copies<1>();
    if (tile + stride < a.tiles)
      rows.template split<kSplit>(current ^ 1, tile0 + (current ^ 1) * tile_bytes, plane);
    start(tile + 3 * stride, current ^ 1);
    if constexpr (kLeave == Leave::kGathered) {
      fence_gathered();
      wait_gathered();
    }
    __syncthreads();
  }
  if (first < a.tiles) leave(first + (a.tiles - 1 - first) / stride * stride, current ^ 1);
  if constexpr (kLeave == Leave::kGathered) wait_gathered();
}

int attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

template <Precision kPrecision, int kM, int kK, Leave kLeave, bool kAdds>
bool start_kernel(const RowArgs& a, int bytes, int members, CUstream_st* stream) {
  const int warps = a.n_groups * a.k_groups * a.r_groups;
  const auto kernel = row_product<kPrecision, kM, kK, kLeave, kAdds>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "cudaFuncSetAttribute");
  // As many blocks as run at once; which block takes a tile decides no bit.
  const int64_t at_once =
      std::max(1, attribute(cudaDevAttrMultiProcessorCount) / (members * a.column_groups));
  const dim3 grid(static_cast<unsigned>(std::min(at_once, a.tiles) * a.column_groups),
                  static_cast<unsigned>(members));
  kernel<<<grid, warps * kWarp, static_cast<size_t>(bytes), stream>>>(a);
  check_launch("linear");
  return true;
}

template <Precision kPrecision, int kM, int kK, Leave kLeave>
bool start(const RowArgs& a, int bytes, int members, CUstream_st* stream) {
  return a.p.addend != nullptr
             ? start_kernel<kPrecision, kM, kK, kLeave, true>(a, bytes, members, stream)
             : start_kernel<kPrecision, kM, kK, kLeave, false>(a, bytes, members, stream);
}

int up(int a, int b) { return (a + b - 1) / b; }

/// How the warps of a block share the work, each holding kM by kK fragments, and how results leave it. The number of rows decides
/// only how many of them a block takes at once, so no bit depends on it.
template <Precision kPrecision, int kM, int kK>
class Division {
 public:
  explicit Division(const RowProduct& p) {
    args.p = p;
    args.k_groups = up(p.k, 16 * kK);
    const int tiles_n = up(p.n, 16 * kM), most = args.k_groups > 1 ? 1 : kMaxWarps;
    args.column_groups = up(tiles_n, most);
    args.n_groups = up(tiles_n, args.column_groups);
    args.pitch = tile_pitch(args.k_groups * kK * 16);
    leave = args.k_groups > 1                         ? Leave::kSummed
            : p.n % 8 != 0 && args.column_groups == 1 ? Leave::kGathered
                                                      : Leave::kDirectly;
    // A narrow product needs more rows at once, as long as every multiprocessor gets some.
    const int warps = args.n_groups * args.k_groups,
              most_rows = static_cast<int>(std::clamp<int64_t>(p.rows / 4096, 4, kMaxWarps));
    take(std::clamp(kMaxWarps / warps, 1, most_rows), 1);
    // Larger tiles, fewer barriers, where rows are many.
    const int most_subs = leave == Leave::kSummed ? 1 : leave == Leave::kGathered ? 2 : 4;
    while (args.subs < most_subs &&
           2 * args.tile_rows * p.k <= 4 * kChunks * warps * args.r_groups * kWarp &&
           p.rows >= int64_t{args.tile_rows} * 1024)
      take(args.r_groups, 2 * args.subs);
    const int available = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    while (bytes > available && args.subs > 1) take(args.r_groups, args.subs / 2);
    while (bytes > available && args.r_groups > 1) take(args.r_groups - 1, 1);
    fits = bytes <= available;
  }

  RowArgs args{};
  Leave leave;
  int bytes;  ///< of shared memory
  bool fits;

 private:
  void take(int r_groups, int subs) {
    const RowProduct& p = args.p;
    args.r_groups = r_groups, args.subs = subs;
    args.tile_rows = 16 * r_groups * subs;
    args.tiles = (p.rows + args.tile_rows - 1) / args.tile_rows;
    args.out_floats = leave == Leave::kSummed     ? args.k_groups * args.tile_rows * (kM * 16 + 4)
                      : leave == Leave::kGathered ? args.tile_rows * p.n
                                                  : 0;
    bytes = 8 * args.out_floats + 8 * args.tile_rows * p.k +
            (kPrecision == Precision::kTf32 ? 8 : 4) * args.tile_rows * args.pitch;
  }
};

template <Precision kPrecision, int kM, int kK>
bool start(const RowProduct& p, int members, CUstream_st* stream) {
  const Division<kPrecision, kM, kK> d(p);
  if (!d.fits) return false;
  switch (d.leave) {
    case Leave::kDirectly:
      return start<kPrecision, kM, kK, Leave::kDirectly>(d.args, d.bytes, members, stream);
    case Leave::kGathered:
      return start<kPrecision, kM, kK, Leave::kGathered>(d.args, d.bytes, members, stream);
    case Leave::kSummed:
      if constexpr (kM == 4)
        return start<kPrecision, kM, kK, Leave::kSummed>(d.args, d.bytes, members, stream);
  }
  return false;
}

template <int kM, int kK>
bool start(const RowProduct& p, int members, Precision precision, CUstream_st* stream) {
  return precision == Precision::kTf32 ? start<Precision::kTf32, kM, kK>(p, members, stream)
                                       : start<Precision::kBf16, kM, kK>(p, members, stream);
}

}  // namespace

bool launch_row_product(const RowProduct& p, int members, Precision precision,
                        CUstream_st* stream) {
  if (precision == Precision::kFp32 || p.k % 2 != 0 || p.n % 2 != 0 || p.n <= 32 || p.k < 8 ||
      p.k > 32 * kMaxWarps)
    return false;
  if (p.k > 32 && p.k <= 64) return start<2, 4>(p, members, precision, stream);
  if (p.k > 64 && p.k <= 128 && p.n > 48) return start<1, 8>(p, members, precision, stream);
  return start<4, 2>(p, members, precision, stream);
}

}  // namespace statelab::cuda
