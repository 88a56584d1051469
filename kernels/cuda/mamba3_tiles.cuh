// What both directions of mamba3_scan share where they run on bf16 tiles (mma.cuh): heads of 64 channels with 64 states, in tf32
// (operands split into two bf16) and bf16. Source: models.md sections 3.2 and 3.6.
//
// Four lanes share a token's row: lane 4 g + t has the pairs of columns 2t + 8m, m < 8, of row g. That is the accumulators' and
// the fragments' layout, so that sums over a row take two shuffles and nothing passes from warp to warp.
#pragma once

#include <type_traits>

#include "kernels/cuda/mamba3_tiles.h"
#include "kernels/cuda/mma.cuh"

namespace statelab::cuda {

constexpr int kQuadPairs = kTiledHead / 8;

template <bool kSplit>
using HeadTile = Tile<kSplit, kMaxChunk, kTiledHead, true>;

/// Instructions of the special function unit where the library's functions take ten times as many: relative errors of a few 2^-22,
/// absolute ones for sine and cosine of an angle in about [-pi, pi); far below those of the products.
__device__ __forceinline__ float quick_exp2(float x) {
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
}
__device__ __forceinline__ float quick_inverse(float x) {
  float out;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
}
constexpr float kLog2E = 1.4426950408889634f;
__device__ __forceinline__ float quick_sigmoid(float x) {
  return quick_inverse(1.0f + quick_exp2(-kLog2E * x));
}
__device__ __forceinline__ float quick_tanh(float x) {
  return fmaf(-2.0f, quick_inverse(1.0f + quick_exp2(2 * kLog2E * x)), 1.0f);
}
__device__ __forceinline__ void quick_sincos(float x, float& sine, float& cosine) {
  sine = __sinf(x), cosine = __cosf(x);
}

/// Floats from token to token of a chunk's angles in shared memory: odd, so that tokens hit different banks.
__host__ __device__ constexpr int angle_pitch(int nangles) { return nangles | 1; }

/// Step sizes, weights and decays of a chunk's tokens; T_ij as in Decay, from factors per block of 16 tokens.
struct TiledTokens {
  float *dt, *gam, *w, *lam;  ///< (kTokens); w_i = gam_i + del_{i+1} (models.md 3.4)
  float *raw_dt, *raw_A;      ///< (kTokens), dt with its bias
  float *prefix,
      *suffix;  ///< (64): from the block's first token to i; from the one after i to the block's last
  float *from_start,
      *to_end;  ///< (64): T_i of the chunk's entry; from the one after i to the chunk's last token
  float* within;   ///< (64): sums of log alpha in a block
  float* between;  ///< (4, 4): whole blocks strictly between
  float* whole;    ///< (1)
  static constexpr int kFloats = 6 * kTokens + 5 * kMaxChunk + 20;

  __device__ explicit TiledTokens(float* p)
      : dt(p),
        gam(p + kTokens),
        w(p + 2 * kTokens),
        lam(p + 3 * kTokens),
        raw_dt(p + 4 * kTokens),
        raw_A(p + 5 * kTokens),
        prefix(p + 6 * kTokens),
        suffix(prefix + kMaxChunk),
        from_start(suffix + kMaxChunk),
        to_end(from_start + kMaxChunk),
        within(to_end + kMaxChunk),
        between(within + kMaxChunk),
        whole(between + 16) {}

  /// A lane's raw step sizes, decays and trapezoids, of tokens lane, lane + 32 and lane + 64: the token after the chunk lends its del.
  struct Raw {
    float v[3][3] = {};
    __device__ void load(const Mamba3Args& a, const float* proj_b, float bias, int h, int t0,
                         int length) {
#pragma unroll
      for (int u = 0; u < 3; ++u) {
        const int i = lane_id() + u * kWarp;
        if (i > length || t0 + i >= a.dims.seqlen) continue;
        const float* row = proj_b + static_cast<int64_t>(t0 + i) * a.dims.width + h;
        v[u][0] = __ldg(row + a.col.dd_dt) + bias;
        v[u][1] = __ldg(row + a.col.dd_A);
        v[u][2] = __ldg(row + a.col.trap);
      }
    }
  };

