// The backward pass of mamba3_scan on bf16 tiles: what is summed over a chunk's tokens once dq, dk and dx are known - the angles,
// whose cotangents add up from the last token on, and the step sizes, decays and trapezoids. A "block" below is a TiledBackward.
// Source: models.md sections 3.9 and 3.10.
#pragma once

#include "kernels/cuda/mamba3_tiles_bwd.cuh"

namespace statelab::cuda {

/// Four numbers a lane, summed over aligned groups of 16 lanes: lane l ends with the sum of number l / 4 % 4.
__device__ __forceinline__ float sum_of_four(const float (&x)[4]) {
  const int lane = lane_id();
  const bool upper = (lane & 8) != 0;
  float two[2];
#pragma unroll
  for (int e = 0; e < 2; ++e)
    two[e] = (upper ? x[e + 2] : x[e]) + __shfl_xor_sync(0xFFFFFFFFu, upper ? x[e] : x[e + 2], 8);
  const bool odd = (lane & 4) != 0;
  float one = (odd ? two[1] : two[0]) + __shfl_xor_sync(0xFFFFFFFFu, odd ? two[0] : two[1], 4);
  one += __shfl_xor_sync(0xFFFFFFFFu, one, 2);
  one += __shfl_xor_sync(0xFFFFFFFFu, one, 1);
  return one;
}

/// Angles: 16 lanes share four tokens, a lane has pairs lane % 16 and the sixteenth after it. dphi_t sums over the tokens from t on.
/// kRounds: 1 for up to 16 pairs, 2 for up to 32.
template <int kRounds>
struct AngleSums {
  float later[kRounds] = {};  ///< of this lane's pairs, over the chunks done
  float sum[kRounds][4];      ///< over the lane's tokens from its first, second, .. on

  float in[kRounds][4];   ///< ang
  float old[kRounds][4];  ///< what earlier heads have left of its cotangent

  template <class Block>
  __device__ __forceinline__ void load(const Block& b) {
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int j = b.thread % 16 + 16 * round;
      const float* ang = b.proj(b.a.col.ang) + j;
      const float* dang = b.dproj(b.a.col.ang) + j;
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        const int at = b.row(b.thread / 16 * 4 + u) * b.d.width;
        in[round][u] = load_here(ang + at, j < b.S);
        old[round][u] = load_here(dang + at, j < b.S && b.learned && b.h > 0);
      }
    }
  }

  /// Sums over a warp's eight tokens go to the place of the first one's angle, which one lane alone has read until now.
  template <class Block>
  __device__ __forceinline__ void within(const Block& b) {
    if (!b.learned) return;
    const int run = b.thread / 16;
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int j = b.thread % 16 + 16 * round;
      float total = 0;
#pragma unroll
      for (int u = 3; u >= 0; --u) {
        const int i = run * 4 + u, at = i * b.angle_row + j;
        if (i < b.length && j < b.S) total += b.dphi[at] + b.dphi_k[at];
        sum[round][u] = total;
      }
      const float other = __shfl_xor_sync(0xFFFFFFFFu, total, 16);
      if (b.lane >= 16) continue;
#pragma unroll
      for (int u = 0; u < 4; ++u) sum[round][u] += other;
      if (j < b.S) b.dphi[b.warp * 8 * b.angle_row + j] = total + other;
    }
  }

  /// The columns of the angles in dproj, where heads add up, and ddt_angle.
  template <class Block>
  __device__ __forceinline__ void finish(const Block& b) {
    const int run = b.thread / 16;
    const bool over = b.h + 1 == b.d.nheads;
    float through[4] = {};
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int j = b.thread % 16 + 16 * round;
      if (j >= b.S) continue;
      float after = later[round];
      if (b.learned) {
        float of_warp[kScanWarps], all = 0;
#pragma unroll
        for (int r = 0; r < kScanWarps; ++r) of_warp[r] = b.dphi[r * 8 * b.angle_row + j];
#pragma unroll
        for (int r = 0; r < kScanWarps; ++r) {
          all += of_warp[r];
          after += r > b.warp ? of_warp[r] : 0.0f;
        }
        later[round] += all;
      }
      float* const to = b.dproj(b.a.col.ang) + j;
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        const int i = run * 4 + u;
        const float tanh_j = quick_tanh(in[round][u]),
                    angle_sum = b.learned ? after + sum[round][u] : 0.0f;
        const float dtheta = fmaf(b.token.dt[i], angle_sum, old[round][u]);
        store_here(to + i * b.d.width, over ? dtheta * kPi * (1 - tanh_j * tanh_j) : dtheta,
                   i < b.length);
        through[u] = fmaf(kPi * tanh_j, angle_sum, through[u]);
      }
    }
    const float of_token = sum_of_four(through);
    if (b.lane % 4 == 0) b.ddt_angle[run * 4 + b.lane / 4 % 4] = of_token;
  }
};

/// Step sizes, decays and trapezoids of the chunk: a thread has token `thread`, two warps take part.
struct StepSums {
  using Discretization = Mamba3ScanAttrs::Discretization;
  float D = 0, dt_bias = 0;  ///< of the head, over this thread's tokens

  /// What a token's thread reads before the tokens of the next chunk take the place.
  struct Own {
    float dt, raw_A, raw_dt, lam, whole;
    template <class Block>
    __device__ __forceinline__ void read(const Block& b) {
      const int i = b.thread;
      dt = b.token.dt[i], raw_A = b.token.raw_A[i], raw_dt = b.token.raw_dt[i];
      lam = b.token.lam[i], whole = *b.token.whole;
      // Zero only where both its step sizes are, whose slopes are then zero too.
      const float w = b.token.w[i];
      b.dw[i] = w > 0 ? __fdividef(b.by_key[i] - b.token.gam[i] * b.ddiag[i] * b.same[i], w) : 0.0f;
    }
  };

