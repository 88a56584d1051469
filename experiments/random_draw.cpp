// Draws of a random sweep: inverse transforms of Philox numbers.
#include <algorithm>
#include <cmath>

#include "experiments/dimension.h"
#include "kernels/rng.h"

namespace statelab {
namespace {

double standard_normal(const RngBlock& block) {
  double first = 0, second = 0;
  normal_pair(block, first, second);
  return first;
}

}  // namespace

std::vector<Value> draw_row(const Dimension& d, uint32_t seed, uint32_t draw) {
  uint32_t axis = 2166136261u;  // FNV-1a of the name
  for (const char c : d.name) axis = (axis ^ static_cast<unsigned char>(c)) * 16777619u;
  const RngBlock bits = philox({seed, Stream::kSweep}, {axis, draw, 0, 0});
  if (!d.drawn) {
    if (d.probabilities.empty())
      return d.rows[bounded(bits.v[0], static_cast<uint32_t>(d.rows.size()))];
    double u = uniform01(bits.v[0], bits.v[1]);
    for (size_t i = 0; i < d.rows.size(); ++i) {
      u -= d.probabilities[i];
      if (u < 0) return d.rows[i];
    }
    return d.rows.back();
  }
  const Distribution& dist = *d.drawn;
  const double u = uniform01(bits.v[0], bits.v[1]);
  const std::string& n = dist.name;
  double x = 0;
  if (n == "int_uniform") {
    x = std::min(dist.max, dist.min + std::floor(u * (dist.max - dist.min + 1)));
  } else if (n == "uniform" || n == "q_uniform") {
    x = dist.min + u * (dist.max - dist.min);
  } else if (n == "log_uniform" || n == "q_log_uniform") {
    x = std::exp(dist.min + u * (dist.max - dist.min));
  } else if (n == "log_uniform_values" || n == "q_log_uniform_values") {
    x = std::exp(std::log(dist.min) + u * (std::log(dist.max) - std::log(dist.min)));
  } else if (n == "inv_log_uniform") {
    x = std::exp(-(dist.min + u * (dist.max - dist.min)));
  } else if (n == "inv_log_uniform_values") {
    x = 1 / (1 / dist.max * std::exp(u * std::log(dist.max / dist.min)));
  } else {
    x = dist.mu + dist.sigma * standard_normal(bits);
    if (n == "log_normal" || n == "q_log_normal") x = std::exp(x);
  }
  if (n.rfind("q_", 0) == 0) x = std::round(x / dist.q) * dist.q;
  Value value = Value::of(n == "int_uniform" ? x : six_digits(x));
  value.place = d.place;
  return {value};
}

}  // namespace statelab
