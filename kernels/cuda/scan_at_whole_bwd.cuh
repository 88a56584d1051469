// The way back of the heads of scan_at_whole.cuh, all at once. With c', s' = c_t u_t (cosine, sine) of a pair's angle and B' = inv B, all
// gradients are made of the sums over tokens of c', s', c' B' and s' B', and the norm's dot product is the sum of c_t u_t raw over
// the heads. Four rows of dproj at a time lie in shared memory, with their zeros, and leave as one bulk copy; the narrow columns and those of
// the position's z and C follow when the sums over the tokens before are there.
#pragma once

#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/scan_at_bwd.cuh"
#include "kernels/cuda/scan_at_whole.cuh"

namespace statelab::cuda {

template <int kHeads, int kTurned>
class WholeBackward : ScanAtBackward {
 public:
  /// Floats of shared memory behind the forward pass's arrays: the queries, the sums over tokens, dz, the warps' rows.
  struct Memory {
    int queries, sums, dz, rows, row_floats;
    ScanAtBackwardMemory rest;
    Memory(const ScanAt& a, const ScanAtMemory& memory)
        : queries(memory.arrays),
          sums(queries + AtQueries<kHeads, kTurned>::kFloats),
          dz(sums + kHeads * kShare),
          rows(dz + 64 * kHeads),
          row_floats(kAtTokens * a.width),
          rest(a, memory, rows + memory.warps * row_floats) {}
  };

  __device__ WholeBackward(const ScanAtArgs& args, const Memory& at, float* shared)
      : ScanAtBackward(args, at.rest, shared),
        queries{shared + at.queries},
        rows_of_warps(shared + at.rows),
        rows(rows_of_warps + warp_id() * at.row_floats),
        sums_of_tokens(shared + at.sums),
        dz(shared + at.dz),
        row_floats(at.row_floats) {}

  __device__ void run() {
    Rows ahead = {};
    ahead.load(s, s.begin);
    clear();
    gate();
    queries.ask(args, s);
    s.weigh();  // with a barrier
    keys(ahead);
    __syncthreads();
    sum_shares();
    wait_left();
    before();  // with a barrier: all rows have left
    if (warp_id() == memory.warps - 1) parameters();
    if (thread() < 64 * kHeads) drow(s.p)[thread()] = dz[thread()];
    tokens();
    __syncthreads();
    head_sums();
  }

 private:
  static constexpr int kKinds = 4 + 2 * kTurned;            // of pairs that a share has by lane
  static constexpr int kShare = 2 * kAtLanes * kKinds + 4;  // of a head; `all` is behind the pairs
  /// Sums over a warp's tokens of one head.
  struct Sums {
    static constexpr int kTurns = AtQuery<kTurned>::kTurns;
    float2 cosine[kTurns], sine[kTurns];  // c' B', s' B'
    float2 turned[kTurns];                // s', c'
    float2 still[4];                      // c_t u_t B' of the other parts
    float all;                            // c_t u_t
  };
  using Rows = AtRows<kHeads>;

  /// This warp's rows in shared memory, and the rows of dproj behind the last four.
  __device__ void clear() {
    const float4 zeros = make_float4(0, 0, 0, 0);
#pragma unroll 1
    for (int i = lane_id(); i < a.width; i += kWarp) reinterpret_cast<float4*>(rows)[i] = zeros;
    const int begin = (s.p + kAtTokens) / kAtTokens * kAtTokens;
    if (begin >= args.seqlen) return;
    float* const to = drow(begin);
    const int floats = (args.seqlen - begin) * a.width;
    if (aligned(to)) {
#pragma unroll 1
      for (int i = thread(); i < floats / 4; i += threads())
        reinterpret_cast<float4*>(to)[i] = zeros;
      if (floats % 4 != 0 && thread() == 0) store2(to + floats - 2, 0, 0, true);
    } else {
#pragma unroll 1
      for (int i = thread(); i < floats / 2; i += threads()) store2(to + 2 * i, 0, 0, true);
    }
  }
  static __device__ __forceinline__ bool aligned(const float* p) {
    return reinterpret_cast<uintptr_t>(p) % 16 == 0;
  }

