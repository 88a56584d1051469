// mamba3_scan, forward, on bf16 tiles: a block takes a head of a sequence and walks it chunk by chunk; a warp owns 16 tokens of the
// chunk and 16 channels of the state. Its queries live in registers as fragments, keys and x in shared memory; scores pass from
// accumulators to operands in registers, 16 x 16 at a time; the state stays in fp32 accumulators, with a copy in shared memory as an
// operand. Source: models.md sections 3.2 - 3.6.
//
// A warp's 16 raw rows of q or z and its 16 channels of the state are the same 4 KiB of one tile: raw q until the warp has its
// fragments, then the state until all warps have read it, then raw z. So a block has three tiles, and four blocks fit a
// multiprocessor. A sequence of one chunk has no state (kOne): a block has no more warps and rows than the chunk.
#include "kernels/cuda/mamba3_tiles.cuh"

namespace statelab::cuda {
namespace {

using Rotation = Mamba3ScanAttrs::Rotation;

constexpr int kMaxWarps = kMaxBlocks, kSteps = kTiledHead / 16;
constexpr int kLanesAngles = 16, kRounds = 2;  ///< angles of a half warp at once; 32 in all
constexpr int kMaxAngles = kLanesAngles * kRounds;

/// Shared memory, offsets in bytes. A tile has `rows` rows, that of the state one per channel.
struct Places {
  int k, x, rows, steps, weights, turns, angles, bytes;
  static constexpr int kRow = kTiledHead * 4;
  __host__ __device__ Places(const ScanDims& d, int nangles, bool one);
};

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
    float dt = 0, A = 0, trap = 0;  ///< dt with its bias
    __device__ __forceinline__ void load(const Mamba3Args& a, const float* proj_b, float bias,
                                         int h, int t0, int row0) {
      const int lane = lane_id(), token = t0 + row0 + lane;
      if (lane > 16 || token >= a.dims.seqlen) return;
      const float* row = proj_b + static_cast<int64_t>(token) * a.dims.width + h;
      dt = __ldg(row + a.col.dd_dt) + bias;
      A = __ldg(row + a.col.dd_A);
      trap = __ldg(row + a.col.trap);
    }
  };

