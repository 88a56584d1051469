// gated_delta_scan_bwd: three kernels, of which this file has the second, the chunk-wise adjoint of the rule: a block per tile of
// columns of V of a head of a sequence, from the last chunk to the first; delta_rows.cuh has those before and after it. Source:
// models.md sections 7.2 and 7.5, with Vn = M diag(beta) R (delta_chunk.cuh), so that dA = -tril(Vb Vn^T) and the cotangent of K S
// is -diag(beta E) Vb.
#include <algorithm>

#include "kernels/cuda/check.cuh"
#include "kernels/cuda/delta_chunk.cuh"
#include "kernels/cuda/delta_rows.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/scan_limits.h"
#include "kernels/cuda/shared_memory.cuh"

namespace statelab::cuda {
namespace {

/// What the adjoint of a chunk needs beside the chunk.
template <class Sizes>
struct Adjoint {
  typename Sizes::Values dout, dvn,
      dstate;      ///< sc do; the cotangent of Vn, then Vb; that of the state
  float* minus_g;  ///< -beta E
  float *beta_part, *entry_part, *key_part, *end_part;  ///< row sums by column block
  float *row_kk, *column_kk, *row_scores, *column_scores;
  float *dc, *df, *warp_part;  ///< warp_part: of at most 16 warps, then their sum
  static constexpr int kWarpParts = 20;

