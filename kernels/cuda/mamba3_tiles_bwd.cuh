// The backward pass of mamba3_scan on bf16 tiles: what a block's threads keep, and their work on rows, before and after the products
// (mamba3_tiles_bwd.cu). Source: models.md sections 3.9 and 3.10.
#pragma once

#include <type_traits>

#include "kernels/cuda/mamba3_tiles_tokens.cuh"

namespace statelab::cuda {

/// Shared memory, offsets in bytes. Angles are last, since their number is known at run time; the state and its cotangent are
/// absent where a sequence has one chunk.
template <bool kSplit>
struct BackwardPlaces {
  static constexpr int kFloats =
      TiledTokens::kFloats + 4 * kTiledHead + 9 * kMaxChunk + kTiledHead + 24;
  static constexpr int kTile = HeadTile<kSplit>::kBytes;
  static constexpr int kQ = (kFloats * 4 + 255) / 256 * 256, kK = kQ + kTile, kX = kK + kTile,
                       kDout = kX + kTile, kState = kDout + kTile, kDstate = kState + kTile;
  /// Floats at the end of a head: sums over the columns of tiles, three kinds by four tiles.
  static constexpr int kHeadSums = 12 * kTiledHead;
  __host__ __device__ static int angles(const ScanDims& d) {
    return d.nchunks > 1 ? kDstate + kTile : kState;
  }
  __host__ __device__ static int bytes(const ScanDims& d, int nangles) {
    const int floats = 2 * kMaxChunk * angle_pitch(nangles);
    return angles(d) + 4 * (floats > kHeadSums ? floats : kHeadSums);
  }
};

/// Each of four numbers a lane becomes its sum over the warp: half the shuffles of four sums.
__device__ __forceinline__ void warp_sums(float* x) {
  const int lane = lane_id();
  const bool upper = (lane & 16) != 0, odd = (lane & 8) != 0;
  float two[2];
#pragma unroll
  for (int e = 0; e < 2; ++e)
    two[e] = (upper ? x[e + 2] : x[e]) + __shfl_xor_sync(0xFFFFFFFFu, upper ? x[e] : x[e + 2], 16);
  float one = (odd ? two[1] : two[0]) + __shfl_xor_sync(0xFFFFFFFFu, odd ? two[0] : two[1], 8);
#pragma unroll
  for (int step = 4; step >= 1; step /= 2) one += __shfl_xor_sync(0xFFFFFFFFu, one, step);
#pragma unroll
  for (int e = 0; e < 4; ++e) x[e] = __shfl_sync(0xFFFFFFFFu, one, e * 8);
}

/// What is still missing of a chunk's first token: the weight of the token before it belongs to the chunk before.
struct Pending {
  float ddt, dgam, lam, dt, raw;
};

/// The block's member's slice of an array that is there.
template <class T>
__device__ __forceinline__ T* slice(const MemberArray<T>& array) {
  return array.data + array.stride * blockIdx.y;
}

/// A thread's view of its block's sequence. Warps 0 to 3 ("queries") prepare rows of B and C and own 16 tokens each: dq of them,
/// then, as keys, dx. Warps 4 to 7 prepare rows of x and dy and the state that entered, and own dk of 16 tokens and 16 channels of the
/// state's cotangent each. Rows that pass one by one, before and after the products, are a warp's own 16 in a full chunk; in a shorter
/// one the four warps share them, eight at a time.
/// kTurned: groups of four pairs, one a lane, that may turn: 0, 4 or 8. It makes every phase a run of instructions without branches.
template <bool kSplit, bool kVectors, int kTurned>
struct TiledBackward {
  using Rotation = Mamba3ScanAttrs::Rotation;
  using Discretization = Mamba3ScanAttrs::Discretization;
  using Square = HeadTile<kSplit>;
  using Place = BackwardPlaces<kSplit>;
  static constexpr int N = kTiledHead, P = kTiledHead;

  const Mamba3Args& a;
  const ScanDims& d;
  const int S, angle_row, d_inner, first_token, heads_per_group, tokens;
  const bool learned, norm_k, norm_q, out_norm;

