// The chunk of the gated delta rule, by chunks and token by token.
//
//   S' = alpha_i S_{i-1},  r_i = v_i - S'^T k_i,  S_i = S' + k_i w_i^T with w_i = beta_i r_i,  o_i = S_i^T q_i     (S is K x V)
//
// over the Lc tokens of a chunk, with S_{-1} = S_in. In matrix form (the WY representation), with T_ij = prod_{j < m <= i}
// alpha_m and T_i = prod_{m <= i} alpha_m:
//   e_i = v_i - T_i S_in^T k_i                                 the error that S_in alone leaves
//   (I + A) w = diag(beta) e,  A_ij = beta_i T_ij (k_i . k_j) for j < i       one unit lower triangular system
//   o_i   = T_i S_in^T q_i + sum_{j <= i} T_ij (q_i . k_j) w_j
//   S_out = T_{Lc-1} S_in + sum_j T_{Lc-1,j} k_j w_j^T
// The writes w solve the system directly; its inverse is never formed. T is built by products (scan_chunk.h), so that
// alpha = 1 and beta = 2 keep a sign exact. Source: models.md sections 7.2 - 7.5.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/cpu/eigen.h"
#include "kernels/cpu/scan_chunk.h"
#include "kernels/cpu/scratch_arrays.h"
#include "kernels/fault.h"

