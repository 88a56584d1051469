// What both directions of the scans at one position compute first, see kernels/scan_at.h: a block takes one sequence, its warps
// runs of neighbouring tokens. Step sizes, decays and angles are sums over the tokens behind; each warp sums its own run, the
// runs' totals pass through shared memory.
#pragma once

#include "kernels/cuda/mamba3_scan.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/scan_at.h"

namespace statelab::cuda {

constexpr int kAtThreads = 256, kAtWarps = kAtThreads / kWarp;

/// A sequence's partial sums, in the order of the op's outputs after dproj.
struct ScanAtSums {
  int dt_bias, B_bias, C_bias, B_norm, C_norm, A_log, D, norm, width;
  explicit ScanAtSums(const ScanAt& a) {
    const int H = a.nheads, N = a.mamba3 ? a.d_state : 0;
    dt_bias = 0, B_bias = H, C_bias = B_bias + H * N, B_norm = C_bias + H * N;
    C_norm = B_norm + N, A_log = C_norm + N, D = A_log + (a.mamba3 ? 0 : H), norm = D + H;
    width = norm + a.d_inner();
  }
};

inline ScanAt scan_at_dims(const Attributes& attributes) {
  const auto* mamba3 = std::get_if<Mamba3ScanAttrs>(&attributes);
  return mamba3 != nullptr ? ScanAt(*mamba3) : ScanAt(std::get<Mamba2ScanAttrs>(attributes));
}

/// Angles of a token: of all heads, or of one where they do not depend on data.
inline int scan_at_angles(const ScanAt& a) {
  using R = ScanAt::Rotation;
  return a.rotation == R::kNone ? 0 : a.rotation == R::kStandard ? a.nangles : a.nheads * a.nangles;
}

/// Why such a sequence does not run, "" where it does.
std::string scan_at_limit(const ScanAt& a, int seqlen);

struct ScanAtArgs {
  ScanAt a;
  int seqlen;
  bool vectors;  // rows of proj and y start at even offsets: two neighbouring reals load together
  int angles;    // columns of psi that a token has
  float a_floor, eps;
  ScanAtSums slot;
  MemberArray<const float> proj, dt_bias, B_bias, C_bias, B_norm, C_norm, A_log, D, norm;
  MemberArray<const int32_t> targets;
  MemberArray<float> y, o;            // forward
  MemberArray<const float> dy, o_in;  // backward
  MemberArray<float> dproj, partials;

  ScanAtArgs(const ScanAt& dims, const CudaCall& call, size_t first)
      : a(dims),
        seqlen((*call.in[first].shape)[1]),
        vectors(a.width % 2 == 0 && a.headdim % 2 == 0 && a.d_state % 2 == 0),
        angles(scan_at_angles(a)),
        a_floor(static_cast<float>(a.a_floor)),
        eps(static_cast<float>(a.eps)),
        slot(a) {
    const ScanAtOperands at(a.mamba3);
    auto real = [&](int i) {
      return i < 0 ? MemberArray<const float>{}
                   : member_array<const float>(call.in[first + static_cast<size_t>(i)]);
    };
    proj = real(0), dt_bias = real(at.dt_bias), B_bias = real(at.B_bias), C_bias = real(at.C_bias);
    B_norm = real(at.B_norm), C_norm = real(at.C_norm), A_log = real(at.A_log), D = real(at.D);
    norm = real(at.norm);
    targets = member_array<const int32_t>(call.in[first + static_cast<size_t>(at.targets)]);
  }
};

/// Floats of shared memory, per token and per block. Strides by token are odd: threads of neighbouring tokens hit other banks.
struct ScanAtMemory {
  int psi_pitch, theta_pitch, chains, tokens;
  __host__ __device__ ScanAtMemory(const ScanAt& a, int angles, int seqlen)
      : psi_pitch(angles | 1),
        theta_pitch(a.nangles | 1),
        chains(angles + a.nheads),
        tokens(seqlen) {}
  /// dt, lam, decay, weight by head; psi; the runs' totals.
  __host__ __device__ int arrays(const ScanAt& a) const {
    return (tokens * (4 * a.nheads + psi_pitch) + kAtWarps * chains + 1) / 2 * 2;
  }
  /// Behind them, forward, the warps' sums of o.
  __host__ __device__ int forward(const ScanAt& a) const {
    return arrays(a) + kAtWarps * a.nheads * a.headdim;  // even
  }
};

/// A token's share of columns 2 l, 2 l + 1 [+ 64] to memory.
template <int kParts>
__device__ __forceinline__ void store_pairs(const LanePairs<kParts>& pairs, float* row, int n,
                                            bool together) {
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    const int c = LanePairs<kParts>::column(part);
    if (c + 1 < n) {
      store2(row + c, pairs.v[part].x, pairs.v[part].y, together);
    } else if (c < n) {
      row[c] = pairs.v[part].x;
    }
  }
}

