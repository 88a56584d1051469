// What a warp of mamba3_scan's forward on bf16 tiles (mamba3_tiles.cu) computes on its own: the steps, angles and rows of its 16
// tokens. Source: models.md sections 3.2 - 3.6.
#pragma once

#include "kernels/cuda/mamba3_tiles.cuh"

namespace statelab::cuda {

constexpr int kMaxWarps = kMaxBlocks, kSteps = kTiledHead / 16;
constexpr int kLanesAngles = 16, kRounds = 2;  ///< angles of a half warp at once; 32 in all
constexpr int kMaxAngles = kLanesAngles * kRounds;

/// Steps of a chunk's tokens. A warp computes those of its own 16 tokens; the others' warps read `leaving` and `whole`.
/// T_ij as in Decay: between blocks leaving_j, the blocks between, prefix_i; within one the exponential of a sum's difference.
struct TokenSteps {
  float *gam, *w;  ///< (64); w_i = gam_i + del_{i+1} (models.md 3.4)
  float* within;   ///< (64): log2 of the decay from the block's first token to i
  float* prefix;   ///< (64): that decay
  float* leaving;  ///< (64): w_i, decayed from the token after i to the block's last
  float* whole;    ///< (4): a block's decay
  static constexpr int kFloats = 5 * kMaxChunk + kMaxBlocks;

  __device__ explicit TokenSteps(float* p)
      : gam(p),
        w(p + kMaxChunk),
        within(p + 2 * kMaxChunk),
        prefix(p + 3 * kMaxChunk),
        leaving(p + 4 * kMaxChunk),
        whole(p + 5 * kMaxChunk) {}

  /// Of token row0 + lane, lane <= 16: the token after the warp's lends its del.
  struct Raw {
    float dt, A, trap;
    __device__ __forceinline__ void load(const Mamba3Args& a, const float* proj_b, int h, int t0,
                                         int row0, int tokens) {
      const int token = t0 + row0 + lane_id();
      const bool exists = lane_id() <= 16 && token < tokens;
      const float* row = proj_b + static_cast<int64_t>(token) * a.dims.width + h;
      dt = load_here(row + a.col.dd_dt, exists);
      A = load_here(row + a.col.dd_A, exists);
      trap = load_here(row + a.col.trap, exists);
    }
  };

  /// All lanes. Returns dt of token row0 + lane, lane < 16, 0 past the end.
  __device__ __forceinline__ float compute(const Mamba3Args& a, const Raw& raw, float bias, int t0,
                                           int length, int row0, int tokens) const {
    using D = Mamba3ScanAttrs::Discretization;
    const int lane = lane_id(), i = row0 + lane;
    const bool exists = lane <= 16 && t0 + i < tokens, in = lane < 16 && i < length;
    const float step = exists ? softplusf(raw.dt + bias) : 0.0f;
    const float l = a.discretization == D::kTrapezoidal ? quick_sigmoid(raw.trap)
                    : a.discretization == D::kEuler     ? 1.0f
                                                        : 0.5f;
    const float f =
        a.heavy_tail ? (raw.A >= 0 ? 1 + raw.A : __fdividef(1.0f, 1 - raw.A)) : softplusf(raw.A);
    const float gamma = l * step, behind = __shfl_down_sync(0xFFFFFFFFu, (1 - l) * step, 1);
    const float weight = in ? gamma + behind : 0.0f;
    float here = in ? -kLog2E * fmaxf(f, a.a_floor) * step : 0.0f;
    float rest = __shfl_down_sync(0xFFFFFFFFu, here, 1, 16);
    if (lane % 16 == 15) rest = 0;
#pragma unroll
    for (int d = 1; d < 16; d *= 2) {
      const float left = __shfl_up_sync(0xFFFFFFFFu, here, d, 16),
                  right = __shfl_down_sync(0xFFFFFFFFu, rest, d, 16);
      if (lane % 16 >= d) here += left;
      if (lane % 16 + d < 16) rest += right;
    }
    if (lane < 16) {
      const float decay = quick_exp2(here);
      gam[i] = in ? gamma : 0.0f, w[i] = weight;
      within[i] = here, prefix[i] = decay, leaving[i] = weight * quick_exp2(rest);
      if (lane == 15) whole[i / 16] = decay;
    }
    return in ? step : 0.0f;
  }
};

/// Phi of the chunk's tokens. A lane has angle lane % 16 + 16 round of the tokens half..half + 7 of its warp, half = lane / 16 * 8.
struct ChunkAngles {
  float *phi, *turns;  ///< (rows, angle_pitch()); (4, 32): a warp's tokens together
  int nangles;
  float last[kRounds] = {};  ///< at the end of the chunk before
  float lower[kRounds];      ///< of the lower half's tokens, for the upper half; else 0