  /// One warp computes all. `proj_b`: the sequence's first row. Needs a barrier before other warps read.
  __device__ void compute(const Mamba3Args& a, const float* proj_b, float bias, int h, int t0,
                          int length) const {
    Raw raw;
    raw.load(a, proj_b, bias, h, t0, length);
    compute(a, raw, t0, length);
  }
  __device__ void compute(const Mamba3Args& a, const Raw& loaded, int t0, int length) const {
    using D = Mamba3ScanAttrs::Discretization;
    const int lane = lane_id();
    const auto& raw = loaded.v;
    float here[2], gamma[2], del[3];
#pragma unroll
    for (int u = 0; u < 3; ++u) {
      const int i = lane + u * kWarp;
      const bool exists = i <= length && t0 + i < a.dims.seqlen;
      const float step = exists ? softplusf(raw[u][0]) : 0.0f, raw_a = raw[u][1];
      const float l = a.discretization == D::kTrapezoidal ? sigmoidf(raw[u][2])
                      : a.discretization == D::kEuler     ? 1.0f
                                                          : 0.5f;
      del[u] = (1 - l) * step;
      if (u == 2) continue;
      const float f =
          a.heavy_tail ? (raw_a >= 0 ? 1 + raw_a : __fdividef(1.0f, 1 - raw_a)) : softplusf(raw_a);
      here[u] = i < length ? -fmaxf(f, a.a_floor) * step : 0.0f;
      gamma[u] = i < length ? l * step : 0.0f;
      dt[i] = step, gam[i] = gamma[u], lam[i] = l, raw_dt[i] = raw[u][0], raw_A[i] = raw_a;
    }
    float rest[2];
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      const int i = lane + u * kWarp;
      const float behind = __shfl_down_sync(0xFFFFFFFFu, del[u], 1),
                  across = __shfl_sync(0xFFFFFFFFu, del[u + 1], 0);
      w[i] = i < length ? gamma[u] + (lane == kWarp - 1 ? across : behind) : 0.0f;
      const float after = __shfl_down_sync(0xFFFFFFFFu, here[u], 1, 16);
      rest[u] = lane % 16 == 15 ? 0.0f : after;
#pragma unroll
      for (int d = 1; d < 16; d *= 2) {
        const float left = __shfl_up_sync(0xFFFFFFFFu, here[u], d, 16),
                    right = __shfl_down_sync(0xFFFFFFFFu, rest[u], d, 16);
        if (lane % 16 >= d) here[u] += left;
        if (lane % 16 + d < 16) rest[u] += right;
      }
    }
    const float total[4] = {
        __shfl_sync(0xFFFFFFFFu, here[0], 15), __shfl_sync(0xFFFFFFFFu, here[0], 31),
        __shfl_sync(0xFFFFFFFFu, here[1], 15), __shfl_sync(0xFFFFFFFFu, here[1], 31)};
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      const int i = lane + u * kWarp, block = i / 16;
      float before = 0, after = 0;
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        before += m < block ? total[m] : 0.0f;
        after += m > block ? total[m] : 0.0f;
      }
      within[i] = here[u];
      prefix[i] = expf(here[u]), suffix[i] = expf(rest[u]);
      from_start[i] = expf(before + here[u]), to_end[i] = expf(rest[u] + after);
    }
    if (lane < 16) {
      const int last = lane / 4, first = lane % 4;
      const float one = first < 1 && last > 1 ? total[1] : 0.0f,
                  two = first < 2 && last > 2 ? total[2] : 0.0f;
      between[lane] = expf(one + two);
    }
    if (lane == 16) *whole = expf(total[0] + total[1] + total[2] + total[3]);
  }
};

/// Norm weights of B and C and the head's biases, 1 and 0 where absent: (4, 64), norm_k, norm_q, bias_k, bias_q.
__device__ __forceinline__ void load_row_weights(const Mamba3Args& a, int member, int h,
                                                 float* to) {
  const float* from[4] = {a.B_norm.at(member), a.C_norm.at(member), a.B_bias.at(member),
                          a.C_bias.at(member)};
#pragma unroll
  for (int which = 0; which < 4; ++which) {
    const int n = static_cast<int>(threadIdx.x);
    if (n >= kTiledHead) continue;
    const float absent = which < 2 ? 1.0f : 0.0f;
    const float* row = from[which];
    to[which * kTiledHead + n] = row == nullptr ? absent : row[which < 2 ? n : h * kTiledHead + n];
  }
}

