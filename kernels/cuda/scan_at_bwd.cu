// mamba3_scan_at_bwd, mamba2_scan_at_bwd: the gradients of one query against the keys before it, see kernels/scan_at.h.
//
// With s_t the score, u_t = do . x_t and c_t = exp(L_t) w_t:  dx_t = c_t s_t do,  dk_t = c_t u_t Rot(Psi_t) q,
// dq = sum of c_t u_t Rot(-Psi_t) k_t,  dw_t = exp(L_t) s_t u_t. A token's log alpha and angle lie in L_j and Psi_j of all j before
// it, so their cotangents are sums of c_j s_j u_j and of c_j u_j (q x k_j) over j < t.
//   launch    grid x: sequences, y: members; a block takes all heads, a warp a run of tokens
//   traffic   as forward, and all of dproj once; B's columns of dproj again for every two further heads of a group
//   numerics  fp32 in every precision, in the forward pass's order; a sequence's shares of the parameters' gradients to the
//             workspace, then over the sequences
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/scan_at.cuh"
#include "kernels/cuda/shared_memory.cuh"

namespace statelab::cuda {
namespace {

constexpr int kTogether = 2;  // tokens at once

/// What the backward pass holds behind the forward pass's arrays.
struct BackwardMemory {
  int theta, dweight, flow, dout, shares, dq, end;  // first floats; rows on their way follow
  __host__ __device__ BackwardMemory(const ScanAt& a, const ScanAtMemory& memory)
      : theta(memory.arrays(a)),
        dweight(theta + memory.tokens * memory.theta_pitch),
        flow(dweight + memory.tokens * a.nheads),
        dout(flow + memory.tokens * a.nheads),
        shares(dout + a.nheads * a.headdim),
        dq(shares + kAtWarps * 2 * 2 * a.d_state),
        end((dq + a.nheads * a.d_state + 1) / 2 * 2) {}
};

/// One sequence's way back.
template <int kStates, int kChannels, int kHeads>
class Backward {
 public:
  __device__ Backward(const ScanAtArgs& arguments, const ScanAtMemory& memory, float* shared)
      : args(arguments),
        a(args.a),
        memory(memory),
        at(a, memory),
        s(args, memory, shared),
        theta(shared + at.theta),
        dweight(shared + at.dweight),
        flow(shared + at.flow),
        dout(shared + at.dout),
        shares(shared + at.shares),
        dq(shared + at.dq),
        rows(args, s, shared + at.end),
        drows(args.dproj.at(blockIdx.y) + static_cast<int64_t>(blockIdx.x) * args.seqlen * a.width),
        parts(args.partials.at(blockIdx.y) + static_cast<int64_t>(blockIdx.x) * args.slot.width) {}

  __device__ void run() {
    rows.enter(0);
    zeros();
    s.weigh(theta);
    gate();
    __syncthreads();
    skip();
    LanePairs<kStates> dnorm = {};
    for (int h0 = 0; h0 < a.nheads; h0 += kHeads) heads(h0, dnorm);
    if (args.B_norm.data != nullptr) {
      store_pairs(dnorm, shares + warp_id() * a.d_state, a.d_state, false);
      __syncthreads();
      for (int c = thread(); c < a.d_state; c += kAtThreads)
        parts[args.slot.B_norm + c] = over_warps(shares + c, a.d_state);
    }
    if (warp_id() == 0) query();
    before();
    tokens();
    __syncthreads();
    head_sums();
  }

 private:
  static __device__ __forceinline__ int thread() { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ float* drow(int t) const {
    return drows + static_cast<int64_t>(t) * a.width;
  }
  static __device__ __forceinline__ float over_warps(const float* from, int stride) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kAtWarps; ++w) sum += from[w * stride];
    return sum;
  }

