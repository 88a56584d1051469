// verify rope: one random complex system, computed as its literal recurrence, by real blocks, by
// the rotated scan, in chunks, and by the production op; outputs, final states and the gradients of
// every input.
#include <cmath>

#include "experiments/verify/findings.h"
#include "experiments/verify/production.h"
#include "models/reference/complex_ssm.h"
#include "models/reference/tape.h"

namespace statelab::verify {
namespace {

using namespace reference;  // NOLINT: the literal forms are what this file is about

struct Case {
  int seqlen = 0, d_state = 0, headdim = 0;
  Discretization discretization = Discretization::kTrapezoidal;
  int sign = 1;
  double rope_fraction = 1;
  uint32_t system = 0;
  bool gradients = true;  ///< whole gradients from the tape
  bool along = false;     ///< gradients along one random direction per input, by complex step
  double slowest_decay = 2e-3, fastest_decay = 0.3;
  int nangles() const { return rotation_angles(d_state, rope_fraction); }
  std::string text() const {
    return "T=" + std::to_string(seqlen) + " N=" + std::to_string(d_state) +
           " sign=" + (sign > 0 ? "+" : "-") + " rope=" + (rope_fraction < 1 ? "0.5" : "1");
  }
};

enum Group { kZ, kX, kB, kC, kDt, kA, kTrap, kAng, kD, kGroups };
const std::vector<std::string> kGroupNames = {"z",    "x",    "B",   "C", "dd_dt",
                                              "dd_A", "trap", "ang", "D"};

double inverse_softplus(double y) { return y + std::log(-std::expm1(-y)); }

/// The inputs as the op takes them: before softplus, sigmoid and tanh.
Groups random_inputs(const Case& c, uint32_t seed) {
  const std::size_t T = c.seqlen, N = c.d_state, P = c.headdim, n = c.nangles();
  const auto draw = [&](Group g, std::size_t size, double lo, double hi) {
    return uniform_values(seed, c.system, g, size, lo, hi);
  };
  Groups x(kGroups);
  x[kZ] = draw(kZ, T * P, -2, 2);
  x[kX] = draw(kX, T * P, -1, 1);
  x[kB] = draw(kB, T * N, -1, 1);
  x[kC] = draw(kC, T * N, -1, 1);
  x[kDt] = draw(kDt, T, 0.05, 1.2);
  x[kA] = draw(kA, T, std::log(c.slowest_decay), std::log(c.fastest_decay));
  for (double& v : x[kDt]) v = inverse_softplus(v);
  for (double& v : x[kA]) v = inverse_softplus(std::exp(v));
  x[kTrap] = draw(kTrap, T, -2, 2);
  x[kAng] = draw(kAng, T * n, -1.5, 1.5);
  x[kD] = draw(kD, 1, -1, 1);
  return x;
}

template <class S>
RotatingSystem<S> system_of(const Case& c, const std::vector<std::vector<S>>& x) {
  RotatingSystem<S> in;
  in.seqlen = c.seqlen, in.d_state = c.d_state, in.headdim = c.headdim, in.nangles = c.nangles();
  in.sign = c.sign;
  in.discretization = c.discretization;
  in.B = x[kB], in.C = x[kC], in.x = x[kX], in.trap = x[kTrap], in.ang = x[kAng];
  for (int t = 0; t < c.seqlen; ++t) {
    const S dt = softplus(x[kDt][t]);
    in.dt.push_back(dt);
    in.a.push_back(-softplus(x[kA][t]) * dt);
  }
  return in;
}

/// Skip connection and gate around a form's y.
template <class S>
std::vector<S> gated(const std::vector<S>& y, const std::vector<std::vector<S>>& x) {
  std::vector<S> out(y.size());
  for (std::size_t i = 0; i < y.size(); ++i) out[i] = (y[i] + x[kD][0] * x[kX][i]) * silu(x[kZ][i]);
  return out;
}

std::vector<double> values(const std::vector<Var>& v) {
  std::vector<double> out;
  for (const Var& x : v) out.push_back(x.value);
  return out;
}

/// Outputs and final state of one form and, where asked, gradients of a random contraction of both
/// and of y alone.
struct FormResult {
  std::vector<double> y, state;
  Groups gradient_all, gradient_y;
};

template <class Form>
FormResult run_form(const Case& c, const Groups& x, const std::vector<double>& dy,
                    const std::vector<double>& dstate, Form form) {
  FormResult r;
  if (!c.gradients) {
    const auto out = form(system_of(c, x));
    r.y = gated(out.y, x);
    r.state = out.state;
    return r;
  }
  Recording tape(x);
  const auto out = form(system_of(c, tape.inputs));
  const std::vector<Var> y = gated(out.y, tape.inputs);
  r.y = values(y);
  r.state = values(out.state);
  std::vector<Var> both = y;
  both.insert(both.end(), out.state.begin(), out.state.end());
  std::vector<double> cotangents = dy;
  cotangents.insert(cotangents.end(), dstate.begin(), dstate.end());
  r.gradient_all = tape.gradient(both, cotangents);
  r.gradient_y = tape.gradient(y, dy);
  return r;
}

/// The op's proj for one head, angles turned to the code's sign; `probes` tokens that do nothing
/// but read the state follow: their step is 4e-18, their input 0, their C the unit vectors, so that
/// o is the state in the literal frame.
OpArray projection(const Case& c, const Groups& x, int probes) {
  const int T = c.seqlen, N = c.d_state, P = c.headdim, n = c.nangles(),
            width = 2 * P + 2 * N + 3 + n;
  std::vector<double> proj;
  proj.reserve(std::size_t(T + probes) * width);
  const auto put = [&](const std::vector<double>& v, int t, int w, double factor) {
    for (int i = 0; i < w; ++i) proj.push_back(factor * v[std::size_t(t) * w + i]);
  };
  for (int t = 0; t < T; ++t) {
    put(x[kZ], t, P, 1), put(x[kX], t, P, 1), put(x[kB], t, N, 1), put(x[kC], t, N, 1);
    put(x[kDt], t, 1, 1), put(x[kA], t, 1, 1), put(x[kTrap], t, 1, 1), put(x[kAng], t, n, -c.sign);
  }
  for (int probe = 0; probe < probes; ++probe) {
    for (int i = 0; i < 2 * P + N; ++i) proj.push_back(0);
    for (int i = 0; i < N; ++i) proj.push_back(i == probe);
    proj.push_back(-40);
    for (int i = 0; i < 2 + n; ++i) proj.push_back(0);
  }
  return real_array({1, T + probes, width}, std::move(proj));
}

struct OpResult {
  std::vector<double> y, state;
  Groups gradient;
};

OpResult run_production(const Engine& engine, const Case& c, const Groups& x, bool chunked,
                        int chunk_size, const std::vector<double>& dy) {
  const int T = c.seqlen, N = c.d_state, P = c.headdim, n = c.nangles();
  Mamba3ScanAttrs attrs;
  attrs.nheads = 1, attrs.headdim = P, attrs.ngroups = 1, attrs.d_state = N, attrs.nangles = n;
  attrs.discretization = c.discretization == Discretization::kEuler
                             ? Mamba3ScanAttrs::Discretization::kEuler
                             : Mamba3ScanAttrs::Discretization::kTrapezoidal;
  attrs.a_floor = 1e-8;
  attrs.chunked = chunked;
  attrs.chunk_size = chunk_size;
  const OpArray none = absent_array();
  std::vector<OpArray> inputs = {projection(c, x, 0),
                                 real_array({1}, {0}),
                                 none,
                                 none,
                                 none,
                                 none,
                                 real_array({1}, {x[kD][0]}),
                                 none};
  OpResult r;
  const OpRun forward = engine.run(Op::kMamba3Scan, attrs, inputs);
  r.y = forward.outputs[0].data;

  std::vector<OpArray> probing = inputs;
  probing[0] = projection(c, x, N);
  const OpRun probe = engine.run(Op::kMamba3Scan, attrs, probing);
  r.state.resize(std::size_t(P) * N);
  for (int i = 0; i < N; ++i) {
    for (int p = 0; p < P; ++p)
      r.state[std::size_t(p) * N + i] = probe.outputs[1].data[std::size_t(T + i) * P + p];
  }
  if (!c.gradients && !c.along) return r;

  std::vector<OpArray> backward = {real_array({1, T, P}, dy)};
  backward.insert(backward.end(), inputs.begin(), inputs.end());
  backward.insert(backward.end(), forward.outputs.begin() + 1, forward.outputs.end());
  const OpRun gradient = engine.run(Op::kMamba3ScanBwd, attrs, backward);
  r.gradient.resize(kGroups);
  const std::vector<double>& d = gradient.outputs[0].data;
  const int widths[] = {P, P, N, N, 1, 1, 1, n};
  std::size_t at = 0;
  for (int t = 0; t < T; ++t) {
    for (int g = kZ; g <= kAng; ++g) {
      for (int i = 0; i < widths[g]; ++i)
        r.gradient[g].push_back((g == kAng ? -c.sign : 1) * d[at++]);
    }
  }
  r.gradient[kD] = gradient.outputs[6].data;
  return r;
}

std::string rule_name(Discretization d) {
  return d == Discretization::kEuler ? "Euler" : "trapezoidal";
}

/// Angles are sums over the sequence, and so is their rounding: beyond 1,024 tokens the tolerance
/// grows in proportion.
double scaled(double tolerance, int seqlen) {
  return seqlen <= 1024 ? tolerance : tolerance * seqlen / 1024;
}

Findings check(const Case& c, uint32_t seed) {
  const Groups x = random_inputs(c, seed);
  const std::vector<double> dy =
      uniform_values(seed, c.system, 20, std::size_t(c.seqlen) * c.headdim, -1, 1);
  const std::vector<double> dstate =
      uniform_values(seed, c.system, 21, std::size_t(c.d_state) * c.headdim, -1, 1);
  const FormResult literal =
      run_form(c, x, dy, dstate, [](const auto& s) { return literal_complex(s); });

  Findings found;
  const std::string rule = ", " + rule_name(c.discretization);
  const auto add = [&](const std::string& form, const std::string& what, double error,
                       double tolerance, const std::string& reason, const std::string& worst = "") {
    found.push_back({"complex = " + form + rule + ": " + what, error, scaled(tolerance, c.seqlen),
                     c.text() + (worst.empty() ? "" : " d" + worst), reason, "", false});
  };
  const auto compare_form = [&](const std::string& name, const FormResult& r) {
    const std::string reason = "fp64 rounding, 1e5 ulp";
    add(name, "outputs", relative_error(r.y, literal.y), 1e-11, reason);
    add(name, "final state", relative_error(r.state, literal.state), 1e-11, reason);
    if (!c.gradients) return;
    std::string worst;
    const double error =
        gradient_error(r.gradient_all, literal.gradient_all, 1e-3, &worst, &kGroupNames);
    add(name, "gradients", error, 1e-11, reason, worst);
  };
  const int chunk = c.system % 3 == 0 ? 16 : c.system % 3 == 1 ? 64 : 7;
  compare_form("real blocks",
               run_form(c, x, dy, dstate, [](const auto& s) { return block_rotation(s); }));
  compare_form("rotated scan",
               run_form(c, x, dy, dstate, [](const auto& s) { return rotated_scan(s); }));
  compare_form("chunks",
               run_form(c, x, dy, dstate, [&](const auto& s) { return chunked_scan(s, chunk); }));

  Groups directions(kGroups);
  std::vector<double> along(kGroups);
  if (c.along) {
    const auto loss = [&](const auto& z) {
      const auto y = gated(literal_complex(system_of(c, z)).y, z);
      auto sum = y[0] * dy[0];
      for (std::size_t i = 1; i < y.size(); ++i) sum += y[i] * dy[i];
      return sum;
    };
    for (int g = 0; g < kGroups; ++g) {
      directions[g] = uniform_values(seed, c.system, 30 + g, x[g].size(), -1, 1);
      along[g] = directional_derivative(loss, x, g, directions[g]);
    }
  }
  for (const Engine& engine : engines()) {
    for (bool chunked : {true, false}) {
      const std::string name = "mamba3_scan " + engine.name + (chunked ? " chunked" : " recurrent");
      const OpResult r = run_production(engine, c, x, chunked, chunk, dy);
      add(name, "outputs", relative_error(r.y, literal.y), engine.tolerance(), engine.reason());
      add(name, "final state", relative_error(r.state, literal.state), engine.tolerance(),
          engine.reason());
      if (c.gradients) {
        std::string worst;
        const double error = gradient_error(r.gradient, literal.gradient_y, engine.smallest_share(),
                                            &worst, &kGroupNames);
        add(name, "gradients", error, engine.tolerance(), engine.reason(), worst);
      }
      for (int g = 0; c.along && g < kGroups; ++g) {
        double sum = 0, squares = 0;
        for (std::size_t i = 0; i < x[g].size(); ++i) {
          const double term = r.gradient[g][i] * directions[g][i];
          sum += term;
          squares += term * term;
        }
        const double scale = std::max(std::abs(along[g]), std::sqrt(squares));
        const double difference = std::abs(sum - along[g]);
        add(name, "gradients", difference == 0 ? 0 : difference / scale, engine.tolerance(),
            engine.reason() + ", along a random direction", kGroupNames[g]);
      }
    }
  }
  return found;
}

std::vector<Case> factorial(const SuiteOptions& options) {
  const std::vector<int> lengths =
      options.quick ? std::vector<int>{1, 2, 7, 33, 65}
                    : std::vector<int>{1,  2,  3,  5,  8,   16,  17,  31,  32,  33,
                                       63, 64, 65, 96, 127, 128, 129, 200, 255, 256};
  const std::vector<int> sizes =
      options.quick ? std::vector<int>{2, 8, 32} : std::vector<int>{2, 4, 8, 16, 32, 64, 128};
  std::vector<Case> cases;
  for (int T : lengths) {
    for (int N : sizes) {
      for (auto rule : {Discretization::kEuler, Discretization::kTrapezoidal}) {
        for (int sign : {+1, -1}) {
          for (double rope : {0.5, 1.0}) {
            if (rotation_angles(N, rope) == 0) continue;
            Case c;
            c.seqlen = T, c.d_state = N, c.headdim = 3, c.discretization = rule, c.sign = sign,
            c.rope_fraction = rope;
            c.system = static_cast<uint32_t>(cases.size());
            cases.push_back(c);
          }
        }
      }
    }
  }
  return cases;
}

std::vector<Case> long_sequences(const SuiteOptions& options, uint32_t first_system) {
  std::vector<Case> cases;
  for (int T :
       options.quick ? std::vector<int>{1024} : std::vector<int>{1024, 4096, 16384, 65536}) {
    for (int N : options.quick ? std::vector<int>{4} : std::vector<int>{2, 4, 16}) {
      for (auto rule : {Discretization::kEuler, Discretization::kTrapezoidal}) {
        Case c;
        c.seqlen = T, c.d_state = N, c.headdim = 4, c.discretization = rule;
        c.sign = cases.size() % 4 < 2 ? +1 : -1;
        c.rope_fraction = N > 2 && cases.size() % 8 < 4 ? 0.5 : 1;
        c.system = first_system + static_cast<uint32_t>(cases.size());
        c.gradients = T <= 1024;
        c.along = T > 1024 && N == 4;
        c.slowest_decay = 5e-4, c.fastest_decay = 5e-2;
        cases.push_back(c);
      }
    }
  }
  return cases;
}

Findings negative_controls(uint32_t seed) {
  Findings found;
  Case c;
  c.seqlen = 64, c.d_state = 16, c.headdim = 3, c.system = 1u << 20;
  const Groups x = random_inputs(c, seed);
  const auto system = system_of(c, x);
  const auto literal = literal_complex(system);
  const std::pair<PrefixRule, const char*> wrong[] = {
      {PrefixRule::kExclusive, "product up to t-1 instead of t"},
      {PrefixRule::kUnrotatedPrevious, "previous term without its rotation"},
      {PrefixRule::kSwappedPair, "pairs of C swapped"},
      {PrefixRule::kOppositeSign, "opposite rotation sign"}};
  for (const auto& [rule, name] : wrong) {
    found.push_back({std::string("control: ") + name,
                     relative_error(rotated_scan(system, rule).y, literal.y), 1e-2, c.text(),
                     "must be far off", "", true});
  }
  return found;
}

}  // namespace

Findings rope_suite(const SuiteOptions& options) {
  std::vector<Case> cases = factorial(options);
  const std::vector<Case> more = long_sequences(options, static_cast<uint32_t>(cases.size()));
  cases.insert(cases.end(), more.begin(), more.end());
  // The longest run first, so that the threads end together; rows keep the cases' own order.
  const int count = static_cast<int>(cases.size());
  std::vector<Findings> by_case(cases.size());
  find_in_parallel(count, options.threads, [&](int i) {
    const std::size_t at = static_cast<std::size_t>(count - 1 - i);
    by_case[at] = check(cases[at], options.seed);
    return Findings{};
  });
  Findings found;
  for (const Findings& f : by_case) found.insert(found.end(), f.begin(), f.end());
  const Findings controls = negative_controls(options.seed);
  found.insert(found.end(), controls.begin(), controls.end());
  const Findings rest = noncommuting_findings(options);
  found.insert(found.end(), rest.begin(), rest.end());
  return found;
}

}  // namespace statelab::verify
