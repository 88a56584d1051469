// verify discretization: the empirical order of accuracy of the production scan, on systems whose
// solution is known.
//
//   h'(t) = mu(t) h(t) + b(t) x(t),  h(0) = 0,  mu = -A + i theta;   y = Re(c h)
// Step k covers (t_{k-1}, t_k]; the op gets dt_k, the averages of A and theta over the step (so
// that alpha e^{i phi} is exact and only the input's integral is approximated), and b, x at t_k.
// Both systems start with b(0) x(0) = 0, as the first-step rule weighs x_0 without a step before
// it.
//   sine     mu constant, b = 1, x = sin(w t):
//            h = (w e^{mu t} - w cos(w t) - mu sin(w t)) / (mu^2 + w^2)
//   made-up  mu(t) varying, uneven steps, h = t^2 e^{i k t} chosen and b = h' - mu h,  x = 1
#include <cmath>
#include <complex>

#include "experiments/verify/findings.h"
#include "experiments/verify/production.h"
#include "models/reference/complex_ssm.h"

namespace statelab::verify {
namespace {

using Complex = std::complex<double>;
using reference::kPi;

constexpr double kEnd = 2;  // time
const Complex kC(0.8, -0.6);

struct Problem {
  std::string name;
  std::function<double(double)> time;    ///< [0, 1] -> [0, kEnd]
  std::function<double(double)> decay;   ///< integral of A from 0 to t
  std::function<double(double)> turn;    ///< integral of theta from 0 to t
  std::function<Complex(double)> input;  ///< b
  std::function<double(double)> drive;   ///< x
  std::function<Complex(double)> exact;  ///< h
};

Problem sine_problem() {
  const double A = 0.7, theta = 2.1, w = 3;
  const Complex mu(-A, theta);
  return {"sine",
          [](double s) { return kEnd * s; },
          [=](double t) { return A * t; },
          [=](double t) { return theta * t; },
          [](double) { return Complex(1, 0); },
          [=](double t) { return std::sin(w * t); },
          [=](double t) {
            return (w * std::exp(mu * t) - w * std::cos(w * t) - mu * std::sin(w * t)) /
                   (mu * mu + w * w);
          }};
}

Problem made_up_problem() {
  const double k = 1.3;
  const auto mu = [](double t) {
    return Complex(-(0.5 + 0.4 * std::sin(2 * t)), 1.5 * std::cos(t));
  };
  const auto h = [=](double t) { return t * t * std::exp(Complex(0, k * t)); };
  return {"made-up",
          [](double s) { return kEnd * (s + 0.1 * std::sin(2 * kPi * s)); },
          [](double t) { return 0.5 * t + 0.2 * (1 - std::cos(2 * t)); },
          [](double t) { return 1.5 * std::sin(t); },
          [=](double t) {
            const Complex slope = (Complex(2 * t, k * t * t)) * std::exp(Complex(0, k * t));
            return slope - mu(t) * h(t);
          },
          [](double) { return 1.0; },
          h};
}

struct Rule {
  std::string name;
  Mamba3ScanAttrs::Discretization kind;
  double lambda;
  int order;
};

/// Largest |y - Re(c h)| over the grid, by the production scan.
double global_error(const Engine& engine, const Problem& problem, const Rule& rule, int steps) {
  Mamba3ScanAttrs attrs;
  attrs.nheads = 1, attrs.headdim = 1, attrs.ngroups = 1, attrs.d_state = 2, attrs.nangles = 1;
  attrs.discretization = rule.kind;
  attrs.a_floor = 1e-12;
  std::vector<double> proj, exact;
  const auto inverse_softplus = [](double y) { return y + std::log(-std::expm1(-y)); };
  for (int k = 0; k <= steps; ++k) {
    const double t = problem.time(double(k) / steps);
    const double before = k > 0 ? problem.time(double(k - 1) / steps) : t - kEnd / steps;
    const double dt = t - before;
    const double A = k > 0 ? (problem.decay(t) - problem.decay(before)) / dt : 0.5;
    const double theta = k > 0 ? (problem.turn(t) - problem.turn(before)) / dt : 0;
    const Complex b = problem.input(t);
    const double row[] = {0,
                          problem.drive(t),
                          b.real(),
                          b.imag(),
                          kC.real(),
                          -kC.imag(),
                          inverse_softplus(dt),
                          inverse_softplus(A),
                          std::log(rule.lambda / (1 - rule.lambda)),
                          -std::atanh(theta / kPi)};
    proj.insert(proj.end(), std::begin(row), std::end(row));
    exact.push_back((kC * problem.exact(t)).real());
  }
  // The code turns B and C by +Phi, which is the recurrence with -theta: hence the negated angle
  // above.
  const OpArray none = absent_array();
  const OpRun run =
      engine.run(Op::kMamba3Scan, attrs,
                 {real_array({1, steps + 1, 10}, std::move(proj)), real_array({1}, {0}), none, none,
                  none, none, real_array({1}, {0}), none});
  double error = 0;
  for (int k = 0; k <= steps; ++k)
    error = std::max(error, std::abs(run.outputs[1].data[k] - exact[k]));
  return error;
}

/// Least-squares slope of log2(error) against log2(step size), and its standard error.
void fit_order(const std::vector<double>& errors, double& slope, double& standard_error) {
  const int n = static_cast<int>(errors.size());
  double mx = 0, my = 0, sxx = 0, sxy = 0, residual = 0;
  for (int i = 0; i < n; ++i) mx += -i / double(n), my += std::log2(errors[i]) / n;
  for (int i = 0; i < n; ++i)
    sxx += (-i - mx) * (-i - mx), sxy += (-i - mx) * (std::log2(errors[i]) - my);
  slope = sxy / sxx;
  for (int i = 0; i < n; ++i) {
    const double r = std::log2(errors[i]) - my - slope * (-i - mx);
    residual += r * r;
  }
  standard_error = std::sqrt(residual / (n - 2) / sxx);
}

}  // namespace

Findings discretization_suite(const SuiteOptions& options) {
  using D = Mamba3ScanAttrs::Discretization;
  const std::vector<Problem> problems = {sine_problem(), made_up_problem()};
  const std::vector<Rule> rules = {
      {"exponential-Euler", D::kEuler, 0.5, 1},
      {"exponential-trapezoidal, lambda = 1/2", D::kTrapezoidal, 0.5, 2},
      {"fixed lambda = 1/2", D::kHalf, 0.9, 2},
      {"lambda = 0.7", D::kTrapezoidal, 0.7, 1},
      {"lambda = 0.3", D::kTrapezoidal, 0.3, 1}};
  const int halvings = options.quick ? 6 : 8, coarsest = 32;
  Findings found;
  for (const Engine& engine : engines()) {
    if (!engine.fp64) continue;  // rounding hides the error of the finest steps in fp32
    for (const Rule& rule : rules) {
      for (const Problem& problem : problems) {
        std::vector<double> errors;
        for (int i = 0; i <= halvings; ++i)
          errors.push_back(global_error(engine, problem, rule, coarsest << i));
        double slope = 0, standard_error = 0;
        fit_order(errors, slope, standard_error);
        char note[96];
        std::snprintf(note, sizeof note, "slope %.4f +- %.4f over %d halvings, error %.1e to %.1e",
                      slope, standard_error, halvings, errors.front(), errors.back());
        found.push_back({rule.name + ", " + problem.name + ": order " + std::to_string(rule.order),
                         std::abs(slope - rule.order), 0.1,
                         engine.name + " " + std::to_string(coarsest) + ".." +
                             std::to_string(coarsest << halvings) + " steps",
                         "next order's share at the coarsest step", note, false});
      }
    }
  }
  return found;
}

}  // namespace statelab::verify
