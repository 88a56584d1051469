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
  /// Floats of shared memory: the forward pass's arrays, the queries, the warps' rows; then ScanAtBackwardMemory, then dz.
  struct Memory {
    int queries, rows, row_floats, arrays;
    __host__ __device__ Memory(const ScanAt& a, const ScanAtMemory& memory)
        : queries(memory.arrays(a)),
          rows(queries + memory.warps * AtQueries<kHeads, kTurned>::kFloats),
          row_floats(kAtTokens * a.width),
          arrays(rows + memory.warps * row_floats) {}
    __host__ __device__ int end(const ScanAt& a, const ScanAtMemory& memory) const {
      return ScanAtBackwardMemory(a, memory, arrays).end + 64 * kHeads;
    }
  };

  __device__ WholeBackward(const ScanAtArgs& args, const ScanAtMemory& memory, const Memory& at,
                           float* shared)
      : ScanAtBackward(args, memory, shared, at.arrays, shared + at.rows, at.row_floats),
        rows(shared + at.rows + warp_id() * at.row_floats),
        dz(shared + at.end(args.a, memory) - 64 * kHeads) {
    queries.shared = shared + at.queries + warp_id() * AtQueries<kHeads, kTurned>::kFloats;
  }

  __device__ void run() {
    clear();
    gate_whole();
    s.weigh();  // with a barrier
    s.template ask<4, true>();
    queries.fill(args, s, queries.shared);
    keys();
    __syncthreads();
    sum_shares();
    wait_left();
    before();  // with a barrier: all rows have left
    if (warp_id() == 0) query<AtRow>();
    for (int c = thread(); c < 64 * kHeads; c += threads()) drow(s.p)[a.z + c] = dz[c];
    tokens();
    __syncthreads();
    head_sums();
  }

 private:
  /// Sums over a warp's tokens of one head.
  struct Sums {
    static constexpr int kTurns = AtQuery<kTurned>::kTurns;
    float2 cosine[kTurns], sine[kTurns];  // c' B', s' B'
    float2 turned[kTurns];                // s', c'
    float2 still[4];                      // c_t u_t B' of the other parts
    float all;                            // c_t u_t
  };
  struct Rows {
    AtRow k, x[kHeads];
  };

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
  __device__ void gate_whole() {
    if (warp_id() >= (a.mamba3 ? kHeads : 1)) return;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * 64 * kHeads;
    const float *dy = args.dy.at(blockIdx.y) + row, *o = args.o_in.at(blockIdx.y) + row;
    const float *z = s.row(s.p) + a.z, *norm = args.norm.at(blockIdx.y);
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

  /// Of token t. Volatile: where the loads stand they stay, before the arithmetic of the tokens at hand.
  __device__ __forceinline__ void load(int t, Rows& to) const {
    const float* row = s.row(t) + AtRow::column(0);
    auto fetch = [&](AtRow& r, int column) {
#pragma unroll
      for (int part = 0; part < 4; ++part)
        asm volatile("ld.global.nc.v2.f32 {%0,%1}, [%2];"
                     : "=f"(r.v[part].x), "=f"(r.v[part].y)
                     : "l"(row + column + 2 * kAtLanes * part));
    };
    fetch(to.k, a.B);
#pragma unroll
    for (int b = 0; b < kHeads; ++b) fetch(to.x[b], a.x + 64 * b);
  }

  /// dx and B's gradient of this warp's tokens, its shares of the parameters' and the query's.
  __device__ void keys() {
    const bool has_norm = args.B_norm.data != nullptr,
               learned = a.rotation == ScanAt::Rotation::kDataDependent;
    Sums sums[kHeads] = {};
    Rows ahead = {};
    if (s.begin < s.end) load(min(s.begin + lane_id() / kAtLanes, s.end - 1), ahead);
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
        score[b].meet(queries.of(b), k, psi + b * queries.first_angle, a.nangles, queries.still[b]);
        value[b] = 0;
        AtRow d;
        d.read(dout + 64 * b, 64);
#pragma unroll
        for (int part = 0; part < 4; ++part)
          value[b] += d.v[part].x * ahead.x[b].v[part].x + d.v[part].y * ahead.x[b].v[part].y;
      }
      if (first + kAtTokens < s.end)
        load(min(first + kAtTokens + lane_id() / kAtLanes, s.end - 1), ahead);
      squares = lanes_sum<kAtLanes>(squares);
      const float inv = has_norm ? rsqrtf(fmaf(squares, 1.0f / 64, args.eps)) : 1.0f;
#pragma unroll
      for (int part = 0; part < 4; ++part) k.v[part].x *= inv, k.v[part].y *= inv;
      wait_rows();
      AtRow dk = {};
      float dot = 0;
#pragma unroll
      for (int b = 0; b < kHeads; ++b) {
        const float raw = lanes_sum<kAtLanes>(score[b].raw), u = lanes_sum<kAtLanes>(value[b]),
                    whole = fmaf(inv, raw, lanes_sum<kAtLanes>(score[b].plus));
        const int of_head = t * kHeads + b;
        const float decay = in ? s.decay[of_head] : 0.0f, c = decay * s.weight[of_head], cu = c * u;
        float dx = c * whole;
        if (at_t == s.p) {
          dx += __ldg(args.D.at(blockIdx.y) + b);
          if (lane_id() % kAtLanes == 0) parts[args.slot.D + b] = u;
        }
        if (in && lane_id() % kAtLanes == 0)
          dweight[of_head] = decay * whole * u, flow[of_head] = cu * whole;
        dot += cu * raw;
        add(queries.of(b), score[b], k, inv, cu, sums[b], dk,
            learned && in ? psi + b * queries.first_angle : nullptr);
        AtRow d;
        d.read(dout + 64 * b, 64);
#pragma unroll
        for (int part = 0; part < 4; ++part) d.v[part].x *= dx, d.v[part].y *= dx;
        d.store(row_of_lane() + a.x + 64 * b, 64, true);
      }
      const float mean = has_norm ? inv * dot * (1.0f / 64) : 0.0f;
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        dk.v[part].x = inv * (dk.v[part].x - k.v[part].x * mean);
        dk.v[part].y = inv * (dk.v[part].y - k.v[part].y * mean);
      }
      dk.store(row_of_lane() + a.B, 64, true);
      leave_rows(first);
    }
    share_sums(sums);
  }
  __device__ __forceinline__ float* row_of_lane() const {
    return rows + lane_id() / kAtLanes * a.width;
  }

  /// Of one head: to the sums over tokens, to the key's cotangent times w, and what the token gives its angles.
  __device__ __forceinline__ void add(const AtQuery<kTurned>& q, const AtScore<kTurned>& score,
                                      const AtRow& k, float inv, float cu, Sums& sums, AtRow& dk,
                                      float* dpsi) const {
    sums.all += cu;
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      const float2 key = k.v[part];
      float2& d = dk.v[part];
      if (part < kTurned) {
        const float4 of = q.products[part * kAtLanes];
        const float2 same = q.same[part * kAtLanes], by = score.by[part],
                     raw = score.raw_of[part];
        const float c = cu * by.y, s = cu * by.x;
        const int pair = AtRow::column(part) / 2;
        if (dpsi != nullptr && (kTurned == 2 || pair < a.nangles))
          dpsi[pair] = c * fmaf(inv, raw.y, same.y) - s * fmaf(inv, raw.x, same.x);
        float2 &cosine = sums.cosine[part], &sine = sums.sine[part], &turned = sums.turned[part];
        cosine.x += c * key.x, cosine.y += c * key.y;
        sine.x += s * key.x, sine.y += s * key.y;
        turned.x += s, turned.y += c;
        d.x += c * of.x - s * of.w, d.y += c * of.y + s * of.z;
      } else {
        const float2 of = q.still[(part - kTurned) * kAtLanes];
        float2& still = sums.still[part];
        still.x += cu * key.x, still.y += cu * key.y;
        d.x += cu * of.x, d.y += cu * of.y;
      }
    }
  }

  /// To this warp's shares, in the memory of its rows.
  __device__ void share_sums(Sums (&sums)[kHeads]) {
    const float *of_norm = args.B_norm.at(blockIdx.y), *of_heads = args.B_bias.at(blockIdx.y);
    AtRow w, dnorm = {};
    w.fill(of_norm, 64, 1.0f);
    wait_rows();
#pragma unroll
    for (int b = 0; b < kHeads; ++b) {
      AtRow q, bias, dbias, dquery;
      q.read(s.query + 64 * b, 64);
      bias.fill(of_heads == nullptr ? nullptr : of_heads + 64 * b, 64, 0.0f);
      const float all = tokens_sum(sums[b].all);
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        const float2 x = q.v[part], norm = w.v[part], plus = bias.v[part];
        float2 &dw = dnorm.v[part], &db = dbias.v[part], &dq_here = dquery.v[part];
        if (part < kTurned) {
          const float2 cosine = tokens_sum(sums[b].cosine[part]),
                       sine = tokens_sum(sums[b].sine[part]),
                       turned = tokens_sum(sums[b].turned[part]);
          dw.x += x.x * cosine.x - x.y * sine.x, dw.y += x.x * sine.y + x.y * cosine.y;
          db = make_float2(x.x * turned.y - x.y * turned.x, x.x * turned.x + x.y * turned.y);
          dq_here = make_float2(norm.x * cosine.x + norm.y * sine.y + plus.x * turned.y +
                                    plus.y * turned.x,
                                norm.y * cosine.y - norm.x * sine.x + plus.y * turned.y -
                                    plus.x * turned.x);
          // Back from what this warp's tokens see of the query.
          const int chain = s.chain(b, AtRow::column(part) / 2);
          if (chain < 0) continue;
          const float2 by = s.turned_behind(chain);
          dq_here = make_float2(dq_here.x * by.y + dq_here.y * by.x,
                                dq_here.y * by.y - dq_here.x * by.x);
        } else {
          const float2 still = tokens_sum(sums[b].still[part]);
          dw.x += x.x * still.x, dw.y += x.y * still.y;
          db = make_float2(x.x * all, x.y * all);
          dq_here = make_float2(norm.x * still.x + plus.x * all, norm.y * still.y + plus.y * all);
        }
      }
      if (lane_id() < kAtLanes) {
        dbias.store(share(b), 64, true);
        dquery.store(share(kHeads + b), 64, true);
      }
    }
    if (lane_id() < kAtLanes) dnorm.store(share(2 * kHeads), 64, true);
  }
  /// Over the tokens of a warp; all lanes get it.
  static __device__ __forceinline__ float tokens_sum(float x) {
#pragma unroll
    for (int d = kAtLanes; d < kWarp; d *= 2) x += __shfl_xor_sync(kAllLanes, x, d);
    return x;
  }
  static __device__ __forceinline__ float2 tokens_sum(float2 x) {
    return make_float2(tokens_sum(x.x), tokens_sum(x.y));
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

  float* const rows;  // this warp's (kAtTokens, width)
  float* const dz;
  AtQueries<kHeads, kTurned> queries;
};

}  // namespace statelab::cuda
