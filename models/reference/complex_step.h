// Derivatives of analytic functions by a complex step: f'(x) = Im f(x + i h) / h, with no
// subtraction and so no loss of digits; h = 1e-30 makes the truncation error vanish. Exact to
// rounding, one evaluation per derivative. Source: Squire and Trapp, "Using complex variables to
// estimate derivatives of real functions", SIAM Review 1998.
//
// A function takes its arguments as groups, std::vector<std::vector<S>>, and returns one S; it must
// be callable for S = std::complex<double> (a generic lambda).
#pragma once

#include <complex>
#include <cstddef>
#include <vector>

namespace statelab::reference {

inline constexpr double kComplexStep = 1e-30;

using Groups = std::vector<std::vector<double>>;

/// The same groups in another scalar.
template <class S>
std::vector<std::vector<S>> lift(const Groups& groups) {
  std::vector<std::vector<S>> out;
  out.reserve(groups.size());
  for (const auto& g : groups) {
    auto& o = out.emplace_back();
    o.reserve(g.size());
    for (double x : g) o.push_back(S(x));
  }
  return out;
}

/// Gradient of f at `at`, one entry per argument, in the groups' shape. Costs one evaluation per
/// argument.
template <class F>
Groups gradient_by_complex_step(F&& f, const Groups& at) {
  auto z = lift<std::complex<double>>(at);
  Groups gradient;
  for (auto& group : z) {
    auto& g = gradient.emplace_back();
    for (auto& x : group) {
      const double real = x.real();
      x = {real, kComplexStep};
      g.push_back(f(z).imag() / kComplexStep);
      x = {real, 0.0};
    }
  }
  return gradient;
}

/// d/ds f(at + s * direction) at s = 0, for a direction in one group. Costs one evaluation.
template <class F>
double directional_derivative(F&& f, const Groups& at, std::size_t group,
                              const std::vector<double>& direction) {
  auto z = lift<std::complex<double>>(at);
  for (std::size_t i = 0; i < direction.size(); ++i) {
    z[group][i] = {at[group][i], kComplexStep * direction[i]};
  }
  return f(z).imag() / kComplexStep;
}

}  // namespace statelab::reference