  /// dy to dout and dz: a lane takes two columns of each head. Mamba-3 norms each head, Mamba-2 all of them.
  __device__ void gate() {
    if (warp_id() >= (a.mamba3 ? kHeads : 1)) return;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * 64 * kHeads;
    const float *dy = args.dy.at(blockIdx.y) + row, *o = args.o_in.at(blockIdx.y) + row;
    const float *z = s.row(s.p), *norm = args.norm.at(blockIdx.y);
    const int first = a.mamba3 ? warp_id() : 0, heads = a.mamba3 ? 1 : kHeads;
    float squares = 0, dot = 0;
    float2 v[kHeads], g[kHeads], w[kHeads], of_y[kHeads], of_z[kHeads], of_o[kHeads];
#pragma unroll
    for (int b = 0; b < kHeads; ++b) {
      if (b >= heads) continue;
      const int c = 64 * (first + b) + 2 * lane_id();
      of_y[b] = load2(dy + c, true), of_o[b] = load2(o + c, true), of_z[b] = load2(z + c, true);
      w[b] = norm != nullptr ? load2(norm + c, true) : make_float2(1, 1);
    }
#pragma unroll
    for (int b = 0; b < kHeads; ++b) {
      if (b >= heads) continue;
      const float2 gate = make_float2(silu(of_z[b].x), silu(of_z[b].y));
      v[b] = of_o[b], g[b] = of_y[b];
      float2& gated = a.mamba3 ? g[b] : v[b];
      gated = make_float2(gated.x * gate.x, gated.y * gate.y);
      squares += v[b].x * v[b].x + v[b].y * v[b].y;
      dot += g[b].x * w[b].x * v[b].x + g[b].y * w[b].y * v[b].y;
    }
    const float mean = 1.0f / static_cast<float>(64 * heads);
    const float inv = norm != nullptr ? rsqrtf(fmaf(warp_sum(squares), mean, args.eps)) : 1.0f;
    dot = norm != nullptr ? warp_sum(dot) * inv * inv * mean : 0.0f;
#pragma unroll
    for (int b = 0; b < kHeads; ++b) {
      if (b >= heads) continue;
      const int c = 64 * (first + b) + 2 * lane_id();
      auto back = [&](int at, float v, float g, float w, float dy, float o, float z) {
        const float sig = sigmoidf(z), dsilu = sig * (1 + z * (1 - sig));
        const float dv = inv * (g * w - v * dot);
        parts[args.slot.norm + at] = norm != nullptr ? g * v * inv : 0.0f;
        dout[at] = a.mamba3 ? dv : dv * z * sig;
        dz[at] = (a.mamba3 ? dy * v * inv * w : dv * o) * dsilu;
      };
      back(c, v[b].x, g[b].x, w[b].x, of_y[b].x, of_o[b].x, of_z[b].x);
      back(c + 1, v[b].y, g[b].y, w[b].y, of_y[b].y, of_o[b].y, of_z[b].y);
    }
  }
  static __device__ __forceinline__ float silu(float x) { return x * sigmoidf(x); }

  /// dx and B's gradient of this warp's tokens, its shares of the parameters' and the query's.
  __device__ void keys(Rows& ahead) {
    const bool has_norm = args.B_norm.data != nullptr,
               learned = a.rotation == ScanAt::Rotation::kDataDependent;
    const int of_head = learned ? a.nangles : 0;  // angles
    const float* const behind = s.behind + warp_id() * memory.chains;
    Sums sums[kHeads] = {};
    for (int first = s.begin; first < s.end; first += kAtTokens) {
      const int at_t = first + lane_id() / kAtLanes, t = min(at_t, s.end - 1);
      const bool in = at_t < s.end;
      float* const psi = s.psi + t * memory.psi_pitch;
      AtRow k = ahead.k;
      AtScore<kTurned> score[kHeads];
      float squares = 0, value[kHeads];
#pragma unroll
      for (int part = 0; part < 4; ++part)
        squares += k.v[part].x * k.v[part].x + k.v[part].y * k.v[part].y;
#pragma unroll
      for (int b = 0; b < kHeads; ++b) {
        score[b].meet(queries.of(b), k, psi + b * of_head, behind + b * of_head, a.nangles);
        value[b] = 0;
        AtRow d;
        d.read(dout + 64 * b, 64);
#pragma unroll
        for (int part = 0; part < 4; ++part)
          value[b] += d.v[part].x * ahead.x[b].v[part].x + d.v[part].y * ahead.x[b].v[part].y;
      }
      ahead.load(s, first + kAtTokens);
      squares = lanes_sum<kAtLanes>(squares);
      const float inv = has_norm ? rsqrtf(fmaf(squares, 1.0f / 64, args.eps)) : 1.0f;
#pragma unroll
      for (int part = 0; part < 4; ++part) k.v[part].x *= inv, k.v[part].y *= inv;
      wait_rows();
      AtRow dk = {};
      float dot = 0;
#pragma unroll
      for (int b = 0; b < kHeads; ++b) {
        const float raw = lanes_sum<kAtLanes>(score[b].raw), u = lanes_sum<kAtLanes>(value[b]);
        float plus = queries.still(b);
        if constexpr (kTurned > 0) plus += lanes_sum<kAtLanes>(score[b].plus);
        const float whole = fmaf(inv, raw, plus);
        const int at = t * kHeads + b;
        const float decay = in ? s.decay[at] : 0.0f, c = decay * s.weight[at], cu = c * u;
        float dx = c * whole;
        if (at_t == s.p) {
          dx += __ldg(args.D.at(blockIdx.y) + b);
          if (lane_id() % kAtLanes == 0) parts[args.slot.D + b] = u;
        }
        if (in && lane_id() % kAtLanes == 0) dweight[at] = decay * whole * u, flow[at] = cu * whole;
        dot += cu * raw;
        add(queries.of(b), score[b], k, cu, sums[b], dk,
            learned && in ? psi + b * of_head : nullptr);
        AtRow d;
        d.read(dout + 64 * b, 64);
#pragma unroll
        for (int part = 0; part < 4; ++part) d.v[part].x *= dx, d.v[part].y *= dx;
        d.store(row_of_lane() + Rows::kX + 64 * b, 64, true);
      }
      const float mean = has_norm ? inv * dot * (1.0f / 64) : 0.0f;
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        dk.v[part].x = inv * (dk.v[part].x - k.v[part].x * mean);
        dk.v[part].y = inv * (dk.v[part].y - k.v[part].y * mean);
      }
      dk.store(row_of_lane() + Rows::kB, 64, true);
      leave_rows(first);
    }
    share_sums(sums);
  }
  __device__ __forceinline__ float* row_of_lane() const {
    return rows + lane_id() / kAtLanes * a.width;
  }

