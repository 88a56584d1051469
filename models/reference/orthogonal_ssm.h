// The same equivalence for rotations that do not commute: any orthogonal R_t, with
// P_t = R_t P_{t-1}, P_{-1} = I.
//   literal  h_t = alpha R_t h_{t-1} + alpha delta R_t B_{t-1} x_{t-1} + gamma B_t x_t,  y = C^T h
//   prefix   htil_t = alpha htil_{t-1} + alpha delta (P_{t-1}^T B_{t-1}) x_{t-1}
//                   + gamma (P_t^T B_t) x_t,  y = (P_t^T C)^T htil
// with htil_t = P_t^T h_t, because P_t^T R_t = P_{t-1}^T. New factors stand on the left of P.
#pragma once

#include <vector>

#include "models/reference/scalar.h"

namespace statelab::reference {

template <class S>
struct OrthogonalSystem {
  int seqlen = 0, d_state = 0;
  std::vector<S> R;                    ///< (seqlen, d_state, d_state), orthogonal
  std::vector<S> B, C;                 ///< (seqlen, d_state)
  std::vector<S> x;                    ///< (seqlen)
  std::vector<S> alpha, gamma, delta;  ///< (seqlen)
};

enum class ProductOrder {
  kLeft,               ///< P_t = R_t P_{t-1}: right
  kRight,              ///< P_t = P_{t-1} R_t: wrong unless the factors commute
  kExclusive,          ///< P_{t-1} in place of P_t: wrong
  kUnrotatedPrevious,  ///< P_t^T B_{t-1} in place of P_{t-1}^T B_{t-1}: wrong
};

/// y (seqlen) of the literal recurrence.
template <class S>
std::vector<S> literal_orthogonal(const OrthogonalSystem<S>& in) {
  const int N = in.d_state;
  std::vector<S> h(N, S(0)), u(N), y;
  for (int t = 0; t < in.seqlen; ++t) {
    for (int i = 0; i < N; ++i) {
      u[i] = h[i];
      if (t > 0) u[i] += in.delta[t] * in.x[t - 1] * in.B[std::size_t(t - 1) * N + i];
    }
    S out(0);
    for (int i = 0; i < N; ++i) {
      S turned(0);
      for (int j = 0; j < N; ++j) turned += in.R[(std::size_t(t) * N + i) * N + j] * u[j];
      h[i] = in.alpha[t] * turned + in.gamma[t] * in.x[t] * in.B[std::size_t(t) * N + i];
      out += in.C[std::size_t(t) * N + i] * h[i];
    }
    y.push_back(out);
  }
  return y;
}

/// y (seqlen) by prefix products.
template <class S>
std::vector<S> prefix_orthogonal(const OrthogonalSystem<S>& in,
                                 ProductOrder order = ProductOrder::kLeft) {
  const int N = in.d_state;
  std::vector<S> P(std::size_t(N) * N, S(0)), htil(N, S(0)), y;
  for (int i = 0; i < N; ++i) P[std::size_t(i) * N + i] = S(1);
  const auto multiply = [N](const S* left, const S* right) {
    std::vector<S> product(std::size_t(N) * N, S(0));
    for (int i = 0; i < N; ++i) {
      for (int k = 0; k < N; ++k) {
        for (int j = 0; j < N; ++j)
          product[std::size_t(i) * N + j] += left[i * N + k] * right[k * N + j];
      }
    }
    return product;
  };
  const auto transposed_times = [N](const std::vector<S>& M, const S* v) {
    std::vector<S> out(N, S(0));
    for (int i = 0; i < N; ++i) {
      for (int j = 0; j < N; ++j) out[i] += M[std::size_t(j) * N + i] * v[j];
    }
    return out;
  };
  std::vector<S> B_prev(N, S(0));
  for (int t = 0; t < in.seqlen; ++t) {
    const std::vector<S> before = P;
    const S* R = &in.R[std::size_t(t) * N * N];
    P = order == ProductOrder::kRight ? multiply(P.data(), R) : multiply(R, P.data());
    const std::vector<S>& used = order == ProductOrder::kExclusive ? before : P;
    const std::vector<S> B = transposed_times(used, &in.B[std::size_t(t) * N]);
    const std::vector<S> C = transposed_times(used, &in.C[std::size_t(t) * N]);
    if (order == ProductOrder::kUnrotatedPrevious && t > 0) {
      B_prev = transposed_times(P, &in.B[std::size_t(t - 1) * N]);
    }
    S out(0);
    for (int i = 0; i < N; ++i) {
      S next = in.alpha[t] * htil[i] + in.gamma[t] * in.x[t] * B[i];
      if (t > 0) next += in.alpha[t] * in.delta[t] * in.x[t - 1] * B_prev[i];
      htil[i] = next;
      out += C[i] * next;
    }
    B_prev = B;
    y.push_back(out);
  }
  return y;
}

}  // namespace statelab::reference