  __device__ ChunkAngles(float* phi, float* turns, int nangles)
      : phi(phi), turns(turns), nangles(nangles) {}

  /// f(token of the chunk, angle, round, which of eight) for this lane's share.
  template <class F>
  __device__ __forceinline__ void each(int row0, int round, F&& f) const {
    const int j = lane_id() % kLanesAngles + round * kLanesAngles;
#pragma unroll
    for (int u = 0; u < 8; ++u) f(row0 + lane_id() / 16 * 8 + u, j, u);
  }
  __device__ __forceinline__ float& at(int i, int j) const {
    return phi[i * angle_pitch(nangles) + j];
  }
  /// This lane's eight of a round; zero past the end.
  __device__ __forceinline__ void load(float (&to)[8], int row0, int round, int length) const {
    each(row0, round,
         [&](int i, int j, int u) { to[u] = j < nangles && i < length ? at(i, j) : 0.0f; });
  }
  __device__ __forceinline__ void store(const float (&from)[8], int row0, int round,
                                        int length) const {
    each(row0, round, [&](int i, int j, int u) {
      if (j < nangles && i < length) at(i, j) = from[u];
    });
  }

  /// `from`: the chunk's first token's.
  __device__ __forceinline__ void fetch(const float* from, int width, int row0, int length) const {
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      each(row0, round, [&](int i, int j, int) {
        if (j < nangles && i < length)
          copy_async<4>(shared_address(&at(i, j)), from + static_cast<int64_t>(i) * width + j);
      });
    }
  }
  /// Sums of the steps dt pi tanh(ang) in place, from the half's first token on. dt: of token row0 + lane.
  __device__ __forceinline__ void sum(float dt, int row0, int length) {
    const int upper = lane_id() / 16;
    float step[8];
#pragma unroll
    for (int u = 0; u < 8; ++u) step[u] = kPi * __shfl_sync(0xFFFFFFFFu, dt, upper * 8 + u);
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      if (round * kLanesAngles >= nangles) continue;
      float sums[8], total = 0;
      load(sums, row0, round, length);
#pragma unroll
      for (int u = 0; u < 8; ++u)
        sums[u] = total = wrap_angle(fmaf(step[u], quick_tanh(sums[u]), total));
      store(sums, row0, round, length);
      const float below = __shfl_sync(0xFFFFFFFFu, total, lane_id() % 16);
      lower[round] = upper ? below : 0.0f;
      if (upper)
        turns[row0 / 16 * kMaxAngles + round * kLanesAngles + lane_id() % 16] = below + total;
    }
  }
  /// After a barrier, the angles themselves. `out`: of the chunk's first token, `pitch` floats from token to token, or null.
  template <bool kOne>
  __device__ __forceinline__ void finish(int row0, int length, float* out, int pitch) {
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      if (round * kLanesAngles >= nangles) continue;
      float before = last[round] + lower[round], all = last[round];
#pragma unroll
      for (int block = 0; block < kMaxBlocks; ++block) {
        const bool earlier = block < row0 / 16;
        if (kOne && !earlier) continue;
        const float more = turns[block * kMaxAngles + round * kLanesAngles + lane_id() % 16];
        before += earlier ? more : 0.0f, all += more;
      }
      last[round] = wrap_angle(all);
      float angle[8];
      load(angle, row0, round, length);
#pragma unroll
      for (int u = 0; u < 8; ++u) angle[u] = wrap_angle(before + angle[u]);
      store(angle, row0, round, length);
      if (out == nullptr) continue;
      each(row0, round, [&](int i, int j, int u) {
        if (j < nangles && i < length) out[i * pitch + j] = angle[u];
      });
    }
  }
  /// Those that do not depend on data.
  __device__ __forceinline__ void standard(int t0, int row0, int length) const {
#pragma unroll 1
    for (int round = 0; round < kRounds; ++round) {
      const int j = lane_id() % kLanesAngles + round * kLanesAngles;
      if (j >= nangles) break;
      const double turns_per_token = standard_turns(j, nangles);
#pragma unroll 1
      for (int u = 0; u < 8; ++u) {
        const int i = row0 + lane_id() / 16 * 8 + u;
        if (i < length) at(i, j) = angle_of_turns((t0 + i) * turns_per_token);
      }
    }
  }
};

