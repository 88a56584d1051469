// One or two heads of 64 channels with 64 states and one group of keys, where all heads of a token are taken at once. With inv = 1 / rms
// of the raw key B, k = inv w B + b and a query q, the pair (x, y) of a key that turns adds
//   c (inv m + e) + s (inv n + f),   m = qx wx Bx + qy wy By,  n = qx wy By - qy wx Bx,  e = qx bx + qy by,  f = qx by - qy bx
// to the score, s and c being sine and cosine of its angle; so the sums over a row that give inv and the scores are taken together.
#pragma once

#include "kernels/cuda/scan_at.cuh"

namespace statelab::cuda {

using AtRow = AtPairs<4, true>;  // 64 columns

/// What the keys of a head meet of a warp's query, in shared memory by part and lane of a token. Pairs of the first kTurned parts turn.
template <int kTurned>
struct AtQuery {
  static constexpr int kTurns = kTurned > 0 ? kTurned : 1;  // of arrays
  static constexpr int kStill = 4 - kTurned;
  static constexpr int kFloats = kAtLanes * (6 * kTurned + 2 * kStill);
  float4* products;  // qx wx, qy wy, qx wy, qy wx
  float2* same;      // e, f
  float2* still;     // qx wx, qy wy of pairs that do not turn

  __device__ explicit AtQuery(float* shared)
      : products(reinterpret_cast<float4*>(shared) + lane_id() % kAtLanes),
        same(reinterpret_cast<float2*>(shared + 4 * kTurned * kAtLanes) + lane_id() % kAtLanes),
        still(same + kTurned * kAtLanes) {}

  /// Of the turned query q; returns this lane's share of q b over pairs that do not turn. Lanes of the same columns write the same.
  __device__ float fill(const AtRow& q, const AtRow& norm, const AtRow& bias) const {
    float share = 0;
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      const float2 x = q.v[part], w = norm.v[part], b = bias.v[part];
      if (part < kTurned) {
        products[part * kAtLanes] = make_float4(x.x * w.x, x.y * w.y, x.x * w.y, x.y * w.x);
        same[part * kAtLanes] = make_float2(x.x * b.x + x.y * b.y, x.x * b.y - x.y * b.x);
      } else {
        still[(part - kTurned) * kAtLanes] = make_float2(x.x * w.x, x.y * w.y);
        share += x.x * b.x + x.y * b.y;
      }
    }
    return share;
  }
};

/// Of one head at a lane's token.
template <int kTurned>
struct AtScore {
  static constexpr int kTurns = AtQuery<kTurned>::kTurns;
  float2 by[kTurns];      // sine, cosine
  float2 raw_of[kTurns];  // m, n
  float raw, plus;        // the score is inv raw + plus

  /// A lane's shares. `angles`: of the head at the token, `nangles` of them; `still` as AtQuery::fill has returned it.
  __device__ __forceinline__ void meet(const AtQuery<kTurned>& q, const AtRow& B,
                                       const float* angles, int nangles, float still) {
    raw = 0, plus = still;
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      const float2 b = B.v[part];
      if (part < kTurned) {
        const int pair = AtRow::column(part) / 2;
        by[part] = ScanAtSequence::turn(kTurned == 2 || pair < nangles ? angles[pair] : 0.0f);
        const float4 of = q.products[part * kAtLanes];
        const float2 same = q.same[part * kAtLanes];
        const float m = of.x * b.x + of.y * b.y, n = of.z * b.y - of.w * b.x;
        raw_of[part] = make_float2(m, n);
        raw += by[part].y * m + by[part].x * n;
        plus += by[part].y * same.x + by[part].x * same.y;
      } else {
        const float2 of = q.still[(part - kTurned) * kAtLanes];
        raw += of.x * b.x + of.y * b.y;
      }
    }
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

/// A warp's queries of kHeads heads.
template <int kHeads, int kTurned>
struct AtQueries {
  static constexpr int kFloats = kHeads * AtQuery<kTurned>::kFloats;
  float* shared;         // this warp's
  float still[kHeads];   // shares of q b
  int first_angle;       // of the second head
  __device__ __forceinline__ AtQuery<kTurned> of(int b) const {
    return AtQuery<kTurned>(shared + b * AtQuery<kTurned>::kFloats);
  }
  /// After ScanAtSequence::ask().
  __device__ void fill(const ScanAtArgs& args, const ScanAtSequence& s, float* to) {
    shared = to;
    first_angle = args.a.rotation == ScanAt::Rotation::kDataDependent ? args.a.nangles : 0;
    AtRow norm;
    norm.fill(args.B_norm.at(blockIdx.y), 64, 1.0f);
    const float* biases = args.B_bias.at(blockIdx.y);
#pragma unroll
    for (int b = 0; b < kHeads; ++b) {
      AtRow q, bias;
      q.read(s.query + 64 * b, 64);
      bias.fill(biases == nullptr ? nullptr : biases + 64 * b, 64, 0.0f);
      still[b] = of(b).fill(q, norm, bias);
    }
    __syncwarp();
  }
};

}  // namespace statelab::cuda
