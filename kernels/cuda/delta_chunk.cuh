// The chunk of a gated delta rule, shared by the kernels of both directions: rows of q, k and v, decays, and M = (I + A)^(-1).
//
// A block takes 64 or 128 columns of V of one head of one sequence: the state's columns do not meet, and what they share (dq,
// dk, dbeta, dg) is a sum over them. Within a chunk, with E and F the decays from its entry and to its end and Dec_ij those
// between two tokens (models.md section 7.4):
//   A_ij = beta_i (k_i . k_j) Dec_ij, j < i;  R = v - diag(E) K S;  Vn = M diag(beta) R
//   o = K^(-1/2) (diag(E) Q S + Pm Vn), Pm_ij = (q_i . k_j) Dec_ij, j <= i;  S <- e S + K^T diag(F) Vn
// which needs neither U nor W of the reference.
#pragma once

#include <cmath>

#include "kernels/cuda/delta_tile.cuh"
#include "kernels/cuda/scan.cuh"

namespace statelab::cuda {

constexpr int kDeltaColumns =
    64;                       ///< of V that a block takes, or twice as many with twice the threads
constexpr int kRowLanes = 8;  ///< lanes that read a row together
constexpr int kLoadRows =
    kScanThreads / kRowLanes;  ///< rows that kScanThreads threads read at once

__host__ __device__ constexpr int round32(int n) { return (n + 31) / 32 * 32; }

struct DeltaArgs {
  int batch, seqlen, nheads, headdim, ngroups, d_state;
  int chunk, nchunks, rows, width;
  int tile_columns, tiles;  ///< columns of V that a block takes; blocks that share a head
  int k, v, gate, a, b;     ///< columns of proj; q begins at 0
  bool decay, gated, activate, vectors;
  float beta_max, eps, scale;
  MemberArray<const float> proj, dt_bias, A_log, norm;