/// Norm weights of B and C and the head's biases, 1 and 0 where absent: (4, 64), norm_k, norm_q, bias_k, bias_q. Those present are on
/// their way.
__device__ __forceinline__ void fetch_row_weights(const Mamba3Args& a, int member, int h,
                                                  float* to) {
  const float *norm_k = a.B_norm.at(member), *norm_q = a.C_norm.at(member),
              *bias_k = a.B_bias.at(member), *bias_q = a.C_bias.at(member);
  for (int e = static_cast<int>(threadIdx.x); e < 4 * kTiledHead;
       e += static_cast<int>(blockDim.x)) {
    const int which = e / kTiledHead, n = e % kTiledHead;
    const float* row = which == 0 ? norm_k : which == 1 ? norm_q : which == 2 ? bias_k : bias_q;
    if (row == nullptr) {
      to[e] = which < 2 ? 1.0f : 0.0f;
    } else {
      copy_async<4>(shared_address(to + e), row + (which < 2 ? n : h * kTiledHead + n));
    }
  }
}

/// Rows of B (raw_k) and C (q) of this lane's tokens low and low + 8 through norm, bias and rotation: k' into its tile, in the place
/// of the raw rows, q' into fragments, k'.q' into `same`. angle(high, pair): of pair t + 4 m.
template <bool kSplit, class F>
__device__ __forceinline__ void prepare_rows(const RawRows& raw_k, QuadRow (&q)[2],
                                             const HeadTile<kSplit>& tile, int low, int t,
                                             const float* weights, bool norm_k, bool norm_q,
                                             float eps, int nangles, F&& angle,
                                             Fragment<kSplit> (&q_out)[kSteps], float (&same)[2]) {
  float inv_k[2], inv_q[2];
  QuadRow k[2] = {raw_k.load(low), raw_k.load(low + 8)};
  __syncwarp();
#pragma unroll
  for (int high = 0; high < 2; ++high) {
    float square_k = 0, square_q = 0;
#pragma unroll
    for (int m = 0; m < kQuadPairs; ++m) {
      const float2 x = k[high].v[m], y = q[high].v[m];
      square_k = fmaf(x.x, x.x, fmaf(x.y, x.y, square_k));
      square_q = fmaf(y.x, y.x, fmaf(y.y, y.y, square_q));
    }
    inv_k[high] = norm_k ? rsqrtf(row_sum(square_k) * (1.0f / kTiledHead) + eps) : 1.0f;
    inv_q[high] = norm_q ? rsqrtf(row_sum(square_q) * (1.0f / kTiledHead) + eps) : 1.0f;
    same[high] = 0;
  }
#pragma unroll
  for (int m = 0; m < kQuadPairs; ++m) {
    const float2 wk = weight_pair(weights, m), wq = weight_pair(weights + kTiledHead, m),
                 bk = weight_pair(weights + 2 * kTiledHead, m),
                 bq = weight_pair(weights + 3 * kTiledHead, m);
    const bool turns = 4 * m < nangles;  // of some lane
#pragma unroll
    for (int high = 0; high < 2; ++high) {
      float2 &x = k[high].v[m], &y = q[high].v[m];
      x.x = fmaf(x.x * inv_k[high], wk.x, bk.x), x.y = fmaf(x.y * inv_k[high], wk.y, bk.y);
      y.x = fmaf(y.x * inv_q[high], wq.x, bq.x), y.y = fmaf(y.y * inv_q[high], wq.y, bq.y);
      same[high] = fmaf(x.x, y.x, fmaf(x.y, y.y, same[high]));
      if (turns) {
        float sine, cosine;
        const int j = t + 4 * m;
        quick_sincos(j < nangles ? angle(high, j) : 0.0f, sine, cosine);
        x = make_float2(x.x * cosine - x.y * sine, x.x * sine + x.y * cosine);
        y = make_float2(y.x * cosine - y.y * sine, y.x * sine + y.y * cosine);
      }
      tile.store_at(tile.at(low + 8 * high, QuadRow::column(0)) ^ (16u * m), x.x, x.y);
      q_out[m / 2].set(high + m % 2 * 2, y.x, y.y);
    }
  }
  same[0] = row_sum(same[0]), same[1] = row_sum(same[1]);
}

