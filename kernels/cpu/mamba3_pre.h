// What both directions of mamba3_scan compute per chunk before the recurrence: step sizes, decays, weights, normed and
// rotated B and C. Nothing of it is stored for the backward pass. Source: models.md section 3.2.
#pragma once

#include <cmath>
#include <cstring>
#include <numbers>

#include "kernels/cpu/eigen.h"
#include "kernels/cpu/kernel.h"
#include "kernels/cpu/scan_chunk.h"
#include "kernels/cpu/scratch_arrays.h"

namespace statelab::cpu {

/// Column offsets of proj.
struct Mamba3Columns {
  int z, x, B, C, dd_dt, dd_A, trap, ang, width;
  explicit Mamba3Columns(const Mamba3ScanAttrs& a)
      : z(0),
        x(a.d_inner()),
        B(2 * a.d_inner()),
        C(B + a.ngroups * a.d_state),
        dd_dt(C + a.ngroups * a.d_state),
        dd_A(dd_dt + a.nheads),
        trap(dd_A + a.nheads),
        ang(trap + a.nheads),
        width(a.d_proj()) {}
};

/// Pointers of one member's operands; absent ones are null.
template <class S>
struct Mamba3Inputs {
  const S *proj, *dt_bias, *B_bias, *C_bias, *B_norm, *C_norm, *D, *norm;
  Mamba3Inputs(const Call& call, int member, size_t first)
      : proj(call.in[first].at<const S>(member)),
        dt_bias(call.in[first + 1].at<const S>(member)),
        B_bias(call.in[first + 2].at<const S>(member)),
        C_bias(call.in[first + 3].at<const S>(member)),
        B_norm(call.in[first + 4].at<const S>(member)),
        C_norm(call.in[first + 5].at<const S>(member)),
        D(call.in[first + 6].at<const S>(member)),
        norm(call.in[first + 7].at<const S>(member)) {}
};

/// Step quantities of one head over a chunk's tokens and one more (for the lookahead weight). All arrays (L + 1, padded).
template <class S>
struct Mamba3Steps {
  S *dt, *A, *alpha, *lam, *gam, *del, *w, *raw_dt, *raw_A, *floored;
  static int64_t elements(int L) { return 10 * padded(L + 16); }
  Mamba3Steps(ScratchArrays<S>& s, int L) {
    for (S** p : {&dt, &A, &alpha, &lam, &gam, &del, &w, &raw_dt, &raw_A, &floored})
      *p = s.take(L + 16);
  }

