// mamba3_scan, backward, on bf16 tiles: a block takes a sequence, head after head, each from the last chunk to the first; two blocks
// fit a multiprocessor. With M_ij = do_i.x_j and K_ij = q_i.k_j, decayed by T_ij and weighted by w_j,
//   dq_i = sum_{j < i} T_ij w_j M_ij k_j + gam_i M_ii k_i + T_i S_in^T do_i        warps 0 to 3, 16 tokens each
//   dk_j = sum_{i > j} T_ij w_j M_ij q_i + gam_j M_jj q_j + T_end,j w_j Sb^T x_j   warps 4 to 7
//   dx_j = sum_{i > j} T_ij w_j K_ij do_i + (gam_j K_jj + D) do_j + T_end,j w_j Sb k_j   warps 0 to 3 again
//   Sb_in = T_whole Sb + sum_i T_i do_i q_i^T                                      warps 4 to 7, 16 channels each
// 16 x 16 scores at a time, in registers. Warp r of the first four visits r + 1 and 4 - r of them: five, whatever its rows.
// Row sums of T w M K, which the decays need, are dq.q and dk.k: both hold gam_i M_ii K_ii, which cancels. Everything but o, Phi and
// the chunks' incoming states is recomputed. Source: models.md sections 3.9 and 3.10.
//
// What heads share - the gradients of B, C and the angles - is summed in dproj itself, by the same thread head after head.
#include <type_traits>

#include "kernels/cuda/mamba3_tiles_bwd.cuh"
#include "kernels/cuda/mamba3_tiles_sums.cuh"
#include "kernels/cuda/shared_memory.cuh"

namespace statelab::cuda {
namespace {

constexpr int kSteps = kTiledHead / 16;

/// out_rc = own_r.other_c for 16 rows from row0 on and the 16 of a block.
template <bool kSplit>
__device__ __forceinline__ void scores(float (&out)[2][4], const HeadTile<kSplit>& own, int row0,
                                       const HeadTile<kSplit>& other, int block) {
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) out[n][e] = 0;
  }
#pragma unroll
  for (int s = 0; s < kSteps; ++s)
    mma_step<kSplit>(out[0], out[1], own.fragment(row0, s * 16),
                     other.right_transposed(s * 16, block * 16));
}

/// Multiplies scores of own rows by T w: own rows are the queries and the block's the keys, or the other way round. Pairs whose key
/// comes after the query become zero; on_diagonal(score, row) gives the entry of a token with itself.
template <bool kSplit, bool kVectors, int kTurned, class F>
__device__ __forceinline__ void decay(float (&score)[2][4],
                                      const TiledBackward<kSplit, kVectors, kTurned>& b,
                                      bool as_queries, int block, F&& on_diagonal) {
  const TiledTokens& token = b.token;
  const int low = b.low;
  if (block != b.tile_row) {
    const float whole = token.between[as_queries ? b.tile_row * 4 + block : block * 4 + b.tile_row];
    const float* own = as_queries ? token.prefix : token.suffix;
    const float* other = as_queries ? token.suffix : token.prefix;
    float row[2] = {own[low] * whole, own[low + 8] * whole};
    if (!as_queries) row[0] *= token.w[low], row[1] *= token.w[low + 8];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int c0 = block * 16 + n * 8 + 2 * b.t;
      float2 column = *reinterpret_cast<const float2*>(other + c0);
      if (as_queries) {
        const float2 w = *reinterpret_cast<const float2*>(token.w + c0);
        column.x *= w.x, column.y *= w.y;
      }
#pragma unroll
      for (int e = 0; e < 4; ++e) score[n][e] *= row[e / 2] * (e % 2 ? column.y : column.x);
    }
    return;
  }
  const float sign = as_queries ? 1.0f : -1.0f;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const int c0 = block * 16 + n * 8 + 2 * b.t;
    const float2 in = *reinterpret_cast<const float2*>(token.within + c0),
                 w = *reinterpret_cast<const float2*>(token.w + c0);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int r = low + e / 2 * 8, c = c0 + e % 2;
      const float T = quick_exp2(sign * (token.within[r] - (e % 2 ? in.y : in.x)));
      const float weight = as_queries ? (e % 2 ? w.y : w.x) : token.w[r];
      const bool later = as_queries ? c > r : r > c;
      const float off = later ? 0.0f : T * weight * score[n][e];
      score[n][e] = c == r ? on_diagonal(score[n][e], r) : off;
    }
  }
}