  __host__ __device__ static int floats(const Sizes& s) {
    return 2 * s.rows() * round32(s.v()) + s.k() * round32(s.v()) +
           s.rows() * (3 + s.v() / 8 + 3 * (s.k() / 16) + 4 * (s.rows() / 16)) + kWarpParts;
  }
  __device__ Adjoint(const Sizes& s, float* from) {
    auto take = [&](int floats) {
      float* out = from;
      from += floats;
      return out;
    };
    const int pitch = round32(s.v()), rows = s.rows();
    dout = {take(rows * pitch), pitch}, dvn = {take(rows * pitch), pitch};
    dstate = {take(s.k() * pitch), pitch};
    minus_g = take(rows), dc = take(rows), df = take(rows);
    beta_part = take(rows * (s.v() / 8));
    entry_part = take(rows * (s.k() / 16)), key_part = take(rows * (s.k() / 16));
    end_part = take(rows * (s.k() / 16));
    row_kk = take(rows * (rows / 16)), column_kk = take(rows * (rows / 16));
    row_scores = take(rows * (rows / 16)), column_scores = take(rows * (rows / 16));
    warp_part = take(kWarpParts);
  }
};

template <Precision kPrecision, int kRows, int kK, int kV, int kThreads>
__global__ void __launch_bounds__(kThreads, kRows > 0 ? 512 / kThreads : 1)
    delta_bwd_kernel(const __grid_constant__ BackwardArgs a) {
  extern __shared__ float4 shared[];
  using Chunk = DeltaChunk<kPrecision, kRows, kK, kV, kThreads>;
  constexpr int kStateBlocks = Chunk::Sizes::kStateBlocks;
  static_assert(Chunk::kWarps < Adjoint<typename Chunk::Sizes>::kWarpParts);
  const int member = blockIdx.y, tile = blockIdx.x % a.tiles, sequence_head = blockIdx.x / a.tiles;
  const int b = sequence_head / a.nheads, h = sequence_head % a.nheads;
  const int p0 = tile * a.tile_columns, columns = kV > 0 ? kV : min(a.tile_columns, a.headdim - p0);
  float* floats = reinterpret_cast<float*>(shared);
  Chunk c({a.rows, round16(a.d_state), round16(columns)}, floats);
  const Adjoint<typename Chunk::Sizes> d(c.size, floats + Chunk::floats(c.size));
  const int rows = c.size.rows(), K = c.size.k(), V = c.size.v();
  const int blocks = c.blocks(), blocks_v = V / 16, blocks_k = K / 16;
  const int thread = static_cast<int>(threadIdx.x), g = lane_id() / 4, t = lane_id() % 4;
  const float dt_bias = a.decay ? a.dt_bias.at(member)[h] : 0.0f,
              rate = a.decay ? expf(a.A_log.at(member)[h]) : 0.0f;
  const int d_inner = a.nheads * a.headdim, slots = a.nheads * a.tiles;
  const int slot = h * a.tiles + tile;
  for (int chunk = a.nchunks - 1; chunk >= 0; --chunk) {
    const int t0 = chunk * a.chunk, length = min(a.chunk, a.seqlen - t0);
    const int64_t token0 = static_cast<int64_t>(b) * a.seqlen + t0;
    const bool first = chunk == 0, last = chunk + 1 == a.nchunks;
    const float* proj = a.proj.at(member) + token0 * a.width;

    // ---- the forward quantities
    c.load(a, proj, h, p0, columns, length, dt_bias, rate);
    // A column half for kScanThreads threads.
    constexpr int kHalf = kV > kDeltaColumns ? kDeltaColumns : kV;
    const int half = thread / kScanThreads * kHalf;
    for (int i = thread % kScanThreads / kRowLanes; i < rows; i += kLoadRows) {
      RowPairs<kHalf> x;
      x.load(
          a.dout.at(member) + (token0 + min(i, length - 1)) * d_inner + h * a.headdim + p0 + half,
          columns, a.vectors);
      x.template store<kPrecision>(d.dout, i, V, half, i < length ? a.scale : 0.0f);
    }
    if (!first) {
      const float* from =
          a.states.at(member) +
          (static_cast<int64_t>(sequence_head) * a.nchunks + chunk) * a.d_state * a.headdim + p0;
      if constexpr (kV > 0) {
#pragma unroll
        for (int at = thread; at < kK * kV / 4; at += kThreads) {
          const int n = at / (kV / 4), p = at % (kV / 4) * 4;
          const float4 x = __ldg(reinterpret_cast<const float4*>(from + n * a.headdim + p));
          c.state.quad(n, p) =
              make_float4(rounded_operand<kPrecision>(x.x), rounded_operand<kPrecision>(x.y),
                          rounded_operand<kPrecision>(x.z), rounded_operand<kPrecision>(x.w));
        }
      } else {
        for (int at = thread; at < K * V; at += kThreads) {
          const int n = at / V, p = at % V;
          const float x = n < a.d_state && p < columns ? __ldg(from + n * a.headdim + p) : 0.0f;
          c.state(n, p) = rounded_operand<kPrecision>(x);
        }
      }
    }
    if (kRows > 0 && !first) {  // the chunk before
      const float* before = proj - static_cast<int64_t>(a.chunk) * a.width;
      Chunk::prefetch(before, a.chunk, a.width, 0, a.gate);
      Chunk::prefetch(a.dout.at(member) + (token0 - a.chunk) * d_inner, a.chunk, d_inner,
                      h * a.headdim + p0, h * a.headdim + p0 + columns);
      if (chunk > 1) {
        const float* state =
            a.states.at(member) +
            (static_cast<int64_t>(sequence_head) * a.nchunks + chunk - 1) * a.d_state * a.headdim;
        Chunk::prefetch(state, a.d_state, a.headdim, p0, p0 + columns);
      }
    }
    __syncthreads();
    c.finish_decays();
    c.squares();
    c.template residuals<false>(first);
    if (thread < rows) d.minus_g[thread] = -c.beta[thread] * c.decay.from_start[thread];
    float across = 0;  // <Sb, S>
    if (!first && !last) {
      for (int at = thread; at < K * V / 4; at += kThreads) {
        const float4 x = c.state.quad(at / (V / 4), at % (V / 4) * 4),
                     y = d.dstate.quad(at / (V / 4), at % (V / 4) * 4);
        across += x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
      }
      across = warp_sum(across);
    }
    if (lane_id() == 0) d.warp_part[warp_id()] = across;
    __syncthreads();

    // ---- dVn = Pm^T dd + diag(F) K Sb, beside the inverse
    c.invert_diagonal();
    for (int item = warp_id(); item < blocks * blocks_v; item += Chunk::kWarps) {
      const int row0 = item / blocks_v * 16, column0 = item % blocks_v * 16;
      float acc[2][4] = {};
      if (!last) {
        tile_product<kPrecision>(acc, operand<Sum::kAlongRow>(c.k, row0),
                                 operand<Sum::kDownColumn, false>(d.dstate, column0), 0, K);
        scale_pair_rows(acc, c.decay.to_end[row0 + g], c.decay.to_end[row0 + g + 8]);
      }
      tile_product<kPrecision>(acc, operand<Sum::kDownColumn>(c.scores, row0),
                               operand<Sum::kDownColumn>(d.dout, column0), row0, rows);
      each_pair<2>([&](int n, int high, int row, int column) {
        d.dvn.pair(row0 + row, column0 + column) =
            make_float2(rounded_operand<Chunk::kInverse>(acc[n][2 * high]),
                        rounded_operand<Chunk::kInverse>(acc[n][2 * high + 1]));
      });
    }
    __syncthreads();
    if (blocks > 1) {
      c.invert_below();
      __syncthreads();
    }

    // ---- Vb = M^T dVn and Vn, in place: a warp takes 8 columns
    for (int item = warp_id(); item < 2 * blocks_v; item += Chunk::kWarps) {
      const int column0 = item * 8;
      for (int row0 = 0; row0 < rows; row0 += 16) {
        float acc[1][4] = {};
        tile_product<Chunk::kInverse>(acc, operand<Sum::kDownColumn>(c.inverse, row0),
                                      operand<Sum::kDownColumn>(d.dvn, column0), row0, rows);
        __syncwarp();
        store_row_products(acc, c.v, row0, column0, d.beta_part + item * rows);
        each_pair<1>([&](int n, int high, int row, int column) {
          const int i = row0 + row, p = column0 + column;
          d.dvn.pair(i, p) = make_float2(rounded_operand<kPrecision>(acc[n][2 * high]),
                                         rounded_operand<kPrecision>(acc[n][2 * high + 1]));
          if (i >= length || p >= columns || a.dproj.data == nullptr) return;
          const int64_t at = i * static_cast<int64_t>(a.width) + a.v + h * a.headdim + p0 + p;
          float2 dv = make_float2(c.beta[i] * acc[n][2 * high], c.beta[i] * acc[n][2 * high + 1]);
          const bool both = p + 1 < columns;
          if (a.activate) {
            dv.x *= silu_slope(__ldg(proj + at));
            if (both) dv.y *= silu_slope(__ldg(proj + at + 1));
          }
          float* to = a.dproj.at(member) + token0 * a.width + at;
          if (both) {
            store2(to, dv.x, dv.y, a.vectors);
          } else {
            *to = dv.x;
          }
        });
        __syncwarp();
      }
      c.template solve<false>(column0);
    }
    __syncthreads();

    // ---- through the squares: kk <- diag(beta) dA Dec, scores <- dPm Dec
    const int triangle = blocks * (blocks + 1) / 2;
    for (int item = warp_id(); item < 2 * triangle; item += Chunk::kWarps) {
      const bool keys = item < triangle;
      const int2 block = Chunk::lower_block(keys ? item : item - triangle);
      float acc[2][4] = {};
      tile_product<kPrecision>(acc, operand<Sum::kAlongRow>(keys ? d.dvn : d.dout, block.x * 16),
                               operand<Sum::kAlongRow>(c.v, block.y * 16), 0, V);
      const auto square = keys ? c.kk : c.scores;
      float row_part[2] = {}, column_part[2][2] = {};
      each_pair<2>([&](int n, int high, int row, int column) {
        const int i = block.x * 16 + row, j0 = block.y * 16 + column;
        const float weight = keys ? c.beta[i] : 1.0f;
        float2& at = square.pair(i, j0);
        const float old[2] = {at.x, at.y};
        float next[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int j = j0 + e;
          const bool counts = keys ? j < i : j <= i;
          const float x = keys ? -acc[n][2 * high + e] : acc[n][2 * high + e];
          const float product = counts ? x * old[e] : 0.0f;
          row_part[high] += product;
          column_part[n][e] += weight * product;
          next[e] = rounded_operand<kPrecision>(counts ? weight * x * c.decay(i, j) : 0.0f);
        }
        at = make_float2(next[0], next[1]);
      });
      float* row_to = (keys ? d.row_kk : d.row_scores) + block.y * rows + block.x * 16;
      float* column_to = (keys ? d.column_kk : d.column_scores) + block.x * rows + block.y * 16;
#pragma unroll
      for (int high = 0; high < 2; ++high) {
        const float sum = row_sum(row_part[high]);
        if (t == 0) row_to[g + 8 * high] = sum;
      }
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float sum = column_sum(column_part[n][e]);
          if (g == 0) column_to[n * 8 + 2 * t + e] = sum;
        }
      }
    }
    __syncthreads();