  // Shared arrays, by token unless said.
  TiledTokens token;
  float* weights;        // (4, 64), a row_weight() each
  float *inv_k, *inv_q;  // 1 / rms of the rows of B and C
  float *ddiag, *same;   // M_ii and K_ii
  float *by_query, *by_key,
      *leaving;                  // dq.q, dk.k, and the part of dk.k that the leaving state gives
  float *dw, *ddt_angle;         // cotangents of w; of dt through the angles
  float *warp_part, *head_part;  // by warp: of the state; of a head's sums
  Pending& pending;
  uint64_t*
      turns_of;  // (S) of the standard rotation, a token, in 2^-64 of a turn: whole turns vanish
  float *dphi, *dphi_k;  // (64, S): angles, then their cotangents through C; through B

  // Who this thread is. Every phase finds out anew, hidden from the compiler, which would otherwise keep hundreds of addresses in
  // registers for the phases to come.
  uint32_t base, own_thread;
  int thread, lane, g, t, warp, tile_row, row0, low;
  bool queries;

  // Head and chunk.
  int h, group, in_group, chunk, t0, length, tiles;
  bool first, last;

  // Sums over the tokens of this warp's rows, of columns 2 lane and 2 lane + 1.
  float2 bias_sum, norm_sum, gate_sum;
  // Keys: the cotangent of the state that leaves the chunk, channels row0 .. row0 + 15. Between its uses it waits in local memory:
  // the other phases need the registers, and the compiler would move it there one by one.
  float4* waiting;

  __device__ __forceinline__ TiledBackward(const Mamba3Args& args, unsigned char* shared)
      : TiledBackward(args, shared, SharedFloats(reinterpret_cast<float4*>(shared))) {}

  __device__ __forceinline__ void anew() {
    opaque(base), opaque(own_thread);
    thread = static_cast<int>(own_thread), lane = thread % kWarp, g = lane / 4, t = lane % 4;
    warp = __shfl_sync(0xFFFFFFFFu, thread / kWarp, 0);  // known to be the same for the whole warp
    queries = warp < 4, tile_row = warp % 4, row0 = tile_row * 16, low = row0 + g;
  }
  __device__ __forceinline__ void enter_head(int of_head) {
    h = of_head, group = h / heads_per_group, in_group = h - group * heads_per_group;
    bias_sum = gate_sum = make_float2(0, 0);
  }
  __device__ __forceinline__ void enter_chunk(int of_chunk) {
    chunk = of_chunk, t0 = chunk * d.chunk, length = min(d.chunk, tokens - t0);
    tiles = (length + 15) / 16, first = chunk == 0, last = t0 + d.chunk >= tokens;
  }
  __device__ __forceinline__ int last_chunk() const { return (tokens - 1) / d.chunk; }
  __device__ __forceinline__ bool owns_rows() const { return row0 < tiles * 16; }
  /// Parts of eight rows that this warp prepares and finishes, and the first row of one.
  __device__ __forceinline__ bool full() const { return tiles == kMaxBlocks; }
  __device__ __forceinline__ int parts() const { return (2 * tiles - tile_row + 3) / 4; }
  __device__ __forceinline__ int part_row(int part) const {
    return full() ? row0 + 8 * part : 8 * tile_row + 32 * part;
  }
  /// The four warps of this one's role.
  __device__ __forceinline__ void meet_role() const {
    if (queries) {
      asm volatile("bar.sync 1, %0;" ::"n"(4 * kWarp) : "memory");
    } else {
      asm volatile("bar.sync 2, %0;" ::"n"(4 * kWarp) : "memory");
    }
  }
  /// The tokens' places and those of the angles are free, of which only queries make use while the head goes on: the others do not
  /// wait. A __syncthreads() must lie between two calls.
  __device__ __forceinline__ void free_tokens(bool head_goes_on) const {
    if (head_goes_on && !queries) {
      asm volatile("bar.arrive 3, %0;" ::"n"(kScanThreads) : "memory");
    } else {
      asm volatile("bar.sync 3, %0;" ::"n"(kScanThreads) : "memory");
    }
  }

  __device__ __forceinline__ Square q() const { return {base + Place::kQ}; }
  __device__ __forceinline__ Square k() const { return {base + Place::kK}; }
  __device__ __forceinline__ Square x() const { return {base + Place::kX}; }
  __device__ __forceinline__ Square dout() const { return {base + Place::kDout}; }
  __device__ __forceinline__ Square state() const { return {base + Place::kState}; }
  __device__ __forceinline__ Square dstate_tile() const { return {base + Place::kDstate}; }