/// dq (queries) or dk (keys) of this warp's rows, turned back.
template <bool kSplit, bool kVectors, int kTurned>
__device__ __forceinline__ void queries_or_keys(const TiledBackward<kSplit, kVectors, kTurned>& b,
                                                float (&acc)[kQuadPairs][4]) {
  using Square = HeadTile<kSplit>;
  const TiledTokens& token = b.token;
  const bool queries = b.queries;
  const int row0 = b.row0, low = b.low;
  const Square own_value = queries ? b.dout() : b.x(), other_value = queries ? b.x() : b.dout(),
               other = queries ? b.k() : b.q();
  if (queries ? !b.first : !b.last) {
    const Square from = queries ? b.state() : b.dstate_tile();
#pragma unroll
    for (int s = 0; s < kSteps; ++s) mma_rows(acc, own_value.fragment(row0, s * 16), from, s * 16);
    if (queries) {
      scale_rows(acc, token.from_start[low], token.from_start[low + 8]);
    } else {
      scale_rows(acc, token.to_end[low] * token.w[low], token.to_end[low + 8] * token.w[low + 8]);
      const float through_low = row_sum(row_dot<kSplit>(acc, 0, b.k(), low)),
                  through_high = row_sum(row_dot<kSplit>(acc, 1, b.k(), low + 8));
      if (b.t == 0) b.leaving[low] = through_low, b.leaving[low + 8] = through_high;
    }
  } else if (!queries && b.t == 0) {
    b.leaving[low] = b.leaving[low + 8] = 0;
  }
  const int begin = queries ? 0 : b.tile_row, end = queries ? b.tile_row + 1 : b.tiles;
#pragma unroll 1
  for (int block = begin; block < end; ++block) {
    float cross[2][4];
    scores(cross, own_value, row0, other_value, block);
    decay(cross, b, queries, block, [&](float score, int r) {
      if (queries) b.ddiag[r] = score;
      return token.gam[r] * score;
    });
    Fragment<kSplit> part;
    part.set(cross[0], cross[1]);
    mma_rows(acc, part, other, block * 16);
  }
  b.turn_back(acc);
}

/// dx of this warp's rows.
template <bool kSplit, bool kVectors, int kTurned>
__device__ __forceinline__ void values(const TiledBackward<kSplit, kVectors, kTurned>& b, float D) {
  const TiledTokens& token = b.token;
  const int row0 = b.row0, low = b.low;
  float acc[kQuadPairs][4] = {};
  if (!b.last) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s)
      mma_columns(acc, b.k().fragment(row0, s * 16), b.dstate_tile(), s * 16);
    scale_rows(acc, token.to_end[low] * token.w[low], token.to_end[low + 8] * token.w[low + 8]);
  }
#pragma unroll 1
  for (int block = b.tile_row; block < b.tiles; ++block) {
    float score[2][4];
    scores(score, b.k(), row0, b.q(), block);
    decay(score, b, false, block, [&](float own, int r) {
      b.same[r] = own;
      return fmaf(token.gam[r], own, D);
    });
    Fragment<kSplit> part;
    part.set(score[0], score[1]);
    mma_rows(acc, part, b.dout(), block * 16);
  }
#pragma unroll
  for (int high = 0; high < 2; ++high) {
    const int i = low + 8 * high;
    if (i >= b.length) continue;
    float* to = b.dproj(b.a.col.x + b.h * kTiledHead) + (i * b.d.width + QuadRow::column(0));
#pragma unroll
    for (int n = 0; n < kQuadPairs; ++n)
      store2(to + 8 * n, acc[n][2 * high], acc[n][2 * high + 1], kVectors);
  }
}

