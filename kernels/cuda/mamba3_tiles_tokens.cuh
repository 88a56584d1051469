// What the backward pass of mamba3_scan on bf16 tiles computes anew of a chunk's tokens: step sizes, weights and decays, and the rows
// of B and C on their way through norm, bias and rotation. Source: models.md sections 3.2 and 3.4.
#pragma once

#include "kernels/cuda/mamba3_tiles.cuh"

namespace statelab::cuda {

/// Two neighbouring numbers, as load_here().
__device__ __forceinline__ float2 load2_here(const float* from, bool together, bool wanted = true) {
  if (!together) return make_float2(load_here(from, wanted), load_here(from + 1, wanted));
  float2 out;
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.u32 p, %3, 0;\nmov.f32 %0, 0f00000000;\nmov.f32 %1, 0f00000000;\n"
      "@p ld.global.v2.f32 {%0, %1}, [%2];\n}"
      : "=f"(out.x), "=f"(out.y)
      : "l"(from), "r"(static_cast<uint32_t>(wanted)));
  return out;
}

/// Stores without a branch where they are not `wanted`.
__device__ __forceinline__ void store_here(float* to, float value, bool wanted) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %2, 0;\n@p st.global.f32 [%0], %1;\n}" ::"l"(to),
               "f"(value), "r"(static_cast<uint32_t>(wanted))
               : "memory");
}
__device__ __forceinline__ void store2_here(float* to, float first, float second, bool together,
                                            bool wanted) {
  if (together) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.u32 p, %3, 0;\n@p st.global.v2.f32 [%0], {%1, %2};\n}" ::"l"(to),
        "f"(first), "f"(second), "r"(static_cast<uint32_t>(wanted))
        : "memory");
  } else {
    store_here(to, first, wanted), store_here(to + 1, second, wanted);
  }
}

/// Number threadIdx.x of a head's norm weights of B and C and its biases, 1 and 0 where absent: (4, 64), norm_k, norm_q, bias_k, bias_q.
__device__ __forceinline__ float row_weight(const Mamba3Args& a, int member, int h) {
  const int which = static_cast<int>(threadIdx.x) / kTiledHead, n = threadIdx.x % kTiledHead;
  const float* row = which == 0   ? a.B_norm.at(member)
                     : which == 1 ? a.C_norm.at(member)
                     : which == 2 ? a.B_bias.at(member)
                                  : a.C_bias.at(member);
  const float absent = which < 2 ? 1.0f : 0.0f;
  return row == nullptr ? absent : row[which < 2 ? n : h * kTiledHead + n];
}

/// Step sizes, weights and decays of a chunk's tokens; T_ij as in Decay, from factors per block of 16 tokens.
struct TiledTokens {
  float *dt, *gam, *w, *lam;  ///< (kTokens); w_i = gam_i + del_{i+1} (models.md 3.4)
  float *raw_dt, *raw_A;      ///< (kTokens), dt with its bias
  float *prefix,
      *suffix;  ///< (64): from the block's first token to i; from the one after i to the block's last
  float *from_start,
      *to_end;  ///< (64): T_i of the chunk's entry; from the one after i to the chunk's last token
  float* within;   ///< (64): sums of log2 alpha in a block
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
    float v[3][3];
    __device__ void load(const Mamba3Args& a, const float* proj_b, float bias, int h, int t0,
                         int length, int tokens) {
#pragma unroll
      for (int u = 0; u < 3; ++u) {
        const int i = lane_id() + u * kWarp;
        const bool exists = i <= length && t0 + i < tokens;
        const float* row = proj_b + static_cast<int64_t>(t0 + i) * a.dims.width + h;
        v[u][0] = load_here(row + a.col.dd_dt, exists);
        v[u][1] = load_here(row + a.col.dd_A, exists);
        v[u][2] = load_here(row + a.col.trap, exists);
      }
#pragma unroll
      for (int u = 0; u < 3; ++u) v[u][0] += bias;
    }
  };

  /// One warp computes all. `proj_b`: the sequence's first row. Needs a barrier before other warps read.
  __device__ void compute(const Mamba3Args& a, const float* proj_b, float bias, int h, int t0,
                          int length, int tokens) const {
    Raw raw;
    raw.load(a, proj_b, bias, h, t0, length, tokens);
    compute(a, raw, t0, length, tokens);
  }
  __device__ void compute(const Mamba3Args& a, const Raw& loaded, int t0, int length,
                          int tokens) const {
    using D = Mamba3ScanAttrs::Discretization;
    const int lane = lane_id();
    const auto& raw = loaded.v;
    float here[2], gamma[2], del[3];
#pragma unroll
    for (int u = 0; u < 3; ++u) {
      const int i = lane + u * kWarp;
      const bool exists = i <= length && t0 + i < tokens;
      const float step = exists ? softplusf(raw[u][0]) : 0.0f, raw_a = raw[u][1];
      const float l = a.discretization == D::kTrapezoidal ? quick_sigmoid(raw[u][2])
                      : a.discretization == D::kEuler     ? 1.0f
                                                          : 0.5f;
      del[u] = (1 - l) * step;
      if (u == 2) continue;
      const float f =
          a.heavy_tail ? (raw_a >= 0 ? 1 + raw_a : __fdividef(1.0f, 1 - raw_a)) : softplusf(raw_a);
      here[u] = i < length ? -kLog2E * fmaxf(f, a.a_floor) * step : 0.0f;
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
      prefix[i] = quick_exp2(here[u]), suffix[i] = quick_exp2(rest[u]);
      from_start[i] = quick_exp2(before + here[u]), to_end[i] = quick_exp2(rest[u] + after);
    }
    if (lane < 16) {
      const int last = lane / 4, first = lane % 4;
      const float one = first < 1 && last > 1 ? total[1] : 0.0f,
                  two = first < 2 && last > 2 ? total[2] : 0.0f;
      between[lane] = quick_exp2(one + two);
    }
    if (lane == 16) *whole = quick_exp2(total[0] + total[1] + total[2] + total[3]);
  }
};

/// One token's rows of B and C on their way through norm, bias and rotation.
struct QuadRows {
  QuadRow k, q;
  float inv_k, inv_q;  // 1 / rms of the raw rows, 1 without a norm

  /// Raw rows in, k' and q' out. `weights`: a row_weight() each.
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
#pragma unroll
    for (int m = 0; m < kQuadPairs; ++m) {
      const float2 wk = weight_pair(weights, m), wq = weight_pair(weights + kTiledHead, m),
                   bk = weight_pair(weights + 2 * kTiledHead, m),
                   bq = weight_pair(weights + 3 * kTiledHead, m);
      k.v[m].x = fmaf(k.v[m].x * inv_k, wk.x, bk.x), k.v[m].y = fmaf(k.v[m].y * inv_k, wk.y, bk.y);
      q.v[m].x = fmaf(q.v[m].x * inv_q, wq.x, bq.x), q.v[m].y = fmaf(q.v[m].y * inv_q, wq.y, bq.y);
    }
  }

  /// angle(m): of pair t + 4m, m < kTurned; the others stay.
  template <int kTurned, class F>
  __device__ __forceinline__ void rotate(F&& angle) {
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
};

}  // namespace statelab::cuda