  /// Of one head: to the sums over tokens, to the key's cotangent times w, and what the token gives its angles.
  __device__ __forceinline__ void add(const AtQuery<kTurned>& q, const AtScore<kTurned>& score,
                                      const AtRow& k, float cu, Sums& sums, AtRow& dk,
                                      float* dpsi) const {
    sums.all += cu;
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      const int pair = AtRow::column(part) / 2;
      const float2 key = k.v[part];
      float2& d = dk.v[part];
      if (part < kTurned) {
        const float4 of = q.products[pair];
        const float2 same = q.same[pair], by = score.by[part];
        const float c = cu * by.y, s = cu * by.x;
        if (dpsi != nullptr && (kTurned == 2 || pair < a.nangles))
          dpsi[pair] = c * (of.z * key.y - of.w * key.x + same.y) -
                       s * (of.x * key.x + of.y * key.y + same.x);
        float2 &cosine = sums.cosine[part], &sine = sums.sine[part], &turned = sums.turned[part];
        cosine.x += c * key.x, cosine.y += c * key.y;
        sine.x += s * key.x, sine.y += s * key.y;
        turned.x += s, turned.y += c;
        d.x += c * of.x - s * of.w, d.y += c * of.y + s * of.z;
      } else {
        const float2 of = q.still[pair - kTurned * kAtLanes];
        float2& still = sums.still[part];
        still.x += cu * key.x, still.y += cu * key.y;
        d.x += cu * of.x, d.y += cu * of.y;
      }
    }
  }

  /// To this warp's share, in the memory of its rows.
  __device__ void share_sums(const Sums (&sums)[kHeads]) {
    wait_rows();
#pragma unroll
    for (int b = 0; b < kHeads; ++b) {
      float2* const to = reinterpret_cast<float2*>(rows + b * kShare) + lane_id() % kAtLanes;
      auto put = [&](int kind, float2 x) {
        x = make_float2(tokens_sum(x.x), tokens_sum(x.y));
        if (lane_id() < kAtLanes) to[kind * kAtLanes] = x;
      };
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        if (part < kTurned) {
          put(part, sums[b].cosine[part]);
          put(4 + part, sums[b].sine[part]);
          put(4 + kTurned + part, sums[b].turned[part]);
        } else {
          put(part, sums[b].still[part]);
        }
      }
      const float all = tokens_sum(sums[b].all);
      if (lane_id() == 0) rows[(b + 1) * kShare - 4] = all;
    }
  }
  /// Over the tokens of a warp; all lanes get it.
  static __device__ __forceinline__ float tokens_sum(float x) {
#pragma unroll
    for (int d = kAtLanes; d < kWarp; d *= 2) x += __shfl_xor_sync(kAllLanes, x, d);
    return x;
  }

  /// The warps' shares, in order.
  __device__ void sum_shares() {
    for (int c = thread(); c < kHeads * kShare; c += threads()) {
      float sum = 0;
#pragma unroll 4
      for (int w = 0; w < memory.warps; ++w) sum += rows_of_warps[w * row_floats + c];
      sums_of_tokens[c] = sum;
    }
  }

  /// The gradients of norms and biases, zero for those that are absent, and C's at the position. One warp, a lane a pair.
  __device__ void parameters() {
    const int pair = lane_id(), c = 2 * pair, part = pair / kAtLanes;
    const float *of_B = args.B_norm.at(blockIdx.y), *of_C = args.C_norm.at(blockIdx.y),
                *biases = args.B_bias.at(blockIdx.y);
    const float2 none = make_float2(0, 0), one = make_float2(1, 1);
    const float2 w = of_B != nullptr ? load2(of_B + c, true) : one,
                 w_C = of_C != nullptr ? load2(of_C + c, true) : one,
                 raw = load2(s.row(s.p) + Rows::kC + c, true);
    float2 dw = none, dC = none;
    auto put = [&](int at, float2 x, bool there) {
      parts[at + c] = there ? x.x : 0.0f, parts[at + c + 1] = there ? x.y : 0.0f;
    };
#pragma unroll
    for (int b = 0; b < kHeads; ++b) {
      const float2* const sum =
          reinterpret_cast<const float2*>(sums_of_tokens + b * kShare) + pair % kAtLanes;
      const float all = sums_of_tokens[(b + 1) * kShare - 4];
      const float2 q = queries.q(b)[pair],
                   plus = biases != nullptr ? load2(biases + 64 * b + c, true) : none,
                   cosine = sum[part * kAtLanes];  // of pairs that do not turn the only one
      const bool turns = part < kTurned;
      const float2 sine = turns ? sum[(4 + part) * kAtLanes] : none,
                   turned = turns ? sum[(4 + kTurned + part) * kAtLanes] : make_float2(0, all);
      dw.x += q.x * cosine.x - q.y * sine.x, dw.y += q.x * sine.y + q.y * cosine.y;
      const float2 dq =
          make_float2(w.x * cosine.x + w.y * sine.y + plus.x * turned.y + plus.y * turned.x,
                      w.y * cosine.y - w.x * sine.x + plus.y * turned.y - plus.x * turned.x);
      dC.x += dq.x, dC.y += dq.y;
      if (!a.mamba3) continue;
      put(args.slot.B_bias + 64 * b,
          make_float2(q.x * turned.y - q.y * turned.x, q.x * turned.x + q.y * turned.y),
          biases != nullptr);
      put(args.slot.C_bias + 64 * b, dq, args.C_bias.data != nullptr);
    }
    const float inv = rsqrtf(fmaf(warp_sum(raw.x * raw.x + raw.y * raw.y), 1.0f / 64, args.eps)),
                dot = warp_sum(dC.x * w_C.x * raw.x + dC.y * w_C.y * raw.y) * inv * (1.0f / 64);
    if (a.mamba3) {
      put(args.slot.B_norm, dw, of_B != nullptr);
      put(args.slot.C_norm, make_float2(dC.x * raw.x * inv, dC.y * raw.y * inv), of_C != nullptr);
    }
    if (of_C != nullptr)
      dC = make_float2(inv * (dC.x * w_C.x - raw.x * inv * dot),
                       inv * (dC.y * w_C.y - raw.y * inv * dot));
    store2(drow(s.p) + Rows::kC + c, dC.x, dC.y, true);
  }

  /// The rows that lie in shared memory to dproj, those that the sequence has. Hopper's bulk copy takes them where it can.
  __device__ __forceinline__ void leave_rows(int first) const {
    float* const to = drow(first);
    const int floats = min(kAtTokens, args.seqlen - first) * a.width;
#if __CUDA_ARCH__ >= 900
    if (aligned(to) && floats % 4 == 0) {
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
      __syncwarp();
      if (lane_id() == 0) {
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to),
                     "r"(shared_address(rows)), "r"(4 * floats)
                     : "memory");
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
      }
      return;
    }
#endif
    __syncwarp();
#pragma unroll 1
    for (int i = 2 * lane_id(); i < floats; i += 2 * kWarp)
      store2(to + i, rows[i], rows[i + 1], true);
  }
  /// Until the rows in shared memory have been read.
  static __device__ __forceinline__ void wait_rows() {
#if __CUDA_ARCH__ >= 900
    if (lane_id() == 0) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
#endif
    __syncwarp();
  }
  /// Until they have arrived.
  static __device__ __forceinline__ void wait_left() {
#if __CUDA_ARCH__ >= 900
    if (lane_id() == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
#endif
  }

  const AtQueries<kHeads, kTurned> queries;
  float *const rows_of_warps, *const rows;  // this warp's (kAtTokens, width)
  float *const sums_of_tokens, *const dz;
  const int row_floats;
};

}  // namespace statelab::cuda
