// Reverse-mode derivatives of any literal recurrence: a scalar that records what was computed with
// it.
//
// The recurrences are templates over their scalar, so running them on Var gives the whole gradient
// at a small multiple of the cost of one evaluation, with no derivation by hand that could share a
// mistake with the ops under test. The tape itself is tested against complex steps.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "models/reference/complex_step.h"
#include "models/reference/scalar.h"

namespace statelab::reference {

/// One record: node = f(a, b) with the two partial derivatives; a parent below 0 is a constant.
struct TapeNode {
  int32_t a, b;
  double da, db;
};

inline thread_local std::vector<TapeNode>* active_tape = nullptr;

/// A number that knows its place on the active tape; node -1 is a constant and records nothing.
struct Var {
  double value = 0;
  int32_t node = -1;

  Var() = default;
  Var(double x) : value(x) {}  // NOLINT: constants mix freely with variables
  Var(double x, int32_t n) : value(x), node(n) {}

  static Var record(double x, int32_t a, double da, int32_t b = -1, double db = 0) {
    if (a < 0 && b < 0) return Var(x);
    active_tape->push_back({a, b, da, db});
    return Var(x, static_cast<int32_t>(active_tape->size()) - 1);
  }

  Var& operator+=(const Var& o) { return *this = record(value + o.value, node, 1, o.node, 1); }
  Var& operator-=(const Var& o) { return *this = record(value - o.value, node, 1, o.node, -1); }
  Var& operator*=(const Var& o) {
    return *this = record(value * o.value, node, o.value, o.node, value);
  }
  Var& operator/=(const Var& o) {
    const double q = value / o.value;
    return *this = record(q, node, 1 / o.value, o.node, -q / o.value);
  }
  friend Var operator+(Var x, const Var& y) { return x += y; }
  friend Var operator-(Var x, const Var& y) { return x -= y; }
  friend Var operator*(Var x, const Var& y) { return x *= y; }
  friend Var operator/(Var x, const Var& y) { return x /= y; }
  friend Var operator-(const Var& x) { return record(-x.value, x.node, -1); }
};

inline double real_part(const Var& x) { return x.value; }
inline Var exp(const Var& x) {
  const double e = std::exp(x.value);
  return Var::record(e, x.node, e);
}
inline Var log(const Var& x) { return Var::record(std::log(x.value), x.node, 1 / x.value); }
inline Var sin(const Var& x) { return Var::record(std::sin(x.value), x.node, std::cos(x.value)); }
inline Var cos(const Var& x) { return Var::record(std::cos(x.value), x.node, -std::sin(x.value)); }
inline Var tanh(const Var& x) {
  const double t = std::tanh(x.value);
  return Var::record(t, x.node, 1 - t * t);
}
inline Var sqrt(const Var& x) {
  const double r = std::sqrt(x.value);
  return Var::record(r, x.node, 0.5 / r);
}
/// log(1 + x): here the derivative is written out, since Kahan's quotient differentiates badly near
/// 0.
inline Var log_one_plus(const Var& x) {
  return Var::record(std::log1p(x.value), x.node, 1 / (1 + x.value));
}

/// Records one evaluation; the variables of `at` come first on the tape, in order.
class Recording {
 public:
  explicit Recording(const Groups& at) {
    active_tape = &nodes_;
    for (const auto& group : at) {
      auto& g = inputs.emplace_back();
      for (double x : group) {
        nodes_.push_back({-1, -1, 0, 0});
        g.push_back(Var(x, static_cast<int32_t>(nodes_.size()) - 1));
      }
    }
  }
  ~Recording() { active_tape = nullptr; }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  std::vector<std::vector<Var>> inputs;

  /// Gradient of sum_i cotangents[i] * outputs[i] with respect to the inputs, in their groups. May
  /// be called repeatedly.
  Groups gradient(const std::vector<Var>& outputs, const std::vector<double>& cotangents) const {
    std::vector<double> adjoint(nodes_.size(), 0.0);
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (outputs[i].node >= 0) adjoint[static_cast<std::size_t>(outputs[i].node)] += cotangents[i];
    }
    for (std::size_t n = nodes_.size(); n-- > 0;) {
      const double g = adjoint[n];
      if (g == 0) continue;
      const TapeNode& node = nodes_[n];
      if (node.a >= 0) adjoint[static_cast<std::size_t>(node.a)] += node.da * g;
      if (node.b >= 0) adjoint[static_cast<std::size_t>(node.b)] += node.db * g;
    }
    Groups out;
    std::size_t n = 0;
    for (const auto& group : inputs) {
      auto& o = out.emplace_back();
      for (std::size_t i = 0; i < group.size(); ++i) o.push_back(adjoint[n++]);
    }
    return out;
  }

 private:
  std::vector<TapeNode> nodes_;
};

/// Gradient of a scalar function of groups, as gradient_by_complex_step but in one evaluation.
template <class F>
Groups gradient_by_tape(F&& f, const Groups& at) {
  Recording recording(at);
  const Var y = f(recording.inputs);
  return recording.gradient({y}, {1.0});
}

}  // namespace statelab::reference