  template <class Block>
  __device__ __forceinline__ void finish(const Block& b, const Pending& p, int at, float ddel) {
    float ddt = p.ddt, dtrap = 0;
    if (b.a.discretization == Discretization::kEuler) {
      ddt += p.dgam;
    } else {
      ddt += p.lam * p.dgam + (1 - p.lam) * ddel;
      if (b.a.discretization == Discretization::kTrapezoidal)
        dtrap = p.dt * (p.dgam - ddel) * p.lam * (1 - p.lam);
    }
    const float draw = ddt * quick_sigmoid(p.raw);
    float* to = slice(b.a.dproj) + static_cast<int64_t>(b.first_token + at) * b.d.width;
    to[b.a.col.dd_dt + b.h] = draw;
    to[b.a.col.trap + b.h] = dtrap;
    dt_bias += draw;
  }

  template <class Block>
  __device__ __forceinline__ void add(const Block& b, const Own& own) {
    // Of log alpha: the paths that end at i or later less those that start there, and those that leave from before i.
    float from[2], before[2], start_total[2], leave_total[2];
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      const int i = b.lane + u * kWarp;
      before[u] = i < b.length ? b.leaving[i] : 0.0f;
      from[u] = i < b.length ? b.by_query[i] - b.by_key[i] + before[u] : 0.0f;
#pragma unroll
      for (int step = 1; step < kWarp; step *= 2) {
        const float right = __shfl_down_sync(0xFFFFFFFFu, from[u], step),
                    left = __shfl_up_sync(0xFFFFFFFFu, before[u], step);
        if (b.lane + step < kWarp) from[u] += right;
        if (b.lane >= step) before[u] += left;
      }
      start_total[u] = __shfl_sync(0xFFFFFFFFu, from[u], 0);
      leave_total[u] = __shfl_sync(0xFFFFFFFFu, before[u], kWarp - 1);
      before[u] = __shfl_up_sync(0xFFFFFFFFu, before[u], 1);
      if (b.lane == 0) before[u] = 0;
    }
    float da =
        b.warp == 0 ? from[0] + start_total[1] + before[0] : from[1] + leave_total[0] + before[1];
    if (!b.first && !b.last)
      da += own.whole * ((b.warp_part[0] + b.warp_part[1]) + (b.warp_part[2] + b.warp_part[3]));
    const int i = b.thread;
    if (i >= b.length) return;
    const float f = b.a.heavy_tail
                        ? (own.raw_A >= 0 ? 1 + own.raw_A : __fdividef(1.0f, 1 - own.raw_A))
                        : softplusf(own.raw_A);
    const float slope = b.a.heavy_tail ? (own.raw_A >= 0 ? 1.0f : f * f) : quick_sigmoid(own.raw_A);
    const float A = -fmaxf(f, b.a.a_floor);
    b.dproj(b.a.col.dd_A + b.h)[i * b.d.width] = f < b.a.a_floor ? 0.0f : -own.dt * da * slope;
    const Pending of_token = {A * da + (b.learned ? b.ddt_angle[i] : 0.0f),
                              b.dw[i] + b.same[i] * b.ddiag[i], own.lam, own.dt, own.raw_dt};
    D += b.ddiag[i];
    if (i > 0) {
      finish(b, of_token, b.t0 + i, b.dw[i - 1]);
      return;
    }
    if (!b.last) finish(b, b.pending, b.t0 + b.length, b.dw[b.length - 1]);
    b.pending = of_token;
    if (b.first) finish(b, of_token, 0, 0.0f);
  }
};

/// The head's sums over tokens. `scratch`: BackwardPlaces::kHeadSums floats; barriers before and after.
template <class Block>
__device__ __forceinline__ void store_head(const Block& b, const StepSums& steps, float* scratch) {
  constexpr int N = kTiledHead;
  const Mamba3Partials slot(b.d.nheads, kTiledHead, kTiledHead);
  float* partial = slice(b.a.partials) + static_cast<int64_t>(blockIdx.x) * slot.width;
  float* sums = scratch + b.warp * N + 2 * b.lane;
  sums[0] = b.bias_sum.x, sums[1] = b.bias_sum.y;
  if (!b.queries) {
    float* gate = scratch + (8 + b.tile_row) * N + 2 * b.lane;
    gate[0] = b.gate_sum.x, gate[1] = b.gate_sum.y;
  }
  const float D = warp_sum(steps.D), dt_bias = warp_sum(steps.dt_bias);
  if (b.warp < 2 && b.lane == 0) b.head_part[b.warp] = D, b.head_part[2 + b.warp] = dt_bias;
  __syncthreads();
  if (b.thread == 0) partial[slot.D + b.h] = b.head_part[0] + b.head_part[1];
  if (b.thread == 1) partial[slot.dt_bias + b.h] = b.head_part[2] + b.head_part[3];
  if (b.thread < 3 * N) {
    const int which = b.thread / N, n = b.thread % N;
    const float* from = scratch + which * 4 * N + n;
    const int begin = which == 0 ? slot.C_bias : which == 1 ? slot.B_bias : slot.norm;
    partial[begin + b.h * N + n] = (from[0] + from[N]) + (from[2 * N] + from[3 * N]);
  }
}

}  // namespace statelab::cuda
