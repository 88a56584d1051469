// What both directions of gated_delta_scan compute per chunk before the recurrence: activated and normed queries and keys,
// activated values, decays and betas. Nothing of it is stored for the backward pass. Source: models.md section 7.2.
#pragma once

#include <cmath>

#include "kernels/cpu/eigen.h"
#include "kernels/cpu/kernel.h"
#include "kernels/cpu/scratch_arrays.h"
#include "kernels/fault.h"

namespace statelab::cpu {

/// Column offsets of proj; a, gate: -1 where the model has none.
struct GatedDeltaColumns {
  int q, k, v, gate, a, b, width;
  explicit GatedDeltaColumns(const GatedDeltaScanAttrs& at)
      : q(0),
        k(at.ngroups * at.d_state),
        v(2 * at.ngroups * at.d_state),
        gate(at.gate ? v + at.d_inner() : -1),
        a(at.decay ? v + (at.gate ? 2 : 1) * at.d_inner() : -1),
        b(at.d_proj() - at.nheads),
        width(at.d_proj()) {}
};

/// Pointers of one member's operands; absent ones are null.
template <class S>
struct GatedDeltaInputs {
  const S *proj, *dt_bias, *A_log, *norm;
  GatedDeltaInputs(const Call& call, int member, size_t first)
      : proj(call.in[first].at<const S>(member)),
        dt_bias(call.in[first + 1].at<const S>(member)),
        A_log(call.in[first + 2].at<const S>(member)),
        norm(call.in[first + 3].at<const S>(member)) {}
};

inline int gated_delta_group(const GatedDeltaScanAttrs& a, int h) {
  return STATELAB_FAULT(gated_delta_group_interleaved) ? h % a.ngroups : h / (a.nheads / a.ngroups);
}

/// Of the output: K^(-1/2).
template <class S>
S gated_delta_scale(const GatedDeltaScanAttrs& a) {
  return STATELAB_FAULT(gated_delta_scale_missing) ? S(1)
                                                   : S(1) / std::sqrt(static_cast<S>(a.d_state));
}

inline constexpr double kL2NormEps = 1e-6;

/// Queries and keys of all groups of a chunk, (G, L, K) each, after [SiLU and] l2norm, and the inverse norms (G, L).
template <class S>
struct GatedDeltaKeys {
  S *q, *k, *q_inverse, *k_inverse;
  int64_t group_stride, token_stride;  ///< from one group to the next, of (L, K) and of (L)
  static int64_t elements(const GatedDeltaScanAttrs& a, int L) {
    return 2 * padded(a.ngroups * padded(int64_t(L) * a.d_state)) +
           2 * padded(a.ngroups * padded(L));
  }
  GatedDeltaKeys(ScratchArrays<S>& s, const GatedDeltaScanAttrs& a, int L)
      : group_stride(padded(int64_t(L) * a.d_state)), token_stride(padded(L)) {
    q = s.take(a.ngroups * group_stride), k = s.take(a.ngroups * group_stride);
    q_inverse = s.take(a.ngroups * token_stride), k_inverse = s.take(a.ngroups * token_stride);
  }

  void compute(const GatedDeltaScanAttrs& a, const GatedDeltaColumns& col, const S* proj_c, int L) {
    for (int g = 0; g < a.ngroups; ++g) {
      for (int i = 0; i < L; ++i) {
        const S* p = proj_c + int64_t(i) * col.width + g * a.d_state;
        const int64_t at = g * group_stride + int64_t(i) * a.d_state;
        q_inverse[g * token_stride + i] = normalise(a, p + col.q, q + at);
        k_inverse[g * token_stride + i] = normalise(a, p + col.k, k + at);
        if (STATELAB_FAULT(gated_delta_key_unnormalised))
          row(k + at, a.d_state) /= k_inverse[g * token_stride + i];
      }
    }
  }

  /// Adds to draw (K) the gradient with respect to the raw row, from that of the normed row y.
  static void normalise_backward(const GatedDeltaScanAttrs& a, const S* raw, const S* y, S inverse,
                                 const S* dy, S* draw) {
    const auto n = row(y, a.d_state), d = row(dy, a.d_state), x = row(raw, a.d_state);
    const S along = STATELAB_FAULT(gated_delta_norm_gradient_along_key) ? S(0) : (d * n).sum();
    auto out = row(draw, a.d_state);
    out = inverse * (d - along * n);
    if (a.activate) {
      const auto s = S(1) / (S(1) + (-x).exp());
      out *= s * (S(1) + x * (S(1) - s));
    }
  }

 private:
  static S normalise(const GatedDeltaScanAttrs& a, const S* raw, S* y) {
    const auto x = row(raw, a.d_state);
    auto out = row(y, a.d_state);
    if (a.activate) {
      out = x / (S(1) + (-x).exp());
    } else {
      out = x;
    }
    const S inverse = S(1) / std::sqrt(out.square().sum() + S(kL2NormEps));
    out *= inverse;
    return inverse;
  }
};

/// Of one head over a chunk's tokens: values (L, V) after [SiLU], decays, betas and what their gradients need (L).
template <class S>
struct GatedDeltaHead {
  S *values, *alpha, *beta, *raw_dt, *dt;
  const S* v = nullptr;  ///< the values: proj itself where nothing is applied to them
  int64_t v_stride = 0;
  S rate = 0;  ///< exp(A_log)
  static int64_t elements(const GatedDeltaScanAttrs& a, int L) {
    return padded(int64_t(L) * a.headdim) + 4 * padded(L);
  }
  GatedDeltaHead(ScratchArrays<S>& s, const GatedDeltaScanAttrs& a, int L) {
    values = s.take(int64_t(L) * a.headdim);
    for (S** p : {&alpha, &beta, &raw_dt, &dt}) *p = s.take(L);
  }

  void compute(const GatedDeltaScanAttrs& a, const GatedDeltaColumns& col, const S* proj_c,
               const GatedDeltaInputs<S>& in, int h, int L) {
    const S* raw = proj_c + col.v + int64_t(h) * a.headdim;
    const bool activate = a.activate && !STATELAB_FAULT(gated_delta_values_unactivated);
    v = activate ? values : raw;
    v_stride = activate ? a.headdim : col.width;
    const S beta_max = STATELAB_FAULT(gated_delta_beta_range_ignored) ? S(1) : S(a.beta_max);
    if (a.decay) rate = std::exp(in.A_log[h]);
    for (int i = 0; i < L; ++i) {
      const S* p = proj_c + int64_t(i) * col.width;
      if (activate) {
        const auto x = row(raw + int64_t(i) * col.width, a.headdim);
        row(values + int64_t(i) * a.headdim, a.headdim) = x / (S(1) + (-x).exp());
      }
      beta[i] = beta_max * sigmoid(p[col.b + h]);
      alpha[i] = S(1);
      if (!a.decay || STATELAB_FAULT(gated_delta_decay_missing)) continue;
      raw_dt[i] = p[col.a + h] + in.dt_bias[h];
      dt[i] = softplus(raw_dt[i]);
      alpha[i] = std::exp(-rate * dt[i]);
    }
  }
};

}  // namespace statelab::cpu
