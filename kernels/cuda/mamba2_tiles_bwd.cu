// mamba2_scan's recurrence, backward, on bf16 tiles: a block takes a sequence, from the last chunk to the first, in a chunk head
// after head. Warps 0 to 3 own 16 tokens each, first as queries (dq), then as keys (dx); warps 4 to 7 own 16 tokens as keys (dk) and
// then 16 channels of the cotangent of the state. Scores are computed where they are needed, 16 x 16 at a time and in the
// orientation of their user, so that they never leave registers. Source: models.md section 6.3, mamba2_tiles.cuh.
//
// Of log alpha_i, with M_ij = do_i . x_j, X_ij = T_ij dt_j (q_i . k_j) M_ij and the paths that end at i, start at j, leave from j:
//   sum_{m >= i} (sum_j X_mj + T_m q_m . (S_in^T do_m) - sum_l X_lm) + sum_{j < i} dt_j T_j (x_j . Sb k_j) + whole <Sb, S_in>.
// Both sums of X are those of the same numbers: what they have in common is most of them and must cancel.
//
// What the heads of a group share - B and C, whose tiles stay, and their gradients - is summed in dproj itself, by the same
// thread head after head. The fp32 cotangents of the heads' states rest in a.carried from chunk to chunk.
#include <algorithm>

#include "kernels/cuda/mamba2_tiles.cuh"
#include "kernels/cuda/shared_memory.cuh"

namespace statelab::cuda {
namespace {

constexpr int kSteps = kTiledHead / 16, kStateFloats = kTiledHead * kTiledHead;

/// What a turn, a head of a chunk, leaves for the gradients of its step sizes and decays.
struct TurnSums {
  float* columns;  ///< (4, 64): sums of X without its diagonal over columns, by tile of rows
  float* rows;     ///< (64): over rows, without dt
  float *enters,
      *leaves;  ///< (64): what passes through the states that enter and, without dt, that leave
  float *ddiag, *selves;  ///< (64): M_ii, M_ii K_ii
  float* across;          ///< (4): parts of <Sb, S_in>
  static constexpr int kFloats = 9 * kMaxChunk + 4;
  __device__ explicit TurnSums(float* p)
      : columns(p),
        rows(p + 4 * kMaxChunk),
        enters(p + 5 * kMaxChunk),
        leaves(p + 6 * kMaxChunk),
        ddiag(p + 7 * kMaxChunk),
        selves(p + 8 * kMaxChunk),
        across(p + 9 * kMaxChunk) {}
};

/// Shared memory, offsets in bytes. Step sizes of the turn before, whose gradients are computed during this one's products, of this
/// one and of the next. The heads' sums are last: their number is known at run time.
template <bool kSplit>
struct Places {
  static constexpr int kTile = HeadTile<kSplit>::kBytes;
  static constexpr int kQ = 0, kK = kTile, kX = 2 * kTile, kDout = 3 * kTile, kState = 4 * kTile,
                       kDstate = 5 * kTile;
  static constexpr int kTokenFloats = 3 * StepTokens::kFloats + 2 * TurnSums::kFloats + kMaxChunk;
  __host__ __device__ static int floats(const ScanDims& d) {
    return d.nchunks > 1 ? kDstate + kTile : kState;
  }
  static int bytes(const ScanDims& d) { return floats(d) + (kTokenFloats + 3 * d.nheads) * 4; }
};

/// How two tiles of 16 tokens meet: T_rc of rows r and columns c, times weights.
struct Meeting {
  const float *row_factor, *column_factor;  ///< off the diagonal, weights included
  const float* between;                     ///< of the blocks of rows and columns
  int between_stride;
  float sign;  ///< 1: columns are earlier tokens than rows; -1: later ones
};

/// score *= T off the diagonal.
__device__ __forceinline__ void weigh(float (&score)[2][4], const Meeting& m, int block, int low,
                                      int t) {
  const float whole = m.between[block * m.between_stride];
  const float to_low = m.row_factor[low] * whole, to_high = m.row_factor[low + 8] * whole;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const float2 from = pair_at(m.column_factor + block * 16 + n * 8 + 2 * t);
    score[n][0] *= to_low * from.x, score[n][1] *= to_low * from.y;
    score[n][2] *= to_high * from.x, score[n][3] *= to_high * from.y;
  }
}
/// f(n, e, r, c, T) for the elements of the diagonal block, T = 0 where r and c do not meet.
template <class F>
__device__ __forceinline__ void each_of_diagonal(const float* within, float sign, int tile_row,
                                                 int low, int t, F&& f) {
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const int c0 = tile_row * 16 + n * 8 + 2 * t;
    const float2 in2 = pair_at(within + c0);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int r = low + e / 2 * 8, c = c0 + e % 2;
      const float T = quick_exp2(sign * (within[r] - (e % 2 ? in2.y : in2.x)));
      f(n, e, r, c, (sign > 0 ? c <= r : c >= r) ? T : 0.0f);
    }
  }
}