  DeltaArgs(const GatedDeltaScanAttrs& at, const Shape& proj_shape)
      : batch(proj_shape[0]),
        seqlen(proj_shape[1]),
        nheads(at.nheads),
        headdim(at.headdim),
        ngroups(at.ngroups),
        d_state(at.d_state),
        chunk(at.chunk_size),
        nchunks((seqlen + chunk - 1) / chunk),
        rows(round16(seqlen < chunk ? seqlen : chunk)),
        width(proj_shape[2]),
        k(ngroups * d_state),
        v(2 * k),
        gate(v + at.d_inner()),
        a(gate + (at.gate ? at.d_inner() : 0)),
        b(a + (at.decay ? nheads : 0)),
        decay(at.decay),
        gated(at.gate),
        activate(at.activate),
        vectors(width % 2 == 0 && headdim % 2 == 0 && d_state % 2 == 0),
        beta_max(static_cast<float>(at.beta_max)),
        eps(static_cast<float>(at.eps)),
        scale(static_cast<float>(1 / std::sqrt(static_cast<double>(at.d_state)))) {
    is_sized = vectors && d_state == 64 && headdim % kDeltaColumns == 0 && rows == 32;
    const bool wide_pays = is_sized && headdim == 2 * kDeltaColumns && batch * nheads >= 128;
    tile_columns = wide_pays ? 2 * kDeltaColumns : kDeltaColumns;
    tiles = (headdim + tile_columns - 1) / tile_columns;
  }
  int d_inner() const { return nheads * headdim; }
  __host__ __device__ int64_t tokens() const { return static_cast<int64_t>(batch) * seqlen; }
  bool is_sized = false;  ///< of the sizes that kernels are compiled for
  /// A block takes twice the columns, which spares a second reading of q and k but halves the number of blocks.
  bool wide() const { return tile_columns > kDeltaColumns; }
  void narrow() {
    tile_columns = kDeltaColumns;
    tiles = (headdim + tile_columns - 1) / tile_columns;
  }
};

/// Calls f<kPrecision, kRows, kK, kV, kThreads>() with the sizes that a kernel for `a` is compiled for, 0 = known at run time.
template <class F>
void with_delta_kernel(const DeltaArgs& a, Precision precision, F&& f) {
  auto sized = [&]<Precision kPrecision>() {
    if (a.wide()) {
      f.template operator()<kPrecision, 32, 64, 2 * kDeltaColumns, 2 * kScanThreads>();
    } else if (a.is_sized) {
      f.template operator()<kPrecision, 32, 64, kDeltaColumns, kScanThreads>();
    } else {
      f.template operator()<kPrecision, 0, 0, 0, kScanThreads>();
    }
  };
  switch (precision) {
    case Precision::kFp32:
      return sized.template operator()<Precision::kFp32>();
    case Precision::kTf32:
      return sized.template operator()<Precision::kTf32>();
    case Precision::kBf16:
      return sized.template operator()<Precision::kBf16>();
  }
}

/// Sizes of a block, compile-time where not 0: padded rows, columns of K and of V.
template <int kRows, int kK, int kV>
struct DeltaSizes {
  int run_time_rows, run_time_k, run_time_v;
  __host__ __device__ __forceinline__ int rows() const { return kRows > 0 ? kRows : run_time_rows; }
  __host__ __device__ __forceinline__ int k() const { return kK > 0 ? kK : run_time_k; }
  __host__ __device__ __forceinline__ int v() const { return kV > 0 ? kV : run_time_v; }
  using Keys = Tile<round32(kK)>;
  using Values = Tile<round32(kV)>;
  using Square = Tile<round32(kRows)>;
  /// Blocks of 8 columns that a warp takes of a state at once.
  static constexpr int kStateBlocks = kV > 0 && kV % 32 == 0 ? 4 : 2;
};

__device__ __forceinline__ float siluf(float x) { return x * sigmoidf(x); }
/// The derivative of x sigmoid(x).
__device__ __forceinline__ float silu_slope(float x) {
  const float s = sigmoidf(x);
  return s * (1 + x * (1 - s));
}

/// This lane's pairs of a row of n columns: 2 l + 16 j, l the lane among kRowLanes. kN: n where it is known, else n is at most 128.
template <int kN>
struct RowPairs {
  static constexpr int kPairs = (kN > 0 ? kN : 128) / (2 * kRowLanes);
  float2 x[kPairs];
  __device__ __forceinline__ static int column(int pair) {
    return 2 * (static_cast<int>(threadIdx.x) % kRowLanes) + 2 * kRowLanes * pair;
  }
  __device__ __forceinline__ void load(const float* row, int n, bool vectors) {
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const int c = column(j);
      x[j] = make_float2(0, 0);
      if (kN > 0 || c + 1 < n) {
        x[j] = load2(row + c, kN > 0 || vectors);
      } else if (c < n) {
        x[j].x = __ldg(row + c);
      }
    }
  }
  __device__ __forceinline__ void activate() {
#pragma unroll
    for (float2& p : x) p = make_float2(siluf(p.x), siluf(p.y));
  }
  __device__ __forceinline__ float dot(const RowPairs& y) const {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) sum += x[j].x * y.x[j].x + x[j].y * y.x[j].y;
#pragma unroll
    for (int d = 1; d < kRowLanes; d *= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, d);
    return sum;
  }
  __device__ __forceinline__ float inverse_length() const { return rsqrtf(dot(*this) + 1e-6f); }
  /// As operands of products, times `factor`, from column0 (a multiple of 32) on; `columns` (even): of the tile.
  template <Precision kPrecision, int kPitch>
  __device__ __forceinline__ void store(Tile<kPitch> to, int row, int columns, int column0,
                                        float factor) const {
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      if (kN == 0 && column(j) >= columns) continue;
      // Pairs two apart lie 32 floats apart: the permutation keeps to 32.
      (&to.pair(row, column0 + column(j % 2)))[j / 2 * 16] =
          make_float2(rounded_operand<kPrecision>(x[j].x * factor),
                      rounded_operand<kPrecision>(x[j].y * factor));
    }
  }
};

/// What a block holds of a chunk in shared memory. Tiles with rows by token: q, k (K columns), v (V columns).
template <Precision kPrecision, int kRows, int kK, int kV, int kThreads>
struct DeltaChunk {
  static constexpr int kWarps = kThreads / kWarp;
  using Sizes = DeltaSizes<kRows, kK, kV>;
  /// Products with M: its entries and what it multiplies cancel, so bf16 is too coarse for them.
  static constexpr Precision kInverse =
      kPrecision == Precision::kBf16 ? Precision::kTf32 : kPrecision;

