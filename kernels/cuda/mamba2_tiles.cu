// mamba2_scan, forward, on bf16 tiles: a block takes one head of a sequence, or the two of a group, four warps each, and walks it
// chunk by chunk; a warp owns 16 tokens of its head. Its queries live in registers as fragments, keys (of the group), x and the
// state in shared memory; scores pass from accumulators to operands in registers, 16 x 16 at a time. The fp32 state rests in global
// memory while the warp needs its registers for o, where the backward pass wants it anyway; a thread reads there only what it wrote.
// Where a block holds its group, gate and norm follow in registers. Source: models.md section 6.2.
#include "kernels/cuda/mamba2_tiles.cuh"

namespace statelab::cuda {
namespace {

constexpr int kSteps = kTiledHead / 16, kStateFloats = kTiledHead * kTiledHead;

/// Shared memory, offsets in bytes: four warps a scheduler fit. Step sizes of two chunks: the next one's are computed during this
/// one's products. The raw rows of a single head's queries lie where the state's tile will, those of two heads have a place.
template <bool kSplit, int kHeads>
struct Places {
  static constexpr int kTile = HeadTile<kSplit>::kBytes;
  static constexpr int kSquares = 2 * kHeads * StepTokens::kFloats * 4,
                       kK = (kSquares + kHeads * kMaxChunk * 4 + 255) / 256 * 256, kX = kK + kTile,
                       kState = kX + kHeads * kTile, kEnd = kState + kHeads * kTile,
                       kQ = kHeads > 1 ? kEnd : kState, kBytes = kHeads > 1 ? kEnd + kTile : kEnd;
};

template <bool kSplit, bool kVectors, int kHeads>
__global__ void __launch_bounds__(128 * kHeads, 4 / kHeads)
    tiled_forward(const __grid_constant__ Mamba2Args a, bool gates) {
  extern __shared__ __align__(256) unsigned char shared[];
  const ScanDims& d = a.dims;
  using Place = Places<kSplit, kHeads>;
  uint32_t base = shared_address(shared);
  float *steps = reinterpret_cast<float*>(shared),
        *squares = reinterpret_cast<float*>(shared + Place::kSquares);

  // Every phase finds out anew who it is, hidden from the compiler, which would otherwise keep addresses in registers that the
  // phases to come lack.
  const int d_inner = d.nheads * kTiledHead;
  uint32_t member = blockIdx.y, own_thread = threadIdx.x,
           first_head = blockIdx.x % (d.nheads / kHeads) * kHeads,
           sequence = blockIdx.x / (d.nheads / kHeads);
  int slot, tile_row, g, t, row0, low, h;
  auto anew = [&] {
    opaque(base), opaque(member), opaque(own_thread), opaque(first_head), opaque(sequence);
    const int thread = static_cast<int>(own_thread), lane = thread % kWarp;
    const int warp = __shfl_sync(0xFFFFFFFFu, thread / kWarp, 0);  // known to be the warp's
    slot = warp / 4, g = lane / 4, t = lane % 4;
    // Later tokens meet more keys: warps of one scheduler own different ones.
    tile_row = slot == 0 ? warp : 7 - warp;
    row0 = tile_row * 16, low = row0 + g, h = static_cast<int>(first_head) + slot;
  };
  anew();
  const bool saved = a.states.data != nullptr;
  /// The fp32 state that enters a chunk, rows low and low + 8.
  auto rest_of = [&](int chunk) {
    const int64_t head = static_cast<int64_t>(sequence) * d.nheads + h;
    float* of_head = saved ? a.states.at(member) + (head * d.nchunks + chunk) * kStateFloats
                           : a.carried.at(member) + head * kStateFloats;
    return of_head + low * kTiledHead + QuadRow::column(0);
  };
  auto steps_of = [&](int chunk) {
    return StepTokens(steps + (slot * 2 + chunk % 2) * StepTokens::kFloats);
  };

  /// Between the warps that own the same tokens.
  auto meet = [&] {
    if constexpr (kHeads > 1) {
      asm volatile("bar.sync %0, %1;" ::"r"(1 + tile_row), "n"(kHeads * kWarp) : "memory");
    } else {
      __syncwarp();
    }
  };
  auto chunk_rows = [&](int t0) {
    return a.proj.at(member) + (static_cast<int64_t>(sequence) * d.seqlen + t0) * d.width;
  };
  const int tokens = used_tokens(a.targets, static_cast<int>(sequence), d.seqlen);
  auto chunk_length = [&](int t0) { return min(d.chunk, tokens - t0); };
  auto column_of_group = [&](int begin) { return begin + h / (d.nheads / d.ngroups) * kTiledHead; };
  auto column_of_head = [&](int begin) { return begin + h * kTiledHead; };
  constexpr int kShared = 16 / kHeads;  // rows of q and k that a warp brings
  auto fetch_q = [&](int t0) {
    if (row0 < chunk_length(t0))
      fetch_rows<kVectors, kShared>(base + Place::kQ, row0 + slot * kShared,
                                    chunk_rows(t0) + column_of_group(a.C), d.width,
                                    chunk_length(t0));
  };
  auto fetch = [&](int t0) {
    if (row0 >= chunk_length(t0)) return;
    fetch_rows<kVectors, kShared>(base + Place::kK, row0 + slot * kShared,
                                  chunk_rows(t0) + column_of_group(a.B), d.width, chunk_length(t0));
    fetch_rows<kVectors>(base + Place::kX + slot * Place::kTile, row0,
                         chunk_rows(t0) + column_of_head(a.x), d.width, chunk_length(t0));
  };
  fetch_q(0), fetch(0);
  StepTokens::Raw raw_steps;
  auto load_steps = [&](int t0) {
    raw_steps.load(a, chunk_rows(t0), a.dt_bias.at(member)[h], h, chunk_length(t0));
  };
  auto compute_steps = [&](int chunk) {
    steps_of(chunk).compute(raw_steps, -expf(a.A_log.at(member)[h]), chunk_length(chunk * d.chunk));
  };
  if (tile_row == 0) load_steps(0), compute_steps(0);
  float sum[kQuadPairs][4] = {};  // the state, channels low and low + 8

  for (int chunk = 0; chunk * d.chunk < tokens; ++chunk) {
    anew();
    const uint32_t of_head = static_cast<uint32_t>(slot * Place::kTile);
    const HeadTile<kSplit> k{base + Place::kK}, x{base + Place::kX + of_head},
        state{base + Place::kState + of_head};
    const StepTokens token = steps_of(chunk);
    const int t0 = chunk * d.chunk, length = chunk_length(t0);
    const bool first = chunk == 0, last = (chunk + 1) * d.chunk >= tokens,
               owns_rows = row0 < length;

    // ---- rows of the warp's tokens; the state that enters
    Fragment<kSplit> q[kSteps] = {};
    float same[2] = {0, 0};
    if (owns_rows) {
      wait_all_copies();
      meet();
#pragma unroll
      for (int high = 0; high < 2; ++high) {
        const int i = low + 8 * high;
        const bool past = row0 + 16 > length && i >= length;  // the first is the warp's
        QuadRow q_row = RawRows{base + Place::kQ}.load(i), k_row = RawRows{k.base}.load(i);
        if (past) q_row.clear(), k_row.clear();
#pragma unroll
        for (int m = 0; m < kQuadPairs; ++m) {
          q[m / 2].set(high + m % 2 * 2, q_row.v[m].x, q_row.v[m].y);
          same[high] =
              fmaf(q_row.v[m].x, k_row.v[m].x, fmaf(q_row.v[m].y, k_row.v[m].y, same[high]));
        }
        same[high] = row_sum(same[high]);
        meet();  // row i has been read
        if (kHeads == 1 || slot == high) k_row.store<kSplit>(k, i);
        QuadRow x_row = RawRows{x.base}.load(i);
        if (past) x_row.clear();
        __syncwarp();
        x_row.store<kSplit>(x, i);
      }
    }
    __syncwarp();
    if (kHeads > 1 && !last) fetch_q(t0 + d.chunk);
    if (!first || saved) {
      float* rest = rest_of(chunk);
#pragma unroll
      for (int high = 0; high < 2; ++high) {
        QuadRow values;
#pragma unroll
        for (int n = 0; n < kQuadPairs; ++n) {
          values.v[n] = make_float2(sum[n][2 * high], sum[n][2 * high + 1]);
          store2(rest + 8 * high * kTiledHead + 8 * n, values.v[n].x, values.v[n].y, true);
        }
        if (!first) values.store<kSplit>(state, low + 8 * high);
      }
    }
    __syncthreads();

    anew();
    if (!last && tile_row == 0) load_steps(t0 + d.chunk);
    // ---- o of the warp's tokens
    if (owns_rows) {
      const float D = a.D.at(member)[h];
      float acc[kQuadPairs][4] = {};
      if (!first) {
#pragma unroll
        for (int s = 0; s < kSteps; ++s) mma_columns(acc, q[s], state, s * 16);
        scale_rows(acc, token.from_start[low], token.from_start[low + 8]);
      }
      auto scores = [&](float(&score)[2][4], int block) {
#pragma unroll
        for (int s = 0; s < kSteps; ++s)
          mma_step<kSplit>(score[0], score[1], q[s], k.right_transposed(s * 16, block * 16));
      };
      auto add = [&](const float(&score)[2][4], int block) {
        Fragment<kSplit> p;
        p.set(score[0], score[1]);
        mma_rows(acc, p, x, block * 16);
      };
#pragma unroll 1
      for (int block = 0; block < tile_row; ++block) {
        float score[2][4] = {};
        scores(score, block);
        const float whole = token.between[tile_row * 4 + block];
        const float to_low = token.prefix[low] * whole, to_high = token.prefix[low + 8] * whole;
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          const float2 from = pair_at(token.weighted + block * 16 + n * 8 + 2 * t);
          score[n][0] *= to_low * from.x, score[n][1] *= to_low * from.y;
          score[n][2] *= to_high * from.x, score[n][3] *= to_high * from.y;
        }
        add(score, block);
      }
      float score[2][4] = {};
      scores(score, tile_row);
      QuadRow z[2] = {};  // in the registers that the queries no longer need
      if (gates) {
#pragma unroll
        for (int high = 0; high < 2; ++high)
          z[high].load<kVectors>(chunk_rows(t0) +
                                 static_cast<int64_t>(min(low + 8 * high, length - 1)) * d.width +
                                 column_of_head(a.z));
      }
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int j0 = row0 + n * 8 + 2 * t;
        const float2 weight = pair_at(token.dt + j0), in2 = pair_at(token.within + j0);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int i = low + e / 2 * 8, j = j0 + e % 2;
          const float T = quick_exp2(token.within[i] - (e % 2 ? in2.y : in2.x));
          const float of_j = e % 2 ? weight.y : weight.x, below = T * of_j * score[n][e];
          score[n][e] = j < i ? below : j == i ? fmaf(of_j, same[e / 2], D) : 0.0f;
        }
      }
      add(score, tile_row);
      anew();
      const int64_t token_at = static_cast<int64_t>(sequence) * d.seqlen + t0 + low;
      auto store = [&](float* to) {
#pragma unroll
        for (int high = 0; high < 2; ++high) {
          if (low + 8 * high >= length) continue;
          float* row = to + (token_at + 8 * high) * d_inner + h * kTiledHead + QuadRow::column(0);
#pragma unroll
          for (int n = 0; n < kQuadPairs; ++n)
            store2(row + 8 * n, acc[n][2 * high], acc[n][2 * high + 1], true);
        }
      };
      if (a.o.data != nullptr) store(a.o.at(member));
      if (gates) {
        float inverse[2];
#pragma unroll
        for (int high = 0; high < 2; ++high) {
          const int i = low + 8 * high;
          float square = 0;
#pragma unroll
          for (int n = 0; n < kQuadPairs; ++n) {
            float &m0 = acc[n][2 * high], &m1 = acc[n][2 * high + 1];
            const float2 z2 = z[high].v[n];
            m0 *= z2.x * quick_sigmoid(z2.x), m1 *= z2.y * quick_sigmoid(z2.y);
            square = fmaf(m0, m0, fmaf(m1, m1, square));
          }
          inverse[high] = row_sum(square);
          if (kHeads > 1 && t == 0) squares[slot * kMaxChunk + i] = inverse[high];
        }
        if constexpr (kHeads > 1) {
          meet();
#pragma unroll
          for (int high = 0; high < 2; ++high)
            inverse[high] = squares[low + 8 * high] + squares[kMaxChunk + low + 8 * high];
        }
        constexpr float kShare = 1.0f / (kHeads * kTiledHead);
        scale_rows(acc, rsqrtf(fmaf(inverse[0], kShare, a.eps)),
                   rsqrtf(fmaf(inverse[1], kShare, a.eps)));
        const float* norm = a.norm.at(member) + h * kTiledHead;
#pragma unroll
        for (int n = 0; n < kQuadPairs; ++n) {
          const float2 w = load2(norm + QuadRow::column(n), true);
          acc[n][0] *= w.x, acc[n][1] *= w.y, acc[n][2] *= w.x, acc[n][3] *= w.y;
        }
        store(a.y.at(member));
      }
    }
    if (last) break;
    if (tile_row == 0) compute_steps(chunk + 1);