/// Sums of four numbers per lane, two columns in each of two blocks, over the eight lanes that share t, into to[8 n + 2 t + e].
__device__ __forceinline__ void store_column_sums(const float (&x)[2][2], float* to) {
  const int lane = lane_id(), g = lane / 4, t = lane % 4;
  const bool right = (g & 4) != 0, odd = (g & 2) != 0;
  float kept[2];
#pragma unroll
  for (int e = 0; e < 2; ++e)
    kept[e] =
        (right ? x[1][e] : x[0][e]) + __shfl_xor_sync(0xFFFFFFFFu, right ? x[0][e] : x[1][e], 16);
  float sum = (odd ? kept[1] : kept[0]) + __shfl_xor_sync(0xFFFFFFFFu, odd ? kept[0] : kept[1], 8);
  sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 4);
  if ((g & 1) == 0) to[(right ? 8 : 0) + 2 * t + (odd ? 1 : 0)] = sum;
}

template <bool kSplit, bool kVectors>
__global__ void __launch_bounds__(kScanThreads, 2)
    tiled_backward(const __grid_constant__ Mamba2Args a) {
  extern __shared__ __align__(256) unsigned char shared[];
  const ScanDims& d = a.dims;
  constexpr int N = kTiledHead, P = kTiledHead;
  using Place = Places<kSplit>;
  using Square = HeadTile<kSplit>;
  const int H = d.nheads, b = blockIdx.x, d_inner = H * P, heads_per_group = H / d.ngroups;
  float* floats = reinterpret_cast<float*>(shared + Place::floats(d));
  float* same = floats + Place::kTokenFloats - kMaxChunk;  // K_ii, from the rows themselves
  float* head_sums = floats + Place::kTokenFloats;

  // Every phase finds out anew who it is, hidden from the compiler, which would otherwise keep addresses in registers for the
  // phases to come.
  uint32_t base = shared_address(shared), member = blockIdx.y, own_thread = threadIdx.x;
  int thread, lane, g, t, warp, tile_row, row0, low;
  bool queries;  // else keys
  auto anew = [&] {
    opaque(base), opaque(member), opaque(own_thread);
    thread = static_cast<int>(own_thread), lane = thread % kWarp, g = lane / 4, t = lane % 4;
    warp = __shfl_sync(0xFFFFFFFFu, thread / kWarp, 0);  // known to be the same for the whole warp
    queries = warp < 4;
    // Tiles of tokens cost differently, and two blocks share a multiprocessor: half of the blocks have them in another order.
    tile_row = 2 * blockIdx.x < gridDim.x ? warp % 4 : 3 - warp % 4;
    row0 = tile_row * 16, low = row0 + g;
  };
  anew();
  const int first_token = b * d.seqlen, tokens = used_tokens(a.targets, b, d.seqlen),
            last_chunk = (tokens - 1) / d.chunk;
  for (int at = thread; at < 3 * H; at += kScanThreads) head_sums[at] = 0;

  auto length_of = [&](int chunk) { return min(d.chunk, tokens - chunk * d.chunk); };
  auto chunk_row = [&](int chunk) { return static_cast<int64_t>(first_token) + chunk * d.chunk; };
  auto carried_at = [&](int h, int row) {
    return a.carried.at(member) + (static_cast<int64_t>(b) * H + h) * kStateFloats + row * N +
           QuadRow::column(0);
  };
  /// One of the three tiles that this warp brings, 16 rows of each: C or B; dout or x; the state that enters or the cotangent of
  /// the one that leaves. `rows`: 0 where there is nothing to bring.
  struct Source {
    uint32_t place;
    const float* from;
    int stride, rows;
  };
  auto source = [&](int which, int chunk, int h) {
    const int64_t at = chunk_row(chunk), head = static_cast<int64_t>(b) * H + h;
    const float* proj = a.proj.at(member) + at * d.width;
    Source out{0, proj, d.width, row0 < length_of(chunk) ? length_of(chunk) : 0};
    if (which == 0) {
      out.place = queries ? Place::kQ : Place::kK;
      out.from += (queries ? a.C : a.B) + h / heads_per_group * N;
      if (h % heads_per_group != 0) out.rows = 0;
    } else if (which == 1) {
      out.place = queries ? Place::kDout : Place::kX;
      out.from += a.x + h * P;
      if (queries) out.from = a.dout.at(member) + at * d_inner + h * P, out.stride = d_inner;
    } else {
      out.place = queries ? Place::kState : Place::kDstate;
      out.from = queries ? a.states_in.at(member) + (head * d.nchunks + chunk) * kStateFloats
                         : a.carried.at(member) + head * kStateFloats;
      out.stride = N, out.rows = (queries ? chunk > 0 : chunk < last_chunk) ? N : 0;
    }
    return out;
  };
  auto token_of = [&](int turn) { return StepTokens(floats + turn % 3 * StepTokens::kFloats); };
  auto sums_of = [&](int turn) {
    return TurnSums(floats + 3 * StepTokens::kFloats + turn % 2 * TurnSums::kFloats);
  };
  auto compute_tokens = [&](int chunk, int h, int turn) {
    StepTokens::Raw raw;
    raw.load(a, a.proj.at(member) + chunk_row(chunk) * d.width, a.dt_bias.at(member)[h], h,
             length_of(chunk));
    token_of(turn).compute(raw, -expf(a.A_log.at(member)[h]), length_of(chunk));
  };
  /// Gradients of a turn's step sizes and decays, by one warp, once its products are done.
  auto finish_tokens = [&](int chunk, int h, int turn) {
    const StepTokens token = token_of(turn);
    const TurnSums sums = sums_of(turn);
    const int length = length_of(chunk);
    float from[2], before[2], of_dt = 0, of_A = 0, of_D = 0, start_total[2], leave_total[2];
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      const int i = lane + u * kWarp;
      float ended = 0;
#pragma unroll
      for (int tile = 0; tile < kMaxBlocks; ++tile)
        ended += tile <= i / 16 ? sums.columns[tile * kMaxChunk + i] : 0.0f;
      from[u] = i < length ? ended + sums.enters[i] - token.dt[i] * sums.rows[i] : 0.0f;
      before[u] = i < length ? token.dt[i] * sums.leaves[i] : 0.0f;
#pragma unroll
      for (int step = 1; step < kWarp; step *= 2) {
        const float right = __shfl_down_sync(0xFFFFFFFFu, from[u], step),
                    left = __shfl_up_sync(0xFFFFFFFFu, before[u], step);
        if (lane + step < kWarp) from[u] += right;
        if (lane >= step) before[u] += left;
      }
      start_total[u] = __shfl_sync(0xFFFFFFFFu, from[u], 0);
      leave_total[u] = __shfl_sync(0xFFFFFFFFu, before[u], kWarp - 1);
      before[u] = __shfl_up_sync(0xFFFFFFFFu, before[u], 1);
      if (lane == 0) before[u] = 0;
    }
    const float da[2] = {from[0] + start_total[1] + before[0],
                         from[1] + leave_total[0] + before[1]};
    const float A = -expf(a.A_log.at(member)[h]);
    const float through =
        chunk > 0 && chunk < last_chunk
            ? *token.whole * ((sums.across[0] + sums.across[1]) + (sums.across[2] + sums.across[3]))
            : 0.0f;
    float* to = a.dproj.at(member) + static_cast<int64_t>(first_token + chunk * d.chunk) * d.width +
                a.dd_dt + h;
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      const int i = lane + u * kWarp;
      if (i >= length) continue;
      const float of_log = A * (da[u] + through);
      const float draw =
          (sums.rows[i] + sums.selves[i] + sums.leaves[i] + of_log) * sigmoidf(token.raw[i]);
      to[static_cast<int64_t>(i) * d.width] = draw;
      of_dt += draw, of_A += of_log * token.dt[i], of_D += sums.ddiag[i];
    }
    of_dt = warp_sum(of_dt), of_A = warp_sum(of_A), of_D = warp_sum(of_D);
    if (lane == 0) head_sums[h] += of_dt, head_sums[H + h] += of_A, head_sums[2 * H + h] += of_D;
  };
  if (warp == 0) compute_tokens(last_chunk, 0, 0);
  __syncthreads();  // the heads' sums are zero

  int turn = 0;
  for (int chunk = last_chunk; chunk >= 0; --chunk) {
    const int length = length_of(chunk), tiles = (length + 15) / 16;
    const bool first = chunk == 0, last = chunk == last_chunk;
    const int64_t token0 = static_cast<int64_t>(first_token) + chunk * d.chunk;
    for (int h = 0; h < H; ++h, ++turn) {
      anew();
      const bool first_of_group = h % heads_per_group == 0;
      const int group = h / heads_per_group;
      const Square q{base + Place::kQ}, k{base + Place::kK}, x{base + Place::kX},
          dout{base + Place::kDout}, state{base + Place::kState}, dstate{base + Place::kDstate};
      const StepTokens token = token_of(turn);
      const TurnSums sums = sums_of(turn);

      // ---- rows and K_ii
#pragma unroll 1
      for (int which = 0; which < 3; ++which) {
        const Source of = source(which, chunk, h);
        if (of.rows > 0) fetch_rows<kVectors>(base + of.place, row0, of.from, of.stride, of.rows);
      }
      const bool meets = first_of_group && !queries && row0 < length;
#pragma unroll 1
      for (int high = 0; meets && high < 2; ++high) {
        const int i = low + 8 * high;
        QuadRow met;
        met.load<kVectors>(a.proj.at(member) + (token0 + min(i, length - 1)) * d.width + a.C +
                           group * N);
        wait_all_copies();
        __syncwarp();
        const QuadRow row = RawRows{k.base}.load(i);
        float sum = 0;
#pragma unroll
        for (int m = 0; m < kQuadPairs; ++m)
          sum = fmaf(row.v[m].x, met.v[m].x, fmaf(row.v[m].y, met.v[m].y, sum));
        sum = row_sum(sum);
        if (t == 0) same[i] = i < length ? sum : 0.0f;
      }
      wait_all_copies();
      __syncwarp();
#pragma unroll 1
      for (int which = 0; which < 3; ++which) {
        const Source of = source(which, chunk, h);
        if (of.rows == 0) continue;
        const Square tile{base + of.place};
#pragma unroll
        for (int high = 0; high < 2; ++high) {
          const int i = low + 8 * high;
          QuadRow row = RawRows{tile.base}.load(i);
          if (i >= of.rows) row.clear();
          __syncwarp();
          row.store<kSplit>(tile, i);
        }
      }
      __syncthreads();

      anew();
      // Rows of dq or dk to where the group's heads are added up.
      auto add_rows = [&](const float(&acc)[kQuadPairs][4], int column) {
        float* to =
            a.dproj.at(member) + (token0 + low) * d.width + column + group * N + QuadRow::column(0);
        float2 old[2][kQuadPairs];  // what earlier heads of the group have left
#pragma unroll
        for (int high = 0; high < 2; ++high) {
          const float* from = to + static_cast<int64_t>(8 * high) * d.width;
          const bool adds = !first_of_group && low + 8 * high < length;
#pragma unroll
          for (int n = 0; n < kQuadPairs; ++n) {
            old[high][n] = make_float2(0, 0);
            if (adds)
              old[high][n] = kVectors ? *reinterpret_cast<const float2*>(from + 8 * n)
                                      : make_float2(from[8 * n], from[8 * n + 1]);
          }
        }
#pragma unroll
        for (int high = 0; high < 2; ++high) {
          if (low + 8 * high >= length) continue;
#pragma unroll
          for (int n = 0; n < kQuadPairs; ++n)
            store2(to + static_cast<int64_t>(8 * high) * d.width + 8 * n,
                   acc[n][2 * high] + old[high][n].x, acc[n][2 * high + 1] + old[high][n].y,
                   kVectors);
        }
      };
      // In chunks of one or two tiles the warps of the others take the second pass.
      const bool halved = tiles <= 2;
      if (queries && (halved ? tile_row % 2 : tile_row) < tiles) {
        // ---- dq, then dx
        const int first_pass = halved ? tile_row / 2 : 0, end_pass = halved ? first_pass + 1 : 2;
#pragma unroll 1
        for (int pass = first_pass; pass < end_pass; ++pass) {
          anew();
          if (halved) tile_row %= 2, row0 = tile_row * 16, low = row0 + g;
          const bool as_keys = pass == 1;
          const Square own_tile{as_keys ? k.base : dout.base}, other{as_keys ? q.base : x.base},
              onto{as_keys ? dout.base : k.base};
          float acc[kQuadPairs][4] = {};
          Fragment<kSplit> own[kSteps];
#pragma unroll
          for (int s = 0; s < kSteps; ++s) own[s] = own_tile.fragment(row0, s * 16);
          if (!as_keys) {
            float through[2] = {0, 0};
            if (!first) {
#pragma unroll
              for (int s = 0; s < kSteps; ++s) mma_rows(acc, own[s], state, s * 16);
              scale_rows(acc, token.from_start[low], token.from_start[low + 8]);
              through[0] = row_sum(row_dot<kSplit>(acc, 0, q, low));
              through[1] = row_sum(row_dot<kSplit>(acc, 1, q, low + 8));
            }
            if (t == 0) sums.enters[low] = through[0], sums.enters[low + 8] = through[1];
          } else if (!last) {
#pragma unroll
            for (int s = 0; s < kSteps; ++s) mma_columns(acc, own[s], dstate, s * 16);
            scale_rows(acc, token.leaving[low], token.leaving[low + 8]);
          }
          const Meeting m{.row_factor = as_keys ? token.weighted : token.prefix,
                          .column_factor = as_keys ? token.prefix : token.weighted,
                          .between = token.between + (as_keys ? tile_row : tile_row * 4),
                          .between_stride = as_keys ? 4 : 1,
                          .sign = as_keys ? -1.0f : 1.0f};
          const float D = as_keys ? a.D.at(member)[h] : 0.0f;
          const int end = as_keys ? tiles : tile_row + 1;
#pragma unroll 1
          for (int block = as_keys ? tile_row : 0; block < end; ++block) {
            float score[2][4] = {};  // K^T or M
#pragma unroll
            for (int s = 0; s < kSteps; ++s)
              mma_step<kSplit>(score[0], score[1], own[s],
                               other.right_transposed(s * 16, block * 16));
            if (block != tile_row) {
              weigh(score, m, block, low, t);
            } else {
              each_of_diagonal(
                  token.within, m.sign, tile_row, low, t, [&](int n, int e, int r, int c, float T) {
                    T *= token.dt[as_keys ? r : c];
                    score[n][e] = as_keys && c == r ? fmaf(T, same[r], D) : T * score[n][e];
                  });
            }
            Fragment<kSplit> part;
            part.set(score[0], score[1]);
            mma_rows(acc, part, onto, block * 16);
          }
          if (!as_keys) {
            add_rows(acc, a.C);
            continue;
          }
          float* to =
              a.dproj.at(member) + (token0 + low) * d.width + a.x + h * P + QuadRow::column(0);
#pragma unroll
          for (int high = 0; high < 2; ++high) {
            if (low + 8 * high >= length) continue;
#pragma unroll
            for (int n = 0; n < kQuadPairs; ++n)
              store2(to + static_cast<int64_t>(8 * high) * d.width + 8 * n, acc[n][2 * high],
                     acc[n][2 * high + 1], kVectors);
          }
        }
      } else if (!queries && row0 < length) {
        // ---- dk and the sums of X
        float acc[kQuadPairs][4] = {}, through[2] = {0, 0}, path[2] = {0, 0};
        Fragment<kSplit> own[kSteps];
#pragma unroll
        for (int s = 0; s < kSteps; ++s) own[s] = x.fragment(row0, s * 16);
        if (!last) {
#pragma unroll
          for (int s = 0; s < kSteps; ++s) mma_rows(acc, own[s], dstate, s * 16);
          scale_rows(acc, token.to_end[low], token.to_end[low + 8]);
          through[0] = row_sum(row_dot<kSplit>(acc, 0, k, low));
          through[1] = row_sum(row_dot<kSplit>(acc, 1, k, low + 8));
        }
        const Meeting m{.row_factor = token.suffix,
                        .column_factor = token.prefix,
                        .between = token.between + tile_row,
                        .between_stride = 4,
                        .sign = -1};
        const float weight[2] = {token.dt[low], token.dt[low + 8]};
#pragma unroll 1
        for (int block = tile_row; block < tiles; ++block) {
          float cross[2][4] = {}, score[2][4] = {};  // M^T, K^T
#pragma unroll
          for (int s = 0; s < kSteps; ++s) {
            mma_step<kSplit>(cross[0], cross[1], own[s], dout.right_transposed(s * 16, block * 16));
            mma_step<kSplit>(score[0], score[1], k.fragment(row0, s * 16),
                             q.right_transposed(s * 16, block * 16));
          }
          if (block != tile_row) {
            weigh(cross, m, block, low, t);
          } else {
            each_of_diagonal(
                token.within, m.sign, tile_row, low, t, [&](int n, int e, int r, int c, float T) {
                  if (c == r) {
                    sums.ddiag[r] = cross[n][e], sums.selves[r] = cross[n][e] * same[r];
                    score[n][e] = 0;
                  }
                  cross[n][e] *= T;
                });
          }
          float column[2][2];
#pragma unroll
          for (int n = 0; n < 2; ++n) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              const float low_X = cross[n][e] * score[n][e],
                          high_X = cross[n][e + 2] * score[n][e + 2];
              path[0] += low_X, path[1] += high_X;
              column[n][e] = fmaf(weight[0], low_X, weight[1] * high_X);
            }
          }
          store_column_sums(column, sums.columns + tile_row * kMaxChunk + block * 16);
          Fragment<kSplit> part;
          part.set(cross[0], cross[1]);
          mma_rows(acc, part, q, block * 16);
        }
        path[0] = row_sum(path[0]), path[1] = row_sum(path[1]);
        if (t == 0) {
          sums.rows[low] = path[0], sums.rows[low + 8] = path[1];
          sums.leaves[low] = through[0], sums.leaves[low + 8] = through[1];
        }
        scale_rows(acc, weight[0], weight[1]);
        add_rows(acc, a.B);
      }
      if (!queries && !first) {
        // ---- the cotangent of the state that entered
        // by the warps with few dk: tile 0 of the channels too falls to the last one.
#pragma unroll 1
        for (int of_channels = tile_row == 0 ? -1 : tile_row; of_channels >= 0; of_channels -= 3) {
          anew();
          const int channel0 = of_channels * 16, channel = channel0 + g;
          float* rest = carried_at(h, channel);
          float sum[kQuadPairs][4] = {}, product = 0;
          float2 before[2][kQuadPairs];
#pragma unroll
          for (int high = 0; high < 2; ++high) {
#pragma unroll
            for (int n = 0; n < kQuadPairs; ++n)
              before[high][n] = last ? make_float2(0, 0) : pair_at(rest + 8 * high * N + 8 * n);
          }
#pragma unroll 1
          for (int block = 0; block < tiles; ++block) {
            Fragment<kSplit> values = dout.fragment_transposed(channel0, block * 16);
            values.change([&](float& v0, float& v1, int column) {
              const float2 from_start = pair_at(token.from_start + block * 16 + column);
              v0 *= from_start.x, v1 *= from_start.y;
            });
            mma_rows(sum, values, q, block * 16);
          }
          const float whole = *token.whole;
#pragma unroll
          for (int high = 0; high < 2; ++high) {
            const uint32_t at = state.at(channel + 8 * high, QuadRow::column(0));
#pragma unroll
            for (int n = 0; n < kQuadPairs; ++n) {
              const float2 of = before[high][n], in = state.load_at(at ^ (16u * n));
              product = fmaf(of.x, in.x, fmaf(of.y, in.y, product));
              store2(rest + 8 * high * N + 8 * n, fmaf(whole, of.x, sum[n][2 * high]),
                     fmaf(whole, of.y, sum[n][2 * high + 1]), true);
            }
          }
          product = warp_sum(product);
          if (lane == 0) sums.across[of_channels] = product;
        }
      }
      // ---- by warps with few tokens that their own meet: step sizes of the turn after and gradients of those of the turn before
      if (!queries && tile_row == 3 && (h + 1 < H || !first))
        compute_tokens(h + 1 < H ? chunk : chunk - 1, h + 1 < H ? h + 1 : 0, turn + 1);
      if (!queries && tile_row == 2 && turn > 0)
        finish_tokens(h > 0 ? chunk : chunk + 1, h > 0 ? h - 1 : H - 1, turn - 1);
      __syncthreads();  // tiles have been read
    }
  }
  clear_rows(a.dproj.at(member) + static_cast<int64_t>(first_token) * d.width, d.width, tokens,
             d.seqlen);
  if (!queries && tile_row == 2) {
    finish_tokens(0, H - 1, turn - 1);
    __syncwarp();
    float* partial = a.partials.at(member) + static_cast<int64_t>(b) * Mamba2Partials(H).width;
    for (int at = lane; at < 3 * H; at += kWarp) partial[at] = head_sums[at];
  }
}

