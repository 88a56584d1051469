// One complex state-space model, written down four ways (derivation: models/equivalence.md).
//
// For one sequence; complex channel j < d_state / 2 sits in the real channels (2j, 2j+1). Step
// angle phi_t[j] = sign * dt_t pi tanh(ang_t[j]) for j < nangles and 0 beyond; Phi_t = sum_{s<=t}
// phi_s; lambda, gamma, delta, alpha as in mamba3.h.
//   (1) literal    h_t = alpha e^{i phi} h_{t-1} + alpha delta e^{i phi} b_{t-1} x_{t-1}
//                        + gamma b_t x_t
//                  y = Re(c^T h),  b = B0 + i B1,  c = C0 - i C1 (plain transpose)
//   (2) blocks     the same with R(phi) = [[cos, -sin], [sin, cos]] on each real pair,  y = C^T h
//   (3) rotated    htil = Rot(-Phi) h: a scan with scalar decay on Rot(-Phi) B and Rot(-Phi) C
//   (4) chunked    (3) with the scale trick, in blocks of `chunk_size` tokens
// sign = +1 is the paper's convention; sign = -1 is the code's, where B and C turn by +Phi. All
// give y (seqlen, headdim) and the last state h (headdim, d_state) in the frame of (1).
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <type_traits>
#include <vector>

#include "models/reference/mamba3.h"