/// Where a lane's share of the state is while it has no registers: its place in the op's output or, without one, local memory.
struct StateKeeper {
  float2 local[2 * kQuadPairs];
  /// Of the first of a row's pairs, in local[].
  __device__ __forceinline__ static uint32_t start() {
    uint32_t zero = 0;
    opaque(zero);  // an index that is not known keeps the array in memory
    return zero;
  }
  __device__ __forceinline__ void keep(const float (&sum)[kQuadPairs][4], float* out, int low) {
    if (out != nullptr) {
      float* to = out + low * kTiledHead + QuadRow::column(0);
#pragma unroll
      for (int n = 0; n < kQuadPairs; ++n) {
        store2(to + 8 * n, sum[n][0], sum[n][1], true);
        store2(to + 8 * n + 8 * kTiledHead, sum[n][2], sum[n][3], true);
      }
    } else {
      const uint32_t at = start();
#pragma unroll
      for (int n = 0; n < kQuadPairs; ++n) {
        local[at + 2 * n] = make_float2(sum[n][0], sum[n][1]);
        local[at + 2 * n + 1] = make_float2(sum[n][2], sum[n][3]);
      }
    }
  }
  __device__ __forceinline__ void give(float (&sum)[kQuadPairs][4], const float* out,
                                       int low) const {
    float2 v[2 * kQuadPairs];
    if (out != nullptr) {
      const float* from = out + low * kTiledHead + QuadRow::column(0);
#pragma unroll
      for (int n = 0; n < kQuadPairs; ++n) {
        v[2 * n] = *reinterpret_cast<const float2*>(from + 8 * n);
        v[2 * n + 1] = *reinterpret_cast<const float2*>(from + 8 * n + 8 * kTiledHead);
      }
    } else {
      const uint32_t at = start();
#pragma unroll
      for (int e = 0; e < 2 * kQuadPairs; ++e) v[e] = local[at + e];
    }
#pragma unroll
    for (int n = 0; n < kQuadPairs; ++n) {
      sum[n][0] = v[2 * n].x, sum[n][1] = v[2 * n].y;
      sum[n][2] = v[2 * n + 1].x, sum[n][3] = v[2 * n + 1].y;
    }
  }
};

}  // namespace statelab::cuda