template <bool kSplit, bool kVectors>
void launch_sized(const Mamba2Args& a, int members, CUstream_st* stream) {
  const int bytes = Places<kSplit>::bytes(a.dims);
  const auto kernel = tiled_backward<kSplit, kVectors>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "mamba2_scan_bwd");
  const dim3 grid(static_cast<unsigned>(a.dims.batch), static_cast<unsigned>(members));
  kernel<<<grid, kScanThreads, static_cast<size_t>(bytes), stream>>>(a);
  check_launch("mamba2_scan_bwd");
}

}  // namespace

bool tiled_heads(const Mamba2ScanAttrs& a) {
  return a.headdim == kTiledHead && a.d_state == kTiledHead && !a.negative_eigenvalues;
}

bool tiled(const Mamba2ScanAttrs& a, Precision precision) {
  if (precision == Precision::kFp32 || !tiled_heads(a)) return false;
  ScanDims largest{};
  largest.nheads = a.nheads, largest.nchunks = 2;
  return std::max(Places<true>::bytes(largest), tiled_forward_bytes()) <= shared_bytes_per_block();
}

void launch_tiled_backward(const Mamba2Args& a, bool split, int members, CUstream_st* stream) {
  if (split) {
    a.vectors ? launch_sized<true, true>(a, members, stream)
              : launch_sized<true, false>(a, members, stream);
  } else {
    a.vectors ? launch_sized<false, true>(a, members, stream)
              : launch_sized<false, false>(a, members, stream);
  }
}

}  // namespace statelab::cuda