  /// All lanes. Returns dt of token row0 + lane, lane < 16, 0 past the end.
  __device__ __forceinline__ float compute(const Mamba3Args& a, const Raw& raw, int t0, int length,
                                           int row0) const {
    using D = Mamba3ScanAttrs::Discretization;
    const int lane = lane_id(), i = row0 + lane;
    const bool exists = lane <= 16 && t0 + i < a.dims.seqlen, in = lane < 16 && i < length;
    const float step = exists ? softplusf(raw.dt) : 0.0f;
    const float l = a.discretization == D::kTrapezoidal ? sigmoidf(raw.trap)
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

Places::Places(const ScanDims& d, int nangles, bool one)
    : k(0),
      x(d.rows * kRow),
      rows(2 * x),
      steps(rows + (one ? d.rows : kTiledHead) * kRow),
      weights(steps + TokenSteps::kFloats * 4),
      turns(weights + 4 * kTiledHead * 4),
      angles(turns + kMaxWarps * kMaxAngles * 4),
      bytes(angles + d.rows * angle_pitch(nangles) * 4) {}

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
      float total = 0;
      each(row0, round, [&](int i, int j, int u) {
        if (j >= nangles || i >= length) return;
        total = wrap_angle(fmaf(step[u], quick_tanh(at(i, j)), total));
        at(i, j) = total;
      });
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
      each(row0, round, [&](int i, int j, int) {
        if (j >= nangles || i >= length) return;
        const float angle = wrap_angle(before + at(i, j));
        at(i, j) = angle;
        if (out != nullptr) out[static_cast<int64_t>(i) * pitch + j] = angle;
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

/// load_row_weights(), of which the present ones are on their way.
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

/// Scores of 16 queries and the 16 keys of a block.
template <bool kSplit>
__device__ __forceinline__ void block_scores(float (&score)[2][4],
                                             const Fragment<kSplit> (&q)[kSteps],
                                             const HeadTile<kSplit>& k, int block) {
#pragma unroll
  for (int s = 0; s < kSteps; ++s)
    mma_step<kSplit>(score[0], score[1], q[s], k.right_transposed(s * 16, block * 16));
}

template <bool kSplit, bool kVectors, bool kOne>
__global__ void __launch_bounds__(kMaxWarps* kWarp, 4)
    tiled_forward(const __grid_constant__ Mamba3Args a, const __grid_constant__ Places place) {
  extern __shared__ __align__(256) unsigned char shared[];
  const ScanDims& d = a.dims;
  const uint32_t base = shared_address(shared);
  const TokenSteps token(reinterpret_cast<float*>(shared + place.steps));
  float* weights = reinterpret_cast<float*>(shared + place.weights);
  ChunkAngles angles(reinterpret_cast<float*>(shared + place.angles),
                     reinterpret_cast<float*>(shared + place.turns), a.nangles);

  uint32_t member = blockIdx.y;
  const int b = static_cast<int>(blockIdx.x) / d.nheads,
            h = static_cast<int>(blockIdx.x) % d.nheads;
  const int group = h / (d.nheads / d.ngroups), d_inner = d.nheads * kTiledHead;
  uint32_t thread = threadIdx.x;
  int row0 = warp_id() * 16, low = row0 + lane_id() / 4;
  const bool turns = a.rotation != Rotation::kNone,
             learned = a.rotation == Rotation::kDataDependent;
  const float* proj_b = a.proj.at(member) + static_cast<int64_t>(b) * d.seqlen * d.width;
  const float bias = a.dt_bias.at(member)[h], D = a.D.at(member)[h];
  if (!learned && a.phi.data != nullptr && blockIdx.x == 0 && threadIdx.x == 0)
    a.phi.at(member)[0] = 0;
  /// The state that enters a chunk in the op's output, or null.
  auto state_out = [&](int chunk) -> float* {
    if (a.states.data == nullptr) return nullptr;
    const int64_t at = (static_cast<int64_t>(b) * d.nheads + h) * d.nchunks + chunk;
    return a.states.at(member) + at * (kTiledHead * kTiledHead);
  };
  float sum[kOne ? 1 : kQuadPairs][4] = {};  // the state, channels row0..
  StateKeeper keeper;

  /// Rows low and low + 8 (of the chunk from t0 on), column0 on, are on their way; the last one in place of those past the end.
  auto fetch = [&](int to, int t0, int column0) {
    const int end = min(d.chunk, d.seqlen - t0) - 1;
#pragma unroll
    for (int high = 0; high < 2; ++high) {
      const int i = low + 8 * high;
      RawRows{base + static_cast<uint32_t>(to)}.fetch<kVectors>(
          i, proj_b + static_cast<int64_t>(t0 + min(i, end)) * d.width + column0);
    }
  };
  const int column_k = a.col.B + group * kTiledHead, column_q = a.col.C + group * kTiledHead,
            column_x = a.col.x + h * kTiledHead, column_z = a.col.z + h * kTiledHead;
  auto fetch_angles = [&](int t0) {
    if (learned)
      angles.fetch(proj_b + static_cast<int64_t>(t0) * d.width + a.col.ang, d.width, row0,
                   min(d.chunk, d.seqlen - t0));
  };

  TokenSteps::Raw raw_steps;
  raw_steps.load(a, proj_b, bias, h, 0, row0);
  fetch_angles(0);
  fetch_row_weights(a, member, h, weights);
  commit_copies();
  if (kOne || row0 < min(d.rows, d.seqlen)) {
    fetch(place.k, 0, column_k), fetch(place.rows, 0, column_q), fetch(place.x, 0, column_x);
  }
  if (float* to = state_out(0); to != nullptr) {
    for (int e = static_cast<int>(threadIdx.x); e < kTiledHead * kTiledHead / 2;
         e += static_cast<int>(blockDim.x))
      store2(to + 2 * e, 0, 0, true);
  }

  for (int chunk = 0; chunk < (kOne ? 1 : d.nchunks); ++chunk) {
    uint32_t here = base, start = static_cast<uint32_t>(chunk * d.chunk);
    opaque(here), opaque(thread), opaque(start), opaque(member);
    const int lane = static_cast<int>(thread) % kWarp, t = lane % 4,
              warp = static_cast<int>(thread) / kWarp;
    row0 = warp * 16, low = row0 + lane / 4;
    const HeadTile<kSplit> k{here + place.k}, x{here + place.x}, state{here + place.rows};
    const RawRows raw_k{k.base}, raw_x{x.base}, raw{state.base};
    const int t0 = static_cast<int>(start), length = min(d.chunk, d.seqlen - t0);
    const bool first = kOne || chunk == 0, last = kOne || chunk + 1 == d.nchunks;
    const bool working = kOne || row0 < length;

    // ---- steps and angles
    const float dt = token.compute(a, raw_steps, t0, length, row0);
    if (first) {
      commit_copies(), wait_copies<1>();
    } else {
      wait_all_copies();
    }
    if (learned) angles.sum(dt, row0, length);
    __syncthreads();
    if (learned) {
      float* out = a.phi.at(member);
      const int pitch = d.nheads * a.nangles;
      if (out != nullptr) out += (static_cast<int64_t>(b) * d.seqlen + t0) * pitch + h * a.nangles;
      angles.finish<kOne>(row0, length, out, pitch);
    } else if (turns) {
      angles.standard(t0, row0, length);
    }

    // ---- rows of the warp's tokens; the state that enters
    QuadRow raw_q[2];
    if (working) {
      wait_all_copies();
      __syncwarp();
      {
        const QuadRow x_low = raw_x.load(low), x_high = raw_x.load(low + 8);
        __syncwarp();
        x_low.store<kSplit>(x, low), x_high.store<kSplit>(x, low + 8);
      }
      raw_q[0] = raw.load(low), raw_q[1] = raw.load(low + 8);
    } else {  // what is not set here would be kept from chunk to chunk
      raw_q[0].clear(), raw_q[1].clear();
    }
    if constexpr (!kOne) {
      if (!first) {
        __syncwarp();  // its raw queries have been read
#pragma unroll
        for (int high = 0; high < 2; ++high) {
          QuadRow values;
#pragma unroll
          for (int n = 0; n < kQuadPairs; ++n)
            values.v[n] = make_float2(sum[n][2 * high], sum[n][2 * high + 1]);
          values.store<kSplit>(state, low + 8 * high);
        }
        float* out = state_out(chunk);
        if (!last || out != nullptr) keeper.keep(sum, out, low);
      }
    }
    Fragment<kSplit> q[kSteps];
    float diag[2];
    if (working) {
      prepare_rows<kSplit>(
          raw_k, raw_q, k, low, t, weights, a.B_norm.data != nullptr, a.C_norm.data != nullptr,
          a.eps, turns ? a.nangles : 0,
          [&](int high, int j) { return angles.at(min(low + 8 * high, length - 1), j); }, q, diag);
      diag[0] = fmaf(token.gam[low], diag[0], D), diag[1] = fmaf(token.gam[low + 8], diag[1], D);
      if (first) fetch(place.rows, t0, column_z);
    } else {
      diag[0] = diag[1] = 0;
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
#pragma unroll
        for (int r = 0; r < 4; ++r) q[s].set(r, 0, 0);
      }
    }
    if constexpr (!kOne) {
      if (!last) __syncwarp(), fetch_angles(t0 + d.chunk);
    }
    __syncthreads();

    // ---- o of the warp's tokens
    float acc[kQuadPairs][4] = {};
    if constexpr (!kOne) {
      if (!first) {
        if (working) {
#pragma unroll
          for (int s = 0; s < kSteps; ++s) mma_columns(acc, q[s], state, s * 16);
          float entry = 1;
          for (int block = 0; block < warp; ++block) entry *= token.whole[block];
          scale_rows(acc, entry, entry);
        }
        __syncthreads();  // the state has been read
        if (working) fetch(place.rows, t0, column_z);
      }
    }
    if (working) {
      float between = 1;
#pragma unroll 1
      for (int block = warp - 1; block >= 0; --block) {
        float score[2][4] = {};
        block_scores<kSplit>(score, q, k, block);
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          const float2 from =
              *reinterpret_cast<const float2*>(token.leaving + block * 16 + n * 8 + 2 * t);
          const float w0 = from.x * between, w1 = from.y * between;
          score[n][0] *= w0, score[n][1] *= w1, score[n][2] *= w0, score[n][3] *= w1;
        }
        between *= token.whole[block];
        Fragment<kSplit> p;
        p.set(score[0], score[1]);
        mma_rows(acc, p, x, block * 16);
      }
      scale_rows(acc, token.prefix[low], token.prefix[low + 8]);
      {
        float score[2][4] = {};
        block_scores<kSplit>(score, q, k, warp);
        const float within[2] = {token.within[low], token.within[low + 8]};
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          const int j0 = row0 + n * 8 + 2 * t;
          const float2 w = *reinterpret_cast<const float2*>(token.w + j0),
                       from = *reinterpret_cast<const float2*>(token.within + j0);
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int i = low + e / 2 * 8, j = j0 + e % 2;
            const float T = quick_exp2(within[e / 2] - (e % 2 ? from.y : from.x));
            const float below = j < i ? T * (e % 2 ? w.y : w.x) * score[n][e] : 0.0f;
            score[n][e] = j == i ? diag[e / 2] : below;
          }
        }
        Fragment<kSplit> p;
        p.set(score[0], score[1]);
        mma_rows(acc, p, x, row0);
      }

      // ---- norm and gate
      const float* norm = a.norm.at(member);
      float *y = a.y.at(member), *o = a.o.at(member);
      float inverse[2] = {1, 1};
      if (norm != nullptr) {
        float square[2] = {0, 0};
#pragma unroll
        for (int n = 0; n < kQuadPairs; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) square[e / 2] = fmaf(acc[n][e], acc[n][e], square[e / 2]);
        }
        inverse[0] = rsqrtf(row_sum(square[0]) * (1.0f / kTiledHead) + a.eps);
        inverse[1] = rsqrtf(row_sum(square[1]) * (1.0f / kTiledHead) + a.eps);
      }
      wait_all_copies();
#pragma unroll
      for (int high = 0; high < 2; ++high) {
        const int i = low + 8 * high;
        if (i >= length) continue;
        const QuadRow z = raw.load(i);
        const int64_t at = (static_cast<int64_t>(b) * d.seqlen + t0 + i) * d_inner + h * kTiledHead;
#pragma unroll
        for (int n = 0; n < kQuadPairs; ++n) {
          const int p = QuadRow::column(n);
          const float o0 = acc[n][2 * high], o1 = acc[n][2 * high + 1];
          float y0 = o0 * z.v[n].x * quick_sigmoid(z.v[n].x),
                y1 = o1 * z.v[n].y * quick_sigmoid(z.v[n].y);
          if (norm != nullptr) {
            y0 *= inverse[high] * norm[h * kTiledHead + p];
            y1 *= inverse[high] * norm[h * kTiledHead + p + 1];
          }
          store2(y + at + p, y0, y1, true);
          if (o != nullptr) store2(o + at + p, o0, o1, true);
        }
      }
    }
    if constexpr (!kOne) {
      if (last) break;
      const int next = t0 + d.chunk;
      const bool more = row0 < min(d.chunk, d.seqlen - next);  // working, in the next chunk
      if (more) fetch(place.rows, next, column_q);
      raw_steps = {};
      raw_steps.load(a, proj_b, bias, h, next, row0);

      // ---- the state that leaves
      float after[kMaxBlocks];  // decay from the end of a block to the chunk's
      after[kMaxBlocks - 1] = 1;
#pragma unroll
      for (int block = kMaxBlocks - 1; block > 0; --block)
        after[block - 1] = after[block] * token.whole[block];
      const float whole = after[0] * token.whole[0];
      if (first) {
#pragma unroll
        for (int n = 0; n < kQuadPairs; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) sum[n][e] = 0;
        }
      } else {
        keeper.give(sum, state_out(chunk), low);
        scale_rows(sum, whole, whole);
      }
#pragma unroll 1
      for (int block = 0; block < d.rows / 16; ++block) {
        const float decay = block == 0   ? after[0]
                            : block == 1 ? after[1]
                            : block == 2 ? after[2]
                                         : after[3];
        Fragment<kSplit> values = x.fragment_transposed(row0, block * 16);
        values.change([&](float& v0, float& v1, int column) {
          const float2 from = *reinterpret_cast<const float2*>(token.leaving + block * 16 + column);
          v0 *= from.x * decay, v1 *= from.y * decay;
        });
        mma_rows(sum, values, k, block * 16);
      }
      __syncthreads();  // steps, keys and x have been read
      if (more) fetch(place.k, next, column_k), fetch(place.x, next, column_x);
    }
  }
}