/// A lane's share of a row.
struct QuadRow {
  float2 v[kQuadPairs];
  /// Of pair m.
  __device__ __forceinline__ static int column(int m) { return 2 * (lane_id() % 4) + 8 * m; }
  template <bool kVectors>
  __device__ __forceinline__ void load(const float* row) {
#pragma unroll
    for (int m = 0; m < kQuadPairs; ++m) v[m] = load2(row + column(m), kVectors);
  }
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int m = 0; m < kQuadPairs; ++m) v[m] = make_float2(0, 0);
  }
  template <bool kSplit>
  __device__ __forceinline__ void store(const HeadTile<kSplit>& tile, int row) const {
    const uint32_t to = tile.at(row, column(0));
#pragma unroll
    for (int m = 0; m < kQuadPairs; ++m) tile.store_at(to ^ (16u * m), v[m].x, v[m].y);
  }
};
__device__ __forceinline__ float2 weight_pair(const float* weights, int m) {
  return *reinterpret_cast<const float2*>(weights + QuadRow::column(m));
}

/// A tile's rows as floats, copied asynchronously to the places that their hi and lo parts will take. A lane copies and reads its own
/// share; the warp must meet between the last read of a row and the first store.
struct RawRows {
  uint32_t base;
  /// Of this lane's first pair; pair m is 32 m bytes of exclusive or further.
  __device__ __forceinline__ uint32_t at(int row) const {
    return (base + static_cast<uint32_t>(row * (kTiledHead * 4) + ((row & 7) << 5))) ^
           static_cast<uint32_t>(4 * QuadRow::column(0));
  }
  template <bool kVectors>
  __device__ __forceinline__ void fetch(int row, const float* from) const {
#pragma unroll
    for (int m = 0; m < kQuadPairs; ++m) {
      const uint32_t to = at(row) ^ (32u * m);
      const float* pair = from + QuadRow::column(0) + 8 * m;
      if constexpr (kVectors) {
        copy_async<8>(to, pair);
      } else {
        copy_async<4>(to, pair), copy_async<4>(to + 4, pair + 1);
      }
    }
  }
  /// Sixteen rows from row0 on, a multiple of 8, each by the whole warp, lane l its pair l: the lanes meet after the wait. Rows lie
  /// `stride` floats apart; in place of those from `count` on the last one comes.
  template <bool kVectors>
  __device__ __forceinline__ void fetch_rows(int row0, const float* from, uint32_t stride,
                                             int count) const {
    const uint32_t lane = static_cast<uint32_t>(lane_id());
    const uint32_t to =
        base + static_cast<uint32_t>(row0 * (kTiledHead * 4)) + (kVectors ? 8 : 4) * lane;
    from += (kVectors ? 2 : 1) * lane;
    auto copy = [&](auto whole) {
#pragma unroll
      for (int u = 0; u < 16; ++u) {
        const uint32_t at = (to ^ static_cast<uint32_t>((u & 7) << 5)) + u * (kTiledHead * 4);
        if constexpr (kVectors) {
          copy_async<8>(at, from);
        } else {
          copy_async<4>(at, from), copy_async<4>(at ^ 128u, from + 32);
        }
        if (whole.value || u + 1 < count) from += stride;
      }
    };
    count >= 16 ? copy(std::true_type{}) : copy(std::false_type{});
  }
  /// The same of rows at multiples of 16 bytes, each by one half of the warp.
  __device__ __forceinline__ void fetch_aligned_rows(int row0, const float* from, uint32_t stride,
                                                     int count) const {
    const int half = lane_id() / 16, piece = lane_id() % 16;
    const uint32_t to =
        base + static_cast<uint32_t>(row0 * (kTiledHead * 4) + half * (kTiledHead * 4) +
                                     ((half << 5) ^ (16 * piece)));
    from += 4 * piece;
#pragma unroll
    for (int u = 0; u < 16; u += 2) {
      copy_async<16>((to ^ static_cast<uint32_t>((u & 7) << 5)) + u * (kTiledHead * 4),
                     from + static_cast<uint32_t>(min(u + half, count - 1)) * stride);
    }
  }
  __device__ __forceinline__ void store(int row, const QuadRow& from) const {
#pragma unroll
    for (int m = 0; m < kQuadPairs; ++m) {
      asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(at(row) ^ (32u * m)), "f"(from.v[m].x),
                   "f"(from.v[m].y)
                   : "memory");
    }
  }
  /// Columns 2 pair and 2 pair + 1 of a row.
  __device__ __forceinline__ float2 load_pair(int row, int pair) const {
    const uint32_t from = base + static_cast<uint32_t>(row * (kTiledHead * 4) + ((row & 7) << 5));
    float2 out;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                 : "=f"(out.x), "=f"(out.y)
                 : "r"(from ^ static_cast<uint32_t>(8 * pair))
                 : "memory");
    return out;
  }
  __device__ __forceinline__ QuadRow load(int row) const {
    QuadRow out;
#pragma unroll
    for (int m = 0; m < kQuadPairs; ++m) {
      asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                   : "=f"(out.v[m].x), "=f"(out.v[m].y)
                   : "r"(at(row) ^ (32u * m))
                   : "memory");
    }
    return out;
  }
};