  /// Tokens t0 .. t0 + L - 1 of head h, and token t0 + L when it exists. `proj_b` is the sequence's first row.
  void compute(const Mamba3ScanAttrs& a, const Mamba3Columns& col, const S* proj_b,
               const S* dt_bias, int h, int t0, int L, int seqlen) {
    using D = Mamba3ScanAttrs::Discretization;
    const int64_t n = padded(L + 1);
    const int count = t0 + L < seqlen ? L + 1 : L;
    for (int64_t i = count; i < n; ++i) raw_dt[i] = raw_A[i] = lam[i] = S(0);
    for (int i = 0; i < count; ++i) {
      const S* r = proj_b + static_cast<int64_t>(t0 + i) * col.width;
      raw_dt[i] = r[col.dd_dt + h] + dt_bias[h];
      raw_A[i] = r[col.dd_A + h];
      lam[i] = r[col.trap + h];
    }
    auto v = [n](S* p) { return row(p, n); };
    v(dt) = (v(raw_dt) > S(20)).select(v(raw_dt), v(raw_dt).min(S(20)).exp().log1p());
    if (a.heavy_tail) {
      v(A) = (v(raw_A) >= S(0)).select(S(1) + v(raw_A), S(1) / (S(1) - v(raw_A).min(S(0))));
    } else {
      v(A) = (v(raw_A) > S(20)).select(v(raw_A), v(raw_A).min(S(20)).exp().log1p());
    }
    const S floor = static_cast<S>(a.a_floor);
    for (int64_t i = 0; i < n; ++i) floored[i] = A[i] < floor ? S(1) : S(0);
    v(A) = STATELAB_FAULT(mamba3_a_floor_ignored) ? (-v(A)).eval() : (-v(A).max(floor)).eval();
    v(alpha) = (v(A) * v(dt)).exp();
    if (STATELAB_FAULT(mamba3_decay_missing)) v(alpha).setOnes();
    switch (a.discretization) {
      case D::kTrapezoidal:
        v(lam) = S(1) / (S(1) + (-v(lam)).exp());
        break;
      case D::kEuler:
        v(lam).setOnes();
        break;
      case D::kHalf:
        v(lam).setConstant(S(0.5));
        break;
    }
    if (STATELAB_FAULT(mamba3_lambda_swapped)) v(lam) = S(1) - v(lam);
    v(gam) = v(lam) * v(dt);
    v(del) = (S(1) - v(lam)) * v(dt);
    for (int i = 0; i < L; ++i) w[i] = gam[i] + (i + 1 < count ? del[i + 1] : S(0));
    if (STATELAB_FAULT(mamba3_lookahead_same_step)) {
      for (int i = 0; i < L; ++i) w[i] = gam[i] + del[i];
    }
  }
};

template <class S>
S wrap_angle(S x) {
  constexpr S kTwoPi = static_cast<S>(2 * std::numbers::pi), kPi = static_cast<S>(std::numbers::pi);
  return x - kTwoPi * std::floor((x + kPi) / kTwoPi);
}

/// y = Rot(Phi) x on interleaved pairs (2j, 2j + 1), j < S; sign = -1 rotates back. cos, sin (S). y may equal x.
template <class S>
void rotate_pairs(const S* x, const S* cos, const S* sin, int nangles, S sign, S* y) {
  for (int j = 0; j < nangles; ++j) {
    const S c = cos[j], s = sign * sin[j], x0 = x[2 * j], x1 = x[2 * j + 1];
    y[2 * j] = x0 * c - x1 * s;
    y[2 * j + 1] = x0 * s + x1 * c;
  }
}

/// Chunk-local B and C of all groups: xhat (L, G, N) before the norm's weight, r (L, G) the inverse RMS, y = xhat * weight.
template <class S>
void norm_rows(const S* proj_chunk, int64_t width, int offset, const S* weight, int L, int groups,
               int N, S eps, S* y, S* r) {
  for (int i = 0; i < L; ++i) {
    for (int g = 0; g < groups; ++g) {
      const auto raw = row(proj_chunk + i * width + offset + static_cast<int64_t>(g) * N, N);
      auto out = row(y + (static_cast<int64_t>(i) * groups + g) * N, N);
      if (weight == nullptr) {
        out = raw;
        r[i * groups + g] = S(1);
      } else {
        const S inv = S(1) / std::sqrt(raw.square().sum() / S(N) + eps);
        r[i * groups + g] = inv;
        out = raw * inv * row(weight, N);
      }
    }
  }
}

/// Rotation angles of a chunk. Data-dependent ones continue from `phi_last` (S) and are stored; all are wrapped to [-pi, pi).
template <class S>
void chunk_angles(const Mamba3ScanAttrs& a, const S* theta, const S* dt, int t0, int L, S* phi_last,
                  S* phi, int64_t phi_stride) {
  const int n = a.nangles;
  if (a.rotation == Mamba3ScanAttrs::Rotation::kDataDependent) {
    for (int i = 0; i < L; ++i) {
      S* p = phi + i * phi_stride;
      const S* th = theta + static_cast<int64_t>(i) * n;
      for (int j = 0; j < n; ++j) p[j] = wrap_angle(phi_last[j] + dt[i] * th[j]);
      for (int j = 0; j < n; ++j) phi_last[j] = p[j];
    }
    return;
  }
  for (int i = 0; i < L; ++i) {
    for (int j = 0; j < n; ++j) {
      const double angle =
          static_cast<double>(t0 + i) * std::pow(10000.0, -static_cast<double>(j) / n);
      phi[i * phi_stride + j] = static_cast<S>(wrap_angle(angle));
    }
  }
}

}  // namespace statelab::cpu
