// What both directions of the scans at one position compute first, see kernels/scan_at.h: a block takes one sequence, its warps
// runs of neighbouring tokens. Step sizes, decays and angles are sums over the tokens behind; each warp sums its own run, the
// runs' totals pass through shared memory.
#pragma once

#include "kernels/cuda/mamba3_scan.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/scan_at_args.cuh"

namespace statelab::cuda {

/// Of a row, a lane's share where kAtLanes lanes hold it: columns 2 l, 2 l + 1, and so on every 16. kWhole: rows are 16 kParts
/// columns at even offsets, so nothing is asked; else `n` columns, `together` where two neighbours load at once.
template <int kParts, bool kWhole>
struct AtPairs {
  float2 v[kParts];
  __device__ __forceinline__ static int column(int part) {
    return 2 * (lane_id() % kAtLanes) + 2 * kAtLanes * part;
  }
  __device__ __forceinline__ void load(const float* row, int n, bool together) {
    each(
        n, [&](float2& x, int c) { x = load2(row + c, kWhole || together); },
        [&](float2& x, int c) { x = make_float2(__ldg(row + c), 0); });
  }
  /// From shared memory, or what the kernel itself has written. kWhole: at an even offset.
  __device__ __forceinline__ void read(const float* row, int n) {
    each(
        n,
        [&](float2& x, int c) {
          x = kWhole ? *reinterpret_cast<const float2*>(row + c) : make_float2(row[c], row[c + 1]);
        },
        [&](float2& x, int c) { x = make_float2(row[c], 0); });
  }
  /// A parameter, `otherwise` where it is absent.
  __device__ __forceinline__ void fill(const float* from, int n, float otherwise) {
    if (from != nullptr) return load(from, n, false);
#pragma unroll
    for (int part = 0; part < kParts; ++part) v[part] = make_float2(otherwise, otherwise);
  }
  __device__ __forceinline__ void store(float* row, int n, bool together) const {
    const_cast<AtPairs*>(this)->each(
        n, [&](float2& x, int c) { store2(row + c, x.x, x.y, kWhole || together); },
        [&](float2& x, int c) { row[c] = x.x; });
  }
  /// At any offset.
  __device__ __forceinline__ void store_each(float* row, int n) const {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int c = column(part);
      if (kWhole || c < n) row[c] = v[part].x;
      if (kWhole || c + 1 < n) row[c + 1] = v[part].y;
    }
  }
  /// Sums over the tokens of a warp; all lanes get them.
  __device__ __forceinline__ void sum_tokens() {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
#pragma unroll
      for (int d = kAtLanes; d < kWarp; d *= 2) {
        v[part].x += __shfl_xor_sync(kAllLanes, v[part].x, d);
        v[part].y += __shfl_xor_sync(kAllLanes, v[part].y, d);
      }
    }
  }

 private:
  /// two(pair, column) where both columns exist, one(pair, column) where the second does not; zeros for the others.
  template <class Two, class One>
  __device__ __forceinline__ void each(int n, Two&& two, One&& one) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int c = column(part);
      if (kWhole || c + 1 < n) {
        two(v[part], c);
      } else if (c < n) {
        one(v[part], c);
      } else {
        v[part] = make_float2(0, 0);
      }
    }
  }
};

/// 1 / rms of the row that kAtLanes lanes hold.
template <int kParts, bool kWhole>
__device__ __forceinline__ float inverse_rms(const AtPairs<kParts, kWhole>& x, float inverse_n,
                                             float eps) {
  float squares = 0;
#pragma unroll
  for (int part = 0; part < kParts; ++part)
    squares += x.v[part].x * x.v[part].x + x.v[part].y * x.v[part].y;
  return rsqrtf(fmaf(lanes_sum<kAtLanes>(squares), inverse_n, eps));
}

/// Of pair j and tokens begin .. end - 1, where angles do not depend on data. Apart from the kernels' code, which it would double.
static __device__ __noinline__ void standard_angles(float* psi, int pitch, int begin, int end,
                                                    int p, int j, int nangles) {
  const double turns = standard_turns(j, nangles);
#pragma unroll 1
  for (int t = begin; t < end; ++t) psi[t * pitch] = angle_of_turns((p - t) * turns);
}

