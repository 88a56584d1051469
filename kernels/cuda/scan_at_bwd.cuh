// What the kernels of the scans at one position have in common on the way back: all that is not done for each key.
#pragma once

#include "kernels/cuda/scan_at.cuh"

namespace statelab::cuda {

/// What the backward pass holds behind the forward pass's arrays. A warp's shares: of the gradients of the keys' biases by head, then
/// of the queries by head, then of the keys' norm.
struct ScanAtBackwardMemory {
  int dweight, flow, dout, dq, end;  // first floats
  __host__ __device__ ScanAtBackwardMemory(const ScanAt& a, const ScanAtMemory& memory, int arrays)
      : dweight(arrays),
        flow(dweight + memory.tokens * a.nheads),
        dout(ScanAtMemory::quads(flow + memory.tokens * a.nheads)),
        dq(dout + ScanAtMemory::quads(a.nheads * a.headdim)),
        end(dq + ScanAtMemory::quads(a.nheads * a.d_state)) {}
  __host__ __device__ static int share(const ScanAt& a) { return (2 * a.nheads + 1) * a.d_state; }
};

/// One sequence's way back.
class ScanAtBackward {
 protected:
  /// `arrays`: floats of shared memory before ScanAtBackwardMemory; a warp's shares lie share_pitch floats behind the last one's.
  __device__ ScanAtBackward(const ScanAtArgs& arguments, const ScanAtMemory& memory, float* shared,
                            int arrays, float* shares, int share_pitch)
      : args(arguments),
        a(args.a),
        memory(memory),
        s(args, memory, shared),
        shares(shares),
        share_pitch(share_pitch),
        drows(args.dproj.at(blockIdx.y) + static_cast<int64_t>(blockIdx.x) * args.seqlen * a.width),
        parts(args.partials.at(blockIdx.y) + static_cast<int64_t>(blockIdx.x) * args.slot.width) {
    const ScanAtBackwardMemory at(a, memory, arrays);
    dweight = shared + at.dweight, flow = shared + at.flow;
    dout = shared + at.dout, dq = shared + at.dq;
  }

  static __device__ __forceinline__ int thread() { return static_cast<int>(threadIdx.x); }
  static __device__ __forceinline__ int threads() { return static_cast<int>(blockDim.x); }
  __device__ __forceinline__ float* drow(int t) const { return drows + t * a.width; }
  __device__ __forceinline__ float* share(int i) const {
    return shares + warp_id() * share_pitch + i * a.d_state;
  }

  /// dy to dout and to dz, which is the row's or waits in shared memory. Mamba-3 norms each head and then gates, Mamba-2 gates and then norms each group.
  __device__ void gate(float* dz) {
    const int inner = a.nheads * a.headdim, parts_of = a.mamba3 ? a.nheads : a.ngroups,
              width = inner / parts_of;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * inner;
    const float *dy = args.dy.at(blockIdx.y) + row, *o = args.o_in.at(blockIdx.y) + row;
    const float *z = s.row(s.p) + a.z, *norm = args.norm.at(blockIdx.y);
    for (int part = warp_id(); part < parts_of; part += memory.warps) {
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
        parts[args.slot.norm + c] = norm != nullptr ? g * v * inv : 0.0f;
        dout[c] = a.mamba3 ? dv : dv * silu;
        dz[c] = (a.mamba3 ? dy[c] * v * inv * w : dv * o[c]) * dsilu;
      }
    }
  }

  /// The cotangent of x inv w becomes that of x; adds to w's where `counts`.
  template <class State>
  __device__ __forceinline__ void norm_back(const State& x, float inv, const State& w, State& d,
                                            bool counts, State& dw) const {
    float dot = 0;
#pragma unroll
    for (int part = 0; part < State::kSize; ++part) {
      const float2 from = x.v[part], norm = w.v[part], g = d.v[part];
      if (counts) dw.v[part].x += g.x * from.x * inv, dw.v[part].y += g.y * from.y * inv;
      dot += g.x * norm.x * from.x + g.y * norm.y * from.y;
    }
    dot = lanes_sum<kAtLanes>(dot) * inv / static_cast<float>(a.d_state);
#pragma unroll
    for (int part = 0; part < State::kSize; ++part) {
      const float2 from = x.v[part], norm = w.v[part];
      float2& g = d.v[part];
      g = make_float2(inv * (g.x * norm.x - from.x * inv * dot),
                      inv * (g.y * norm.y - from.y * inv * dot));
    }
  }

  /// The warps' shares, in order; zeros for parameters that are absent. All threads; dq is there after the next barrier.
  __device__ void sum_shares() {
    const int H = a.nheads, N = a.d_state, width = (2 * H + 1) * N;
#pragma unroll 1
    for (int c = thread(); c < width; c += threads()) {
      float sum = 0;
#pragma unroll 4
      for (int w = 0; w < memory.warps; ++w) sum += shares[w * share_pitch + c];
      const int i = c / N;
      if (i >= H && i < 2 * H) dq[c - H * N] = sum;
      if (!a.mamba3) continue;
      const bool there = (i < H       ? args.B_bias
                          : i < 2 * H ? args.C_bias
                                      : args.B_norm)
                             .data != nullptr;
      parts[args.slot.B_bias + c] =
          there ? sum : 0.0f;  // B_bias, C_bias, B_norm follow one another
    }
  }