    // ---- dq and dk, this block's parts
    for (int item = warp_id(); item < 2 * blocks * blocks_k; item += Chunk::kWarps) {
      const bool keys = item >= blocks * blocks_k;
      const int place = keys ? item - blocks * blocks_k : item;
      const int row0 = place / blocks_k * 16, block = place % blocks_k, column0 = block * 16;
      float acc[2][4] = {};
      if (keys) {
        if (!first) {
          tile_product<kPrecision>(acc, operand<Sum::kAlongRow>(d.dvn, row0),
                                   operand<Sum::kAlongRow>(c.state, column0), 0, V);
          scale_pair_rows(acc, d.minus_g[row0 + g], d.minus_g[row0 + g + 8]);
          store_row_products(acc, c.k, row0, column0, d.key_part + block * rows);
        }
        if (!last) {
          float end[2][4] = {};
          tile_product<kPrecision>(end, operand<Sum::kAlongRow>(c.v, row0),
                                   operand<Sum::kAlongRow, false>(d.dstate, column0), 0, V);
          scale_pair_rows(end, c.decay.to_end[row0 + g], c.decay.to_end[row0 + g + 8]);
          store_row_products(end, c.k, row0, column0, d.end_part + block * rows);
          each_pair<2>([&](int n, int high, int, int) {
            acc[n][2 * high] += end[n][2 * high], acc[n][2 * high + 1] += end[n][2 * high + 1];
          });
        }
        tile_product<kPrecision>(acc, operand<Sum::kDownColumn>(c.scores, row0),
                                 operand<Sum::kDownColumn>(c.q, column0), row0, rows);
        tile_product<kPrecision>(acc, operand<Sum::kAlongRow>(c.kk, row0),
                                 operand<Sum::kDownColumn>(c.k, column0), 0, row0 + 16);
        tile_product<kPrecision>(acc, operand<Sum::kDownColumn>(c.kk, row0),
                                 operand<Sum::kDownColumn>(c.k, column0), row0, rows);
      } else {
        if (!first) {
          tile_product<kPrecision>(acc, operand<Sum::kAlongRow>(d.dout, row0),
                                   operand<Sum::kAlongRow>(c.state, column0), 0, V);
          scale_pair_rows(acc, c.decay.from_start[row0 + g], c.decay.from_start[row0 + g + 8]);
          store_row_products(acc, c.q, row0, column0, d.entry_part + block * rows);
        }
        tile_product<kPrecision>(acc, operand<Sum::kAlongRow>(c.scores, row0),
                                 operand<Sum::kDownColumn>(c.k, column0), 0, row0 + 16);
      }
      each_pair<2>([&](int n, int high, int row, int column) {
        const int i = row0 + row, at = column0 + column;
        if (i >= length || at >= a.d_state) return;
        float* to = a.dqk.at(member) + ((token0 + i) * slots + slot) * 2 * a.d_state +
                    (keys ? a.d_state : 0) + at;
        if (at + 1 < a.d_state) {
          store2(to, acc[n][2 * high], acc[n][2 * high + 1], a.vectors);
        } else {
          *to = acc[n][2 * high];
        }
      });
    }
    __syncthreads();