  /// What no later phase writes: z and C of all tokens but the position, the narrow columns without a gradient, and the rows
  /// behind the position.
  __device__ void zeros() {
    using D = ScanAt::Discretization;
    auto clear = [&](float* row, int begin, int end) {
      for (int c = begin + lane_id(); c < end; c += kWarp) row[c] = 0;
    };
    for (int t = warp_id(); t < args.seqlen; t += kAtWarps) {
      float* const row = drow(t);
      if (t > s.p) {
        clear(row, 0, a.width);
        continue;
      }
      if (t != s.p) {
        clear(row, a.z, a.x);
        clear(row, a.C, a.dd_dt);
      }
      if (!a.mamba3) continue;
      if (a.discretization != D::kTrapezoidal) clear(row, a.trap, a.ang);
      if (a.rotation != ScanAt::Rotation::kDataDependent) clear(row, a.ang, a.width);
    }
  }

  /// dy to dout and dz. Mamba-3 norms each head and then gates, Mamba-2 gates and then norms each group.
  __device__ void gate() {
    const int inner = a.nheads * a.headdim, parts_of = a.mamba3 ? a.nheads : a.ngroups,
              width = inner / parts_of;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * inner;
    const float *dy = args.dy.at(blockIdx.y) + row, *o = args.o_in.at(blockIdx.y) + row;
    const float *z = s.row(s.p) + a.z, *norm = args.norm.at(blockIdx.y);
    float* const dz = drow(s.p) + a.z;
    for (int part = warp_id(); part < parts_of; part += kAtWarps) {
      const int begin = part * width + lane_id(), end = (part + 1) * width;
      float squares = 0, dot = 0;
      for (int c = begin; c < end; c += kWarp) {
        const float silu = __ldg(z + c) * sigmoidf(__ldg(z + c)), w = norm != nullptr ? norm[c] : 1;
        const float v = a.mamba3 ? o[c] : o[c] * silu, g = a.mamba3 ? dy[c] * silu : dy[c];
        squares += v * v;
        dot += g * w * v;
      }
      const float mean = 1.0f / static_cast<float>(width);
      const float inv = norm != nullptr ? rsqrtf(warp_sum(squares) * mean + args.eps) : 1.0f;
      dot = norm != nullptr ? warp_sum(dot) * inv * mean : 0.0f;
      for (int c = begin; c < end; c += kWarp) {
        const float zc = __ldg(z + c), sig = sigmoidf(zc), silu = zc * sig;
        const float dsilu = sig * (1 + zc * (1 - sig)), w = norm != nullptr ? norm[c] : 1;
        const float v = a.mamba3 ? o[c] : o[c] * silu, g = a.mamba3 ? dy[c] * silu : dy[c];
        const float dv = norm != nullptr ? inv * (g * w - v * inv * dot) : g;
        if (norm != nullptr) parts[args.slot.norm + c] = g * v * inv;
        dout[c] = a.mamba3 ? dv : dv * silu;
        dz[c] = (a.mamba3 ? dy[c] * v * inv * w : dv * o[c]) * dsilu;
      }
    }
  }

  /// dD = do . x_p.
  __device__ void skip() {
    for (int h = warp_id(); h < a.nheads; h += kAtWarps) {
      float sum = 0;
      for (int c = lane_id(); c < a.headdim; c += kWarp)
        sum += dout[h * a.headdim + c] * __ldg(s.row(s.p) + a.x + h * a.headdim + c);
      sum = warp_sum(sum);
      if (lane_id() == 0) parts[args.slot.D + h] = sum;
    }
  }

