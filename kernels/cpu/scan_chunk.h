// The chunk of a gated linear recurrence, shared by the Mamba-3 and Mamba-2 scans.
//
//   G_i = alpha_i G_{i-1} + w_i x_i k_i^T,   o_i = alpha_i G_{i-1} q_i + diag_i x_i          (G is P x N)
//
// over the Lc tokens of a chunk, with G_{-1} = S_in. In matrix form, with T_ij = prod_{j < m <= i} alpha_m:
//   o_i   = T_i S_in q_i + sum_{j < i} T_ij w_j (q_i . k_j) x_j + diag_i x_i,   T_i = prod_{m <= i} alpha_m
//   S_out = T_{Lc-1} S_in + sum_j T_{Lc-1,j} w_j x_j k_j^T
// T is built by products, not by differences of cumulative logarithms: it needs no exponentials, has no cancellation,
// and holds for negative and for zero alpha too. Its gradient runs the same products backwards, without a division.
// Source: models.md sections 3.4, 3.6, 3.9, with T as products instead of exp(c_i - c_j).
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/cpu/eigen.h"
#include "kernels/fault.h"

namespace statelab::cpu {

/// One chunk of one head. Rows are tokens; q, k (Lc, N), x, o, dO (Lc, P) with the given row strides.
template <class S>
struct Chunk {
  int length = 0, P = 0, N = 0;
  const S *q = nullptr, *k = nullptr, *x = nullptr;
  int64_t x_stride = 0;
  const S *alpha = nullptr, *w = nullptr, *diag = nullptr;  ///< (Lc)
  const S* state_in = nullptr;                              ///< (P, N), nullptr = zero
};

/// Scratch of one chunk, (Lc, Lc) matrices: T, K and one to spare each.
template <class S>
struct ChunkScratch {
  S *decay, *score, *cross, *weight;
  static int64_t elements(int length) {
    return 4 * ((static_cast<int64_t>(length) * length + 15) / 16 * 16);
  }
  ChunkScratch(S* p, int length) {
    const int64_t n = (static_cast<int64_t>(length) * length + 15) / 16 * 16;
    decay = p, score = p + n, cross = p + 2 * n, weight = p + 3 * n;
  }
};

constexpr int kTriangleRows = 32;  // products of triangular results go by row blocks of this height

/// T (Lc, Lc), lower triangular with ones on the diagonal; zero above.
template <class S>
void build_decay(const S* alpha, int L, S* decay) {
  for (int i = 0; i < L; ++i) {
    S* ri = decay + static_cast<int64_t>(i) * L;
    const S* rp = ri - L;
    const S alpha_i = alpha[i];
    for (int j = 0; j < i; ++j) ri[j] = alpha_i * rp[j];
    ri[i] = S(1);
    for (int j = i + 1; j < L; ++j) ri[j] = S(0);
  }
}

/// dalpha (Lc) through T_ij = alpha_i T_{i-1,j}, backwards. ddecay (Lc, Lc) holds the cotangent of T below the diagonal and
/// becomes the running one.
template <class S>
void decay_backward(const S* alpha, const S* decay, S* ddecay, int L, S* dalpha) {
  for (int i = L - 1; i >= 1; --i) {
    const S* di = ddecay + static_cast<int64_t>(i) * L;
    S* dp = ddecay + static_cast<int64_t>(i - 1) * L;
    const S* prev = decay + static_cast<int64_t>(i - 1) * L;
    const S alpha_i = alpha[i];
    dalpha[i] = (row(di, i) * row(prev, i)).sum();
    for (int j = 0; j < i - 1; ++j) dp[j] += alpha_i * di[j];
  }
  dalpha[0] = S(0);
}

/// dalpha (Lc) gains what comes through the prefix T_i = alpha_i T_{i-1}, T_{-1} = 1, whose cotangent is dprefix (Lc).
template <class S>
void prefix_backward(const S* alpha, const S* prefix, const S* dprefix, int L, S* dalpha) {
  S running = S(0);
  for (int i = L - 1; i >= 0; --i) {
    running += dprefix[i];
    dalpha[i] += running * (i > 0 ? prefix[i - 1] : S(1));
    running *= alpha[i];
  }
}

/// lower(A B^T) for A (L, n), B (L, n): row blocks, columns up to the block's last row; the rest of a row is left as it is.
template <class S>
void lower_product(S* out, const S* a, int64_t a_stride, const S* b, int64_t b_stride, int L,
                   int n) {
  for (int i = 0; i < L; i += kTriangleRows) {
    const int rows = std::min(kTriangleRows, L - i), cols = i + rows;
    matrix(out + static_cast<int64_t>(i) * L, rows, cols, L).noalias() =
        matrix(a + i * a_stride, rows, n, a_stride) * matrix(b, cols, n, b_stride).transpose();
  }
}

/// out (L, n) += lower triangular M (L, L) times b (L, n).
template <class S>
void add_lower_times(S* out, int64_t out_stride, const S* m, const S* b, int64_t b_stride, int L,
                     int n) {
  for (int i = 0; i < L; i += kTriangleRows) {
    const int rows = std::min(kTriangleRows, L - i), cols = i + rows;
    matrix(out + i * out_stride, rows, n, out_stride).noalias() +=
        matrix(static_cast<const S*>(m) + static_cast<int64_t>(i) * L, rows, cols, L) *
        matrix(b, cols, n, b_stride);
  }
}

/// out (L, n) += M^T times b for lower triangular M.
template <class S>
void add_lower_transposed_times(S* out, int64_t out_stride, const S* m, const S* b,
                                int64_t b_stride, int L, int n) {
  for (int j = 0; j < L; j += kTriangleRows) {
    const int cols = std::min(kTriangleRows, L - j);
    matrix(out + j * out_stride, cols, n, out_stride).noalias() +=
        matrix(static_cast<const S*>(m) + static_cast<int64_t>(j) * L + j, L - j, cols, L)
            .transpose() *
        matrix(b + j * b_stride, L - j, n, b_stride);
  }
}

/// o (Lc, P); state_out (P, N), may be nullptr. state_out may equal state_in's memory.
template <class S>
void chunk_forward(const Chunk<S>& c, ChunkScratch<S> t, S* o, int64_t o_stride, S* state_out) {
  const int L = c.length;
  build_decay(c.alpha, L, t.decay);
  lower_product(t.score, c.q, c.N, c.k, c.N, L, c.N);
  for (int i = 0; i < L; ++i) {
    S* wi = t.weight + static_cast<int64_t>(i) * L;
    const S *di = t.decay + static_cast<int64_t>(i) * L,
            *si = t.score + static_cast<int64_t>(i) * L;
    for (int j = 0; j < i; ++j) wi[j] = di[j] * c.w[j] * si[j];
    wi[i] = c.diag[i];
    for (int j = i + 1; j < L; ++j) wi[j] = S(0);
  }
  auto out = matrix(o, L, c.P, o_stride);
  out.setZero();
  add_lower_times(o, o_stride, t.weight, c.x, c.x_stride, L, c.P);
  if (c.state_in != nullptr) {
    auto from_state =
        (matrix(c.q, L, c.N, c.N) * matrix(c.state_in, c.P, c.N, c.N).transpose()).eval();
    S carried = S(1);
    for (int i = 0; i < L; ++i) {
      if (!STATELAB_FAULT(chunk_state_decay_missing)) carried *= c.alpha[i];
      out.row(i) += carried * from_state.row(i);
    }
  }
  if (state_out != nullptr) {
    S carried = S(1);
    for (int i = 0; i < L; ++i) carried *= c.alpha[i];
    const S* last = t.decay + static_cast<int64_t>(L - 1) * L;
    Matrix<S> weighted(L, c.P);
    for (int j = 0; j < L; ++j)
      weighted.row(j) = (last[j] * c.w[j]) * matrix(c.x, L, c.P, c.x_stride).row(j);
    auto next = matrix(state_out, c.P, c.N, c.N);
    if (c.state_in != nullptr) {
      if (state_out != c.state_in) next = matrix(c.state_in, c.P, c.N, c.N);
      next *= carried;
    } else {
      next.setZero();
    }
    next.noalias() += weighted.transpose() * matrix(c.k, L, c.N, c.N);
  }
}

/// Gradients of one chunk. On entry dstate = cotangent of S_out (nullptr: the last chunk, zero); on return that of S_in.
/// dq, dk (Lc, N), dx (Lc, P) are overwritten; dx includes diag_i do_i. dw, ddiag, dalpha (Lc).
template <class S>
struct ChunkGradients {
  S *dq, *dk, *dx;
  int64_t dx_stride;
  S *dw, *ddiag, *dalpha;
  S* dstate;            ///< (P, N) in and out
  bool dstate_is_zero;  ///< skip what it would contribute
  bool need_dstate_in;  ///< false for the first chunk
};

template <class S>
void chunk_backward(const Chunk<S>& c, ChunkScratch<S> t, const S* dout, int64_t dout_stride,
                    const ChunkGradients<S>& g) {
  const int L = c.length;
  build_decay(c.alpha, L, t.decay);
  lower_product(t.score, c.q, c.N, c.k, c.N, L, c.N);                  // K_ij = q_i . k_j
  lower_product(t.cross, dout, dout_stride, c.x, c.x_stride, L, c.P);  // M_ij = do_i . x_j
  for (int i = 0; i < L; ++i) g.ddiag[i] = t.cross[static_cast<int64_t>(i) * L + i];
  // weight = T_ij M_ij below the diagonal; the products with it give dq (times w_j on the k side) and dk / w.
  for (int i = 0; i < L; ++i) {
    S* wi = t.weight + static_cast<int64_t>(i) * L;
    const S *di = t.decay + static_cast<int64_t>(i) * L,
            *mi = t.cross + static_cast<int64_t>(i) * L;
    for (int j = 0; j < i; ++j) wi[j] = di[j] * mi[j];
    for (int j = i; j < L; ++j) wi[j] = S(0);
  }
  auto dq = matrix(g.dq, L, c.N, c.N);
  auto dk = matrix(g.dk, L, c.N, c.N);
  auto dx = matrix(g.dx, L, c.P, g.dx_stride);
  dk.setZero();
  add_lower_transposed_times(g.dk, c.N, t.weight, c.q, c.N, L,
                             c.N);  // kk_j, without the state's part
  const S* last = t.decay + static_cast<int64_t>(L - 1) * L;
  Matrix<S> x_dstate;  // (L, N): x_j^T Sb
  if (!g.dstate_is_zero) {
    x_dstate.noalias() =
        matrix(c.x, L, c.P, c.x_stride) * matrix(static_cast<const S*>(g.dstate), c.P, c.N, c.N);
    for (int j = 0; j < L; ++j) dk.row(j) += last[j] * x_dstate.row(j);
  }
  const auto k = matrix(c.k, L, c.N, c.N);
  for (int j = 0; j < L; ++j) g.dw[j] = dk.row(j).dot(k.row(j));
  for (int j = 0; j < L; ++j) dk.row(j) *= c.w[j];
  for (int i = 0; i < L; ++i) {
    S* wi = t.weight + static_cast<int64_t>(i) * L;
    for (int j = 0; j < i; ++j) wi[j] *= c.w[j];
  }
  dq.setZero();
  add_lower_times(g.dq, c.N, t.weight, c.k, c.N, L, c.N);
  // dT_ij = w_j K_ij M_ij, into cross; then weight = T_ij w_j K_ij (diag on the diagonal) for dx.
  for (int i = 0; i < L; ++i) {
    S *wi = t.weight + static_cast<int64_t>(i) * L, *mi = t.cross + static_cast<int64_t>(i) * L;
    const S *di = t.decay + static_cast<int64_t>(i) * L,
            *si = t.score + static_cast<int64_t>(i) * L;
    for (int j = 0; j < i; ++j) {
      const S ws = c.w[j] * si[j];
      wi[j] = di[j] * ws;
      mi[j] *= ws;
    }
    wi[i] = c.diag[i];
  }
  dx.setZero();
  add_lower_transposed_times(g.dx, g.dx_stride, t.weight, dout, dout_stride, L, c.P);
  if (!g.dstate_is_zero) {
    auto dstate_k = (k * matrix(static_cast<const S*>(g.dstate), c.P, c.N, c.N).transpose())
                        .eval();  // (L, P): Sb k_j
    for (int j = 0; j < L; ++j) dx.row(j) += (last[j] * c.w[j]) * dstate_k.row(j);
    S* dlast = t.cross + static_cast<int64_t>(L - 1) * L;
    for (int j = 0; j < L - 1; ++j) dlast[j] += c.w[j] * x_dstate.row(j).dot(k.row(j));
  }
  decay_backward(c.alpha, t.decay, t.cross, L, g.dalpha);
  if (c.state_in != nullptr) {
    // Through the prefix: dq and dalpha.
    const auto state = matrix(c.state_in, c.P, c.N, c.N);
    auto dout_state = (matrix(dout, L, c.P, dout_stride) * state).eval();  // (L, N): do_i^T S_in
    S carried = S(1);
    Eigen::Array<S, Dynamic, 1> prefix(L), dprefix(L);
    const auto q = matrix(c.q, L, c.N, c.N);
    for (int i = 0; i < L; ++i) {
      carried *= c.alpha[i];
      prefix[i] = carried;
      dprefix[i] = dout_state.row(i).dot(q.row(i));
      dq.row(i) += carried * dout_state.row(i);
    }
    if (!g.dstate_is_zero)
      dprefix[L - 1] +=
          (matrix(static_cast<const S*>(g.dstate), c.P, c.N, c.N).cwiseProduct(state)).sum();
    prefix_backward(c.alpha, prefix.data(), dprefix.data(), L, g.dalpha);
  }
  if (g.need_dstate_in) {
    auto dstate = matrix(g.dstate, c.P, c.N, c.N);
    S carried = S(1);
    Matrix<S> weighted(L, c.P);
    for (int i = 0; i < L; ++i) {
      carried *= c.alpha[i];
      weighted.row(i) = carried * matrix(dout, L, c.P, dout_stride).row(i);
    }
    if (g.dstate_is_zero) {
      dstate.setZero();
    } else {
      dstate *= carried;
    }
    dstate.noalias() += weighted.transpose() * matrix(c.q, L, c.N, c.N);
  }
}

/// The same function token by token: exact order of the recurrence, for short sequences and as the chunk's twin.
template <class S>
void recurrent_forward(const Chunk<S>& c, S* o, int64_t o_stride, S* state_out) {
  Matrix<S> state = Matrix<S>::Zero(c.P, c.N);
  if (c.state_in != nullptr) state = matrix(c.state_in, c.P, c.N, c.N);
  const auto q = matrix(c.q, c.length, c.N, c.N), k = matrix(c.k, c.length, c.N, c.N);
  const auto x = matrix(c.x, c.length, c.P, c.x_stride);
  auto out = matrix(o, c.length, c.P, o_stride);
  for (int i = 0; i < c.length; ++i) {
    state *= c.alpha[i];
    out.row(i).noalias() = q.row(i) * state.transpose();
    out.row(i) += c.diag[i] * x.row(i);
    state.noalias() += (c.w[i] * x.row(i)).transpose() * k.row(i);
  }
  if (state_out != nullptr) matrix(state_out, c.P, c.N, c.N) = state;
}

/// Adjoint of recurrent_forward. States are replayed forward from state_in, never divided back. Source: models.md 3.8.
template <class S>
void recurrent_backward(const Chunk<S>& c, const S* dout, int64_t dout_stride,
                        const ChunkGradients<S>& g) {
  const int L = c.length;
  const auto q = matrix(c.q, L, c.N, c.N), k = matrix(c.k, L, c.N, c.N);
  const auto x = matrix(c.x, L, c.P, c.x_stride), dy = matrix(dout, L, c.P, dout_stride);
  auto dq = matrix(g.dq, L, c.N, c.N), dk = matrix(g.dk, L, c.N, c.N);
  auto dx = matrix(g.dx, L, c.P, g.dx_stride);
  std::vector<Matrix<S>> before(static_cast<size_t>(L));  // G_{i-1}
  Matrix<S> state = Matrix<S>::Zero(c.P, c.N);
  if (c.state_in != nullptr) state = matrix(c.state_in, c.P, c.N, c.N);
  for (int i = 0; i < L; ++i) {
    before[static_cast<size_t>(i)] = state;
    state = c.alpha[i] * state + (c.w[i] * x.row(i)).transpose() * k.row(i);
  }
  Matrix<S> dstate = Matrix<S>::Zero(c.P, c.N);
  if (!g.dstate_is_zero) dstate = matrix(static_cast<const S*>(g.dstate), c.P, c.N, c.N);
  for (int i = L - 1; i >= 0; --i) {
    const Matrix<S>& prev = before[static_cast<size_t>(i)];
    const auto x_dstate = (x.row(i) * dstate).eval();  // (N)
    g.dw[i] = x_dstate.row(0).dot(k.row(i));
    g.ddiag[i] = dy.row(i).dot(x.row(i));
    dk.row(i) = c.w[i] * x_dstate;
    dx.row(i) = c.w[i] * (k.row(i) * dstate.transpose()) + c.diag[i] * dy.row(i);
    const auto dy_state = (dy.row(i) * prev).eval();  // (N)
    dq.row(i) = c.alpha[i] * dy_state;
    g.dalpha[i] = dstate.cwiseProduct(prev).sum() + dy_state.row(0).dot(q.row(i));
    dstate = c.alpha[i] * (dstate + dy.row(i).transpose() * q.row(i));
  }
  if (g.need_dstate_in) matrix(g.dstate, c.P, c.N, c.N) = dstate;
}

}  // namespace statelab::cpu
