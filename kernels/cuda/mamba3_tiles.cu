// mamba3_scan, forward, on bf16 tiles: a block of four warps takes a head of a sequence and walks it chunk by chunk; a warp owns
// 16 tokens. Its queries live in registers as fragments, keys and x in shared memory; scores pass from accumulators to operands
// in registers, 16 x 16 at a time; the state stays in fp32 accumulators (16 channels a warp), with a copy in shared memory as an
// operand. Source: models.md sections 3.2 - 3.6.
#include "kernels/cuda/mamba3_tiles.cuh"

namespace statelab::cuda {
namespace {

using Rotation = Mamba3ScanAttrs::Rotation;

constexpr int kThreads = 128, kSteps = kTiledHead / 16;

/// Shared memory, offsets in bytes.
template <bool kSplit>
struct Places {
  static constexpr int kTile = HeadTile<kSplit>::kBytes;
  static constexpr int kWeights = TiledTokens::kFloats * 4,
                       kK = (kWeights + 4 * kTiledHead * 4 + 255) / 256 * 256, kX = kK + kTile,
                       kRows = kX + kTile, kState = kRows + kTile;
  /// Angles are last: their number is known at run time.
  __host__ __device__ static int angles(const ScanDims& d) {
    return d.nchunks > 1 ? kState + kTile : kState;
  }
  static int bytes(const ScanDims& d, int nangles) {
    return angles(d) + kMaxChunk * angle_pitch(nangles) * 4;
  }
};

/// Phi of the chunk's tokens, from steps theta = pi tanh(ang) in place. Eight lanes share an angle, each sums a run of eight
/// tokens. `last`: of this lane's angle (thread / 8 + 16 round) at the end of the chunk before.
template <int kRounds>
__device__ __forceinline__ void sum_angles(float* phi, const float* dt, int nangles, int length,
                                           float (&last)[kRounds]) {
  const int run = static_cast<int>(threadIdx.x) % 8, pitch = angle_pitch(nangles);
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int j = static_cast<int>(threadIdx.x) / 8 + round * (kThreads / 8);
    if (round * (kThreads / 8) >= nangles) continue;
    const bool in = j < nangles;
    float sum[8], total = 0;
#pragma unroll
    for (int u = 0; u < 8; ++u) {
      const int i = run * 8 + u;
      if (in && i < length) total = wrap_angle(fmaf(dt[i], phi[i * pitch + j], total));
      sum[u] = total;
    }
    float before = total;  // becomes the sum of the runs up to this one
#pragma unroll
    for (int d = 1; d < 8; d *= 2) {
      const float left = __shfl_up_sync(0xFFFFFFFFu, before, d, 8);
      if (run >= d) before = wrap_angle(before + left);
    }
    const float all = __shfl_sync(0xFFFFFFFFu, before, 7, 8);
    const float left = __shfl_up_sync(0xFFFFFFFFu, before, 1, 8);
    const float start = run == 0 ? last[round] : wrap_angle(last[round] + left);
#pragma unroll
    for (int u = 0; u < 8; ++u) {
      const int i = run * 8 + u;
      if (in && i < length) phi[i * pitch + j] = wrap_angle(start + sum[u]);
    }
    last[round] = wrap_angle(last[round] + all);
  }
}

template <bool kSplit, bool kVectors>
__global__ void __launch_bounds__(kThreads, 3) tiled_forward(const __grid_constant__ Mamba3Args a) {
  extern __shared__ __align__(256) unsigned char shared[];
  const ScanDims& d = a.dims;
  const int S = a.nangles, angle_row = angle_pitch(S), rows = d.rows;
  using Place = Places<kSplit>;
  uint32_t base = shared_address(shared);
  const TiledTokens token(reinterpret_cast<float*>(shared));
  float *weights = reinterpret_cast<float*>(shared + Place::kWeights),
        *phi = reinterpret_cast<float*>(shared + Place::angles(d));

  const int member = blockIdx.y, b = blockIdx.x / d.nheads, h = blockIdx.x % d.nheads;
  const int group = h / (d.nheads / d.ngroups), d_inner = d.nheads * kTiledHead;
  const int warp = warp_id(), g = lane_id() / 4, t = lane_id() % 4, row0 = warp * 16;
  const int thread = static_cast<int>(threadIdx.x);
  const bool turns = a.rotation != Rotation::kNone,
             learned = a.rotation == Rotation::kDataDependent;
  const float* proj_b = a.proj.at(member) + static_cast<int64_t>(b) * d.seqlen * d.width;
  const float* norm = a.norm.at(member);
  const bool norm_k = a.B_norm.data != nullptr, norm_q = a.C_norm.data != nullptr;
  const float bias = a.dt_bias.at(member)[h], D = a.D.at(member)[h];
  float *y = a.y.at(member), *o = a.o.at(member), *phi_out = a.phi.at(member),
        *states = a.states.at(member);
  if (!learned && phi_out != nullptr && blockIdx.x == 0 && thread == 0) phi_out[0] = 0;
  load_row_weights(a, member, h, weights);
  float angle[2] = {0, 0};
  float sum[kQuadPairs][4] = {};  // the state, channels row0.., and its copies' places
  float* state_out = states == nullptr
                         ? nullptr
                         : states + ((static_cast<int64_t>(b) * d.nheads + h) * d.nchunks) *
                                        (kTiledHead * kTiledHead);

  /// Row i (of the chunk from t0 on) of this lane, column0 on, is on its way; the last one in place of those past the end.
  auto fetch = [&](const RawRows& to, int t0, int column0) {
    const int length = min(d.chunk, d.seqlen - t0);
#pragma unroll
    for (int high = 0; high < 2; ++high) {
      const int i = row0 + g + 8 * high;
      to.fetch<kVectors>(
          i, proj_b + static_cast<int64_t>(t0 + min(i, length - 1)) * d.width + column0);
    }
  };
  const int column_k = a.col.B + group * kTiledHead, column_q = a.col.C + group * kTiledHead,
            column_x = a.col.x + h * kTiledHead, column_z = a.col.z + h * kTiledHead;
  /// f(token, pair) for this thread's pairs of a chunk, 16 threads to a token.
  auto each_angle = [&](int length, auto&& f) {
    for (int j = thread % 16; j < S; j += 16) {
#pragma unroll 4
      for (int i = thread / 16; i < length; i += kThreads / 16) f(i, j);
    }
  };
  auto fetch_angles = [&](int t0) {
    if (!learned) return;
    const float* from = proj_b + static_cast<int64_t>(t0) * d.width + a.col.ang;
    each_angle(min(d.chunk, d.seqlen - t0), [&](int i, int j) {
      copy_async<4>(shared_address(phi + i * angle_row + j),
                    from + static_cast<int64_t>(i) * d.width + j);
    });
  };
  TiledTokens::Raw raw_steps;
  if (warp == 0) raw_steps.load(a, proj_b, bias, h, 0, min(d.chunk, d.seqlen));
  fetch_angles(0);
  if (row0 < rows) {
    fetch(RawRows{base + Place::kK}, 0, column_k);
    fetch(RawRows{base + Place::kRows}, 0, column_q);
    fetch(RawRows{base + Place::kX}, 0, column_x);
  }

  for (int chunk = 0; chunk < d.nchunks; ++chunk) {
    opaque(base);
    const HeadTile<kSplit> k{base + Place::kK}, x{base + Place::kX}, state{base + Place::kState};
    const RawRows raw_k{base + Place::kK}, raw_x{base + Place::kX}, raw{base + Place::kRows};
    const int t0 = chunk * d.chunk, length = min(d.chunk, d.seqlen - t0);
    const bool first = chunk == 0, last = chunk + 1 == d.nchunks;

    // ---- steps, angles; the state that enters
    if (warp == 0) token.compute(a, raw_steps, t0, length);
    if (learned) {
      wait_all_copies();
      each_angle(length, [&](int i, int j) {
        float& to = phi[i * angle_row + j];
        to = kPi * quick_tanh(to);
      });
    } else if (turns) {
      for (int at = thread; at < length * S; at += kThreads)
        phi[at / S * angle_row + at % S] = standard_angle(t0 + at / S, at % S, S);
    }
    if (!first || state_out != nullptr) {
#pragma unroll
      for (int high = 0; high < 2; ++high) {
        const int p = row0 + g + 8 * high;
        QuadRow values;
#pragma unroll
        for (int n = 0; n < kQuadPairs; ++n)
          values.v[n] = make_float2(sum[n][2 * high], sum[n][2 * high + 1]);
        if (!first) values.store<kSplit>(state, p);
        if (state_out == nullptr) continue;
#pragma unroll
        for (int n = 0; n < kQuadPairs; ++n)
          store2(state_out + p * kTiledHead + QuadRow::column(n), values.v[n].x, values.v[n].y,
                 true);
      }
      if (state_out != nullptr) state_out += kTiledHead * kTiledHead;
    }
    __syncthreads();
    if (learned) {
      sum_angles(phi, token.dt, S, length, angle);
      __syncthreads();
      if (phi_out != nullptr) {
        float* to = phi_out + ((static_cast<int64_t>(b) * d.seqlen + t0) * d.nheads + h) * S;
        each_angle(length, [&](int i, int j) {
          to[static_cast<int64_t>(i) * d.nheads * S + j] = phi[i * angle_row + j];
        });
      }
    }

    // ---- rows of the warp's tokens
    Fragment<kSplit> q[kSteps];
    float diag[2];
    if (row0 < rows) {
      wait_all_copies();
#pragma unroll
      for (int high = 0; high < 2; ++high) {
        const int i = row0 + g + 8 * high;
        QuadRows r;
        r.k = raw_k.load(i), r.q = raw.load(i);
        QuadRow x_row = raw_x.load(i);
        __syncwarp();
        r.norm_and_bias(weights, norm_k, norm_q, a.eps);
        if (turns) {
          const float* angles = phi + min(i, length - 1) * angle_row;
          r.rotate(S, [&](int m) { return angles[QuadRow::column(m) / 2]; });
        }
        diag[high] = fmaf(token.gam[i], r.same, D);
        if (row0 + 16 > length && i >= length)  // the first is the same for the whole warp
          r.k.clear(), r.q.clear(), x_row.clear(), diag[high] = 0;
        r.k.store<kSplit>(k, i);
        x_row.store<kSplit>(x, i);
#pragma unroll
        for (int m = 0; m < kQuadPairs; ++m) q[m / 2].set(high + m % 2 * 2, r.q.v[m].x, r.q.v[m].y);
      }
      fetch(raw, t0, column_z);
    }
    __syncthreads();

    // ---- o of the warp's tokens, while what the next chunk needs first is on its way
    if (!last) {
      fetch_angles(t0 + d.chunk);
      if (warp == 0)
        raw_steps.load(a, proj_b, bias, h, t0 + d.chunk, min(d.chunk, d.seqlen - t0 - d.chunk));
    }
    if (row0 < rows) {
      float acc[kQuadPairs][4] = {};
      const int low = row0 + g;
      if (!first) {
#pragma unroll
        for (int s = 0; s < kSteps; ++s) mma_columns(acc, q[s], state, s * 16);
        scale_rows(acc, token.from_start[low], token.from_start[low + 8]);
      }
      const float to_low = token.prefix[low], to_high = token.prefix[low + 8];
      const float within[2] = {token.within[low] * kLog2E, token.within[low + 8] * kLog2E};
#pragma unroll 1
      for (int block = 0; block <= warp; ++block) {
        float score[2][4] = {};
#pragma unroll
        for (int s = 0; s < kSteps; ++s)
          mma_step<kSplit>(score[0], score[1], q[s], k.right_transposed(s * 16, block * 16));
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          const int j0 = block * 16 + n * 8 + 2 * t;
          const float2 w = *reinterpret_cast<const float2*>(token.w + j0);
          if (block < warp) {
            const float2 from = *reinterpret_cast<const float2*>(token.suffix + j0);
            const float whole = token.between[warp * 4 + block];
            const float w0 = from.x * w.x * whole, w1 = from.y * w.y * whole;
            score[n][0] *= to_low * w0, score[n][1] *= to_low * w1;
            score[n][2] *= to_high * w0, score[n][3] *= to_high * w1;
          } else {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              const int i = low + e / 2 * 8, j = j0 + e % 2;
              const float T = quick_exp2(fmaf(-kLog2E, token.within[j], within[e / 2]));
              const float below = j < i ? T * (e % 2 ? w.y : w.x) * score[n][e] : 0.0f;
              score[n][e] = j == i ? diag[e / 2] : below;
            }
          }
        }
        Fragment<kSplit> p;
        p.set(score[0], score[1]);
        mma_rows(acc, p, x, block * 16);
      }

      // ---- norm and gate
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
    if (last) break;
    if (row0 < rows) fetch(raw, t0 + d.chunk, column_q);

    // ---- the state that leaves
    const float whole = *token.whole;
#pragma unroll
    for (int n = 0; n < kQuadPairs; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[n][e] *= whole;
    }
#pragma unroll 1
    for (int block = 0; block < rows / 16; ++block) {
      Fragment<kSplit> values = x.fragment_transposed(row0, block * 16);
      values.change([&](float& v0, float& v1, int column) {
        const int j = block * 16 + column;
        v0 *= token.to_end[j] * token.w[j], v1 *= token.to_end[j + 1] * token.w[j + 1];
      });
      mma_rows(sum, values, k, block * 16);
    }
    __syncthreads();  // steps, keys, x and state have been read
    if (row0 < rows) fetch(raw_k, t0 + d.chunk, column_k), fetch(raw_x, t0 + d.chunk, column_x);
  }
}

template <bool kSplit, bool kVectors>
void launch_sized(const Mamba3Args& a, int members, CUstream_st* stream) {
  const int bytes = Places<kSplit>::bytes(a.dims, a.nangles);
  const auto kernel = tiled_forward<kSplit, kVectors>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "mamba3_scan");
  const dim3 grid(static_cast<unsigned>(a.dims.batch * a.dims.nheads),
                  static_cast<unsigned>(members));
  kernel<<<grid, kThreads, static_cast<size_t>(bytes), stream>>>(a);
  check_launch("mamba3_scan");
}

}  // namespace

void launch_tiled_forward(const Mamba3Args& a, bool split, int members, CUstream_st* stream) {
  if (split) {
    a.vectors ? launch_sized<true, true>(a, members, stream)
              : launch_sized<true, false>(a, members, stream);
  } else {
    a.vectors ? launch_sized<false, true>(a, members, stream)
              : launch_sized<false, false>(a, members, stream);
  }
}

}  // namespace statelab::cuda