/// A sequence up to its position: what its tokens weigh there.
class ScanAtSequence {
 public:
  int p;              ///< the position
  int begin, end;     ///< this warp's tokens
  const float* rows;  ///< of proj
  float* const psi;   ///< (tokens, psi_pitch): the angle summed over the warp's own tokens behind
  float* const
      theta;  ///< (tokens, theta_pitch): the angle of a step of size 1, where it depends on data
  /// (tokens, heads). falls: -A before the floor; decay: alpha multiplied over (t, p].
  float *const dt, *const lam, *const falls, *const decay, *const weight;
  float* const totals;  ///< (warps, chains): the runs' sums, angles first
  float* const behind;  ///< (warps, chains): of the runs behind

  __device__ ScanAtSequence(const ScanAtArgs& args, float* shared)
      : psi(shared),
        theta(shared + args.memory.theta),
        dt(shared + args.memory.dt),
        lam(shared + args.memory.lam),
        falls(shared + args.memory.falls),
        decay(shared + args.memory.decay),
        weight(shared + args.memory.weight),
        totals(shared + args.memory.totals),
        behind(shared + args.memory.behind),
        p_(args),
        memory_(args.memory) {
    p = position();
    const int run = (p / memory_.warps + kAtTokens) / kAtTokens * kAtTokens;
    begin = min(warp_id() * run, p + 1), end = min(begin + run, p + 1);
    rows = args.proj.at(blockIdx.y) + static_cast<int64_t>(blockIdx.x) * args.seqlen * args.a.width;
  }

  __device__ __forceinline__ const float* row(int t) const { return rows + t * p_.a.width; }

  /// Fills the arrays but query. A barrier is within, after it all is there.
  __device__ void weigh() {
    using D = ScanAt::Discretization;
    const ScanAt& a = p_.a;
    const int H = a.nheads, lane = lane_id(), items = (end - begin) * H;
    const bool learned = a.rotation == ScanAt::Rotation::kDataDependent;
    Narrow first[2];  // on their way while theta is computed
    first[0].load(*this, lane, items), first[1].load(*this, lane + kWarp, items);
    if (learned) turn_steps();
#pragma unroll 1
    for (int i = lane; i < items; i += kWarp) {
      const int at = begin * H + i;
      const float step = softplusf(first[0].dt);
      dt[at] = step;
      float l = 1;
      if (a.mamba3 && a.discretization == D::kTrapezoidal) l = sigmoidf(first[0].trap);
      if (a.discretization == D::kHalf) l = 0.5f;
      lam[at] = l;
      falls[at] = a.mamba3 ? activated(first[0].A) : expf(first[0].A);
      decay[at] = rate(at) * step;
      first[0] = first[1];
      first[1].load(*this, i + 2 * kWarp, items);
    }
    __syncwarp();
    // From the run's last token down: each gets the sum of those behind it.
    float* const total = totals + warp_id() * memory_.chains;
#pragma unroll 1
    for (int c = lane; c < max(p_.angles, H); c += kWarp) {
      const bool turns = c < p_.angles, decays = c < H;
      const int h = turns && learned ? c / a.nangles : 0, j = c - h * a.nangles;
      float angle = 0, sum = 0;
#pragma unroll 1
      for (int first = begin + round_up(end - begin) - kAtTokens; first >= begin;
           first -= kAtTokens) {
        float turn[kAtTokens] = {}, log_alpha[kAtTokens] = {};
#pragma unroll
        for (int k = 0; k < kAtTokens; ++k) {
          const int t = first + k;
          if (t >= end) continue;
          if (turns && learned) turn[k] = dt[t * H + h] * theta[t * memory_.theta_pitch + j];
          if (decays) log_alpha[k] = decay[t * H + c];
        }
#pragma unroll
        for (int k = kAtTokens - 1; k >= 0; --k) {
          const int t = first + k;
          if (turns && learned) psi[t * memory_.psi_pitch + c] = angle;
          if (decays) decay[t * H + c] = sum;
          angle = wrap_angle(angle + turn[k]), sum += log_alpha[k];
        }
      }
      if (turns && !learned)
        standard_angles(psi + c, memory_.psi_pitch, begin, end, p, c, a.nangles);
      if (turns) total[c] = angle;
      if (decays) total[p_.angles + c] = sum;
    }
    __syncthreads();
    float* const mine = behind + warp_id() * memory_.chains;
#pragma unroll 1
    for (int c = lane; c < memory_.chains; c += kWarp) {
      float sum = 0, of[kAtMaxWarps];
#pragma unroll
      for (int w = 1; w < kAtMaxWarps; ++w)
        of[w] = w > warp_id() && w < memory_.warps ? totals[w * memory_.chains + c] : 0.0f;
#pragma unroll
      for (int w = kAtMaxWarps - 1; w > 0; --w)
        sum = c < p_.angles ? wrap_angle(sum + of[w]) : sum + of[w];
      mine[c] = sum;
    }
    __syncwarp();
    // The weights need the step of the token behind; then exp of the whole sum.
#pragma unroll 1
    for (int i = lane; i < items; i += kWarp) {
      const int token = i / H, h = i - token * H, at = begin * H + i;
      weight[at] = lam[at] * dt[at] + (begin + token < p ? (1 - lam[at + H]) * dt[at + H] : 0.0f);
      decay[at] = expf(decay[at] + mine[p_.angles + h]);
    }
    __syncwarp();
  }