  // Arrays of this sequence, from the chunk's first token on: the same for all threads. Rows past the last token are the last.
  __device__ __forceinline__ int row(int i) const { return min(i, length - 1); }
  __device__ __forceinline__ const float* proj(int column) const {
    return slice(a.proj) + static_cast<int64_t>(first_token + t0) * d.width + column;
  }
  __device__ __forceinline__ float* dproj(int column) const {
    return slice(a.dproj) + static_cast<int64_t>(first_token + t0) * d.width + column;
  }
  /// The head's columns of dy or o.
  __device__ __forceinline__ const float* of_head(const MemberArray<const float>& array) const {
    return slice(array) + static_cast<int64_t>(first_token + t0) * d_inner + h * P;
  }
  __device__ __forceinline__ const float* angles() const {
    return slice(a.phi_in) + (static_cast<int64_t>(first_token + t0) * d.nheads + h) * S;
  }
  __device__ __forceinline__ float standard(int i, int j) const {
    const uint64_t all = static_cast<uint64_t>(t0 + row(i)) * turns_of[j];
    return static_cast<float>(static_cast<int32_t>(all >> 32)) * (2 * kPi * 0x1p-32f);
  }

  /// The rows that this warp prepares are on their way to the places of their tiles: of B and C, or of x, dy and the entering state.
  /// A row is copied by the whole warp: wait, then meet, before reading.
  __device__ __forceinline__ void fetch_keys_and_queries() const {
    if (!queries) return;
#pragma unroll 1
    for (int part = 0; part < parts(); ++part) {
      const int to = part_row(part), from = row(to), count = length - from;
      const float* rows = proj(group * N) + from * d.width;
      RawRows{base + Place::kK}.template fetch_rows<kVectors>(to, rows + a.col.B, d.width, count);
      RawRows{base + Place::kQ}.template fetch_rows<kVectors>(to, rows + a.col.C, d.width, count);
    }
  }
  __device__ __forceinline__ void fetch_values_and_state() const {
    if (queries) return;
#pragma unroll 1
    for (int part = 0; part < parts(); ++part) {
      const int to = part_row(part), from = row(to), count = length - from;
      RawRows{base + Place::kX}.template fetch_rows<kVectors>(
          to, proj(a.col.x + h * P) + from * d.width, d.width, count);
      RawRows{base + Place::kDout}.fetch_aligned_rows(to, of_head(a.dy) + from * d_inner, d_inner,
                                                      count);
    }
    if (first) return;
    const float* from =
        slice(a.states_in) +
        ((static_cast<int64_t>(blockIdx.x) * d.nheads + h) * d.nchunks + chunk) * (P * N);
#pragma unroll 1
    for (int at = row0; at < row0 + 16; at += 8)
      RawRows{base + Place::kState}.fetch_aligned_rows(at, from + at * N, N, 8);
  }

  /// What prepare_values() will read first from memory comes into the second level of the cache.
  __device__ __forceinline__ void prefetch_gates() const {
    if (queries || lane / 8 % 2 >= parts()) return;
    const int i = row(part_row(lane / 8 % 2) + lane % 8), half = lane / 16 * (P / 2);
    const float *z = proj(a.col.z + h * P) + i * d.width, *o = of_head(a.o_in) + i * d_inner;
    asm volatile("prefetch.global.L2 [%0];" ::"l"(z + half));
    asm volatile("prefetch.global.L2 [%0];" ::"l"(o + half));
    if (lane < 16) asm volatile("prefetch.global.L2 [%0];" ::"l"(z + P - 1));
  }

  /// Angles of this lane's pairs of row i, zero from pair S on.
  __device__ __forceinline__ void load_angles(float (&angle)[kTurned + 1], int i,
                                              bool wanted = true) const {
    const float* from = angles() + (row(i) * d.nheads * S + t);
#pragma unroll
    for (int m = 0; m < kTurned; ++m)
      angle[m] = load_here(from + 4 * m, wanted && learned && t + 4 * m < S);
    if (learned) return;
#pragma unroll
    for (int m = 0; m < kTurned; ++m) {
      if (t + 4 * m < S) angle[m] = standard(i, t + 4 * m);
    }
  }