  Sizes size;
  typename Sizes::Keys q, k;
  typename Sizes::Values v;                    ///< v, then R (backward) or diag(beta) R, then Vn
  typename Sizes::Values state;                ///< S, (K, V)
  typename Sizes::Square scores, kk, inverse;  ///< Pm, (k_i . k_j) Dec_ij (j < i), M
  Decay<false> decay;
  float *beta, *g;  ///< kTokens each

  /// Floats of the tiles above and of the decays.
  __host__ __device__ static int floats(const Sizes& s) {
    return s.rows() * (2 * round32(s.k()) + round32(s.v()) + 3 * round32(s.rows())) +
           s.k() * round32(s.v()) + Decay<false>::kFloats + 2 * kTokens;
  }
  __device__ DeltaChunk(const Sizes& s, float* from) : size(s), decay(nullptr) {
    auto take = [&](int floats) {
      float* out = from;
      from += floats;
      return out;
    };
    const int pitch_k = round32(s.k()), pitch_v = round32(s.v()), pitch = round32(s.rows());
    q = {take(s.rows() * pitch_k), pitch_k}, k = {take(s.rows() * pitch_k), pitch_k};
    v = {take(s.rows() * pitch_v), pitch_v}, state = {take(s.k() * pitch_v), pitch_v};
    scores = {take(s.rows() * pitch), pitch}, kk = {take(s.rows() * pitch), pitch};
    inverse = {take(s.rows() * pitch), pitch};
    decay = Decay<false>(take(Decay<false>::kFloats));
    beta = take(kTokens), g = take(kTokens);
  }

  /// Rows of q and k, normalised, and of v; beta and g (or the decays) of each token. proj: the chunk's first row; p0: the block's first column
  /// of V. Rows past the last token hold 0.
  __device__ __forceinline__ void load(const DeltaArgs& a, const float* proj, int h, int p0,
                                       int columns, int length, float dt_bias, float rate) const {
    const int group = h / (a.nheads / a.ngroups), thread = static_cast<int>(threadIdx.x);
    const int token = kOneWarpDecays ? lane_id() : thread;
    const bool in = token < length;
    const float* scalars = proj + static_cast<int64_t>(min(token, length - 1)) * a.width + h;
    const float raw_b = __ldg(scalars + a.b), raw_a = a.decay ? __ldg(scalars + a.a) : 0.0f;
    for (int i = thread % kScanThreads / kRowLanes; i < size.rows(); i += kLoadRows) {
      const float* row = proj + static_cast<int64_t>(min(i, length - 1)) * a.width;
      const float one = i < length ? 1.0f : 0.0f;
      RowPairs<kK> qi, ki;
      RowPairs<kV> vi;
      auto read_qk = [&] {
        qi.load(row + group * a.d_state, a.d_state, a.vectors);
        ki.load(row + a.k + group * a.d_state, a.d_state, a.vectors);
      };
      auto read_v = [&] { vi.load(row + a.v + h * a.headdim + p0, columns, a.vectors); };
      auto keep_qk = [&] {
        if (a.activate) qi.activate(), ki.activate();
        const float q_factor = one * qi.inverse_length(), k_factor = one * ki.inverse_length();
        qi.template store<kPrecision>(q, i, size.k(), 0, q_factor);
        ki.template store<kPrecision>(k, i, size.k(), 0, k_factor);
      };
      auto keep_v = [&] {
        if (a.activate) vi.activate();
        vi.template store<Precision::kFp32>(v, i, size.v(), 0, one);
      };
      if constexpr (kThreads == kScanThreads) {
        read_qk(), read_v(), keep_qk(), keep_v();
      } else if (thread < kScanThreads) {
        read_qk(), keep_qk();
      } else {
        read_v(), keep_v();
      }
    }
    const float b_i = in ? a.beta_max * sigmoidf(raw_b) : 0.0f;
    const float g_i = in && a.decay ? -rate * softplusf(raw_a + dt_bias) : 0.0f;
    if constexpr (kOneWarpDecays) {
      if (warp_id() != kWarps - 1) return;
      beta[token] = b_i;
      build_decays(g_i);
    } else if (token < size.rows()) {
      beta[token] = b_i, g[token] = g_i;
    }
  }

