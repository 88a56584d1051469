// The functions of a scalar that the literal recurrences need, for every scalar they run in.
//
// A scalar S is float, double, long double, std::complex<double> (complex step) or Var (tape.h).
// Every function is analytic away from its branch points; a branch looks at the real part only, so
// a complex step follows the branch of the real number it perturbs.
#pragma once

#include <cmath>
#include <complex>

namespace statelab::reference {

inline float real_part(float x) { return x; }
inline double real_part(double x) { return x; }
inline long double real_part(long double x) { return x; }
template <class R>
R real_part(const std::complex<R>& x) {
  return x.real();
}

inline constexpr double kPi = 3.14159265358979323846264338327950288;

/// log(1 + x), accurate for small x in every scalar: log(u) * x / (u - 1) with u = 1 + x (Kahan).
template <class S>
S log_one_plus(const S& x) {
  using std::log;
  const S u = S(1) + x;
  const S d = u - S(1);
  if (real_part(d) == 0) return x;
  return log(u) * (x / d);
}

/// 1 / (1 + exp(-x)), without overflow on either side.
template <class S>
S sigmoid(const S& x) {
  using std::exp;
  if (real_part(x) >= 0) return S(1) / (S(1) + exp(-x));
  const S e = exp(x);
  return e / (S(1) + e);
}

/// x * sigmoid(x)
template <class S>
S silu(const S& x) {
  return x * sigmoid(x);
}

/// Derivative of silu.
template <class S>
S silu_derivative(const S& x) {
  const S s = sigmoid(x);
  return s * (S(1) + x * (S(1) - s));
}

/// log(1 + exp(x)); the identity above 20, where the two agree to 2e-9.
template <class S>
S softplus(const S& x) {
  using std::exp;
  if (real_part(x) > 20) return x;
  return log_one_plus(S(exp(x)));
}

/// 1 + x for x >= 0, 1 / (1 - x) below: positive with a tail of 1/|x|.
template <class S>
S heavy_tail(const S& x) {
  if (real_part(x) >= 0) return S(1) + x;
  return S(1) / (S(1) - x);
}

}  // namespace statelab::reference