  /// q' and k' of this warp's rows.
  __device__ __forceinline__ void prepare_queries_and_keys() const {
    float angle[kTurned + 1], next[kTurned + 1];
    const int count = parts();
    load_angles(angle, part_row(0) + g, count > 0);
    wait_all_copies();
    __syncwarp();
#pragma unroll 1
    for (int part = 0; part < count; ++part) {
      const int begin = part_row(part), i = begin + g;
      load_angles(next, part_row(1) + g, part + 1 < count);
      QuadRows r;
      r.k = RawRows{k().base}.load(i), r.q = RawRows{q().base}.load(i);
      __syncwarp();
      r.norm_and_bias(weights, norm_k, norm_q, a.eps);
      r.template rotate<kTurned>([&](int m) { return angle[m]; });
      if (begin + 8 > length && i >= length)  // the first is the same for the whole warp
        r.k.clear(), r.q.clear();
      r.k.template store<kSplit>(k(), i);
      r.q.template store<kSplit>(q(), i);
      if (t == 0) inv_k[i] = r.inv_k, inv_q[i] = r.inv_q;
#pragma unroll
      for (int m = 0; m < kTurned; ++m) {
        const int at = i * angle_row + t + 4 * m;
        if (t + 4 * m < S) dphi[at] = angle[m], dphi_k[at] = angle[m];
        angle[m] = next[m];
      }
    }
  }

  /// x of this warp's rows; the cotangent of o from that of y, through gate and norm; dz; then the state that entered. A lane has
  /// columns 2 lane and 2 lane + 1 of a row, four rows at a time; all of z and o are asked for at once, at the start.
  __device__ __forceinline__ void prepare_values() {
    constexpr int kAtOnce = 4;
    const int c = 2 * lane, groups = parts() * (8 / kAtOnce);
    struct Rows {
      float2 z[kAtOnce], o[kAtOnce];
    } now, ahead[16 / kAtOnce - 1];
    float2 weight = make_float2(1, 1);
    const float *z_rows = proj(a.col.z + h * P) + c, *o_rows = of_head(a.o_in) + c;
    float* dz_rows = dproj(a.col.z + h * P) + c;
    const uint32_t width = 4 * d.width, inner = 4 * d_inner;  // bytes
    opaque(z_rows), opaque(o_rows), opaque(dz_rows);
    auto first_row = [&](int of_group) { return part_row(of_group / 2) + of_group % 2 * kAtOnce; };
    auto load = [&](Rows& to, int of_group) {
      const int i = first_row(of_group);
      const bool wanted = of_group < groups;
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        const uint32_t from = static_cast<uint32_t>(row(i + u));
        to.z[u] = load2_here(bytes_past(z_rows, from * width), kVectors, wanted);
        to.o[u] = load2_here(bytes_past(o_rows, from * inner), true, wanted);
      }
    };
    load(now, 0);
#pragma unroll
    for (int of_group = 1; of_group < 16 / kAtOnce; ++of_group) load(ahead[of_group - 1], of_group);
    if (out_norm) weight = load2_here(slice(a.norm) + h * P + c, true);
    wait_all_copies();
    __syncwarp();
#pragma unroll 1
    for (int at_group = 0; at_group < groups; ++at_group) {
      const int i0 = first_row(at_group);
      // Shared addresses of row i0; of row i0 + u: ^ (u << 5) or ^ (u << 4), 256 u bytes on.
      const uint32_t raw = base + static_cast<uint32_t>(i0 * 256 + (((i0 & 4) << 5) ^ (8 * lane))),
                     tile = base + static_cast<uint32_t>(i0 * 256 + (((i0 & 4) << 4) ^ (4 * lane)));
      float2 dy[kAtOnce], value[kAtOnce];
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        const uint32_t from = (raw ^ (32u * u)) + 256u * u;
        value[u] = RawRows::load_at(from + Place::kX),
        dy[u] = RawRows::load_at(from + Place::kDout);
      }
      __syncwarp();
      const bool whole = i0 + kAtOnce <= length;
      auto store = [&](int place) {
        if (!whole) {
#pragma unroll
          for (int u = 0; u < kAtOnce; ++u) {
            if (i0 + u >= length) value[u] = make_float2(0, 0);
          }
        }
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u)
          Square::store_at((tile ^ (16u * u)) + 256u * u + place, value[u].x, value[u].y);
      };
      store(Place::kX);
      float inverse[kAtOnce] = {1, 1, 1, 1};
      if (out_norm) {
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u)
          inverse[u] = now.o[u].x * now.o[u].x + now.o[u].y * now.o[u].y;
        warp_sums(inverse);
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) inverse[u] = rsqrtf(inverse[u] * (1.0f / P) + a.eps);
      }
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        const float2 z = now.z[u];
        const float s0 = quick_sigmoid(z.x), s1 = quick_sigmoid(z.y);
        now.o[u].x *= inverse[u], now.o[u].y *= inverse[u];
        value[u] = make_float2(dy[u].x * s0, dy[u].y * s1);
        store2_here(bytes_past(dz_rows, static_cast<uint32_t>(i0 + u) * width),
                    value[u].x * (now.o[u].x * weight.x) * fmaf(z.x, 1 - s0, 1.0f),
                    value[u].y * (now.o[u].y * weight.y) * fmaf(z.y, 1 - s1, 1.0f), kVectors,
                    i0 + u < length);
        value[u].x *= z.x, value[u].y *= z.y;
      }
      if (out_norm) {
        float dots[kAtOnce];
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          const float2 normed = now.o[u];
          if (i0 + u < length)
            gate_sum.x += value[u].x * normed.x, gate_sum.y += value[u].y * normed.y;
          value[u].x *= weight.x, value[u].y *= weight.y;
          dots[u] = (value[u].x * normed.x + value[u].y * normed.y) * (1.0f / P);
        }
        warp_sums(dots);
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          value[u].x = inverse[u] * (value[u].x - now.o[u].x * dots[u]);
          value[u].y = inverse[u] * (value[u].y - now.o[u].y * dots[u]);
        }
      }
      store(Place::kDout);
      now = ahead[0];