  /// A warp holds all tokens: load() ends with the decays built.
  static constexpr bool kOneWarpDecays = kRows == 32;
  /// Between load() and a barrier on one side and their use on the other.
  __device__ __forceinline__ void finish_decays() {
    if constexpr (!kOneWarpDecays) {
      decay.build(g, size.rows());
      __syncthreads();
    }
  }
  /// Decay::build() of 32 tokens, a lane each, by shuffles within its blocks of 16.
  __device__ __forceinline__ void build_decays(float log_alpha) const {
    constexpr unsigned kAll = 0xFFFFFFFFu;
    const int i = lane_id(), place = i % 16;
    float here = log_alpha, rest = log_alpha;
#pragma unroll
    for (int d = 1; d < 16; d *= 2) {
      const float up = __shfl_up_sync(kAll, here, d, 16),
                  down = __shfl_down_sync(kAll, rest, d, 16);
      if (place >= d) here += up;
      if (place + d < 16) rest += down;
    }
    const float block = __shfl_sync(kAll, here, 15, 16), other = __shfl_xor_sync(kAll, block, 16);
    const float after = __shfl_down_sync(kAll, rest, 1, 16);
    rest = place == 15 ? 0.0f : after;
    decay.prefix[i] = expf(here), decay.suffix[i] = expf(rest), decay.within[i] = here;
    decay.from_start[i] = expf(i < 16 ? here : other + here);
    decay.to_end[i] = expf(i < 16 ? rest + other : rest);
    if (i == 0) decay.between[4] = 1, *decay.whole = expf(block + other);
  }

  /// Asks for the rows of another chunk of `length` tokens to be brought into the L2 cache: of each, with `width` floats, columns
  /// `begin` to `end`, at most 512 of them.
  __device__ __forceinline__ static void prefetch(const float* rows, int length, int width,
                                                  int begin, int end) {
    constexpr int kLine = 32, kLanes = 16;  // floats a line; threads a row
    const int lane = static_cast<int>(threadIdx.x) % kLanes;
    for (int i = static_cast<int>(threadIdx.x) / kLanes; i < length; i += kThreads / kLanes) {
      const int column = begin + lane * kLine;
      if (column < end)
        asm volatile(
            "prefetch.global.L2 [%0];" ::"l"(rows + static_cast<int64_t>(i) * width + column));
    }
  }

  __device__ __forceinline__ int blocks() const { return size.rows() / 16; }
  /// The item-th block (row, column) of the lower triangle.
  __device__ __forceinline__ static int2 lower_block(int item) {
    int row = 0;
    while (item > row) item -= ++row;
    return make_int2(row, item);
  }

  /// kk and scores, zero above the diagonal within its blocks. The first warps take blocks.
  __device__ __forceinline__ void squares() const {
    const int triangle = blocks() * (blocks() + 1) / 2;
    for (int item = warp_id(); item < 2 * triangle; item += kWarps) {
      const bool keys = item < triangle;
      const int2 block = lower_block(keys ? item : item - triangle);
      float acc[2][4] = {};
      tile_product<kPrecision>(acc, operand<Sum::kAlongRow>(keys ? k : q, block.x * 16),
                               operand<Sum::kAlongRow>(k, block.y * 16), 0, size.k());
      const auto to = keys ? kk : scores;
      each_pair<2>([&](int n, int high, int row, int column) {
        const int i = block.x * 16 + row, j = block.y * 16 + column;
        const int last = keys ? i - 1 : i;  // of the columns that count
        const float left = j <= last ? acc[n][2 * high] * decay(i, j) : 0.0f,
                    right = j + 1 <= last ? acc[n][2 * high + 1] * decay(i, j + 1) : 0.0f;
        to.pair(i, j) = keys ? make_float2(left, right)
                             : make_float2(rounded_operand<kPrecision>(left),
                                           rounded_operand<kPrecision>(right));
      });
    }
  }