  /// A of a token and head, negative.
  __device__ __forceinline__ float rate(int at) const {
    return p_.a.mamba3 ? -fmaxf(falls[at], p_.a_floor) : -falls[at];
  }
  __device__ __forceinline__ float activated(float x) const {
    return !p_.a.heavy_tail ? softplusf(x) : x >= 0 ? 1 + x : __fdividef(1.0f, 1 - x);
  }
  /// dA / d dd_A: of softplus exp(-f) - 1.
  __device__ __forceinline__ float slope(int at) const {
    const float f = falls[at];
    return f < p_.a_floor ? 0.0f : !p_.a.heavy_tail ? expm1f(-f) : f >= 1 ? -1.0f : -f * f;
  }
  /// The column of psi of a head's pair, -1 for pairs that do not turn.
  __device__ __forceinline__ int chain(int h, int pair) const {
    if (p_.angles == 0 || pair >= p_.a.nangles) return -1;
    return (p_.a.rotation == ScanAt::Rotation::kDataDependent ? h * p_.a.nangles : 0) + pair;
  }
  /// Sine and cosine of a chain's angle at token t, without what lies behind the warp's tokens; then of what does.
  __device__ __forceinline__ float2 turned(int t, int chain) const {
    return turn(psi[t * memory_.psi_pitch + chain]);
  }
  __device__ __forceinline__ float2 turned_behind(int chain) const {
    return turn(behind[warp_id() * memory_.chains + chain]);
  }
  /// Of an angle in about [-pi, pi), by the special function unit: off by 5e-7.
  __device__ __forceinline__ static float2 turn(float angle) {
    return make_float2(__sinf(angle), __cosf(angle));
  }