  /// dx, B's gradient and the scores' shares of two neighbouring heads' tokens.
  __device__ void heads(int h0, LanePairs<kStates>& dnorm) {
    const int H = a.nheads, P = a.headdim, N = a.d_state, of_group = H / a.ngroups,
              g = h0 / of_group;
    const bool first_heads = h0 % of_group == 0, last_heads = (h0 + kHeads) % of_group == 0;
    if (h0 > 0) rows.enter(h0);
    const ScanAtHeads<kStates, kHeads> held(args, s, h0);
    LanePairs<kChannels> dv[kHeads];
    float D[kHeads];
#pragma unroll
    for (int b = 0; b < kHeads; ++b) {
      D[b] = __ldg(args.D.at(blockIdx.y) + h0 + b);
#pragma unroll
      for (int part = 0; part < kChannels; ++part) {
        const int c = LanePairs<kChannels>::column(part);
        dv[b].v[part].x = c < P ? dout[(h0 + b) * P + c] : 0.0f;
        dv[b].v[part].y = c + 1 < P ? dout[(h0 + b) * P + c + 1] : 0.0f;
      }
    }
    LanePairs<kStates> dbias[kHeads] = {}, dquery[kHeads] = {};
    for (int first = s.begin; first < s.end; first += kTogether) {
      wait_copies<decltype(rows)::kRing - kTogether>();
      LanePairs<kStates> k[kTogether];
      LanePairs<kChannels> x[kTogether][kHeads];
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        k[i] = rows.key(first + i);
#pragma unroll
        for (int b = 0; b < kHeads; ++b) x[i][b] = rows.x(first + i, b);
      }
#pragma unroll
      for (int i = 0; i < kTogether; ++i) rows.start(first + i + decltype(rows)::kRing);
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const int t = first + i;
        if (t >= s.end) break;
        token(t, h0, g, first_heads, last_heads, held, dv, D, k[i], x[i], dbias, dquery, dnorm);
      }
    }
#pragma unroll
    for (int b = 0; b < kHeads; ++b) {
      store_pairs(dbias[b], shares + (warp_id() * 2 * kHeads + b) * N, N, false);
      store_pairs(dquery[b], shares + (warp_id() * 2 * kHeads + kHeads + b) * N, N, false);
    }
    __syncthreads();
    for (int c = thread(); c < kHeads * N; c += kAtThreads) {
      const float bias = over_warps(shares + c, 2 * kHeads * N),
                  query = over_warps(shares + kHeads * N + c, 2 * kHeads * N);
      if (args.B_bias.data != nullptr) parts[args.slot.B_bias + h0 * N + c] = bias;
      if (args.C_bias.data != nullptr) parts[args.slot.C_bias + h0 * N + c] = query;
      dq[h0 * N + c] = query;
    }
    __syncthreads();
  }

  __device__ __forceinline__ void token(int t, int h0, int g, bool first_heads, bool last_heads,
                                        const ScanAtHeads<kStates, kHeads>& held,
                                        const LanePairs<kChannels> (&dv)[kHeads],
                                        const float (&D)[kHeads], const LanePairs<kStates>& raw,
                                        const LanePairs<kChannels> (&x)[kHeads],
                                        LanePairs<kStates> (&dbias)[kHeads],
                                        LanePairs<kStates> (&dquery)[kHeads],
                                        LanePairs<kStates>& dnorm) {
    const int H = a.nheads, P = a.headdim, N = a.d_state;
    const float inv =
        held.has_norm ? ScanAtHeads<kStates, kHeads>::inverse_rms(raw, N, args.eps) : 1.0f;
    float* const psi = s.psi + t * memory.psi_pitch;
    float* const to = drow(t);
    LanePairs<kStates> k[kHeads], turned[kHeads];
    float sine[kHeads][kStates], cosine[kHeads][kStates], score[kHeads] = {}, value[kHeads] = {};
#pragma unroll
    for (int b = 0; b < kHeads; ++b) {
#pragma unroll
      for (int part = 0; part < kStates; ++part) {
        const float2 from = raw.v[part], norm = held.norm_k.v[part], bias = held.bias_k[b].v[part],
                     q = held.q[b].v[part];
        held.turn(psi, b, part, sine[b][part], cosine[b][part]);
        float2 &key = k[b].v[part], &query = turned[b].v[part];
        key = make_float2(from.x * inv * norm.x + bias.x, from.y * inv * norm.y + bias.y);
        query = make_float2(q.x * cosine[b][part] - q.y * sine[b][part],
                            q.x * sine[b][part] + q.y * cosine[b][part]);
        score[b] += query.x * key.x + query.y * key.y;
      }
#pragma unroll
      for (int part = 0; part < kChannels; ++part)
        value[b] += dv[b].v[part].x * x[b].v[part].x + dv[b].v[part].y * x[b].v[part].y;
    }
    LanePairs<kStates> dk = {};
#pragma unroll
    for (int b = 0; b < kHeads; ++b) {
      const int at_head = t * H + h0 + b;
      const float ours = warp_sum(score[b]), theirs = warp_sum(value[b]);
      const float decay = s.decay[at_head], c = decay * s.weight[at_head], cu = c * theirs;
      const float dx = c * ours + (t == s.p ? D[b] : 0.0f);
      LanePairs<kChannels> row;
#pragma unroll
      for (int part = 0; part < kChannels; ++part)
        row.v[part] = make_float2(dx * dv[b].v[part].x, dx * dv[b].v[part].y);
      store_pairs(row, to + a.x + (h0 + b) * P, P, args.vectors);
      if (lane_id() == 0) {
        dweight[at_head] = decay * ours * theirs;
        flow[at_head] = cu * ours;
      }
#pragma unroll
      for (int part = 0; part < kStates; ++part) {
        const float2 key = k[b].v[part], query = turned[b].v[part];
        const float dx0 = cu * query.x, dx1 = cu * query.y;
        dk.v[part].x += dx0, dk.v[part].y += dx1;
        dbias[b].v[part].x += dx0, dbias[b].v[part].y += dx1;
        dquery[b].v[part].x += cu * (cosine[b][part] * key.x + sine[b][part] * key.y);
        dquery[b].v[part].y += cu * (cosine[b][part] * key.y - sine[b][part] * key.x);
        if (held.chain[b][part] >= 0 && a.rotation == ScanAt::Rotation::kDataDependent)
          psi[held.chain[b][part]] = cu * (query.x * key.y - query.y * key.x);
      }
    }
    float* const dB = to + a.B + g * N;
    if (!first_heads) {
#pragma unroll
      for (int part = 0; part < kStates; ++part) {
        const int c = LanePairs<kStates>::column(part);
        if (c < N) dk.v[part].x += dB[c];
        if (c + 1 < N) dk.v[part].y += dB[c + 1];
      }
    }
    if (last_heads && held.has_norm) norm_back(raw, inv, held.norm_k, dk, dnorm);
    store_pairs(dk, dB, N, args.vectors);
  }

  /// The cotangent of x inv w becomes that of x; adds to w's.
  __device__ __forceinline__ void norm_back(const LanePairs<kStates>& x, float inv,
                                            const LanePairs<kStates>& w, LanePairs<kStates>& d,
                                            LanePairs<kStates>& dw) const {
    float dot = 0;
#pragma unroll
    for (int part = 0; part < kStates; ++part) {
      const float2 from = x.v[part], norm = w.v[part], g = d.v[part];
      dw.v[part].x += g.x * from.x * inv, dw.v[part].y += g.y * from.y * inv;
      dot += g.x * norm.x * from.x + g.y * norm.y * from.y;
    }
    dot = warp_sum(dot) * inv / static_cast<float>(a.d_state);
#pragma unroll
    for (int part = 0; part < kStates; ++part) {
      const float2 from = x.v[part], norm = w.v[part];
      float2& g = d.v[part];
      g = make_float2(inv * (g.x * norm.x - from.x * inv * dot),
                      inv * (g.y * norm.y - from.y * inv * dot));
    }
  }

  /// C's gradient at the position, of all groups. One warp.
  __device__ void query() {
    const int N = a.d_state, of_group = a.nheads / a.ngroups;
    const float* norm = args.C_norm.at(blockIdx.y);
    LanePairs<kStates> w, dw = {};
    ScanAtHeads<kStates, kHeads>::fill(w, norm, N, 1.0f);
    for (int g = 0; g < a.ngroups; ++g) {
      LanePairs<kStates> raw, d = {};
      raw.load(s.row(s.p) + a.C + g * N, N, args.vectors);
      for (int h = g * of_group; h < (g + 1) * of_group; ++h) {
#pragma unroll
        for (int part = 0; part < kStates; ++part) {
          const int c = LanePairs<kStates>::column(part);
          if (c < N) d.v[part].x += dq[h * N + c];
          if (c + 1 < N) d.v[part].y += dq[h * N + c + 1];
        }
      }
      if (norm != nullptr)
        norm_back(raw, ScanAtHeads<kStates, kHeads>::inverse_rms(raw, N, args.eps), w, d, dw);
      store_pairs(d, drow(s.p) + a.C + g * N, N, args.vectors);
    }
    if (norm != nullptr) store_pairs(dw, parts + args.slot.C_norm, N, false);
  }

  /// psi and flow become sums over the tokens before. A barrier is within.
  __device__ void before() {
    const int H = a.nheads, turning = own_angles();
    float* const mine = s.totals + warp_id() * memory.chains;
    for (int c = lane_id(); c < max(turning, H); c += kWarp) {
      float angle = 0, sum = 0;
      for (int t = s.begin; t < s.end; ++t) {
        if (c < turning) {
          float& held = s.psi[t * memory.psi_pitch + c];
          const float here = held;
          held = angle, angle += here;
        }
        if (c < H) {
          float& held = flow[t * H + c];
          const float here = held;
          held = sum, sum += here;
        }
      }
      if (c < turning) mine[c] = angle;
      if (c < H) mine[args.angles + c] = sum;
    }
    __syncthreads();
    for (int c = lane_id(); c < max(turning, H); c += kWarp) {
      float angle = 0, sum = 0;
      for (int w = 0; w < warp_id(); ++w) {
        if (c < turning) angle += s.totals[w * memory.chains + c];
        if (c < H) sum += s.totals[w * memory.chains + args.angles + c];
      }
      for (int t = s.begin; t < s.end; ++t) {
        if (c < turning) s.psi[t * memory.psi_pitch + c] += angle;
        if (c < H) flow[t * H + c] += sum;
      }
    }
    __syncwarp();
  }

  /// The narrow columns of this warp's tokens.
  __device__ void tokens() {
    using D = ScanAt::Discretization;
    const int H = a.nheads, n = a.nangles, count = s.end - s.begin;
    const bool turns = own_angles() > 0;
    const float* bias = args.dt_bias.at(blockIdx.y);
    for (int i = lane_id(); i < count * H; i += kWarp) {
      const int h = i % H, t = s.begin + i / H, here = s.begin * H + i;
      const float* row = s.row(t);
      float* const to = drow(t);
      const float dt = s.dt[here], lam = s.lam[here], rate = s.rate(row, h);
      const float dgam = dweight[here], ddel = t > 0 ? dweight[here - H] : 0.0f;
      float ddt = rate * flow[here];
      if (turns) {
        for (int j = 0; j < n; ++j)
          ddt += theta[t * memory.theta_pitch + j] * s.psi[t * memory.psi_pitch + h * n + j];
      }
      ddt += lam * dgam + (1 - lam) * ddel;
      const float draw = ddt * sigmoidf(__ldg(row + a.dd_dt + h) + __ldg(bias + h));
      to[a.dd_dt + h] = draw;
      if (a.mamba3) {
        const float raw = __ldg(row + a.dd_A + h), f = s.activated(raw);
        const float slope = f < args.a_floor ? 0.0f
                            : !a.heavy_tail  ? -sigmoidf(raw)
                            : raw >= 0       ? -1.0f
                                             : -f * f;
        to[a.dd_A + h] = flow[here] * dt * slope;
        if (a.discretization == D::kTrapezoidal)
          to[a.trap + h] = dt * (dgam - ddel) * lam * (1 - lam);
      }
      s.lam[here] = draw;
      s.weight[here] = flow[here] * dt * rate;
    }
    if (!turns) return;
    for (int i = lane_id(); i < count * n; i += kWarp) {
      const int j = i % n, t = s.begin + i / n;
      float d = 0;
      for (int h = 0; h < H; ++h) d += s.dt[t * H + h] * s.psi[t * memory.psi_pitch + h * n + j];
      const float tanh = theta[t * memory.theta_pitch + j] * (1.0f / kPi);
      drow(t)[a.ang + j] = d * kPi * (1 - tanh * tanh);
    }
  }

  /// Of dt_bias and A_log: sums over the tokens.
  __device__ void head_sums() {
    for (int h = warp_id(); h < a.nheads; h += kAtWarps) {
      float step = 0, rate = 0;
      for (int t = lane_id(); t <= s.p; t += kWarp)
        step += s.lam[t * a.nheads + h], rate += s.weight[t * a.nheads + h];
      step = warp_sum(step), rate = warp_sum(rate);
      if (lane_id() == 0) {
        parts[args.slot.dt_bias + h] = step;
        if (!a.mamba3) parts[args.slot.A_log + h] = rate;
      }
    }
  }

  __device__ __forceinline__ int own_angles() const {
    return a.rotation == ScanAt::Rotation::kDataDependent ? args.angles : 0;
  }

  const ScanAtArgs& args;
  const ScanAt& a;
  const ScanAtMemory& memory;
  const BackwardMemory at;
  ScanAtSequence s;
  float *theta, *dweight, *flow, *dout, *shares, *dq;
  ScanAtRows<kStates, kChannels, kHeads> rows;
  float *drows, *parts;
};