/// From the cotangent of the state that leaves the chunk to that of the one that entered; their product with it goes to warp_part.
template <bool kSplit, bool kVectors, int kTurned>
__device__ __forceinline__ void state_cotangent(const TiledBackward<kSplit, kVectors, kTurned>& b,
                                                float (&sum)[kQuadPairs][4]) {
  using Square = HeadTile<kSplit>;
  const Square state = b.state();
  const float whole = *b.token.whole;
  const uint32_t state_at = state.at(b.low, QuadRow::column(0));
  float across = 0;
#pragma unroll
  for (int n = 0; n < kQuadPairs; ++n) {
    float4 leaving = make_float4(0, 0, 0, 0);
    if (!b.last) leaving = b.waiting[n];
    const float2 in_low = state.load_at(state_at ^ (16u * n)),
                 in_high = state.load_at((state_at + 8 * Square::kPitch) ^ (16u * n));
    across += (in_low.x * leaving.x + in_low.y * leaving.y) +
              (in_high.x * leaving.z + in_high.y * leaving.w);
    sum[n][0] = leaving.x * whole, sum[n][1] = leaving.y * whole;
    sum[n][2] = leaving.z * whole, sum[n][3] = leaving.w * whole;
  }
  across = warp_sum(across);
  if (b.lane == 0) b.warp_part[b.tile_row] = across;
#pragma unroll 1
  for (int block = 0; block < b.tiles; ++block) {
    Fragment<kSplit> values = b.dout().fragment_transposed(b.row0, block * 16);
    values.change([&](float& v0, float& v1, int column) {
      const float2 from_start =
          *reinterpret_cast<const float2*>(b.token.from_start + block * 16 + column);
      v0 *= from_start.x, v1 *= from_start.y;
    });
    mma_rows(sum, values, b.q(), block * 16);
  }
}

template <bool kSplit, bool kVectors, int kTurned>
__device__ __forceinline__ void store_state_cotangent(
    const TiledBackward<kSplit, kVectors, kTurned>& b, const float (&sum)[kQuadPairs][4]) {
  using Square = HeadTile<kSplit>;
  const uint32_t to = b.dstate_tile().at(b.low, QuadRow::column(0));
#pragma unroll
  for (int n = 0; n < kQuadPairs; ++n) {
    b.waiting[n] = make_float4(sum[n][0], sum[n][1], sum[n][2], sum[n][3]);
    Square::store_at(to ^ (16u * n), sum[n][0], sum[n][1]);
    Square::store_at((to + 8 * Square::kPitch) ^ (16u * n), sum[n][2], sum[n][3]);
  }
}

