// One or two heads of 64 channels with 64 states and one group of keys, where all heads of a token are taken at once. With inv = 1 / rms
// of the raw key B, k = inv w B + b and a query q, the pair (x, y) of a key that turns adds
//   c (inv m + e) + s (inv n + f),   m = qx wx Bx + qy wy By,  n = qx wy By - qy wx Bx,  e = qx bx + qy by,  f = qx by - qy bx
// to the score, s and c being sine and cosine of its angle; so the sums over a row that give inv and the scores are taken together.
#pragma once

#include "kernels/cuda/scan_at.cuh"

namespace statelab::cuda {

using AtRow = AtPairs<4, true>;  // 64 columns

/// What the keys of a head meet of the query, in shared memory by pair. Pairs of the first kTurned parts of a row turn.
template <int kTurned>
struct AtQuery {
  static constexpr int kTurns = kTurned > 0 ? kTurned : 1;  // of arrays
  static constexpr int kFloats = kAtLanes * (6 * kTurned + 2 * (4 - kTurned));
  float4* products;  // qx wx, qy wy, qx wy, qy wx
  float2* same;      // e, f
  float2* still;     // qx wx, qy wy of pairs that do not turn

  __device__ explicit AtQuery(float* shared)
      : products(reinterpret_cast<float4*>(shared)),
        same(reinterpret_cast<float2*>(shared + 4 * kTurned * kAtLanes)),
        still(same + kTurned * kAtLanes) {}
};

/// Of one head at a lane's token.
template <int kTurned>
struct AtScore {
  static constexpr int kTurns = AtQuery<kTurned>::kTurns;
  float2 by[kTurns];  // sine, cosine
  float raw, plus;    // the score is inv raw + plus, and AtQueries::still

  /// A lane's shares. `angles`, `behind`: of the head at the token and behind this warp's tokens, `nangles` of them.
  __device__ __forceinline__ void meet(const AtQuery<kTurned>& q, const AtRow& B,
                                       const float* angles, const float* behind, int nangles) {
    raw = 0, plus = 0;
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      const float2 b = B.v[part];
      const int pair = AtRow::column(part) / 2;
      if (part < kTurned) {
        const bool turns = kTurned == 2 || pair < nangles;
        by[part] = ScanAtSequence::turn(turns ? wrap_angle(angles[pair] + behind[pair]) : 0.0f);
        const float4 of = q.products[pair];
        const float2 same = q.same[pair];
        const float m = of.x * b.x + of.y * b.y, n = of.z * b.y - of.w * b.x;
        raw += by[part].y * m + by[part].x * n;
        plus += by[part].y * same.x + by[part].x * same.y;
      } else {
        const float2 of = q.still[pair - kTurned * kAtLanes];
        raw += of.x * b.x + of.y * b.y;
      }
    }
  }
};

/// Rows of a lane's token: its key, its x of all heads.
template <int kHeads>
struct AtRows {
  static constexpr int kX = 64 * kHeads, kB = 2 * kX, kC = kB + 64;  // first columns
  AtRow k, x[kHeads];
  /// Of a warp's tokens from `first` on, the last again behind it. Volatile: where the loads stand they stay, before the arithmetic of
  /// the tokens at hand.
  __device__ __forceinline__ void load(const ScanAtSequence& s, int first) {
    if (first >= s.end) return;
    const float* row = s.row(min(first + lane_id() / kAtLanes, s.end - 1)) + AtRow::column(0);
    auto fetch = [&](AtRow& to, int column) {
#pragma unroll
      for (int part = 0; part < 4; ++part)
        asm volatile("ld.global.nc.v2.f32 {%0,%1}, [%2];"
                     : "=f"(to.v[part].x), "=f"(to.v[part].y)
                     : "l"(row + column + 2 * kAtLanes * part));
    };
    fetch(k, kB);
#pragma unroll
    for (int b = 0; b < kHeads; ++b) fetch(x[b], kX + 64 * b);
  }
};

/// The heads that these kernels take, and the parts of a row that turn: 2 where 16 pairs do, 4 where another number does.
inline bool scan_at_whole(const ScanAt& a) {
  return a.headdim == 64 && a.d_state == 64 && a.ngroups == 1 && a.nheads <= 2 && a.width % 2 == 0;
}
/// Calls f<heads, kTurned>().
template <class F>
void scan_at_whole_sizes(const ScanAtArgs& args, F&& f) {
  auto turned = [&]<int kHeads>() {
    if (args.angles == 0) {
      f.template operator()<kHeads, 0>();
    } else {
      args.a.nangles == 16 ? f.template operator()<kHeads, 2>()
                           : f.template operator()<kHeads, 4>();
    }
  };
  args.a.nheads == 1 ? turned.template operator()<1>() : turned.template operator()<2>();
}

/// The queries of kHeads heads.
template <int kHeads, int kTurned>
struct AtQueries {
  static constexpr int kFloats = kHeads * (AtQuery<kTurned>::kFloats + 64) + 4;
  float* shared;
  __device__ __forceinline__ AtQuery<kTurned> of(int b) const {
    return AtQuery<kTurned>(shared + b * AtQuery<kTurned>::kFloats);
  }
  /// By pair, normed and with its bias.
  __device__ __forceinline__ float2* q(int b) const {
    return reinterpret_cast<float2*>(shared + kHeads * AtQuery<kTurned>::kFloats) + 32 * b;
  }
  /// Sum of q b over the pairs that do not turn.
  __device__ __forceinline__ float& still(int b) const { return shared[kFloats - 4 + b]; }

  /// One warp a head, behind the first kHeads; a barrier must follow.
  __device__ void ask(const ScanAtArgs& args, const ScanAtSequence& s) const {
    const int b = warp_id() - kHeads, pair = lane_id(), c = 2 * pair;
    if (b < 0 || b >= kHeads) return;
    auto parameter = [&](const MemberArray<const float>& of, int at, float otherwise) {
      const float* from = of.at(blockIdx.y);
      return from != nullptr ? load2(from + at, true) : make_float2(otherwise, otherwise);
    };
    float2 x = load2(s.row(s.p) + AtRows<kHeads>::kC + c, true);
    const float2 norm = parameter(args.C_norm, c, 1), bias = parameter(args.C_bias, 64 * b + c, 0),
                 w = parameter(args.B_norm, c, 1), plus = parameter(args.B_bias, 64 * b + c, 0);
    const float squares = warp_sum(x.x * x.x + x.y * x.y);
    const float inv =
        args.C_norm.data != nullptr ? rsqrtf(fmaf(squares, 1.0f / 64, args.eps)) : 1.0f;
    x = make_float2(x.x * inv * norm.x + bias.x, x.y * inv * norm.y + bias.y);
    q(b)[pair] = x;
    const AtQuery<kTurned> to = of(b);
    float share = 0;
    if (pair < kTurned * kAtLanes) {
      to.products[pair] = make_float4(x.x * w.x, x.y * w.y, x.x * w.y, x.y * w.x);
      to.same[pair] = make_float2(x.x * plus.x + x.y * plus.y, x.x * plus.y - x.y * plus.x);
    } else {
      to.still[pair - kTurned * kAtLanes] = make_float2(x.x * w.x, x.y * w.y);
      share = x.x * plus.x + x.y * plus.y;
    }
    share = warp_sum(share);
    if (pair == 0) still(b) = share;
  }
};

}  // namespace statelab::cuda