/// A sequence up to its position: what its tokens weigh there.
class ScanAtSequence {
 public:
  int p;              ///< the position
  int begin, end;     ///< this warp's tokens
  const float* rows;  ///< of proj
  float *dt, *lam, *decay,
      *weight;    ///< (seqlen, heads); decay: sum of log alpha over (t, p] of the warp's own tokens
  float* psi;     ///< (seqlen, psi_pitch), likewise of the angles
  float* totals;  ///< (warps, chains): the runs' sums, angles first

  __device__ ScanAtSequence(const ScanAtArgs& args, const ScanAtMemory& memory, float* shared)
      : p_(args), memory_(memory) {
    const int H = args.a.nheads, each = memory.tokens * H;
    dt = shared, lam = dt + each, decay = lam + each, weight = decay + each;
    psi = weight + each;
    totals = psi + memory.tokens * memory.psi_pitch;
    const int32_t* targets =
        args.targets.at(blockIdx.y) + static_cast<int64_t>(blockIdx.x) * args.seqlen;
    p = 0;
    for (int t = lane_id(); t < args.seqlen; t += kWarp) {
      if (__ldg(targets + t) >= 0) p = t;
    }
    p = __reduce_max_sync(kAllLanes, p);
    const int run = (p + kAtWarps) / kAtWarps;
    begin = min(warp_id() * run, p + 1), end = min(begin + run, p + 1);
    rows = args.proj.at(blockIdx.y) + static_cast<int64_t>(blockIdx.x) * args.seqlen * args.a.width;
  }

  __device__ __forceinline__ float* end_of_shared() const {
    return totals + kAtWarps * memory_.chains;
  }
  __device__ __forceinline__ const float* row(int t) const {
    return rows + static_cast<int64_t>(t) * p_.a.width;
  }

  /// Fills the arrays; `theta` (seqlen, theta_pitch) or null. A barrier is within, after it all is there.
  __device__ void weigh(float* theta) {
    using R = ScanAt::Rotation;
    using D = ScanAt::Discretization;
    const ScanAt& a = p_.a;
    const int H = a.nheads, lane = lane_id();
    const float* bias = p_.dt_bias.at(blockIdx.y);
    for (int i = lane; i < (end - begin) * H; i += kWarp) {
      const int h = i % H, at = begin * H + i;
      const float* r = row(begin + i / H);
      const float step = softplusf(__ldg(r + a.dd_dt + h) + __ldg(bias + h));
      dt[at] = step;
      float l = 1;
      if (a.mamba3 && a.discretization == D::kTrapezoidal) l = sigmoidf(__ldg(r + a.trap + h));
      if (a.discretization == D::kHalf) l = 0.5f;
      lam[at] = l;
      decay[at] = rate(r, h) * step;
    }
    __syncwarp();
    // From the run's last token down: each gets the sum of those behind it.
    const int chains = max(p_.angles, H);
    for (int c = lane; c < chains; c += kWarp) {
      const bool turns = c < p_.angles, decays = c < H;
      const int j = a.nangles > 0 ? c % a.nangles : 0, h = a.nangles > 0 ? c / a.nangles : 0;
      const double standard =
          turns && a.rotation == R::kStandard ? standard_turns(j, a.nangles) : 0.0;
      float angle = 0, sum = 0;
      for (int first = end - 1; first >= begin; first -= kAhead) {
        float raw[kAhead] = {};
#pragma unroll
        for (int k = 0; k < kAhead; ++k) {
          if (turns && a.rotation == R::kDataDependent)
            raw[k] = __ldg(row(max(first - k, begin)) + a.ang + j);
        }
#pragma unroll
        for (int k = 0; k < kAhead; ++k) {
          const int t = first - k;
          if (t < begin) break;
          if (turns) {
            float* const to = psi + t * memory_.psi_pitch + c;
            if (a.rotation == R::kStandard) {
              *to = angle_of_turns((p - t) * standard);
            } else {
              const float turn = kPi * tanhf(raw[k]);
              *to = angle;
              angle = wrap_angle(fmaf(dt[t * H + h], turn, angle));
              if (theta != nullptr && h == 0) theta[t * memory_.theta_pitch + j] = turn;
            }
          }
          if (decays) {
            const float here = decay[t * H + c];
            decay[t * H + c] = sum;
            sum += here;
          }
        }
      }
      float* const total = totals + warp_id() * memory_.chains;
      if (turns) total[c] = a.rotation == R::kStandard ? 0.0f : angle;
      if (decays) total[p_.angles + c] = sum;
    }
    __syncthreads();
    // The weights need the step of the token behind; then exp of the whole sum.
    for (int i = lane; i < (end - begin) * H; i += kWarp) {
      const int h = i % H, at = begin * H + i, t = begin + i / H;
      weight[at] = lam[at] * dt[at] + (t < p ? (1 - lam[at + H]) * dt[at + H] : 0.0f);
      decay[at] = expf(decay[at] + behind(p_.angles + h));
    }
    __syncwarp();
  }