template <int kStates, int kChannels, int kHeads>
__global__ void __launch_bounds__(kAtThreads, 2)
    scan_at_bwd_kernel(const __grid_constant__ ScanAtArgs args) {
  extern __shared__ float shared[];
  const ScanAtMemory memory(args.a, args.angles, args.seqlen);
  Backward<kStates, kChannels, kHeads>(args, memory, shared).run();
}

int shared_bytes(const ScanAt& a, int angles, int seqlen) {
  int rows = 0;
  scan_at_sizes(a, [&]<int kStates, int kChannels, int kHeads>() {
    rows = ScanAtRows<kStates, kChannels, kHeads>::kFloats;
  });
  return 4 * (BackwardMemory(a, ScanAtMemory(a, angles, seqlen)).end + rows);
}

int64_t workspace_bytes(const CallShapes& c) {
  return 4 * int64_t{c.in[1]->shape[0]} * ScanAtSums(scan_at_dims(*c.attributes)).width;
}

void launch(const CudaCall& call, CUstream_st* stream) {
  ScanAtArgs args(scan_at_dims(*call.attributes), call, 1);
  args.dy = member_array<const float>(call.in[0]);
  args.o_in = member_array<const float>(call.in.back());
  args.dproj = member_array<float>(call.out[0]);
  args.partials = member_array<float>(call.workspace);
  const int batch = (*call.in[1].shape)[0], bytes = shared_bytes(args.a, args.angles, args.seqlen);
  const dim3 grid(static_cast<unsigned>(batch), static_cast<unsigned>(call.members));
  scan_at_sizes(args.a, [&]<int kStates, int kChannels, int kHeads>() {
    const auto kernel = scan_at_bwd_kernel<kStates, kChannels, kHeads>;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
          "cudaFuncSetAttribute");
    kernel<<<grid, kAtThreads, static_cast<size_t>(bytes), stream>>>(args);
  });
  check_launch("scan_at_bwd");
  const ScanAtSums& slot = args.slot;
  const int mamba3[] = {slot.dt_bias, slot.B_bias, slot.C_bias, slot.B_norm,
                        slot.C_norm,  slot.D,      slot.norm,   slot.width},
            mamba2[] = {slot.dt_bias, slot.A_log, slot.D, slot.norm, slot.width};
  launch_partial_sums(call, args.partials.data, batch, args.a.mamba3 ? mamba3 : mamba2,
                      args.a.mamba3 ? 7 : 4, 1, stream);
}

}  // namespace

std::string scan_at_limit(const ScanAt& a, int seqlen) {
  auto text = [](const char* name, int value) {
    return std::string(name) + " must be at most 128 on a CUDA device, is " + std::to_string(value);
  };
  if (a.headdim > 128) return text("headdim", a.headdim);
  if (a.d_state > 128) return text("d_state", a.d_state);
  const int bytes = shared_bytes(a, scan_at_angles(a), seqlen), most = shared_bytes_per_block();
  if (bytes <= most) return {};
  return "these heads and " + std::to_string(seqlen) + " positions need " + std::to_string(bytes) +
         " bytes of shared memory, a block has " + std::to_string(most);
}

namespace {
std::string limit(const CallShapes& c) {
  return scan_at_limit(scan_at_dims(*c.attributes), c.in[1]->shape[1]);
}
}  // namespace

CudaKernel scan_at_bwd_kernel() { return {workspace_bytes, launch, limit}; }

}  // namespace statelab::cuda
