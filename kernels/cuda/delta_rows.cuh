// The row-wise kernels of gated_delta_scan_bwd, before and after the chunk-wise adjoint: back through the output's gate and norm;
// then the sum of what the adjoint's blocks found for q, k, beta and g, back through normalisation, SiLU and sigmoid.
#pragma once

#include "kernels/cuda/delta_chunk.cuh"
#include "kernels/cuda/reduce.cuh"

namespace statelab::cuda {

constexpr int kNormRows = 4;  ///< rows (token, head) that a warp of the first kernel takes
constexpr int kTailTokens = kScanThreads / kRowLanes;  ///< tokens that a block of the third takes

struct BackwardArgs : DeltaArgs {
  MemberArray<const float> dy, o, states;
  MemberArray<float> dproj;
  MemberArray<float> dout;     ///< cotangent of o (tokens, H, V)
  MemberArray<float> dqk;      ///< parts of dq and dk (tokens, H, tiles, 2 K)
  MemberArray<float> dscalar;  ///< parts of dbeta and dg (tokens, H, tiles, 2)
  MemberArray<float> norm_partials, partials;

  BackwardArgs(const GatedDeltaScanAttrs& at, const Shape& proj) : DeltaArgs(at, proj) {}
  int64_t norm_blocks() const { return ceil_div(tokens() * nheads, kNormRows * kScanWarps); }
  int64_t tail_blocks() const { return ceil_div(tokens(), kTailTokens); }
  /// Places the arrays of the workspace from `from` on; returns the floats of a member's.
  int64_t place(float* from, int64_t stride) {
    int64_t used = 0;
    auto take = [&](MemberArray<float>& to, int64_t floats) {
      to = {from == nullptr ? nullptr : from + used, stride};
      used += ceil_div(floats, 16) * 16;
    };
    const int64_t slots = tokens() * nheads * tiles;
    take(dout, tokens() * d_inner());
    take(dqk, slots * 2 * d_state);
    take(dscalar, slots * 2);
    take(norm_partials, norm_blocks() * headdim);
    take(partials, tail_blocks() * 2 * nheads);
    return used;
  }
};

/// dout, dgate and a block's sum for dnorm: a warp takes kNormRows rows of V columns, kParts: 1 up to 64 of them, else 2.
template <int kParts>
static __global__ void __launch_bounds__(kScanThreads)
    delta_norm_kernel(const __grid_constant__ BackwardArgs a) {
  __shared__ float sums[kScanWarps][128];
  using Pairs = LanePairs<kParts>;
  const int member = blockIdx.y, V = a.headdim;
  const int64_t rows = a.tokens() * a.nheads,
                row0 = (static_cast<int64_t>(blockIdx.x) * kScanWarps + warp_id()) * kNormRows;
  const float* norm = a.norm.at(member);
  Pairs weight, dnorm{};
  weight.load(norm, V, a.vectors && V % 2 == 0);
  float* dproj = a.dproj.at(member);
#pragma unroll 4
  for (int u = 0; u < kNormRows; ++u) {
    const int64_t row = min(row0 + u, rows - 1);
    const auto of_head = static_cast<unsigned>(row), H = static_cast<unsigned>(a.nheads);
    const bool in = row0 + u < rows;
    const int64_t gate_at = static_cast<int64_t>(of_head / H) * a.width + a.gate + of_head % H * V;
    Pairs dy, o, gate{};
    dy.load(a.dy.at(member) + row * V, V, a.vectors);
    o.load(a.o.at(member) + row * V, V, a.vectors);
    if (a.gated) gate.load(a.proj.at(member) + gate_at, V, a.vectors);
    float square = 0, dot = 0;
    float2 dn[kParts], slope[kParts]{};  // cotangent of the norm's result; of silu(gate)
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const float2 x = o.v[part], w = weight.v[part];
      dn[part] = dy.v[part];
      if (a.gated) {
        const float2 gt = gate.v[part], s = make_float2(sigmoidf(gt.x), sigmoidf(gt.y));
        dn[part].x *= gt.x * s.x, dn[part].y *= gt.y * s.y;
        slope[part] = make_float2(s.x * (1 + gt.x * (1 - s.x)), s.y * (1 + gt.y * (1 - s.y)));
      }
      square += x.x * x.x + x.y * x.y;
      dot += dn[part].x * w.x * x.x + dn[part].y * w.y * x.y;
    }
    const float inverse = rsqrtf(warp_sum(square) / static_cast<float>(V) + a.eps);
    const float mean = warp_sum(dot) * inverse / static_cast<float>(V);
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int p = Pairs::column(part);
      if (!in || p >= V) continue;
      const bool both = p + 1 < V;
      const float2 unit = make_float2(o.v[part].x * inverse, o.v[part].y * inverse),
                   w = weight.v[part];
      const float2 dx = make_float2(inverse * (dn[part].x * w.x - unit.x * mean),
                                    inverse * (dn[part].y * w.y - unit.y * mean));
      const float2 dgate = make_float2(dy.v[part].x * unit.x * w.x * slope[part].x,
                                       dy.v[part].y * unit.y * w.y * slope[part].y);
      dnorm.v[part].x += dn[part].x * unit.x, dnorm.v[part].y += dn[part].y * unit.y;
      float* to = a.dout.at(member) + row * V + p;
      float* to_gate = a.gated && dproj != nullptr ? dproj + gate_at + p : nullptr;
      if (both) {
        store2(to, dx.x, dx.y, a.vectors);
        if (to_gate != nullptr) store2(to_gate, dgate.x, dgate.y, a.vectors);
      } else {
        *to = dx.x;
        if (to_gate != nullptr) *to_gate = dgate.x;
      }
    }
  }
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    const int p = Pairs::column(part);
    sums[warp_id()][p] = dnorm.v[part].x, sums[warp_id()][p + 1] = dnorm.v[part].y;
  }
  __syncthreads();
  for (int p = threadIdx.x; p < V; p += kScanThreads) {
    float total = 0;
    for (int w = 0; w < kScanWarps; ++w) total += sums[w][p];
    a.norm_partials.at(member)[static_cast<int64_t>(blockIdx.x) * V + p] = total;
  }
}