    // ---- the state's cotangent: Sb <- e Sb + Q^T diag(E) dd - K^T diag(beta E) Vb; sums of the tokens' scalars
    const float whole = *c.decay.whole;
    if (!first) {
      const int per_row = V / (8 * kStateBlocks);
      for (int item = warp_id(); item < blocks_k * per_row; item += Chunk::kWarps) {
        const int n0 = item / per_row * 16, column0 = item % per_row * (8 * kStateBlocks);
        float acc[kStateBlocks][4] = {};
        tile_product<kPrecision, true>(acc, operand<Sum::kDownColumn>(c.q, n0),
                                       operand<Sum::kDownColumn>(d.dout, column0), 0, rows,
                                       c.decay.from_start);
        tile_product<kPrecision, true>(acc, operand<Sum::kDownColumn>(c.k, n0),
                                       operand<Sum::kDownColumn>(d.dvn, column0), 0, rows,
                                       d.minus_g);
        each_pair<kStateBlocks>([&](int n, int high, int row, int column) {
          float2& s = d.dstate.pair(n0 + row, column0 + column);
          const float2 old = last ? make_float2(0, 0) : make_float2(whole * s.x, whole * s.y);
          s = make_float2(old.x + acc[n][2 * high], old.y + acc[n][2 * high + 1]);
        });
      }
    }
    if (thread < rows) {
      const int i = thread;
      float dbeta = 0, dkk = 0, dc = 0, df = 0;
      for (int part = 0; part < V / 8; ++part) dbeta += d.beta_part[part * rows + i];
      for (int part = 0; part <= i / 16; ++part) {
        dkk += d.row_kk[part * rows + i];
        dc += d.row_scores[part * rows + i];
      }
      for (int part = i / 16; part < blocks; ++part)
        dc -= d.column_scores[part * rows + i] + d.column_kk[part * rows + i];
      dc += c.beta[i] * dkk;
      for (int part = 0; part < blocks_k; ++part) {
        if (!first) dc += d.entry_part[part * rows + i] + d.key_part[part * rows + i];
        if (!last) df += d.end_part[part * rows + i];
      }
      d.dc[i] = dc, d.df[i] = df;
      if (i < length) a.dscalar.at(member)[((token0 + i) * slots + slot) * 2] = dbeta + dkk;
      if (i == 0) {
        float sum = 0;
        for (int w = 0; w < Chunk::kWarps; ++w) sum += d.warp_part[w];
        d.warp_part[Chunk::kWarps] = whole * sum;
      }
    }
    __syncthreads();
    if (thread < length) {  // beside the next chunk's loads
      const int m = thread;
      float dg = d.warp_part[Chunk::kWarps];
      for (int i = 0; i < length; ++i) dg += i >= m ? d.dc[i] : d.df[i];
      a.dscalar.at(member)[((token0 + m) * slots + slot) * 2 + 1] = first && m == 0 ? 0.0f : dg;
    }
  }
}