#pragma unroll
      for (int u = 1; u < 16 / kAtOnce - 1; ++u) ahead[u - 1] = ahead[u];
    }
    if (first) return;
#pragma unroll 1
    for (int part = 0; part < 2; ++part) {
      const QuadRow in = RawRows{state().base}.load(low + 8 * part);
      __syncwarp();
      in.template store<kSplit>(state(), low + 8 * part);
    }
  }

  /// dq or dk of this warp's rows is turned back, in place; the cotangents of the angles and the rows' products with q or k on the
  /// way.
  __device__ __forceinline__ void turn_back(float (&acc)[kQuadPairs][4]) const {
    const Square mine_of = queries ? q() : k();
    float *to_dphi = queries ? dphi : dphi_k, *dots = queries ? by_query : by_key;
#pragma unroll
    for (int high = 0; high < 2; ++high) {
      const int i = low + 8 * high;
      const uint32_t mine_at = mine_of.at(i, QuadRow::column(0));
      float dot = 0;
#pragma unroll
      for (int n = 0; n < kQuadPairs; ++n) {
        float &d0 = acc[n][2 * high], &d1 = acc[n][2 * high + 1];
        const int j = t + 4 * n;
        const float2 mine = mine_of.load_at(mine_at ^ (16u * n));
        dot = fmaf(d0, mine.x, fmaf(d1, mine.y, dot));
        if (n >= kTurned) continue;
        float sine, cosine, angle = 0;
        float* place = to_dphi + i * angle_row + j;
        if (j < S) angle = *place, *place = d1 * mine.x - d0 * mine.y;
        quick_sincos(angle, sine, cosine);
        const float turned = d0 * cosine + d1 * sine;
        d1 = d1 * cosine - d0 * sine, d0 = turned;
      }
      dot = row_sum(dot);
      if (t == 0) dots[i] = dot;
    }
  }

  /// Once every warp has read its tiles: this warp's rows of dq or dk wait where its rows of q or k were.
  __device__ __forceinline__ void put_rows(const float (&acc)[kQuadPairs][4]) const {
    const RawRows to{(queries ? q() : k()).base};
#pragma unroll
    for (int high = 0; high < 2; ++high) {
      QuadRow of;
#pragma unroll
      for (int n = 0; n < kQuadPairs; ++n)
        of.v[n] = make_float2(acc[n][2 * high], acc[n][2 * high + 1]);
      to.store(low + 8 * high, of);
    }
  }

  /// They go through bias and norm to the columns of C or B in dproj, where heads of a group add up. A lane has columns 2 lane and
  /// 2 lane + 1 of a row, eight rows at a time.
  __device__ __forceinline__ void finish_rows() {
    constexpr int kAtOnce = 8;
    const RawRows from{(queries ? q() : k()).base};
    const int column = (queries ? a.col.C : a.col.B) + group * N + 2 * lane, count = parts();
    const bool adds = in_group > 0,
               normed = in_group == heads_per_group - 1 && (queries ? norm_q : norm_k);
    const float *raw_rows = proj(column), *inverse = queries ? inv_q : inv_k;
    float* to = dproj(column);
    opaque(raw_rows), opaque(to);
    const uint32_t width = 4 * d.width;  // bytes
    const float2 w = *reinterpret_cast<const float2*>(weights + (queries ? N : 0) + 2 * lane);
    float2 raw[kAtOnce], old[kAtOnce], next_raw[kAtOnce],
        next_old[kAtOnce];  // old: of earlier heads
    auto load = [&](float2(&to_raw)[kAtOnce], float2(&to_old)[kAtOnce], int part) {
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) to_raw[u] = to_old[u] = make_float2(0, 0);
      if (part >= count) return;
      const int i = part_row(part);
      auto load_rows = [&](float2(&out)[kAtOnce], const float* rows) {
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u)
          out[u] =
              load2_here(bytes_past(rows, static_cast<uint32_t>(row(i + u)) * width), kVectors);
      };
      if (adds) load_rows(to_old, to);
      if (normed) load_rows(to_raw, raw_rows);
    };
    load(raw, old, 0);