namespace statelab::cpu {

/// One chunk of one head. Rows are tokens; q, k (Lc, K) contiguous, v (Lc, V) with its row stride.
template <class S>
struct DeltaChunk {
  int length = 0, K = 0, V = 0;
  const S *q = nullptr, *k = nullptr, *v = nullptr;
  int64_t v_stride = 0;
  const S *alpha = nullptr, *beta = nullptr;  ///< (Lc)
  const S* state_in = nullptr;                ///< (K, V), nullptr = zero
};

template <class S>
struct DeltaScratch {
  S *decay, *pairs, *system, *score, *cross,
      *weight;                        ///< (Lc, Lc); T, k_i . k_j, A, q_i . k_j, ...
  S *error, *write, *value, *dwrite;  ///< (Lc, V)
  S* key;                             ///< (Lc, K)
  S *prefix, *dprefix;                ///< (Lc): T_i
  static int64_t elements(int L, int K, int V) {
    return 6 * padded(int64_t(L) * L) + 4 * padded(int64_t(L) * V) + padded(int64_t(L) * K) +
           2 * padded(L);
  }
  DeltaScratch(ScratchArrays<S>& s, int L, int K, int V) {
    for (S** p : {&decay, &pairs, &system, &score, &cross, &weight}) *p = s.take(int64_t(L) * L);
    for (S** p : {&error, &write, &value, &dwrite}) *p = s.take(int64_t(L) * V);
    key = s.take(int64_t(L) * K);
    prefix = s.take(L), dprefix = s.take(L);
  }
};

/// T, T_i, k_i . k_j, A, the errors e and the writes w of a chunk.
template <class S>
void solve_writes(const DeltaChunk<S>& c, const DeltaScratch<S>& t) {
  const int L = c.length;
  build_decay(c.alpha, L, t.decay);
  lower_product(t.pairs, c.k, c.K, c.k, c.K, L, c.K);
  for (int i = 0; i < L; ++i) {
    const int64_t at = static_cast<int64_t>(i) * L;
    row(t.system + at, i) = c.beta[i] * row(t.decay + at, i) * row(t.pairs + at, i);
    t.prefix[i] = (i > 0 ? t.prefix[i - 1] : S(1)) * c.alpha[i];
  }
  auto error = matrix(t.error, L, c.V, c.V), write = matrix(t.write, L, c.V, c.V);
  const auto v = matrix(c.v, L, c.V, c.v_stride);
  if (c.state_in == nullptr) {
    error = v;
  } else {
    error.noalias() = matrix(c.k, L, c.K, c.K) * matrix(c.state_in, c.K, c.V, c.V);
    for (int i = 0; i < L; ++i) {
      const S kept = STATELAB_FAULT(delta_error_without_decay) ? S(1) : t.prefix[i];
      error.row(i) = v.row(i) - kept * error.row(i);
    }
  }
  for (int i = 0; i < L; ++i) write.row(i) = c.beta[i] * error.row(i);
  matrix(static_cast<const S*>(t.system), L, L, L)
      .template triangularView<Eigen::UnitLower>()
      .solveInPlace(write);
}

/// out_ij = T_ij m_ij for j <= i, zero above the diagonal.
template <class S>
void decayed_lower(const S* decay, const S* m, int L, S* out) {
  for (int i = 0; i < L; ++i) {
    const int64_t at = static_cast<int64_t>(i) * L;
    row(out + at, i + 1) = row(decay + at, i + 1) * row(m + at, i + 1);
    std::fill(out + at + i + 1, out + at + L, S(0));
  }
}

/// o (Lc, V); state_out (K, V), may be nullptr.
template <class S>
void delta_chunk_forward(const DeltaChunk<S>& c, const DeltaScratch<S>& t, S* o, int64_t o_stride,
                         S* state_out) {
  const int L = c.length;
  solve_writes(c, t);
  lower_product(t.score, c.q, c.K, c.k, c.K, L, c.K);
  decayed_lower(t.decay, t.score, L, t.weight);
  if (STATELAB_FAULT(delta_read_before_write)) {
    for (int i = 0; i < L; ++i) t.weight[static_cast<int64_t>(i) * L + i] = S(0);
  }
  auto out = matrix(o, L, c.V, o_stride);
  if (c.state_in == nullptr) {
    out.setZero();
  } else {
    out.noalias() = matrix(c.q, L, c.K, c.K) * matrix(c.state_in, c.K, c.V, c.V);
    for (int i = 0; i < L; ++i) out.row(i) *= t.prefix[i];
  }
  add_lower_times(o, o_stride, t.weight, t.write, c.V, L, c.V);
  if (state_out == nullptr) return;
  auto value = matrix(t.value, L, c.V, c.V), next = matrix(state_out, c.K, c.V, c.V);
  const S* last = t.decay + static_cast<int64_t>(L - 1) * L;
  for (int j = 0; j < L; ++j)
    row(t.value + int64_t(j) * c.V, c.V) = last[j] * row(t.write + int64_t(j) * c.V, c.V);
  if (c.state_in == nullptr) {
    next.setZero();
  } else {
    next = t.prefix[L - 1] * matrix(c.state_in, c.K, c.V, c.V);
  }
  next.noalias() += matrix(c.k, L, c.K, c.K).transpose() * value;
}

/// Gradients of one chunk. On entry dstate = cotangent of S_out; on return that of S_in. dq, dk (Lc, K) are added to, dv
/// (Lc, V) is overwritten; dbeta, dalpha (Lc) likewise, dalpha may be nullptr where nothing depends on the decay.
template <class S>
struct DeltaGradients {
  S *dq, *dk, *dv;
  int64_t dv_stride;
  S *dbeta, *dalpha;
  S* dstate;            ///< (K, V) in and out
  bool dstate_is_zero;  ///< skip what it would contribute
  bool need_dstate_in;  ///< false for the first chunk
};

template <class S>
void delta_chunk_backward(const DeltaChunk<S>& c, const DeltaScratch<S>& t, const S* dout,
                          int64_t dout_stride, const DeltaGradients<S>& g) {
  const int L = c.length, K = c.K, V = c.V;
  solve_writes(c, t);
  lower_product(t.score, c.q, K, c.k, K, L, K);
  const auto q = matrix(c.q, L, K, K), k = matrix(c.k, L, K, K);
  const auto dy = matrix(dout, L, V, dout_stride), write = matrix(t.write, L, V, V);
  auto dq = matrix(g.dq, L, K, K), dk = matrix(g.dk, L, K, K);
  auto dv = matrix(g.dv, L, V, g.dv_stride);
  auto value = matrix(t.value, L, V, V), dwrite = matrix(t.dwrite, L, V, V);
  const S* last = t.decay + static_cast<int64_t>(L - 1) * L;

  // What the outputs and S_out say of the writes.
  decayed_lower(t.decay, t.score, L, t.weight);
  dwrite.setZero();
  add_lower_transposed_times(t.dwrite, V, t.weight, dout, dout_stride, L, V);
  lower_product(t.cross, dout, dout_stride, t.write, V, L, V);  // do_i . w_j
  decayed_lower(t.decay, t.cross, L, t.weight);
  add_lower_times(g.dq, K, t.weight, c.k, K, L, K);
  add_lower_transposed_times(g.dk, K, t.weight, c.q, K, L, K);
  for (int i = 0; i < L; ++i) {  // cross becomes the cotangent of T
    const int64_t at = static_cast<int64_t>(i) * L;
    row(t.cross + at, i) *= row(t.score + at, i);
  }
  if (!g.dstate_is_zero) {
    const auto dstate = matrix(static_cast<const S*>(g.dstate), K, V, V);
    value.noalias() = k * dstate;
    S* dlast = t.cross + static_cast<int64_t>(L - 1) * L;
    for (int j = 0; j < L; ++j) {
      dwrite.row(j) += last[j] * value.row(j);
      if (j < L - 1) dlast[j] += value.row(j).dot(write.row(j));
      value.row(j) = last[j] * write.row(j);
    }
    dk.noalias() += value * dstate.transpose();
  }

  // Through the system: dwrite becomes the cotangent of its right side diag(beta) e, and dA_ij = -dwrite_i . w_j.
  matrix(static_cast<const S*>(t.system), L, L, L)
      .transpose()
      .template triangularView<Eigen::UnitUpper>()
      .solveInPlace(dwrite);
  lower_product(t.score, t.dwrite, V, t.write, V, L, V);
  for (int i = 0; i < L; ++i) {
    const int64_t at = static_cast<int64_t>(i) * L;
    const auto decay = row(t.decay + at, i), pairs = row(t.pairs + at, i),
               score = row(t.score + at, i);
    row(t.weight + at, i) = -c.beta[i] * decay * score;  // cotangent of k_i . k_j
    std::fill(t.weight + at + i, t.weight + at + L, S(0));
    g.dbeta[i] = (row(t.dwrite + int64_t(i) * V, V) * row(t.error + int64_t(i) * V, V)).sum() -
                 (decay * pairs * score).sum();
    row(t.cross + at, i) -= c.beta[i] * pairs * score;
    dv.row(i) = c.beta[i] * dwrite.row(i);
  }
  if (!STATELAB_FAULT(delta_system_gradient_missing)) {
    add_lower_times(g.dk, K, t.weight, c.k, K, L, K);
    add_lower_transposed_times(g.dk, K, t.weight, c.k, K, L, K);
  }

  if (g.dalpha != nullptr) decay_backward(c.alpha, t.decay, t.cross, L, g.dalpha);
  if (c.state_in != nullptr) {
    const auto state = matrix(c.state_in, K, V, V);
    auto key = matrix(t.key, L, K, K);
    key.noalias() = dy * state.transpose();
    for (int i = 0; i < L; ++i) {
      t.dprefix[i] = key.row(i).dot(q.row(i));
      dq.row(i) += t.prefix[i] * key.row(i);
    }
    key.noalias() = dv * state.transpose();
    for (int i = 0; i < L; ++i) {
      t.dprefix[i] -= key.row(i).dot(k.row(i));
      dk.row(i) -= t.prefix[i] * key.row(i);
    }
    if (!g.dstate_is_zero) {
      t.dprefix[L - 1] +=
          matrix(static_cast<const S*>(g.dstate), K, V, V).cwiseProduct(state).sum();
    }
    if (g.dalpha != nullptr) prefix_backward(c.alpha, t.prefix, t.dprefix, L, g.dalpha);
  }
  if (!g.need_dstate_in) return;
  auto dstate = matrix(g.dstate, K, V, V);
  if (g.dstate_is_zero) {
    dstate.setZero();
  } else {
    dstate *= t.prefix[L - 1];
  }
  for (int i = 0; i < L; ++i) value.row(i) = t.prefix[i] * dy.row(i);
  dstate.noalias() += q.transpose() * value;
  for (int i = 0; i < L; ++i) value.row(i) = t.prefix[i] * dv.row(i);
  dstate.noalias() -= k.transpose() * value;
}

/// The same function token by token.
template <class S>
void delta_recurrent_forward(const DeltaChunk<S>& c, S* o, int64_t o_stride, S* state_out) {
  Matrix<S> state = Matrix<S>::Zero(c.K, c.V), write(1, c.V);
  if (c.state_in != nullptr) state = matrix(c.state_in, c.K, c.V, c.V);
  const auto q = matrix(c.q, c.length, c.K, c.K), k = matrix(c.k, c.length, c.K, c.K);
  const auto v = matrix(c.v, c.length, c.V, c.v_stride);
  auto out = matrix(o, c.length, c.V, o_stride);
  for (int i = 0; i < c.length; ++i) {
    state *= c.alpha[i];
    write.noalias() = k.row(i) * state;
    write = c.beta[i] * (v.row(i) - write);
    state.noalias() += k.row(i).transpose() * write;
    out.row(i).noalias() = q.row(i) * state;
  }
  if (state_out != nullptr) matrix(state_out, c.K, c.V, c.V) = state;
}

/// Adjoint of delta_recurrent_forward. States are replayed forward from state_in. Source: models.md 7.3.
template <class S>
void delta_recurrent_backward(const DeltaChunk<S>& c, const S* dout, int64_t dout_stride,
                              const DeltaGradients<S>& g) {
  const int L = c.length;
  const auto q = matrix(c.q, L, c.K, c.K), k = matrix(c.k, L, c.K, c.K);
  const auto v = matrix(c.v, L, c.V, c.v_stride), dy = matrix(dout, L, c.V, dout_stride);
  auto dq = matrix(g.dq, L, c.K, c.K), dk = matrix(g.dk, L, c.K, c.K);
  auto dv = matrix(g.dv, L, c.V, g.dv_stride);
  std::vector<Matrix<S>> states(static_cast<size_t>(L) + 1, Matrix<S>::Zero(c.K, c.V));
  if (c.state_in != nullptr) states[0] = matrix(c.state_in, c.K, c.V, c.V);
  Matrix<S> r(L, c.V), decayed(c.K, c.V), w(1, c.V);
  for (int i = 0; i < L; ++i) {
    decayed = c.alpha[i] * states[static_cast<size_t>(i)];
    r.row(i) = v.row(i) - k.row(i) * decayed;
    states[static_cast<size_t>(i) + 1] = decayed + k.row(i).transpose() * (c.beta[i] * r.row(i));
  }
  Matrix<S> dstate = Matrix<S>::Zero(c.K, c.V);
  if (!g.dstate_is_zero) dstate = matrix(static_cast<const S*>(g.dstate), c.K, c.V, c.V);
  for (int i = L - 1; i >= 0; --i) {
    const Matrix<S>&before = states[static_cast<size_t>(i)],
          &after = states[static_cast<size_t>(i) + 1];
    dq.row(i) += dy.row(i) * after.transpose();
    dstate.noalias() += q.row(i).transpose() * dy.row(i);
    w.noalias() = k.row(i) * dstate;
    g.dbeta[i] = w.row(0).dot(r.row(i));
    dv.row(i) = c.beta[i] * w;
    dk.row(i) +=
        (c.beta[i] * r.row(i)) * dstate.transpose() - (c.alpha[i] * dv.row(i)) * before.transpose();
    dstate.noalias() -= k.row(i).transpose() * dv.row(i);
    if (g.dalpha != nullptr) g.dalpha[i] = dstate.cwiseProduct(before).sum();
    dstate *= c.alpha[i];
  }
  if (g.need_dstate_in) matrix(g.dstate, c.K, c.V, c.V) = dstate;
}

}  // namespace statelab::cpu