  /// This warp's queries, (heads, d_state): C at the position, normed, with each head's bias, turned by what lies behind its tokens.
  template <int kParts, bool kWhole>
  __device__ void ask(float* query) {
    const ScanAt& a = p_.a;
    const int N = a.d_state, of_group = a.nheads / a.ngroups;
    const float *norm = p_.C_norm.at(blockIdx.y), *bias = p_.C_bias.at(blockIdx.y);
    for (int h = lane_id() / kAtLanes; h < round_up(a.nheads); h += kAtTokens) {
      AtPairs<kParts, kWhole> q, weight, added;
      q.load(row(p) + a.C + min(h, a.nheads - 1) / of_group * N, N, p_.vectors);
      const float inv = inverse_rms(q, 1.0f / static_cast<float>(N), p_.eps);
      if (h >= a.nheads) continue;
      weight.fill(norm, N, 1.0f), added.fill(bias == nullptr ? nullptr : bias + h * N, N, 0.0f);
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const float scale = norm != nullptr ? inv : 1.0f;
        float2& x = q.v[part];
        x = make_float2(x.x * scale * weight.v[part].x + added.v[part].x,
                        x.y * scale * weight.v[part].y + added.v[part].y);
        const int c = chain(h, AtPairs<kParts, kWhole>::column(part) / 2);
        if (c < 0) continue;
        const float2 by = turned_behind(c);
        x = make_float2(x.x * by.y - x.y * by.x, x.x * by.x + x.y * by.y);
      }
      q.store(query + h * memory_.state_pitch, N, true);
    }
    __syncwarp();
  }

 private:
  static constexpr int kAhead = 10;  // angles of a lane on their way
  __device__ __forceinline__ static int round_up(int n) {
    return (n + kAtTokens - 1) / kAtTokens * kAtTokens;
  }
  /// The last with a target, 0 without one. A barrier is within.
  __device__ int position() const {
    int* const last_of_warp =
        reinterpret_cast<int*>(weight);  // which is filled behind another barrier
    const int32_t* of = p_.targets.at(blockIdx.y) + static_cast<int64_t>(blockIdx.x) * p_.seqlen;
    int last = 0;
#pragma unroll 1
    for (int t = static_cast<int>(threadIdx.x); t < p_.seqlen; t += static_cast<int>(blockDim.x)) {
      if (__ldg(of + t) >= 0) last = t;
    }
    last = __reduce_max_sync(kAllLanes, last);
    if (lane_id() == 0) last_of_warp[warp_id()] = last;
    __syncthreads();
    last = lane_id() < memory_.warps ? last_of_warp[lane_id()] : 0;
    return __reduce_max_sync(kAllLanes, last);
  }
  /// Of an item of this warp, a token and head: dt with its bias, before activation.
  struct Narrow {
    float dt, A, trap;
    __device__ __forceinline__ void load(const ScanAtSequence& s, int i, int items) {
      dt = A = trap = 0;
      if (i >= items) return;
      const ScanAt& a = s.p_.a;
      const int token = i / a.nheads, h = i - token * a.nheads;
      const float* r = s.row(s.begin + token) + h;
      dt = __ldg(r + a.dd_dt) + __ldg(s.p_.dt_bias.at(blockIdx.y) + h);
      A = a.mamba3 ? __ldg(r + a.dd_A) : __ldg(s.p_.A_log.at(blockIdx.y) + h);
      if (a.mamba3 && a.discretization == ScanAt::Discretization::kTrapezoidal)
        trap = __ldg(r + a.trap);
    }
  };
  /// theta of this warp's tokens; no barrier.
  __device__ void turn_steps() {
    const int n = p_.a.nangles, together = max(kWarp / n, 1), of_lane = lane_id() / n;
#pragma unroll 1
    for (int j = n < kWarp ? lane_id() % n : lane_id(); j < n; j += kWarp) {
#pragma unroll 1
      for (int first = begin; first < end; first += kAhead * together) {
        float raw[kAhead];
#pragma unroll
        for (int k = 0; k < kAhead; ++k)
          raw[k] = __ldg(row(min(first + k * together + of_lane, end - 1)) + p_.a.ang + j);
#pragma unroll
        for (int k = 0; k < kAhead; ++k) {
          const int t = first + k * together + of_lane;
          if (of_lane < together && t < end)
            theta[t * memory_.theta_pitch + j] = kPi * quick_tanh(raw[k]);
        }
      }
    }
  }
  __device__ __forceinline__ static float quick_tanh(float x) {
    return 1 - __fdividef(2.0f, 1 + __expf(2 * fminf(x, 20.0f)));
  }
  const ScanAtArgs& p_;
  const ScanAtMemory& memory_;
};

}  // namespace statelab::cuda