  /// Sum of a chain's totals over the runs behind this warp's.
  __device__ __forceinline__ float behind(int chain) const {
    float sum = 0;
    for (int w = kAtWarps - 1; w > warp_id(); --w) sum += totals[w * memory_.chains + chain];
    return sum;
  }
  /// Of an angle.
  __device__ __forceinline__ float angle_behind(int chain) const {
    float sum = 0;
    for (int w = kAtWarps - 1; w > warp_id(); --w)
      sum = wrap_angle(sum + totals[w * memory_.chains + chain]);
    return sum;
  }

  /// A of a head at a token's row, negative.
  __device__ __forceinline__ float rate(const float* r, int h) const {
    if (!p_.a.mamba3) return -expf(__ldg(p_.A_log.at(blockIdx.y) + h));
    return -fmaxf(activated(__ldg(r + p_.a.dd_A + h)), p_.a_floor);
  }
  __device__ __forceinline__ float activated(float x) const {
    return !p_.a.heavy_tail ? softplusf(x) : x >= 0 ? 1 + x : __fdividef(1.0f, 1 - x);
  }

 private:
  static constexpr int kAhead = 24;  // tokens whose angles are on their way
  const ScanAtArgs& p_;
  const ScanAtMemory& memory_;
};

/// A warp's rows of B and of the heads' x on their way into shared memory, kRing tokens ahead of their use. A lane reads only what
/// it copied itself, so there is nothing to meet for.
template <int kStates, int kChannels, int kHeads>
class ScanAtRows {
 public:
  static constexpr int kPairs = kStates + kHeads * kChannels, kRing = kPairs <= 3 ? 8 : 4;
  static constexpr int kFloats = kAtWarps * kRing * kPairs * kWarp * 2;

  /// `shared`: kFloats, at a multiple of 8 bytes.
  __device__ ScanAtRows(const ScanAtArgs& args, const ScanAtSequence& s, float* shared)
      : args_(args),
        rows_(s.rows),
        begin_(s.begin),
        end_(s.end),
        mine_(reinterpret_cast<float2*>(shared) + warp_id() * kRing * kPairs * kWarp + lane_id()) {}

  /// The first tokens of the heads from h0 on.
  __device__ __forceinline__ void enter(int h0) {
    const ScanAt& a = args_.a;
    column_k_ = a.B + h0 / (a.nheads / a.ngroups) * a.d_state, column_x_ = a.x + h0 * a.headdim;
#pragma unroll
    for (int i = 0; i < kRing; ++i) start(begin_ + i);
  }
  /// Also past the last token, where nothing is copied: groups of copies count tokens.
  __device__ __forceinline__ void start(int t) {
    if (t < end_) {
      const float* row = rows_ + static_cast<int64_t>(t) * args_.a.width;
      copy<kStates>(t, 0, row + column_k_, args_.a.d_state);
#pragma unroll
      for (int b = 0; b < kHeads; ++b)
        copy<kChannels>(t, kStates + b * kChannels, row + column_x_ + b * args_.a.headdim,
                        args_.a.headdim);
    }
    commit_copies();
  }
  /// After the copies have come.
  __device__ __forceinline__ LanePairs<kStates> key(int t) const { return load<kStates>(t, 0); }
  __device__ __forceinline__ LanePairs<kChannels> x(int t, int b) const {
    return load<kChannels>(t, kStates + b * kChannels);
  }

 private:
  __device__ __forceinline__ float2* at(int t, int pair) const {
    return mine_ + (t % kRing * kPairs + pair) * kWarp;
  }
  template <int kParts>
  __device__ __forceinline__ void copy(int t, int first, const float* row, int n) const {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int c = LanePairs<kParts>::column(part);
      float2* const to = at(t, first + part);
      if (c + 1 < n && args_.vectors) {
        copy_async<8>(shared_address(to), row + c);
      } else {
        *to = make_float2(0, 0);
        if (c < n) copy_async<4>(shared_address(to), row + c);
        if (c + 1 < n) copy_async<4>(shared_address(to) + 4, row + c + 1);
      }
    }
  }
  template <int kParts>
  __device__ __forceinline__ LanePairs<kParts> load(int t, int first) const {
    LanePairs<kParts> out;
#pragma unroll
    for (int part = 0; part < kParts; ++part) out.v[part] = *at(t, first + part);
    return out;
  }

  const ScanAtArgs& args_;
  const float* const rows_;
  const int begin_, end_;
  float2* const mine_;
  int column_k_ = 0, column_x_ = 0;
};