template <Precision kPrecision, int kRows, int kK, int kV, int kThreads>
int backward_bytes(int rows, int d_state, int columns) {
  using Chunk = DeltaChunk<kPrecision, kRows, kK, kV, kThreads>;
  const typename Chunk::Sizes size{rows, round16(d_state), round16(columns)};
  return (Chunk::floats(size) + Adjoint<typename Chunk::Sizes>::floats(size)) *
         static_cast<int>(sizeof(float));
}

template <Precision kPrecision, int kRows, int kK, int kV, int kThreads>
void launch_sized(const BackwardArgs& a, int members, CUstream_st* stream) {
  const int bytes = backward_bytes<kPrecision, kRows, kK, kV, kThreads>(
      a.rows, a.d_state, std::min(a.headdim, a.tile_columns));
  const auto kernel = delta_bwd_kernel<kPrecision, kRows, kK, kV, kThreads>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "gated_delta_scan_bwd");
  kernel<<<member_grid(static_cast<int64_t>(a.batch) * a.nheads * a.tiles, members), kThreads,
           static_cast<size_t>(bytes), stream>>>(a);
  check_launch("gated_delta_scan_bwd");
}

/// For workspace_bytes() and launch() alike, since the tiles size the workspace: wide blocks only where they fit.
BackwardArgs backward_args(const GatedDeltaScanAttrs& attrs, const Shape& proj) {
  BackwardArgs a(attrs, proj);
  const int wide_bytes =
      backward_bytes<Precision::kFp32, 32, 64, 2 * kDeltaColumns, 2 * kScanThreads>(
          a.rows, a.d_state, a.tile_columns);
  if (a.wide() && wide_bytes > shared_bytes_per_block()) a.narrow();
  return a;
}

int64_t workspace_bytes(const CallShapes& c) {
  BackwardArgs a = backward_args(c.attrs<GatedDeltaScanAttrs>(), c.in[1]->shape);
  return 4 * a.place(nullptr, 0);
}

