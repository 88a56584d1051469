// What the kernels of the scans at one position have in common on the way back: all that is not done for each key.
#pragma once

#include "kernels/cuda/scan_at.cuh"

namespace statelab::cuda {

/// What the backward pass holds behind `arrays` floats of shared memory.
struct ScanAtBackwardMemory {
  int dweight, flow, dout, end;  // first floats
  ScanAtBackwardMemory(const ScanAt& a, const ScanAtMemory& memory, int arrays)
      : dweight(arrays),
        flow(dweight + memory.tokens * a.nheads),
        dout(ScanAtMemory::quads(flow + memory.tokens * a.nheads)),
        end(dout + ScanAtMemory::quads(a.nheads * a.headdim)) {}
};

/// One sequence's way back.
class ScanAtBackward {
 protected:
  __device__ ScanAtBackward(const ScanAtArgs& arguments, const ScanAtBackwardMemory& at,
                            float* shared)
      : args(arguments),
        a(args.a),
        memory(args.memory),
        s(args, shared),
        dweight(shared + at.dweight),
        flow(shared + at.flow),
        dout(shared + at.dout),
        drows(args.dproj.at(blockIdx.y) + static_cast<int64_t>(blockIdx.x) * args.seqlen * a.width),
        parts(args.partials.at(blockIdx.y) + static_cast<int64_t>(blockIdx.x) * args.slot.width) {}

  static __device__ __forceinline__ int thread() { return static_cast<int>(threadIdx.x); }
  static __device__ __forceinline__ int threads() { return static_cast<int>(blockDim.x); }
  __device__ __forceinline__ float* drow(int t) const { return drows + t * a.width; }

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
#pragma unroll
      for (int w = 0; w < kAtMaxWarps - 1; ++w)
        sum += w < warp_id() ? s.totals[w * memory.chains + c] : 0.0f;
      s.behind[warp_id() * memory.chains + c] = sum;
    }
    __syncwarp();
  }

  /// The narrow columns of this warp's tokens.
  __device__ void tokens() {
    using D = ScanAt::Discretization;
    const int H = a.nheads, n = a.nangles, count = s.end - s.begin, turning = own_angles();
    const float* const others = s.behind + warp_id() * memory.chains;
#pragma unroll 1
    for (int i = lane_id(); i < count * H; i += kWarp) {
      const int token = i / H, h = i - token * H, t = s.begin + token, here = s.begin * H + i;
      float* const to = drow(t);
      const float dt = s.dt[here], lam = s.lam[here], rate = s.rate(here);
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
      const float draw = -ddt * expm1f(-dt);  // softplus' is 1 - exp(-softplus)
      to[a.dd_dt + h] = draw;
      if (a.mamba3) {
        to[a.dd_A + h] = flowed * dt * s.slope(here);
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
  float *const dweight, *const flow, *const dout;
  float *const drows, *const parts;
};

}  // namespace statelab::cuda