    // ---- the state that leaves
    anew();
    float2 before[2][kQuadPairs];
#pragma unroll
    for (int high = 0; high < 2; ++high) {
      const float* rest = rest_of(chunk) + 8 * high * kTiledHead;
#pragma unroll
      for (int n = 0; n < kQuadPairs; ++n) {
        before[high][n] = first ? make_float2(0, 0) : pair_at(rest + 8 * n);
        sum[n][2 * high] = sum[n][2 * high + 1] = 0;
      }
    }
#pragma unroll 1
    for (int block = 0; block * 16 < length; ++block) {
      Fragment<kSplit> values = x.fragment_transposed(row0, block * 16);
      values.change([&](float& v0, float& v1, int column) {
        const float2 leaving = pair_at(token.leaving + block * 16 + column);
        v0 *= leaving.x, v1 *= leaving.y;
      });
      mma_rows(sum, values, k, block * 16);
    }
    const float whole = *token.whole;
#pragma unroll
    for (int n = 0; n < kQuadPairs; ++n) {
#pragma unroll
      for (int high = 0; high < 2; ++high) {
        sum[n][2 * high] = fmaf(whole, before[high][n].x, sum[n][2 * high]);
        sum[n][2 * high + 1] = fmaf(whole, before[high][n].y, sum[n][2 * high + 1]);
      }
    }
    __syncthreads();  // keys, x and state have been read
    anew();
    if (kHeads == 1) fetch_q(t0 + d.chunk);
    fetch(t0 + d.chunk);
  }
  // What is multiplied later by cotangents of zero must be finite.
  constexpr int kPacks = kHeads * kTiledHead / 4;
  const int64_t behind = (static_cast<int64_t>(sequence) * d.seqlen + tokens) * d_inner +
                         static_cast<int>(first_head) * kTiledHead;
  for (int i = static_cast<int>(own_thread); i < (d.seqlen - tokens) * kPacks;
       i += static_cast<int>(blockDim.x)) {
    const int64_t at = behind + i / kPacks * d_inner + i % kPacks * 4;
    if (a.o.data != nullptr) *reinterpret_cast<float4*>(a.o.at(member) + at) = float4{};
    if (gates) *reinterpret_cast<float4*>(a.y.at(member) + at) = float4{};
  }
}

