// mamba3_scan, forward, on bf16 tiles: a block takes a head of a sequence and walks it chunk by chunk; a warp owns 16 tokens of the
// chunk and 16 channels of the state. Its queries live in registers as fragments, keys and x in shared memory; scores pass from
// accumulators to operands in registers, 16 x 16 at a time; the state is summed in fp32 accumulators, waits in memory while o is
// computed, and has a copy in shared memory as an operand. Source: models.md sections 3.2 - 3.6.
//
// A warp's 16 raw rows of q or z and its 16 channels of the state are the same 4 KiB of one tile: raw q until the warp has its
// fragments, then the state until all warps have read it, then raw z. So a block has three tiles, and four blocks fit a
// multiprocessor. A sequence of one chunk has no state (kOne): a block has no more warps and rows than the chunk.
#include "kernels/cuda/mamba3_tiles_fwd.cuh"

namespace statelab::cuda {
namespace {

using Rotation = Mamba3ScanAttrs::Rotation;

/// Shared memory, offsets in bytes. A tile has `rows` rows, that of the state one per channel.
struct Places {
  static constexpr int kRow = kTiledHead * 4;
  int k, x, rows, steps, weights, turns, angles, bytes;
  Places(const ScanDims& d, int nangles, bool one)
      : k(0),
        x(d.rows * kRow),
        rows(2 * x),
        steps(rows + (one ? d.rows : kTiledHead) * kRow),
        weights(steps + TokenSteps::kFloats * 4),
        turns(weights + 4 * kTiledHead * 4),
        angles(turns + kMaxWarps * kMaxAngles * 4),
        bytes(angles + d.rows * angle_pitch(nangles) * 4) {}
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
  const int tokens = used_tokens(a.targets, b, d.seqlen);
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

  /// The warp's rows (of the chunk from t0 on), column0 on, are on their way, each copied by the whole warp; the last one in place of
  /// those past the end.
  auto fetch = [&](int to, int t0, int column0) {
    const int end = min(d.chunk, tokens - t0) - 1;
#pragma unroll
    for (int high = 0; high < 2; ++high) {
      const int i = row0 + 8 * high, from = min(i, end);
      RawRows{base + static_cast<uint32_t>(to)}.fetch_rows<kVectors>(
          i, proj_b + static_cast<int64_t>(t0 + from) * d.width + column0, d.width, end + 1 - from);
    }
  };
  const int column_k = a.col.B + group * kTiledHead, column_q = a.col.C + group * kTiledHead,
            column_x = a.col.x + h * kTiledHead, column_z = a.col.z + h * kTiledHead;
  auto fetch_angles = [&](int t0) {
    if (learned)
      angles.fetch(proj_b + static_cast<int64_t>(t0) * d.width + a.col.ang, d.width, row0,
                   min(d.chunk, tokens - t0));
  };

  TokenSteps::Raw raw_steps;
  raw_steps.load(a, proj_b, h, 0, row0, tokens);
  fetch_angles(0);
  fetch_row_weights(a, member, h, weights);
  commit_copies();
  if (kOne || row0 < min(d.rows, tokens)) {
    fetch(place.k, 0, column_k), fetch(place.rows, 0, column_q), fetch(place.x, 0, column_x);
  }
  if (float* to = state_out(0); to != nullptr) {
    for (int e = static_cast<int>(threadIdx.x); e < kTiledHead * kTiledHead / 2;
         e += static_cast<int>(blockDim.x))
      store2(to + 2 * e, 0, 0, true);
  }

  for (int chunk = 0; kOne ? chunk < 1 : chunk * d.chunk < tokens; ++chunk) {
    uint32_t here = base, start = static_cast<uint32_t>(chunk * d.chunk);
    opaque(here), opaque(thread), opaque(start), opaque(member);
    const int lane = static_cast<int>(thread) % kWarp, t = lane % 4;
    int warp = static_cast<int>(thread) / kWarp;
    if constexpr (!kOne) warp = __shfl_sync(0xFFFFFFFFu, warp, 0);  // known to be the same for all
    row0 = warp * 16, low = row0 + lane / 4;
    const HeadTile<kSplit> k{here + place.k}, x{here + place.x}, state{here + place.rows};
    const RawRows raw_k{k.base}, raw_x{x.base}, raw{state.base};
    const int t0 = static_cast<int>(start), length = min(d.chunk, tokens - t0);
    const bool first = kOne || chunk == 0, last = kOne || (chunk + 1) * d.chunk >= tokens;
    const bool working = kOne || row0 < length;

    // ---- steps and angles
    const float dt = token.compute(a, raw_steps, bias, t0, length, row0, tokens);
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
      __syncwarp();
#pragma unroll
      for (int high = 0; high < 2; ++high) {
        const int i = low + 8 * high;
        if (i >= length) continue;
        const QuadRow z = raw.load(i);
        const int64_t at = (static_cast<int64_t>(b) * d.seqlen + t0 + i) * d_inner +
                           h * kTiledHead + QuadRow::column(0);
        if (o != nullptr) {
#pragma unroll
          for (int n = 0; n < kQuadPairs; ++n)
            store2(o + at + 8 * n, acc[n][2 * high], acc[n][2 * high + 1], true);
        }
        if (norm != nullptr) {
          const float* weight = norm + h * kTiledHead + QuadRow::column(0);
#pragma unroll
          for (int n = 0; n < kQuadPairs; ++n) {
            acc[n][2 * high] *= inverse[high] * weight[8 * n];
            acc[n][2 * high + 1] *= inverse[high] * weight[8 * n + 1];
          }
        }
#pragma unroll
        for (int n = 0; n < kQuadPairs; ++n) {
          const float2 gate = z.v[n];
          store2(y + at + 8 * n, acc[n][2 * high] * (gate.x * quick_sigmoid(gate.x)),
                 acc[n][2 * high + 1] * (gate.y * quick_sigmoid(gate.y)), true);
        }
      }
    }
    if constexpr (!kOne) {
      if (last) break;
      const int next = t0 + d.chunk;
      const bool more = row0 < min(d.chunk, tokens - next);       // working, in the next chunk
      if (more) __syncwarp(), fetch(place.rows, next, column_q);  // its z has been read
      raw_steps.load(a, proj_b, h, next, row0, tokens);

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
  // What is multiplied later by cotangents of zero must be finite.
  float* const behind =
      a.y.at(member) + (static_cast<int64_t>(b) * d.seqlen + tokens) * d_inner + h * kTiledHead;
  constexpr int kPacks = kTiledHead / 4;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < (d.seqlen - tokens) * kPacks;
       i += static_cast<int>(blockDim.x))
    *reinterpret_cast<float4*>(behind + i / kPacks * d_inner + i % kPacks * 4) = float4{};
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