/// dproj of q, k, a and b, and a block's sums for ddt_bias and dA_log. kK: d_state, 0 where it is known at run time.
template <int kK>
static __global__ void __launch_bounds__(kScanThreads)
    delta_tail_kernel(const __grid_constant__ BackwardArgs a) {
  const int member = blockIdx.y, K = kK > 0 ? kK : a.d_state, slots = a.nheads * a.tiles;
  const int block = static_cast<int>(blockIdx.x) / 2,
            side = static_cast<int>(blockIdx.x) % 2;  // q, k
  const int64_t token0 = static_cast<int64_t>(block) * kTailTokens;
  const int length = static_cast<int>(min(static_cast<int64_t>(kTailTokens), a.tokens() - token0));
  float* dproj = a.dproj.at(member);
  const float* proj = a.proj.at(member);
  const int i = static_cast<int>(threadIdx.x) / kRowLanes;
  const int64_t token = token0 + min(i, length - 1);
  const int slots_per_group = slots / a.ngroups;
  for (int group = 0; group < a.ngroups && dproj != nullptr; ++group) {
    const int64_t at = token * a.width + (side == 0 ? 0 : a.k) + group * K;
    const float* parts =
        a.dqk.at(member) + (token * slots + group * slots_per_group) * 2 * K + side * K;
    RowPairs<kK> raw, sum{};
    raw.load(proj + at, K, a.vectors);
#pragma unroll 2
    for (int s = 0; s < slots_per_group; ++s) {
      RowPairs<kK> part;
      part.load(parts + s * 2 * K, K, a.vectors);
#pragma unroll
      for (int j = 0; j < RowPairs<kK>::kPairs; ++j)
        sum.x[j].x += part.x[j].x, sum.x[j].y += part.x[j].y;
    }
    RowPairs<kK> x = raw;
    if (a.activate) x.activate();
    const float inverse = x.inverse_length(), along = sum.dot(x) * inverse * inverse;
#pragma unroll
    for (int j = 0; j < RowPairs<kK>::kPairs; ++j) {
      const int column = RowPairs<kK>::column(j);
      if (i >= length || column >= K) continue;
      float2 dx = make_float2(inverse * (sum.x[j].x - x.x[j].x * along),
                              inverse * (sum.x[j].y - x.x[j].y * along));
      if (a.activate) dx.x *= silu_slope(raw.x[j].x), dx.y *= silu_slope(raw.x[j].y);
      if (column + 1 < K) {
        store2(dproj + at + column, dx.x, dx.y, a.vectors);
      } else {
        dproj[at + column] = dx.x;
      }
    }
  }
  if (side != 0) return;
  static_assert(kTailTokens == kWarp);
  for (int h = warp_id(); h < a.nheads; h += kScanWarps) {
    const int lane = lane_id();
    float draw = 0, dA_log = 0;
    if (lane < length) {
      const int64_t row = (token0 + lane) * a.width;
      float dbeta = 0, dg = 0;
      for (int tile = 0; tile < a.tiles; ++tile) {
        const float* part =
            a.dscalar.at(member) + ((token0 + lane) * slots + h * a.tiles + tile) * 2;
        dbeta += part[0], dg += part[1];
      }
      const float s = sigmoidf(__ldg(proj + row + a.b + h));
      if (dproj != nullptr) dproj[row + a.b + h] = dbeta * a.beta_max * s * (1 - s);
      if (a.decay) {
        const float rate = expf(a.A_log.at(member)[h]),
                    x = __ldg(proj + row + a.a + h) + a.dt_bias.at(member)[h];
        draw = -dg * rate * sigmoidf(x);
        dA_log = -dg * rate * softplusf(x);
        if (dproj != nullptr) dproj[row + a.a + h] = draw;
      }
    }
    draw = warp_sum(draw), dA_log = warp_sum(dA_log);
    if (lane == 0) {
      float* to = a.partials.at(member) + static_cast<int64_t>(block) * 2 * a.nheads;
      to[h] = draw, to[a.nheads + h] = dA_log;
    }
  }
}

}  // namespace statelab::cuda