  /// v <- R, or diag(beta) R where kWeighted.
  template <bool kWeighted>
  __device__ __forceinline__ void residuals(bool first) const {
    const int columns = size.v() / 16;
    for (int item = warp_id(); item < blocks() * columns; item += kWarps) {
      const int row0 = item / columns * 16, p0 = item % columns * 16;
      float acc[2][4] = {};
      if (!first) {
        tile_product<kPrecision>(acc, operand<Sum::kAlongRow>(k, row0),
                                 operand<Sum::kDownColumn, false>(state, p0), 0, size.k());
      }
      each_pair<2>([&](int n, int high, int row, int column) {
        const int i = row0 + row;
        float2& x = v.pair(i, p0 + column);
        const float weight = kWeighted ? beta[i] : 1.0f, entry = decay.from_start[i];
        x = make_float2(weight * (x.x - entry * acc[n][2 * high]),
                        weight * (x.y - entry * acc[n][2 * high + 1]));
      });
    }
  }

  /// The diagonal blocks of M by forward substitution, a lane a column, two blocks a warp.
  __device__ __forceinline__ void invert_diagonal() const {
    const int first = (warp_id() * 2 + lane_id() / 16) * 16, c = lane_id() % 16;
    if (first >= size.rows()) return;
    float m[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      float sum[2] = {};
#pragma unroll
      for (int quad = 0; quad < i; quad += 4) {
        const float4 x = *reinterpret_cast<const float4*>(&kk(first + i, first + quad));
        const float four[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (quad + e < i) sum[e % 2] = fmaf(four[e], m[quad + e], sum[e % 2]);
        }
      }
      m[i] = (i == c ? 1.0f : 0.0f) - beta[first + i] * (sum[0] + sum[1]);
    }
#pragma unroll
    for (int i = 0; i < 16; ++i) inverse(first + i, first + c) = rounded_operand<kInverse>(m[i]);
  }

  /// The blocks of M below the diagonal, M_IJ = -M_II sum over J <= m < I of A_Im M_mJ: a warp a column of blocks.
  __device__ __forceinline__ void invert_below() const {
    const int j = warp_id() * 16;
    for (int i = j + 16; i < size.rows(); i += 16) {
      float acc[2][4] = {};
      tile_product<kInverse>(acc, operand<Sum::kAlongRow, false>(kk, i),
                             operand<Sum::kDownColumn>(inverse, j), j, i);
      each_pair<2>([&](int n, int high, int row, int column) {
        const float weight = beta[i + row];
        inverse.pair(i + row, j + column) =
            make_float2(rounded_operand<kInverse>(weight * acc[n][2 * high]),
                        rounded_operand<kInverse>(weight * acc[n][2 * high + 1]));
        acc[n][2 * high] = acc[n][2 * high + 1] = 0;
      });
      __syncwarp();
      tile_product<kInverse>(acc, operand<Sum::kAlongRow>(inverse, i),
                             operand<Sum::kDownColumn>(inverse, j), i, i + 16);
      __syncwarp();
      each_pair<2>([&](int n, int high, int row, int column) {
        inverse.pair(i + row, j + column) =
            make_float2(rounded_operand<kInverse>(-acc[n][2 * high]),
                        rounded_operand<kInverse>(-acc[n][2 * high + 1]));
      });
      __syncwarp();
    }
  }

  /// v <- Vn, in place: a warp takes 8 columns, from the last rows to the first. kWeighted: v is diag(beta) R already.
  template <bool kWeighted>
  __device__ __forceinline__ void solve(int p0) const {
    for (int row0 = size.rows() - 16; row0 >= 0; row0 -= 16) {
      float acc[1][4] = {};
      tile_product<kInverse, !kWeighted>(acc, operand<Sum::kAlongRow>(inverse, row0),
                                         operand<Sum::kDownColumn, false>(v, p0), 0, row0 + 16,
                                         beta);
      __syncwarp();
      each_pair<1>([&](int n, int high, int row, int column) {
        v.pair(row0 + row, p0 + column) =
            make_float2(rounded_operand<kPrecision>(acc[n][2 * high]),
                        rounded_operand<kPrecision>(acc[n][2 * high + 1]));
      });
      __syncwarp();
    }
  }
};

}  // namespace statelab::cuda