template <bool kSplit, bool kVectors, bool kOne>
void launch_sized(const Mamba3Args& a, int members, CUstream_st* stream) {
  const Places place(a.dims, a.nangles, kOne);
  const auto kernel = tiled_forward<kSplit, kVectors, kOne>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, place.bytes),
        "mamba3_scan");
  const dim3 grid(static_cast<unsigned>(a.dims.batch * a.dims.nheads),
                  static_cast<unsigned>(members));
  const int threads = (kOne ? a.dims.rows / 16 : kMaxWarps) * kWarp;
  kernel<<<grid, threads, static_cast<size_t>(place.bytes), stream>>>(a, place);
  check_launch("mamba3_scan");
}
template <bool kSplit>
void launch_split(const Mamba3Args& a, int members, CUstream_st* stream) {
  if (a.dims.nchunks == 1) {
    a.vectors ? launch_sized<kSplit, true, true>(a, members, stream)
              : launch_sized<kSplit, false, true>(a, members, stream);
  } else {
    a.vectors ? launch_sized<kSplit, true, false>(a, members, stream)
              : launch_sized<kSplit, false, false>(a, members, stream);
  }
}

}  // namespace

void launch_tiled_forward(const Mamba3Args& a, bool split, int members, CUstream_st* stream) {
  split ? launch_split<true>(a, members, stream) : launch_split<false>(a, members, stream);
}

}  // namespace statelab::cuda