template <bool kSplit, bool kVectors, int kHeads>
void launch_sized(const Mamba2Args& a, int members, CUstream_st* stream) {
  constexpr int kBytes = Places<kSplit, kHeads>::kBytes;
  const auto kernel = tiled_forward<kSplit, kVectors, kHeads>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        "mamba2_scan");
  const dim3 grid(static_cast<unsigned>(a.dims.batch * a.dims.nheads / kHeads),
                  static_cast<unsigned>(members));
  kernel<<<grid, 128 * kHeads, kBytes, stream>>>(a, tiled_forward_gates(a.dims));
  check_launch("mamba2_scan");
}

template <bool kSplit>
void launch(const Mamba2Args& a, int members, CUstream_st* stream) {
  if (a.dims.nheads / a.dims.ngroups == 2) {
    a.vectors ? launch_sized<kSplit, true, 2>(a, members, stream)
              : launch_sized<kSplit, false, 2>(a, members, stream);
  } else {
    a.vectors ? launch_sized<kSplit, true, 1>(a, members, stream)
              : launch_sized<kSplit, false, 1>(a, members, stream);
  }
}

}  // namespace

int tiled_forward_bytes() { return Places<true, 2>::kBytes; }

void launch_tiled_forward(const Mamba2Args& a, bool split, int members, CUstream_st* stream) {
  split ? launch<true>(a, members, stream) : launch<false>(a, members, stream);
}

}  // namespace statelab::cuda