/// What a lane keeps of kHeads neighbouring heads of a group: the query at the position, and what makes keys of rows of B.
template <int kParts, int kHeads>
struct ScanAtHeads {
  LanePairs<kParts> norm_k, bias_k[kHeads], q[kHeads];
  float angle_behind[kHeads][kParts];
  int chain[kHeads][kParts];  // of the lane's pairs, -1 for those that do not turn
  bool has_norm;

  __device__ ScanAtHeads(const ScanAtArgs& args, const ScanAtSequence& s, int h0) {
    const ScanAt& a = args.a;
    const int N = a.d_state, member = static_cast<int>(blockIdx.y);
    const float *nk = args.B_norm.at(member), *nq = args.C_norm.at(member),
                *bk = args.B_bias.at(member), *bq = args.C_bias.at(member);
    const int g = h0 / (a.nheads / a.ngroups);
    has_norm = nk != nullptr;
    fill(norm_k, nk, N, 1.0f);
    LanePairs<kParts> raw, norm_q;
    raw.load(s.row(s.p) + a.C + g * N, N, args.vectors);
    fill(norm_q, nq, N, 1.0f);
    const float inv = nq != nullptr ? inverse_rms(raw, N, args.eps) : 1.0f;
#pragma unroll
    for (int b = 0; b < kHeads; ++b) {
      LanePairs<kParts> bias;
      fill(bias, bq == nullptr ? nullptr : bq + (h0 + b) * N, N, 0.0f);
      fill(bias_k[b], bk == nullptr ? nullptr : bk + (h0 + b) * N, N, 0.0f);
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        q[b].v[part].x = raw.v[part].x * inv * norm_q.v[part].x + bias.v[part].x;
        q[b].v[part].y = raw.v[part].y * inv * norm_q.v[part].y + bias.v[part].y;
        const int j = LanePairs<kParts>::column(part) / 2;
        const bool turns = args.angles > 0 && j < a.nangles;
        const bool own = a.rotation == ScanAt::Rotation::kDataDependent;
        chain[b][part] = turns ? (own ? (h0 + b) * a.nangles : 0) + j : -1;
        angle_behind[b][part] = turns ? s.angle_behind(chain[b][part]) : 0.0f;
      }
    }
  }

  static __device__ __forceinline__ float inverse_rms(const LanePairs<kParts>& x, int n,
                                                      float eps) {
    float squares = 0;
#pragma unroll
    for (int part = 0; part < kParts; ++part)
      squares += x.v[part].x * x.v[part].x + x.v[part].y * x.v[part].y;
    return rsqrtf(warp_sum(squares) / static_cast<float>(n) + eps);
  }
  static __device__ __forceinline__ void fill(LanePairs<kParts>& to, const float* from, int n,
                                              float otherwise) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int c = LanePairs<kParts>::column(part);
      to.v[part].x = from != nullptr && c < n ? __ldg(from + c) : otherwise;
      to.v[part].y = from != nullptr && c + 1 < n ? __ldg(from + c + 1) : otherwise;
    }
  }

  /// Sine and cosine of the angle between token t and the position, of head b's pair.
  __device__ __forceinline__ void turn(const float* psi_row, int b, int part, float& sine,
                                       float& cosine) const {
    sine = 0, cosine = 1;
    if (chain[b][part] >= 0)
      sincos_wrapped(wrap_angle(psi_row[chain[b][part]] + angle_behind[b][part]), sine, cosine);
  }
};

/// Calls f<parts of d_state, parts of headdim, heads at once>().
template <class F>
void scan_at_sizes(const ScanAt& a, F&& f) {
  auto heads = [&]<int kStates, int kChannels>() {
    a.nheads / a.ngroups % 2 == 0 ? f.template operator()<kStates, kChannels, 2>()
                                  : f.template operator()<kStates, kChannels, 1>();
  };
  auto channels = [&]<int kStates>() {
    a.headdim <= 64 ? heads.template operator()<kStates, 1>()
                    : heads.template operator()<kStates, 2>();
  };
  a.d_state <= 64 ? channels.template operator()<1>() : channels.template operator()<2>();
}

}  // namespace statelab::cuda