  /// C's gradient at the position, of all groups. One warp, whose lanes all hold the row's eight shares.
  template <class State>
  __device__ void query() {
    const int N = a.d_state, of_group = a.nheads / a.ngroups;
    const float* norm = args.C_norm.at(blockIdx.y);
    State w, dw = {};
    w.fill(norm, N, 1.0f);
#pragma unroll 1
    for (int g = 0; g < a.ngroups; ++g) {
      State raw, d = {};
      raw.load(s.row(s.p) + a.C + g * N, N, args.vectors);
#pragma unroll 1
      for (int h = g * of_group; h < (g + 1) * of_group; ++h) {
        State of_head;
        of_head.read(dq + h * N, N);
#pragma unroll
        for (int part = 0; part < State::kSize; ++part)
          d.v[part].x += of_head.v[part].x, d.v[part].y += of_head.v[part].y;
      }
      if (norm != nullptr)
        norm_back(raw, inverse_rms(raw, 1.0f / static_cast<float>(N), args.eps), w, d, true, dw);
      if (lane_id() < kAtLanes) d.store(drow(s.p) + a.C + g * N, N, args.vectors);
    }
    if (a.mamba3 && lane_id() < kAtLanes) dw.store_each(parts + args.slot.C_norm, N);
  }

  /// psi, which holds what each token gives its angles, and flow become sums over the warp's own tokens before, s.behind those over
  /// the other warps'. A barrier is within. What lies behind the position in the last four tokens adds to nothing.
  __device__ void before() {
    const int H = a.nheads, turning = own_angles(), chains = turning + H;
#pragma unroll 1
    for (int c = lane_id(); c < chains; c += kWarp) {
      const bool turns = c < turning;
      const int stride = turns ? memory.psi_pitch : H;
      float* at = turns ? s.psi + s.begin * stride + c : flow + s.begin * stride + c - turning;
      float sum = 0;
#pragma unroll 1
      for (int t = s.begin; t < s.end; t += kAtTokens, at += kAtTokens * stride) {
        float here[kAtTokens];
#pragma unroll
        for (int k = 0; k < kAtTokens; ++k) here[k] = at[k * stride];
#pragma unroll
        for (int k = 0; k < kAtTokens; ++k) at[k * stride] = sum, sum += here[k];
      }
      s.totals[warp_id() * memory.chains + c] = sum;
    }
    __syncthreads();
#pragma unroll 1
    for (int c = lane_id(); c < chains; c += kWarp) {
      float sum = 0;
      for (int w = 0; w < warp_id(); ++w) sum += s.totals[w * memory.chains + c];
      s.behind[warp_id() * memory.chains + c] = sum;
    }
    __syncwarp();
  }

  /// The narrow columns of this warp's tokens.
  __device__ void tokens() {
    using D = ScanAt::Discretization;
    const int H = a.nheads, n = a.nangles, count = s.end - s.begin, turning = own_angles();
    const float* bias = args.dt_bias.at(blockIdx.y);
    const float* const others = s.behind + warp_id() * memory.chains;
#pragma unroll 1
    for (int i = lane_id(); i < count * H; i += kWarp) {
      const int token = i / H, h = i - token * H, t = s.begin + token, here = s.begin * H + i;
      const float* row = s.row(t);
      float* const to = drow(t);
      const float raw_dt = __ldg(row + a.dd_dt + h) + __ldg(bias + h),
                  raw_A = a.mamba3 ? __ldg(row + a.dd_A + h) : 0.0f;
      const float dt = s.dt[here], lam = s.lam[here], rate = s.rate(row, h);
      const float dgam = dweight[here], ddel = t > 0 ? dweight[here - H] : 0.0f;
      const float flowed = flow[here] + others[turning + h];
      float ddt = rate * flowed;
      if (turning > 0) {
        const float *theta = s.theta + t * memory.theta_pitch,
                    *psi = s.psi + t * memory.psi_pitch + h * n, *other = others + h * n;
#pragma unroll 4
        for (int j = 0; j < n; ++j) ddt += theta[j] * (psi[j] + other[j]);
      }
      ddt += lam * dgam + (1 - lam) * ddel;
      const float draw = ddt * sigmoidf(raw_dt);
      to[a.dd_dt + h] = draw;
      if (a.mamba3) {
        const float f = s.activated(raw_A);
        const float slope = f < args.a_floor ? 0.0f
                            : !a.heavy_tail  ? -sigmoidf(raw_A)
                            : raw_A >= 0     ? -1.0f
                                             : -f * f;
        to[a.dd_A + h] = flowed * dt * slope;
        if (a.discretization == D::kTrapezoidal)
          to[a.trap + h] = dt * (dgam - ddel) * lam * (1 - lam);
      }
      s.lam[here] = draw;
      s.weight[here] = flowed * dt * rate;
    }
    if (turning == 0) return;
#pragma unroll 2
    for (int i = lane_id(); i < count * n; i += kWarp) {
      const int token = i / n, j = i - token * n, t = s.begin + token;
      float d = 0;
#pragma unroll 1
      for (int h = 0; h < H; ++h)
        d += s.dt[t * H + h] * (s.psi[t * memory.psi_pitch + h * n + j] + others[h * n + j]);
      const float tanh = s.theta[t * memory.theta_pitch + j] * (1.0f / kPi);
      drow(t)[a.ang + j] = d * kPi * (1 - tanh * tanh);
    }
  }

  /// Of dt_bias and A_log: sums over the tokens.
  __device__ void head_sums() {
#pragma unroll 1
    for (int h = warp_id(); h < a.nheads; h += memory.warps) {
      float step = 0, rate = 0;
#pragma unroll 1
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
  ScanAtSequence s;
  float* const shares;
  const int share_pitch;
  float *dweight, *flow, *dout, *dq;
  float *const drows, *const parts;
};

}  // namespace statelab::cuda
