// mamba3_scan, backward, on bf16 tiles: a block takes a sequence, head after head, each from the last chunk to the first. Warps 0
// to 3 own 16 queries each and compute dq and the cotangent of the state (16 channels a warp, in fp32 accumulators); warps 4 to 7
// own 16 keys each and compute dk and dx. Both recompute the scores they need, 16 x 16 at a time, in their own orientation, so
// that scores never leave registers; both then go the same way through rotation, bias and norm. Everything but o, Phi and the
// chunks' incoming states is recomputed. Source: models.md sections 3.9 and 3.10.
//
// What heads share - the gradients of B, C and the angles - is summed in dproj itself, by the same thread head after head.
#include "kernels/cuda/mamba3_tiles.cuh"
#include "kernels/cuda/shared_memory.cuh"

namespace statelab::cuda {
namespace {

using Rotation = Mamba3ScanAttrs::Rotation;
using Discretization = Mamba3ScanAttrs::Discretization;

constexpr int kSteps = kTiledHead / 16;

/// What is still missing of a chunk's first token: the weight of the token before it belongs to the chunk before.
struct Pending {
  float ddt, dgam, lam, dt, raw;
};

/// Shared memory, offsets in bytes. After the products dout's place holds the cotangents of the angles, those of x and state raw
/// rows of B and C.
template <bool kSplit>
struct Places {
  static constexpr int kFloats = TiledTokens::kFloats + 4 * kTiledHead + 9 * kMaxChunk + 16 +
                                 16 * kTiledHead + kScanWarps * kTiledHead + kTiledHead;
  static constexpr int kTile = HeadTile<kSplit>::kBytes,
                       kAngles = 2 * kMaxChunk * angle_pitch(kTiledHead / 2) * 4,
                       kDoutBytes = ((kAngles > kTile ? kAngles : kTile) + 255) / 256 * 256;
  static constexpr int kQ = (kFloats * 4 + 255) / 256 * 256, kK = kQ + kTile, kX = kK + kTile,
                       kDout = kX + kTile, kState = kDout + kDoutBytes, kDstate = kState + kTile;
  static int bytes(const ScanDims& d) { return d.nchunks > 1 ? kDstate + kTile : kDstate; }
};

/// Sum of one row of the accumulators times the tile's row, over this lane's columns.
template <bool kSplit>
__device__ __forceinline__ float row_dot(const float (&acc)[kQuadPairs][4], int high,
                                         const HeadTile<kSplit>& tile, int row) {
  float sum = 0;
  const uint32_t at = tile.at(row, QuadRow::column(0));
#pragma unroll
  for (int n = 0; n < kQuadPairs; ++n) {
    const float2 v = tile.load_at(at ^ (16u * n));
    sum = fmaf(acc[n][2 * high], v.x, fmaf(acc[n][2 * high + 1], v.y, sum));
  }
  return sum;
}

template <bool kSplit, bool kVectors>
__global__ void __launch_bounds__(kScanThreads, 1)
    tiled_backward(const __grid_constant__ Mamba3Args a) {
  extern __shared__ __align__(256) unsigned char shared[];
  const ScanDims& d = a.dims;
  constexpr int N = kTiledHead, P = kTiledHead;
  const int S = a.nangles, angle_row = angle_pitch(S), rows = d.rows, H = d.nheads;
  const int b = blockIdx.x, d_inner = H * P;
  const bool out_norm = a.norm.data != nullptr, norm_k = a.B_norm.data != nullptr,
             norm_q = a.C_norm.data != nullptr;
  using Place = Places<kSplit>;
  using Square = HeadTile<kSplit>;
  float *dphi = reinterpret_cast<float*>(shared + Place::kDout),
        *dphi_k = dphi + kMaxChunk * angle_row;
  SharedFloats memory(reinterpret_cast<float4*>(shared));
  const TiledTokens token(memory.take(TiledTokens::kFloats));
  float* weights = memory.take(4 * N);
  float *same = memory.take(kMaxChunk), *inv_k = memory.take(kMaxChunk),
        *inv_q = memory.take(kMaxChunk), *ddiag = memory.take(kMaxChunk);
  // Cotangents of log alpha by path: ends at i, starts at j, leaves the chunk from j; of w; of dt through the angles.
  float *ends = memory.take(kMaxChunk), *starts = memory.take(kMaxChunk),
        *leaves = memory.take(kMaxChunk), *dw = memory.take(kMaxChunk),
        *ddt_angle = memory.take(kMaxChunk);
  float *warp_part = memory.take(8), *pending_memory = memory.take(8);
  float* column_sums = memory.take(16 * N);  // B_bias, C_bias, B_norm, C_norm by tile of 16 tokens
  float* norm_sums = memory.take(kScanWarps * P);  // of the channels, by warp
  Pending& pending = *reinterpret_cast<Pending*>(pending_memory);

  // Of the standard rotation, per token, in 2^-64 of a turn: whole turns vanish by themselves.
  uint64_t* turns_of = reinterpret_cast<uint64_t*>(memory.take(N));
  // Every phase finds out anew who it is, hidden from the compiler, which would otherwise keep hundreds of addresses in registers
  // for the phases to come.
  uint32_t base = shared_address(shared), member = blockIdx.y, own_thread = threadIdx.x;
  int thread, lane, g, t, warp, tile_row, row0, low;
  bool queries, owns_rows;  // else keys
  auto anew = [&] {
    opaque(base), opaque(member), opaque(own_thread);
    thread = static_cast<int>(own_thread), lane = thread % kWarp, g = lane / 4, t = lane % 4;
    warp = __shfl_sync(0xFFFFFFFFu, thread / kWarp, 0);  // known to be the same for the whole warp
    queries = warp < 4, tile_row = warp % 4, row0 = tile_row * 16, low = row0 + g;
    owns_rows = row0 < d.rows;
  };
  anew();
  const int tiles = rows / 16;
  const bool turns = a.rotation != Rotation::kNone,
             learned = a.rotation == Rotation::kDataDependent;
  const int first_token = b * d.seqlen;
  if (turns && !learned && thread < S)
    turns_of[thread] = static_cast<uint64_t>(standard_turns(thread, S) * 0x1p64);
  auto standard = [&](int token_at, int j) {
    const uint64_t all = static_cast<uint64_t>(token_at) * turns_of[j];
    return static_cast<float>(static_cast<int32_t>(all >> 32)) * (2 * kPi * 0x1p-32f);
  };
  const Mamba3Partials slot(H, P, N);
  for (int at = thread; at < 16 * N; at += kScanThreads) column_sums[at] = 0;

  /// What a lane needs of a head's chunk and can wait in shared memory, in three groups: B and C; x and dy; the incoming state.
  auto fetch = [&](int of_head, int of_chunk) {
    const int t0 = of_chunk * d.chunk, length = min(d.chunk, d.seqlen - t0);
    const int i = warp * 8 + g, token_at = first_token + t0 + min(i, length - 1);
    const float* row = a.proj.at(member) + static_cast<int64_t>(token_at) * d.width;
    const int of_group = of_head / (H / d.ngroups) * N;
    if (warp * 8 < rows) {
      RawRows{base + Place::kK}.fetch<kVectors>(i, row + a.col.B + of_group);
      RawRows{base + Place::kQ}.fetch<kVectors>(i, row + a.col.C + of_group);
    }
    commit_copies();
    if (warp * 8 < rows) {
      RawRows{base + Place::kX}.fetch<kVectors>(i, row + a.col.x + of_head * P);
      RawRows{base + Place::kDout}.fetch<true>(
          i, a.dy.at(member) + static_cast<int64_t>(token_at) * d_inner + of_head * P);
    }
    commit_copies();
    if (queries && of_chunk > 0) {
      const float* from = a.states_in.at(member) +
                          ((static_cast<int64_t>(b) * H + of_head) * d.nchunks + of_chunk) * P * N;
#pragma unroll
      for (int high = 0; high < 2; ++high) {
        const int p = row0 + g + 8 * high;
        RawRows{base + Place::kState}.fetch<true>(p, from + p * N);
      }
    }
    commit_copies();
  };
  fetch(0, d.nchunks - 1);

  for (int h = 0; h < H; ++h) {
    const int heads_per_group = H / d.ngroups, group = h / heads_per_group;
    const bool first_of_group = h % heads_per_group == 0,
               last_of_group = h % heads_per_group == heads_per_group - 1;
    const float bias = a.dt_bias.at(member)[h], D = a.D.at(member)[h];
    load_row_weights(a, member, h, weights);
    if (out_norm) {
      for (int at = thread; at < kScanWarps * P; at += kScanThreads) norm_sums[at] = 0;
    }
    __syncthreads();
    float running_dphi = 0;            // of angle thread / 8, over the tokens done
    float sum_D = 0, sum_dt_bias = 0;  // of token `thread` of all chunks
    // Queries: the cotangent of the state that leaves the chunk, channels row0 .. row0 + 15.
    float dstate_sum[4 * kQuadPairs];

    for (int chunk = d.nchunks - 1; chunk >= 0; --chunk) {
      anew();
      const Square q{base + Place::kQ}, k{base + Place::kK}, x{base + Place::kX},
          dout{base + Place::kDout}, state{base + Place::kState}, dstate{base + Place::kDstate};
      const int t0 = chunk * d.chunk, length = min(d.chunk, d.seqlen - t0);
      const bool first = chunk == 0, last = chunk == d.nchunks - 1;
      const int64_t chunk_at = static_cast<int64_t>(first_token + t0) * d.width;

      // ---- tokens, rows, gate; the state that entered
      if (warp == kScanWarps - 1)
        token.compute(a, a.proj.at(member) + static_cast<int64_t>(first_token) * d.width, bias, h,
                      t0, length);
      if (warp * 8 < rows) {
        const int i = warp * 8 + g, from = min(i, length - 1);
        const float* row = a.proj.at(member) + chunk_at + static_cast<int64_t>(from) * d.width;
        const int64_t at = static_cast<int64_t>(first_token + t0 + from) * d_inner + h * P;
        QuadRow z, o_row;
        z.template load<kVectors>(row + a.col.z + h * P);
        o_row.load<true>(a.o_in.at(member) + at);
        const float* angles =
            a.phi_in.at(member) + (static_cast<int64_t>(first_token + t0 + from) * H + h) * S;
        float angle[kQuadPairs];
#pragma unroll
        for (int m = 0; m < kQuadPairs; ++m) {
          const int j = t + 4 * m;
          angle[m] = 0;
          if (j < S && learned) angle[m] = __ldg(angles + j);
          if (j < S && turns && !learned) angle[m] = standard(t0 + from, j);
        }
        wait_copies<2>();
        QuadRows r;
        r.k = RawRows{k.base}.load(i), r.q = RawRows{q.base}.load(i);
        __syncwarp();
        r.norm_and_bias(weights, norm_k, norm_q, a.eps);
        if (turns) r.rotate(S, [&](int m) { return angle[m]; });
        const bool ragged = warp * 8 + 8 > length;  // the same for the whole warp
        if (ragged && i >= length) r.k.clear(), r.q.clear();
        r.k.template store<kSplit>(k, i);
        r.q.template store<kSplit>(q, i);
        if (t == 0) same[i] = r.same, inv_k[i] = r.inv_k, inv_q[i] = r.inv_q;
        wait_copies<1>();
        QuadRow x_row = RawRows{x.base}.load(i), gated = RawRows{dout.base}.load(i);
        __syncwarp();
        if (ragged && i >= length) x_row.clear();
        x_row.template store<kSplit>(x, i);
        float inverse = 1;
        if (out_norm) {
          float square = 0;
#pragma unroll
          for (int m = 0; m < kQuadPairs; ++m)
            square += o_row.v[m].x * o_row.v[m].x + o_row.v[m].y * o_row.v[m].y;
          inverse = rsqrtf(row_sum(square) / P + a.eps);
        }
        auto out_weight = [&](int m) {
          if (!out_norm) return make_float2(1, 1);
          const float* of = a.norm.at(member) + h * P + QuadRow::column(m);
          return make_float2(__ldg(of), __ldg(of + 1));
        };
        float dot = 0;
        float* dz_row =
            a.dproj.at(member) + chunk_at + static_cast<int64_t>(from) * d.width + a.col.z + h * P;
#pragma unroll
        for (int m = 0; m < kQuadPairs; ++m) {
          const float2 gate = z.v[m], dy2 = gated.v[m], o2 = o_row.v[m], w2 = out_weight(m);
          const float s0 = quick_sigmoid(gate.x), s1 = quick_sigmoid(gate.y);
          gated.v[m] = make_float2(dy2.x * gate.x * s0, dy2.y * gate.y * s1);
          if (i < length) {
            store2(dz_row + QuadRow::column(m),
                   dy2.x * o2.x * inverse * w2.x * s0 * (1 + gate.x * (1 - s0)),
                   dy2.y * o2.y * inverse * w2.y * s1 * (1 + gate.y * (1 - s1)), kVectors);
          }
          dot += gated.v[m].x * w2.x * o2.x + gated.v[m].y * w2.y * o2.y;
        }
        if (out_norm) {
          dot = row_sum(dot) * inverse / P;
          float products[2 * kQuadPairs];
#pragma unroll
          for (int m = 0; m < kQuadPairs; ++m) {
            const float2 o2 = o_row.v[m], w2 = out_weight(m);
            float2& value = gated.v[m];
            products[2 * m] = i < length ? value.x * o2.x * inverse : 0.0f;
            products[2 * m + 1] = i < length ? value.y * o2.y * inverse : 0.0f;
            value.x = inverse * (value.x * w2.x - o2.x * inverse * dot);
            value.y = inverse * (value.y * w2.y - o2.y * inverse * dot);
          }
          const float2 sums = column_sums_of(products);
          float* to = norm_sums + warp * P + QuadRow::column(g);
          to[0] += sums.x, to[1] += sums.y;
        }
        if (ragged && i >= length) gated.clear();
        gated.template store<kSplit>(dout, i);
      }
      if (queries && !first) {
        wait_copies<0>();
#pragma unroll
        for (int high = 0; high < 2; ++high) {
          const int p = row0 + g + 8 * high;
          const QuadRow in = RawRows{state.base}.load(p);
          __syncwarp();
          in.template store<kSplit>(state, p);
        }
      }
      __syncthreads();

      anew();
      // ---- products. own: this warp's 16 tokens; other: 16 of those that they meet
      if (queries && !first) {  // the cotangent of the state that entered
        const float whole = *token.whole;
        const uint32_t state_at = state.at(low, QuadRow::column(0));
        float sum[kQuadPairs][4],
            across = 0;  // across: <cotangent of the state that leaves, state that enters>
#pragma unroll
        for (int n = 0; n < kQuadPairs; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) sum[n][e] = last ? 0.0f : dstate_sum[4 * n + e];
          const float2 in_low = state.load_at(state_at ^ (16u * n)),
                       in_high = state.load_at((state_at + 8 * Square::kPitch) ^ (16u * n));
          across += (in_low.x * sum[n][0] + in_low.y * sum[n][1]) +
                    (in_high.x * sum[n][2] + in_high.y * sum[n][3]);
#pragma unroll
          for (int e = 0; e < 4; ++e) sum[n][e] *= whole;
        }
        across = warp_sum(across);
        if (lane == 0) warp_part[warp] = across;
#pragma unroll 1
        for (int block = 0; block < tiles; ++block) {
          Fragment<kSplit> values = dout.fragment_transposed(row0, block * 16);
          values.change([&](float& v0, float& v1, int column) {
            const float2 from_start =
                *reinterpret_cast<const float2*>(token.from_start + block * 16 + column);
            v0 *= from_start.x, v1 *= from_start.y;
          });
          mma_rows(sum, values, q, block * 16);
        }
#pragma unroll
        for (int n = 0; n < kQuadPairs; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) dstate_sum[4 * n + e] = sum[n][e];
        }
      }
      float acc[kQuadPairs][4] = {};  // dq or dk / w
      auto products = [&](const bool as_queries) {
        const Square own = as_queries ? q : k, own_value = as_queries ? dout : x;
        float path[2] = {0, 0};  // row sums of X, of this lane's columns
        const Square other = as_queries ? k : q, other_value = as_queries ? x : dout;
        const float own_w[2] = {as_queries ? 1.0f : token.w[low],
                                as_queries ? 1.0f : token.w[low + 8]};
        float through[2] = {0, 0};                         // of the state
        [[maybe_unused]] float extra[kQuadPairs][4] = {};  // dx
        if (as_queries ? !first : !last) {
          const Square from = as_queries ? state : dstate;
          const float* decay = as_queries ? token.from_start : token.to_end;
#pragma unroll
          for (int s = 0; s < kSteps; ++s)
            mma_rows(acc, own_value.fragment(row0, s * 16), from, s * 16);
          scale_rows(acc, decay[low], decay[low + 8]);
          through[0] = row_sum(row_dot<kSplit>(acc, 0, own, low));
          through[1] = row_sum(row_dot<kSplit>(acc, 1, own, low + 8));
          if (!as_queries) {
#pragma unroll
            for (int s = 0; s < kSteps; ++s)
              mma_columns(extra, own.fragment(row0, s * 16), dstate, s * 16);
            scale_rows(extra, decay[low] * own_w[0], decay[low + 8] * own_w[1]);
          }
        }
        const float* own_factor = as_queries ? token.prefix : token.suffix;
        const float* other_factor = as_queries ? token.suffix : token.prefix;
        const float to_low = own_factor[low], to_high = own_factor[low + 8];
        const int begin = as_queries ? 0 : tile_row, end = as_queries ? tile_row + 1 : tiles;
#pragma unroll 1
        for (int block = begin; block < end; ++block) {
          float score[2][4] = {}, cross[2][4] = {};  // K and M
#pragma unroll
          for (int s = 0; s < kSteps; ++s) {
            mma_step<kSplit>(score[0], score[1], own.fragment(row0, s * 16),
                             other.right_transposed(s * 16, block * 16));
            mma_step<kSplit>(cross[0], cross[1], own_value.fragment(row0, s * 16),
                             other_value.right_transposed(s * 16, block * 16));
          }
          if (block != tile_row) {
            const float whole =
                token.between[as_queries ? tile_row * 4 + block : block * 4 + tile_row];
            const float row_T[2] = {to_low * whole, to_high * whole};
            const float row_w[2] = {row_T[0] * own_w[0], row_T[1] * own_w[1]};
#pragma unroll
            for (int n = 0; n < 2; ++n) {
              const int c0 = block * 16 + n * 8 + 2 * t;
              const float2 w2 = *reinterpret_cast<const float2*>(token.w + c0),
                           f2 = *reinterpret_cast<const float2*>(other_factor + c0);
              const float column_w[2] = {as_queries ? f2.x * w2.x : f2.x,
                                         as_queries ? f2.y * w2.y : f2.y};
#pragma unroll
              for (int e = 0; e < 4; ++e) {
                const float weighted = row_w[e / 2] * column_w[e % 2];
                const float T = as_queries ? weighted : row_T[e / 2] * column_w[e % 2];
                score[n][e] *= weighted;
                path[e / 2] = fmaf(score[n][e], cross[n][e], path[e / 2]);
                cross[n][e] *= T;
              }
            }
          } else {
#pragma unroll
            for (int n = 0; n < 2; ++n) {
              const int c0 = block * 16 + n * 8 + 2 * t;
              const float2 w2 = *reinterpret_cast<const float2*>(token.w + c0),
                           in2 = *reinterpret_cast<const float2*>(token.within + c0);
#pragma unroll
              for (int e = 0; e < 4; ++e) {
                const int r = low + e / 2 * 8, c = c0 + e % 2;
                const float sum = token.within[r] - (e % 2 ? in2.y : in2.x);
                float T = quick_exp2(as_queries ? kLog2E * sum : -kLog2E * sum);
                if (as_queries ? c >= r : r >= c) T = 0;
                const float weighted =
                    T * own_w[e / 2] * (as_queries ? (e % 2 ? w2.y : w2.x) : 1.0f);
                score[n][e] *= weighted;
                path[e / 2] = fmaf(score[n][e], cross[n][e], path[e / 2]);
                if (c == r) {
                  if (as_queries) ddiag[r] = cross[n][e];
                  score[n][e] = fmaf(token.gam[r], same[r], D);
                }
                cross[n][e] *= as_queries ? weighted : T;
              }
            }
          }
          Fragment<kSplit> part;
          part.set(cross[0], cross[1]);
          mma_rows(acc, part, other, block * 16);
          if (!as_queries) {
            part.set(score[0], score[1]);
            mma_rows(extra, part, dout, block * 16);
          }
        }
        path[0] = row_sum(path[0]), path[1] = row_sum(path[1]);
        if (as_queries) {
          if (t == 0) {
            ends[low] = path[0] + through[0], ends[low + 8] = path[1] + through[1];
          }
        } else {
          const float dw_low = row_sum(row_dot<kSplit>(acc, 0, own, low)),
                      dw_high = row_sum(row_dot<kSplit>(acc, 1, own, low + 8));
          if (t == 0) {
            starts[low] = path[0], starts[low + 8] = path[1];
            leaves[low] = own_w[0] * through[0], leaves[low + 8] = own_w[1] * through[1];
            dw[low] = dw_low, dw[low + 8] = dw_high;
          }
#pragma unroll
          for (int high = 0; high < 2; ++high) {
            const int i = low + 8 * high;
            float* to =
                a.dproj.at(member) + chunk_at + static_cast<int64_t>(i) * d.width + a.col.x + h * P;
#pragma unroll
            for (int n = 0; n < kQuadPairs; ++n) {
              acc[n][2 * high] *= own_w[high], acc[n][2 * high + 1] *= own_w[high];
              if (i < length)
                store2(to + QuadRow::column(n), extra[n][2 * high], extra[n][2 * high + 1],
                       kVectors);
            }
          }
        }
      };
      if (owns_rows) products(queries);
      const int tail_column = (queries ? a.col.C : a.col.B) + group * N;
      const bool normed = last_of_group && (queries ? norm_q : norm_k);
      float2 old[2][kQuadPairs];  // what earlier heads of the group have left in dproj
      if (owns_rows && !first_of_group) {
#pragma unroll
        for (int high = 0; high < 2; ++high) {
          const float* from = a.dproj.at(member) + chunk_at +
                              static_cast<int64_t>(min(low + 8 * high, length - 1)) * d.width +
                              tail_column;
#pragma unroll
          for (int n = 0; n < kQuadPairs; ++n) {
            const float* pair = from + QuadRow::column(n);
            old[high][n] =
                kVectors ? *reinterpret_cast<const float2*>(pair) : make_float2(pair[0], pair[1]);
          }
        }
      } else {
#pragma unroll
        for (int n = 0; n < kQuadPairs; ++n) old[0][n] = old[1][n] = make_float2(0, 0);
      }
      __syncthreads();  // x, dout and the states have been read
      const RawRows raw_rows{queries ? state.base : x.base};
      if (owns_rows && normed) {
#pragma unroll
        for (int high = 0; high < 2; ++high) {
          const int i = low + 8 * high;
          raw_rows.fetch<kVectors>(i, a.proj.at(member) + chunk_at +
                                          static_cast<int64_t>(min(i, length - 1)) * d.width +
                                          tail_column);
        }
        commit_copies();
      }

      if (queries && !first) {
        const uint32_t to = dstate.at(low, QuadRow::column(0));
#pragma unroll
        for (int n = 0; n < kQuadPairs; ++n) {
          dstate.store_at(to ^ (16u * n), dstate_sum[4 * n], dstate_sum[4 * n + 1]);
          dstate.store_at((to + 8 * Square::kPitch) ^ (16u * n), dstate_sum[4 * n + 2],
                          dstate_sum[4 * n + 3]);
        }
      }

      // ---- through rotation, bias and norm of B and C
      anew();
      if (owns_rows) {
        const Square mine_of = queries ? q : k, met_of = queries ? k : q;
        const float *norm_weight = weights + (queries ? N : 0), *inverse = queries ? inv_q : inv_k;
        float* to_dphi = queries ? dphi : dphi_k;
#pragma unroll
        for (int high = 0; high < 2; ++high) {
          const int i = low + 8 * high, from = min(i, length - 1);
          const float dsame = token.gam[i] * ddiag[i];
          const uint32_t mine_at = mine_of.at(i, QuadRow::column(0)),
                         met_at = met_of.at(i, QuadRow::column(0));
          const float* angles =
              a.phi_in.at(member) + (static_cast<int64_t>(first_token + t0 + from) * H + h) * S;
#pragma unroll
          for (int n = 0; n < kQuadPairs; ++n) {
            float &d0 = acc[n][2 * high], &d1 = acc[n][2 * high + 1];
            const int j = t + 4 * n;
            if (learned && j < S) {
              const float2 mine = mine_of.load_at(mine_at ^ (16u * n));
              to_dphi[i * angle_row + j] = d1 * mine.x - d0 * mine.y;
            }
            const float2 met = met_of.load_at(met_at ^ (16u * n));
            d0 = fmaf(dsame, met.x, d0), d1 = fmaf(dsame, met.y, d1);
            if (turns && j < S) {
              float sine, cosine;
              quick_sincos(learned ? __ldg(angles + j) : standard(t0 + from, j), sine, cosine);
              const float turned = d0 * cosine + d1 * sine;
              d1 = d1 * cosine - d0 * sine, d0 = turned;
            }
          }
        }
        float* slots = column_sums + ((queries ? 4 : 0) + tile_row) * N + QuadRow::column(g);
        float products[2 * kQuadPairs];
#pragma unroll
        for (int n = 0; n < kQuadPairs; ++n) {
          products[2 * n] = acc[n][0] + acc[n][2], products[2 * n + 1] = acc[n][1] + acc[n][3];
        }
        float2 sums = column_sums_of(products);
        slots[0] += sums.x, slots[1] += sums.y;
#pragma unroll
        for (int n = 0; n < kQuadPairs; ++n) products[2 * n] = products[2 * n + 1] = 0;
        wait_copies<0>();
#pragma unroll
        for (int high = 0; high < 2; ++high) {
          const int i = low + 8 * high, from = min(i, length - 1);
          float* to =
              a.dproj.at(member) + chunk_at + static_cast<int64_t>(from) * d.width + tail_column;
#pragma unroll
          for (int n = 0; n < kQuadPairs; ++n)
            acc[n][2 * high] += old[high][n].x, acc[n][2 * high + 1] += old[high][n].y;
          if (normed) {
            QuadRow raw = raw_rows.load(i);
            float dot = 0;
            const float inv = inverse[i];
#pragma unroll
            for (int n = 0; n < kQuadPairs; ++n) {
              float &d0 = acc[n][2 * high], &d1 = acc[n][2 * high + 1];
              const float2 w = weight_pair(norm_weight, n);
              raw.v[n].x *= inv, raw.v[n].y *= inv;
              if (i < length) {
                products[2 * n] += d0 * raw.v[n].x;
                products[2 * n + 1] += d1 * raw.v[n].y;
              }
              d0 *= w.x, d1 *= w.y;
              dot = fmaf(d0, raw.v[n].x, fmaf(d1, raw.v[n].y, dot));
            }
            dot = row_sum(dot) * (1.0f / N);
#pragma unroll
            for (int n = 0; n < kQuadPairs; ++n) {
              float &d0 = acc[n][2 * high], &d1 = acc[n][2 * high + 1];
              d0 = inv * (d0 - raw.v[n].x * dot), d1 = inv * (d1 - raw.v[n].y * dot);
            }
          }
          if (i < length) {
#pragma unroll
            for (int n = 0; n < kQuadPairs; ++n)
              store2(to + QuadRow::column(n), acc[n][2 * high], acc[n][2 * high + 1], kVectors);
          }
        }
        if (normed) {
          sums = column_sums_of(products);
          slots[8 * N] += sums.x, slots[8 * N + 1] += sums.y;
        }
      }
      __syncthreads();

      anew();
      float angle_in[4], old_dtheta[4];  // of pair thread % 16, on their way
      auto load_angles = [&](int j) {
#pragma unroll
        for (int u = 0; u < 4; ++u) {
          const int i = min(thread / 16 + 16 * u, length - 1);
          const int64_t at =
              chunk_at + static_cast<int64_t>(i) * d.width + a.col.ang + min(j, S - 1);
          angle_in[u] = __ldg(a.proj.at(member) + at);
          old_dtheta[u] = learned && h > 0 ? a.dproj.at(member)[at] : 0.0f;
        }
      };
      if (S > 0) load_angles(thread % 16);
      // ---- angles: dphi_t = sum over the tokens from t on. Eight lanes share an angle, each sums a run of eight tokens
      if (learned) {
        const int j = thread / 8, run = thread % 8;
        float sum[8], total = 0;
#pragma unroll
        for (int u = 7; u >= 0; --u) {
          const int i = run * 8 + u, at = i * angle_row + j;
          if (j < S && i < length) total += dphi[at] + dphi_k[at];
          sum[u] = total;
        }
        float after = total;  // becomes the sum of the runs from this one on
#pragma unroll
        for (int step = 1; step < 8; step *= 2) {
          const float right = __shfl_down_sync(0xFFFFFFFFu, after, step, 8);
          if (run + step < 8) after += right;
        }
        const float right = __shfl_down_sync(0xFFFFFFFFu, after, 1, 8);
        const float start = running_dphi + (run < 7 ? right : 0.0f);
#pragma unroll
        for (int u = 0; u < 8; ++u) {
          const int i = run * 8 + u;
          if (j < S && i < length) dphi[i * angle_row + j] = start + sum[u];
        }
        running_dphi += __shfl_sync(0xFFFFFFFFu, after, 0, 8);
        __syncthreads();
      }
      if (S > 0) {  // 16 lanes share a token
        float through[4] = {};
        for (int j0 = 0; j0 < S; j0 += 16) {
          const int j = j0 + thread % 16;
          if (j0 > 0) load_angles(j);
#pragma unroll
          for (int u = 0; u < 4; ++u) {
            const int i = thread / 16 + 16 * u;
            if (i >= length || j >= S) continue;
            const float tanh_j = quick_tanh(angle_in[u]),
                        angle_sum = learned ? dphi[i * angle_row + j] : 0.0f;
            const float dtheta = old_dtheta[u] + token.dt[i] * angle_sum;
            a.dproj.at(member)[chunk_at + static_cast<int64_t>(i) * d.width + a.col.ang + j] =
                h + 1 < H ? dtheta : dtheta * kPi * (1 - tanh_j * tanh_j);
            through[u] += kPi * tanh_j * angle_sum;
          }
        }
#pragma unroll
        for (int u = 0; u < 4; ++u) {
#pragma unroll
          for (int step = 8; step >= 1; step /= 2)
            through[u] += __shfl_xor_sync(0xFFFFFFFFu, through[u], step);
          if (lane % 16 == 0) ddt_angle[thread / 16 + 16 * u] = through[u];
        }
      }
      __syncthreads();
      if (chunk > 0 || h + 1 < H) fetch(chunk > 0 ? h : h + 1, (chunk > 0 ? chunk : d.nchunks) - 1);

      // ---- step sizes, decay, trapezoid
      anew();
      auto finish = [&](const Pending& p, int at, float ddel) {
        float ddt = p.ddt, dtrap = 0;
        if (a.discretization == Discretization::kEuler) {
          ddt += p.dgam;
        } else {
          ddt += p.lam * p.dgam + (1 - p.lam) * ddel;
          if (a.discretization == Discretization::kTrapezoidal)
            dtrap = p.dt * (p.dgam - ddel) * p.lam * (1 - p.lam);
        }
        const float draw = ddt * sigmoidf(p.raw);
        float* to = a.dproj.at(member) + static_cast<int64_t>(first_token + at) * d.width;
        to[a.col.dd_dt + h] = draw;
        to[a.col.trap + h] = dtrap;
        sum_dt_bias += draw;
      };
      if (warp < 2) {
        // Of log alpha: the paths that end at i or later less those that start there, and those that leave from before i.
        float from[2], before[2], start_total[2], leave_total[2];
#pragma unroll
        for (int u = 0; u < 2; ++u) {
          const int i = lane + u * kWarp;
          from[u] = i < length ? ends[i] - starts[i] : 0.0f;
          before[u] = i < length ? leaves[i] : 0.0f;
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
        float da =
            warp == 0 ? from[0] + start_total[1] + before[0] : from[1] + leave_total[0] + before[1];
        if (!first && !last)
          da += *token.whole * ((warp_part[0] + warp_part[1]) + (warp_part[2] + warp_part[3]));
        if (thread < length) {
          const int i = thread;
          const float dt = token.dt[i], raw_A = token.raw_A[i];
          const float f = a.heavy_tail ? (raw_A >= 0 ? 1 + raw_A : __fdividef(1.0f, 1 - raw_A))
                                       : softplusf(raw_A);
          const float slope = a.heavy_tail ? (raw_A >= 0 ? 1.0f : f * f) : sigmoidf(raw_A);
          const float A = -fmaxf(f, a.a_floor);
          a.dproj.at(member)[chunk_at + static_cast<int64_t>(i) * d.width + a.col.dd_A + h] =
              f < a.a_floor ? 0.0f : -dt * da * slope;
          const Pending own_token = {A * da + (learned ? ddt_angle[i] : 0.0f),
                                     dw[i] + same[i] * ddiag[i], token.lam[i], dt, token.raw_dt[i]};
          sum_D += ddiag[i];
          if (i > 0) finish(own_token, t0 + i, dw[i - 1]);
          if (i == 0) {
            if (!last) finish(pending, t0 + length, dw[length - 1]);
            pending = own_token;
            if (first) finish(own_token, 0, 0.0f);
          }
        }
      }
      __syncthreads();
    }

    // ---- the head's sums over tokens
    float* partial = a.partials.at(member) + static_cast<int64_t>(b) * slot.width;
    sum_D = warp_sum(sum_D), sum_dt_bias = warp_sum(sum_dt_bias);
    if (warp < 2 && lane == 0) warp_part[warp] = sum_D, warp_part[2 + warp] = sum_dt_bias;
    __syncthreads();
    if (thread == 0) partial[slot.D + h] = warp_part[0] + warp_part[1];
    if (thread == 1) partial[slot.dt_bias + h] = warp_part[2] + warp_part[3];
    if (thread < P) {
      float total = 0;
      if (out_norm) {
        for (int w = 0; w < kScanWarps; ++w) total += norm_sums[w * P + thread];
      }
      partial[slot.norm + h * P + thread] = total;
    }
    if (thread < 2 * N) {
      const int which = thread / N, n = thread % N;
      float* from = column_sums + which * 4 * N + n;
      partial[(which == 0 ? slot.B_bias : slot.C_bias) + h * N + n] =
          (from[0] + from[N]) + (from[2 * N] + from[3 * N]);
      from[0] = from[N] = from[2 * N] = from[3 * N] = 0;
    }
    __syncthreads();
  }
  float* partial = a.partials.at(member) + static_cast<int64_t>(b) * slot.width;
  if (thread < 2 * N) {
    const int which = thread / N, n = thread % N;
    const float* from = column_sums + (2 + which) * 4 * N + n;
    partial[(which == 0 ? slot.B_norm : slot.C_norm) + n] =
        (from[0] + from[N]) + (from[2 * N] + from[3 * N]);
  }
}

template <bool kSplit, bool kVectors>
void launch_sized(const Mamba3Args& a, int members, CUstream_st* stream) {
  const int bytes = Places<kSplit>::bytes(a.dims);
  const auto kernel = tiled_backward<kSplit, kVectors>;
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
  return Places<true>::kDstate + Places<true>::kTile <= shared_bytes_per_block();
}

void launch_tiled_backward(const Mamba3Args& a, bool split, int members, CUstream_st* stream) {
  if (split) {
    a.vectors ? launch_sized<true, true>(a, members, stream)
              : launch_sized<true, false>(a, members, stream);
  } else {
    a.vectors ? launch_sized<false, true>(a, members, stream)
              : launch_sized<false, false>(a, members, stream);
  }
}

}  // namespace statelab::cuda