/// One token's rows of B and C on their way through norm, bias and rotation.
struct QuadRows {
  QuadRow k, q;
  float inv_k, inv_q, same;  // 1 / rms of the raw rows, 1 without a norm; k'.q'

  /// Raw rows in, k' and q' out, and `same` if kSame. `weights`: load_row_weights().
  template <bool kSame = true>
  __device__ __forceinline__ void norm_and_bias(const float* weights, bool norm_k, bool norm_q,
                                                float eps) {
    float square_k = 0, square_q = 0;
#pragma unroll
    for (int m = 0; m < kQuadPairs; ++m) {
      square_k = fmaf(k.v[m].x, k.v[m].x, fmaf(k.v[m].y, k.v[m].y, square_k));
      square_q = fmaf(q.v[m].x, q.v[m].x, fmaf(q.v[m].y, q.v[m].y, square_q));
    }
    inv_k = norm_k ? rsqrtf(row_sum(square_k) * (1.0f / kTiledHead) + eps) : 1.0f;
    inv_q = norm_q ? rsqrtf(row_sum(square_q) * (1.0f / kTiledHead) + eps) : 1.0f;
    same = 0;
#pragma unroll
    for (int m = 0; m < kQuadPairs; ++m) {
      const float2 wk = weight_pair(weights, m), wq = weight_pair(weights + kTiledHead, m),
                   bk = weight_pair(weights + 2 * kTiledHead, m),
                   bq = weight_pair(weights + 3 * kTiledHead, m);
      k.v[m].x = fmaf(k.v[m].x * inv_k, wk.x, bk.x), k.v[m].y = fmaf(k.v[m].y * inv_k, wk.y, bk.y);
      q.v[m].x = fmaf(q.v[m].x * inv_q, wq.x, bq.x), q.v[m].y = fmaf(q.v[m].y * inv_q, wq.y, bq.y);
      if (kSame) same = fmaf(k.v[m].x, q.v[m].x, fmaf(k.v[m].y, q.v[m].y, same));
    }
    if (kSame) same = row_sum(same);
  }

  /// angle(m): of pair t + 4m, m < kTurned; the others stay.
  template <int kTurned, class F>
  __device__ __forceinline__ void rotate_pairs(F&& angle) {
#pragma unroll
    for (int m = 0; m < kTurned; ++m) {
      float sine, cosine;
      quick_sincos(angle(m), sine, cosine);
      auto turn = [&](float2& x) {
        x = make_float2(x.x * cosine - x.y * sine, x.x * sine + x.y * cosine);
      };
      turn(k.v[m]), turn(q.v[m]);
    }
  }

  /// angle(m): of pair t + 4m; pairs from nangles on stay.
  template <class F>
  __device__ __forceinline__ void rotate(int nangles, F&& angle) {
#pragma unroll
    for (int m = 0; m < kQuadPairs; ++m) {
      if (QuadRow::column(m) / 2 >= nangles) continue;
      float sine, cosine;
      quick_sincos(angle(m), sine, cosine);
      auto turn = [&](float2& x) {
        x = make_float2(x.x * cosine - x.y * sine, x.x * sine + x.y * cosine);
      };
      turn(k.v[m]), turn(q.v[m]);
    }
  }
};

/// Halves the numbers of a lane: keeps kKept of twice as many, with the other lane's share of them added.
template <int kKept>
__device__ __forceinline__ void exchange_sums(float (&x)[2 * kQuadPairs]) {
  const bool upper = (lane_id() / 4 & (kKept / 2)) != 0;
#pragma unroll
  for (int e = 0; e < kKept; ++e) {
    const float low = x[e], high = x[e + kKept];
    x[e] = (upper ? high : low) + __shfl_xor_sync(0xFFFFFFFFu, upper ? low : high, kKept * 2);
  }
}
/// Sums of sixteen numbers per lane over the eight lanes that share t. Lane 4 g + t ends with those of numbers 2 g and 2 g + 1.
__device__ __forceinline__ float2 column_sums_of(float (&x)[2 * kQuadPairs]) {
  exchange_sums<8>(x), exchange_sums<4>(x), exchange_sums<2>(x);
  return make_float2(x[0], x[1]);
}

}  // namespace statelab::cuda