namespace statelab::reference {

template <class S>
struct RotatingSystem {
  int seqlen = 0, d_state = 0, headdim = 0, nangles = 0;
  int sign = +1;
  Discretization discretization = Discretization::kTrapezoidal;
  std::vector<S> B, C;         ///< (seqlen, d_state)
  std::vector<S> x;            ///< (seqlen, headdim)
  std::vector<S> a, dt, trap;  ///< (seqlen)
  std::vector<S> ang;          ///< (seqlen, nangles)
};

template <class S>
struct SystemOutputs {
  std::vector<S> y;      ///< (seqlen, headdim)
  std::vector<S> state;  ///< (headdim, d_state)
};

/// A complex number over any scalar, for scalars that std::complex does not know.
template <class S>
struct ComplexPair {
  S re, im;
  ComplexPair(S r = S(0), S i = S(0)) : re(r), im(i) {}
  S real() const { return re; }
  S imag() const { return im; }
  friend ComplexPair operator+(const ComplexPair& u, const ComplexPair& v) {
    return {u.re + v.re, u.im + v.im};
  }
  friend ComplexPair operator*(const ComplexPair& u, const ComplexPair& v) {
    return {u.re * v.re - u.im * v.im, u.re * v.im + u.im * v.re};
  }
  friend ComplexPair operator*(const S& u, const ComplexPair& v) { return {u * v.re, u * v.im}; }
};
template <class S>
using ComplexOver =
    std::conditional_t<std::is_floating_point_v<S>, std::complex<S>, ComplexPair<S>>;

/// The scalars of one step.
template <class S>
struct StepScalars {
  S alpha, gamma, delta;
};

template <class S>
StepScalars<S> step_scalars(const RotatingSystem<S>& in, int t) {
  using std::exp;
  S lambda(1);
  if (in.discretization == Discretization::kTrapezoidal) lambda = sigmoid(in.trap[t]);
  if (in.discretization == Discretization::kHalf) lambda = S(0.5);
  return {exp(in.a[t]), lambda * in.dt[t], (S(1) - lambda) * in.dt[t]};
}

template <class S>
S step_angle(const RotatingSystem<S>& in, int t, int j) {
  using std::tanh;
  if (j >= in.nangles) return S(0);
  return S(in.sign * kPi) * in.dt[t] * tanh(in.ang[std::size_t(t) * in.nangles + j]);
}

/// (1) The literal complex recurrence.
template <class S>
SystemOutputs<S> literal_complex(const RotatingSystem<S>& in) {
  using std::cos;
  using std::sin;
  using Complex = ComplexOver<S>;
  const int J = in.d_state / 2, P = in.headdim;
  SystemOutputs<S> out;
  out.y.assign(std::size_t(in.seqlen) * P, S(0));
  std::vector<Complex> h(std::size_t(P) * J, Complex(S(0), S(0)));
  for (int t = 0; t < in.seqlen; ++t) {
    const StepScalars<S> step = step_scalars(in, t);
    for (int j = 0; j < J; ++j) {
      const auto channel = [&](const std::vector<S>& v, int s, double sign) {
        const std::size_t at = std::size_t(s) * in.d_state + 2 * j;
        return Complex(v[at], S(sign) * v[at + 1]);
      };
      const S phi = step_angle(in, t, j);
      const Complex turn(cos(phi), sin(phi)), b = channel(in.B, t, 1), c = channel(in.C, t, -1);
      for (int p = 0; p < P; ++p) {
        Complex& hp = h[std::size_t(p) * J + j];
        Complex next = step.alpha * (turn * hp) + (step.gamma * in.x[std::size_t(t) * P + p]) * b;
        if (t > 0) {
          next = next + (step.alpha * step.delta * in.x[std::size_t(t - 1) * P + p]) *
                            (turn * channel(in.B, t - 1, 1));
        }
        hp = next;
        out.y[std::size_t(t) * P + p] += (c * hp).real();
      }
    }
  }
  for (const Complex& c : h) {
    out.state.push_back(c.real());
    out.state.push_back(c.imag());
  }
  return out;
}

/// (2) The same with real 2 x 2 rotation blocks.
template <class S>
SystemOutputs<S> block_rotation(const RotatingSystem<S>& in) {
  using std::cos;
  using std::sin;
  const int N = in.d_state, P = in.headdim;
  SystemOutputs<S> out;
  out.y.assign(std::size_t(in.seqlen) * P, S(0));
  out.state.assign(std::size_t(P) * N, S(0));
  for (int t = 0; t < in.seqlen; ++t) {
    const StepScalars<S> step = step_scalars(in, t);
    const S* B = &in.B[std::size_t(t) * N];
    const S* C = &in.C[std::size_t(t) * N];
    for (int i = 0; i < N; i += 2) {
      const S phi = step_angle(in, t, i / 2), c = cos(phi), s = sin(phi);
      for (int p = 0; p < P; ++p) {
        S* h = &out.state[std::size_t(p) * N + i];
        S u0 = h[0], u1 = h[1];  // h_{t-1} + delta B_{t-1} x_{t-1}
        if (t > 0) {
          const S weight = step.delta * in.x[std::size_t(t - 1) * P + p];
          u0 += weight * in.B[std::size_t(t - 1) * N + i];
          u1 += weight * in.B[std::size_t(t - 1) * N + i + 1];
        }
        const S input = step.gamma * in.x[std::size_t(t) * P + p];
        h[0] = step.alpha * (c * u0 - s * u1) + input * B[i];
        h[1] = step.alpha * (s * u0 + c * u1) + input * B[i + 1];
        out.y[std::size_t(t) * P + p] += C[i] * h[0] + C[i + 1] * h[1];
      }
    }
  }
  return out;
}

/// The rotated scan and what it must not be confused with; all but kInclusive are wrong and serve
/// as negative controls.
enum class PrefixRule {
  kInclusive,          ///< Phi_t = sum_{s<=t}
  kExclusive,          ///< Phi_t = sum_{s<t}: the products of the main text's Proposition 3
  kUnrotatedPrevious,  ///< Rot(-Phi_t) B_{t-1}: the previous term misses its step's rotation
  kSwappedPair,        ///< pairs of C in the order (2j+1, 2j)
  kOppositeSign,       ///< +Phi instead of -Phi
};

/// B and C in the rotating frame, and what leads back.
template <class S>
struct RotatedInputs {
  std::vector<S> B, C;    ///< Rot(-Phi_t) B_t, Rot(-Phi_t) C_t  (seqlen, d_state)
  std::vector<S> B_prev;  ///< what the previous term of step t uses (seqlen, d_state), row 0 unused
  std::vector<S> Phi_last;  ///< (nangles)
};

template <class S>
RotatedInputs<S> rotate_inputs(const RotatingSystem<S>& in,
                               PrefixRule rule = PrefixRule::kInclusive) {
  const int N = in.d_state;
  RotatedInputs<S> out;
  out.B.resize(in.B.size());
  out.C.resize(in.C.size());
  out.B_prev.assign(in.B.size(), S(0));
  std::vector<S> Phi(in.nangles, S(0)), minus(in.nangles, S(0)), row(N);
  const auto put = [&](const std::vector<S>& from, int s, std::vector<S>& to, int t) {
    std::copy(from.begin() + std::ptrdiff_t(s) * N, from.begin() + std::ptrdiff_t(s + 1) * N,
              row.begin());
    rotate_pairs(row, minus);
    std::copy(row.begin(), row.end(), to.begin() + std::ptrdiff_t(t) * N);
  };
  for (int t = 0; t < in.seqlen; ++t) {
    std::vector<S> before = Phi;
    for (int j = 0; j < in.nangles; ++j) {
      Phi[j] += step_angle(in, t, j);
      const S& used = rule == PrefixRule::kExclusive ? before[j] : Phi[j];
      minus[j] = rule == PrefixRule::kOppositeSign ? used : -used;
    }
    put(in.B, t, out.B, t);
    put(in.C, t, out.C, t);
    if (rule == PrefixRule::kSwappedPair) {
      for (int j = 0; j < in.nangles; ++j) {
        std::swap(out.C[std::size_t(t) * N + 2 * j], out.C[std::size_t(t) * N + 2 * j + 1]);
      }
    }
    if (t == 0) continue;
    if (rule == PrefixRule::kUnrotatedPrevious) {
      put(in.B, t - 1, out.B_prev, t);
    } else {
      std::copy(out.B.begin() + std::ptrdiff_t(t - 1) * N, out.B.begin() + std::ptrdiff_t(t) * N,
                out.B_prev.begin() + std::ptrdiff_t(t) * N);
    }
  }
  out.Phi_last = Phi;
  return out;
}

/// Rows of htil (headdim, d_state) turned back by +Phi: h of the literal frame.
template <class S>
void turn_state_back(std::vector<S>& state, const std::vector<S>& Phi, int headdim, int d_state) {
  std::vector<S> row(d_state);
  for (int p = 0; p < headdim; ++p) {
    const auto begin = state.begin() + std::ptrdiff_t(p) * d_state;
    std::copy(begin, begin + d_state, row.begin());
    rotate_pairs(row, Phi);
    std::copy(row.begin(), row.end(), begin);
  }
}

/// (3) Scalar decay on rotated B and C: the RoPE trick.
template <class S>
SystemOutputs<S> rotated_scan(const RotatingSystem<S>& in,
                              PrefixRule rule = PrefixRule::kInclusive) {
  const int N = in.d_state, P = in.headdim;
  const RotatedInputs<S> rotated = rotate_inputs(in, rule);
  SystemOutputs<S> out;
  out.y.assign(std::size_t(in.seqlen) * P, S(0));
  out.state.assign(std::size_t(P) * N, S(0));
  for (int t = 0; t < in.seqlen; ++t) {
    const StepScalars<S> step = step_scalars(in, t);
    const S* B = &rotated.B[std::size_t(t) * N];
    const S* C = &rotated.C[std::size_t(t) * N];
    const S* B_prev = &rotated.B_prev[std::size_t(t) * N];
    for (int p = 0; p < P; ++p) {
      const S input = step.gamma * in.x[std::size_t(t) * P + p];
      const S previous = t > 0 ? step.alpha * step.delta * in.x[std::size_t(t - 1) * P + p] : S(0);
      S y(0);
      for (int i = 0; i < N; ++i) {
        S& h = out.state[std::size_t(p) * N + i];
        h = step.alpha * h + previous * B_prev[i] + input * B[i];
        y += C[i] * h;
      }
      out.y[std::size_t(t) * P + p] = y;
    }
  }
  turn_state_back(out.state, rotated.Phi_last, P, N);
  return out;
}

/// (4) The chunked parallel form: masked products inside a chunk, one state between chunks. s_j =
/// gamma_j + delta_{j+1}.
template <class S>
SystemOutputs<S> chunked_scan(const RotatingSystem<S>& in, int chunk_size) {
  using std::exp;
  const int N = in.d_state, P = in.headdim, T = in.seqlen;
  const RotatedInputs<S> rotated = rotate_inputs(in);
  SystemOutputs<S> out;
  out.y.assign(std::size_t(T) * P, S(0));
  out.state.assign(std::size_t(P) * N, S(0));
  const auto dot = [N](const S* u, const S* v) {
    S sum(0);
    for (int i = 0; i < N; ++i) sum += u[i] * v[i];
    return sum;
  };
  for (int start = 0; start < T; start += chunk_size) {
    const int length = std::min(chunk_size, T - start);
    std::vector<S> c(length), scale(length), gamma(length);  // inclusive log decay within the chunk
    for (int i = 0; i < length; ++i) {
      const int t = start + i;
      const StepScalars<S> step = step_scalars(in, t);
      c[i] = i > 0 ? c[i - 1] + in.a[t] : in.a[t];
      gamma[i] = step.gamma;
      scale[i] = t + 1 < T ? step.gamma + step_scalars(in, t + 1).delta : step.gamma;
    }
    for (int i = 0; i < length; ++i) {
      const int t = start + i;
      const S* C = &rotated.C[std::size_t(t) * N];
      S* y = &out.y[std::size_t(t) * P];
      const S enter = exp(c[i]);
      for (int p = 0; p < P; ++p) y[p] = enter * dot(&out.state[std::size_t(p) * N], C);
      for (int j = 0; j < i; ++j) {
        const S weight =
            exp(c[i] - c[j]) * scale[j] * dot(C, &rotated.B[std::size_t(start + j) * N]);
        for (int p = 0; p < P; ++p) y[p] += weight * in.x[std::size_t(start + j) * P + p];
      }
      const S own =
          gamma[i] * dot(&in.C[std::size_t(t) * N], &in.B[std::size_t(t) * N]);  // rotation-free
      for (int p = 0; p < P; ++p) y[p] += own * in.x[std::size_t(t) * P + p];
    }
    const S leave = exp(c[length - 1]);
    for (S& h : out.state) h = leave * h;
    for (int j = 0; j < length; ++j) {
      const S weight = exp(c[length - 1] - c[j]) * scale[j];
      for (int p = 0; p < P; ++p) {
        const S input = weight * in.x[std::size_t(start + j) * P + p];
        for (int i = 0; i < N; ++i) {
          out.state[std::size_t(p) * N + i] += input * rotated.B[std::size_t(start + j) * N + i];
        }
      }
    }
  }
  turn_state_back(out.state, rotated.Phi_last, P, N);
  return out;
}

}  // namespace statelab::reference