#pragma unroll 1
    for (int part = 0; part < count; ++part) {
      const int i0 = part_row(part);
      load(next_raw, next_old, part + 1);
      float2 value[kAtOnce];
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        value[u] = from.load_pair(i0 + u, lane);
        bias_sum.x += value[u].x, bias_sum.y += value[u].y;
        value[u].x += old[u].x, value[u].y += old[u].y;
      }
      if (normed) {
        float dots[kAtOnce];
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          const float inv = inverse[i0 + u];
          raw[u].x *= inv, raw[u].y *= inv;
          if (i0 + u < length)
            norm_sum.x += value[u].x * raw[u].x, norm_sum.y += value[u].y * raw[u].y;
          value[u].x *= w.x, value[u].y *= w.y;
          dots[u] = (value[u].x * raw[u].x + value[u].y * raw[u].y) * (1.0f / N);
        }
        warp_sums(dots), warp_sums(dots + 4);
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          const float inv = inverse[i0 + u];
          value[u].x = inv * (value[u].x - raw[u].x * dots[u]);
          value[u].y = inv * (value[u].y - raw[u].y * dots[u]);
        }
      }
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        store2_here(bytes_past(to, static_cast<uint32_t>(i0 + u) * width), value[u].x, value[u].y,
                    kVectors, i0 + u < length);
        raw[u] = next_raw[u], old[u] = next_old[u];
      }
    }
  }

 private:
  __device__ __forceinline__ TiledBackward(const Mamba3Args& args, unsigned char* shared,
                                           SharedFloats memory)
      : a(args),
        d(args.dims),
        S(args.nangles),
        angle_row(angle_pitch(args.nangles)),
        d_inner(args.dims.nheads * P),
        first_token(static_cast<int>(blockIdx.x) * args.dims.seqlen),
        heads_per_group(args.dims.nheads / args.dims.ngroups),
        tokens(used_tokens(args.targets, static_cast<int>(blockIdx.x), args.dims.seqlen)),
        learned(args.rotation == Rotation::kDataDependent),
        norm_k(args.B_norm.data != nullptr),
        norm_q(args.C_norm.data != nullptr),
        out_norm(args.norm.data != nullptr),
        token(memory.take(TiledTokens::kFloats)),
        weights(memory.take(4 * N)),
        inv_k(memory.take(kMaxChunk)),
        inv_q(memory.take(kMaxChunk)),
        ddiag(memory.take(kMaxChunk)),
        same(memory.take(kMaxChunk)),
        by_query(memory.take(kMaxChunk)),
        by_key(memory.take(kMaxChunk)),
        leaving(memory.take(kMaxChunk)),
        dw(memory.take(kMaxChunk)),
        ddt_angle(memory.take(kMaxChunk)),
        warp_part(memory.take(8)),
        head_part(memory.take(8)),
        pending(*reinterpret_cast<Pending*>(memory.take(8))),
        turns_of(reinterpret_cast<uint64_t*>(memory.take(N))),
        dphi(reinterpret_cast<float*>(shared + Place::angles(args.dims))),
        dphi_k(dphi + kMaxChunk * angle_row),
        base(shared_address(shared)),
        own_thread(threadIdx.x),
        norm_sum(make_float2(0, 0)) {
    anew();
  }
};

}  // namespace statelab::cuda