template <bool kSplit, bool kVectors, int kTurned>
__global__ void __launch_bounds__(kScanThreads, 2)
    tiled_backward(const __grid_constant__ Mamba3Args a) {
  extern __shared__ __align__(256) unsigned char shared[];
  TiledBackward<kSplit, kVectors, kTurned> b(a, shared);
  const ScanDims& d = a.dims;
  float4 local[kQuadPairs];
  b.waiting = local;
  asm volatile(
      ""
      : "+l"(b.waiting)::"memory");  // where an address is known the array stays in registers
  if (kTurned > 0 && !b.learned && b.thread < b.S)
    b.turns_of[b.thread] = static_cast<uint64_t>(standard_turns(b.thread, b.S) * 0x1p64);
  b.enter_head(0), b.enter_chunk(b.last_chunk());
  b.fetch_keys_and_queries(), b.fetch_values_and_state();
  const int member = static_cast<int>(blockIdx.y);
  float weight = row_weight(a, member, 0);  // of the head to come

#pragma unroll 1
  for (int h = 0; h < d.nheads; ++h) {
    b.enter_head(h);
    const float bias = slice(a.dt_bias)[h], D = slice(a.D)[h];
    b.weights[threadIdx.x] = weight;
    __syncthreads();
    AngleSums<kTurned == 4 ? 1 : 2> angles;
    StepSums steps;
#pragma unroll 1
    for (int chunk = b.last_chunk(); chunk >= 0; --chunk) {
      b.anew(), b.enter_chunk(chunk);
      if (b.warp == 3)  // of those that have less to prepare
        b.token.compute(a, slice(a.proj) + static_cast<int64_t>(b.first_token) * d.width, bias, h,
                        b.t0, b.length, b.tokens);
      if (b.queries) {
        b.prepare_queries_and_keys();
      } else {
        b.prepare_values();
      }
      __syncthreads();

      b.anew();
      // Set even where a branch leaves them alone: else their registers would be kept from one chunk to the next.
      float dstate[kQuadPairs][4] = {}, dqk[kQuadPairs][4] = {};
      if (b.queries) {
        if (b.owns_rows()) values(b, D);
      } else if (!b.first) {
        state_cotangent(b, dstate);
      }
      if (b.owns_rows()) queries_or_keys(b, dqk);
      __syncthreads();  // tiles have been read

      b.anew();
      if (b.owns_rows()) b.put_rows(dqk);
      if (!b.queries && !b.first) store_state_cotangent(b, dstate);
      b.full() ? __syncwarp() : b.meet_role();
      b.finish_rows();
      const bool more = chunk > 0 || h + 1 < d.nheads;
      auto fetch_next = [&](auto&& fetch) {  // of the chunk before, or of the next head's last one
        if (!more) return;
        const int in_group = b.in_group, group = b.group;
        if (chunk == 0) b.h = h + 1, b.group += in_group + 1 == b.heads_per_group ? 1 : 0;
        b.enter_chunk(chunk > 0 ? chunk - 1 : b.last_chunk());
        fetch();
        b.h = h, b.group = group, b.enter_chunk(chunk);
      };
      fetch_next([&] { b.fetch_values_and_state(), b.prefetch_gates(); });
      angles.load(b);
      angles.within(b);
      __syncthreads();  // rows of q and k have been finished
      fetch_next([&] { b.fetch_keys_and_queries(); });
      angles.finish(b);
      StepSums::Own own;
      if (b.warp < 2) own.read(b);
      b.free_tokens(chunk > 0);
      if (b.warp < 2) steps.add(b, own);
    }
    if (h + 1 < d.nheads) weight = row_weight(a, member, h + 1);
    store_head(b, steps, b.dphi);
  }

  clear_rows(slice(a.dproj) + static_cast<int64_t>(b.first_token) * d.width, d.width, b.tokens,
             d.seqlen);
  __syncthreads();
  constexpr int N = kTiledHead;
  float* sums = b.dphi + b.warp * N + 2 * b.lane;
  sums[0] = b.norm_sum.x, sums[1] = b.norm_sum.y;
  __syncthreads();
  const Mamba3Partials slot(d.nheads, N, N);
  float* partial = slice(a.partials) + static_cast<int64_t>(blockIdx.x) * slot.width;
  if (b.thread < 2 * N) {
    const int n = b.thread % N;
    const float* from = b.dphi + b.thread / N * 4 * N + n;
    partial[(b.thread < N ? slot.C_norm : slot.B_norm) + n] =
        (from[0] + from[N]) + (from[2 * N] + from[3 * N]);
  }
}

template <bool kSplit, bool kVectors, int kTurned>
void launch_sized(const Mamba3Args& a, int members, CUstream_st* stream) {
  const int bytes = BackwardPlaces<kSplit>::bytes(a.dims, a.nangles);
  const auto kernel = tiled_backward<kSplit, kVectors, kTurned>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "mamba3_scan_bwd");
  const dim3 grid(static_cast<unsigned>(a.dims.batch), static_cast<unsigned>(members));
  kernel<<<grid, kScanThreads, static_cast<size_t>(bytes), stream>>>(a);
  check_launch("mamba3_scan_bwd");
}

}  // namespace

bool tiled(const Mamba3ScanAttrs& a, Precision precision) {
  if (precision == Precision::kFp32 || a.headdim != kTiledHead || a.d_state != kTiledHead)
    return false;
  ScanDims longest{};
  longest.nchunks = 2;
  return BackwardPlaces<true>::bytes(longest, a.nangles) <= shared_bytes_per_block();
}

void launch_tiled_backward(const Mamba3Args& a, bool split, int members, CUstream_st* stream) {
  auto vectors = [&](auto is_split, auto turned) {
    constexpr bool kSplit = decltype(is_split)::value;
    constexpr int kTurned = decltype(turned)::value;
    a.vectors ? launch_sized<kSplit, true, kTurned>(a, members, stream)
              : launch_sized<kSplit, false, kTurned>(a, members, stream);
  };
  auto turned = [&](auto is_split) {
    if (a.rotation == Mamba3ScanAttrs::Rotation::kNone) {
      vectors(is_split, std::integral_constant<int, 0>{});
    } else if (a.nangles <= 16) {
      vectors(is_split, std::integral_constant<int, 4>{});
    } else {
      vectors(is_split, std::integral_constant<int, 8>{});
    }
  };
  split ? turned(std::true_type{}) : turned(std::false_type{});
}

}  // namespace statelab::cuda