void launch(const CudaCall& call, CUstream_st* stream) {
  BackwardArgs a = backward_args(call.attrs<GatedDeltaScanAttrs>(), *call.in[1].shape);
  a.dy = member_array<const float>(call.in[0]);
  a.proj = member_array<const float>(call.in[1]);
  a.dt_bias = member_array<const float>(call.in[2]);
  a.A_log = member_array<const float>(call.in[3]);
  a.norm = member_array<const float>(call.in[4]);
  a.o = member_array<const float>(call.in[5]);
  a.states = member_array<const float>(call.in[6]);
  a.dproj = member_array<float>(call.out[0]);
  a.place(call.workspace.at<float>(0), call.workspace.stride_bytes / 4);
  const dim3 norm_grid = member_grid(a.norm_blocks(), call.members);
  if (a.headdim <= 64) {
    delta_norm_kernel<1><<<norm_grid, kScanThreads, 0, stream>>>(a);
  } else {
    delta_norm_kernel<2><<<norm_grid, kScanThreads, 0, stream>>>(a);
  }
  check_launch("gated_delta_scan_bwd");
  with_delta_kernel(a, call.precision,
                    [&]<Precision kPrecision, int kRows, int kK, int kV, int kThreads>() {
                      launch_sized<kPrecision, kRows, kK, kV, kThreads>(a, call.members, stream);
                    });
  const dim3 tail_grid = member_grid(2 * a.tail_blocks(), call.members);
  if (a.d_state == 64 && a.vectors) {
    delta_tail_kernel<64><<<tail_grid, kScanThreads, 0, stream>>>(a);
  } else {
    delta_tail_kernel<0><<<tail_grid, kScanThreads, 0, stream>>>(a);
  }
  check_launch("gated_delta_scan_bwd");
  auto sum = [&](const MemberArray<float>& parts, int64_t count, int64_t width, const Operand& to,
                 int64_t to_width, const Operand& rest) {
    const RunSums p{{parts.data, parts.stride},
                    width,
                    count,
                    {slices<float>(to), slices<float>(rest)},
                    {0, to_width}};
    sum_runs_kernel<<<member_grid(ceil_div(width, 32), call.members), 1024, 0, stream>>>(p);
    check_launch("gated_delta_scan_bwd");
  };
  sum(a.norm_partials, a.norm_blocks(), a.headdim, call.out[3], a.headdim, {});
  if (a.decay) sum(a.partials, a.tail_blocks(), 2 * a.nheads, call.out[1], a.nheads, call.out[2]);
}

std::string limit(const CallShapes& c) {
  const auto& a = c.attrs<GatedDeltaScanAttrs>();
  return delta_scan_limit(a.headdim, a.d_state, a.chunk_size);
}

bool fits_shared(int headdim, int d_state, int chunk, int device) {
  return backward_bytes<Precision::kFp32, 0, 0, 0, kScanThreads>(
             round16(chunk), d_state, std::min(headdim, kDeltaColumns)) <=
         shared_bytes_per_block(device);
}

}  // namespace

CudaKernel gated_delta_scan_bwd_kernel() { return {workspace_bytes, launch, limit}; }

std::string delta_scan_limit(int headdim, int d_state, int chunk_size) {
  auto text = [](const char* name, int value, const std::string& rule) {
    return std::string(name) + " must be at most " + rule + " on a CUDA device, is " +
           std::to_string(value);
  };
  if (headdim > 128) return text("headdim", headdim, "128");
  if (d_state > 128) return text("d_state", d_state, "128");
  int fits = kMaxChunk;
  while (fits > 16 && !fits_shared(headdim, d_state, fits, 0)) fits -= 16;
  if (chunk_size > fits)
    return text("chunk_size", chunk_size, std::to_string(fits) + " for this headdim and d_state");
  return {};
}

}  // namespace statelab::cuda

namespace statelab {

int cuda_delta_chunk_size(int headdim, int d_state, int chunk_size, int device) {
  return chunk_size >= 32 && cuda::fits_shared(headdim, d_state, 32, device) ? 32 : 16;
}

}  // namespace statelab
