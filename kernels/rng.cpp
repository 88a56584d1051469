#include "kernels/rng.h"

#include <cmath>
#include <numbers>

namespace statelab {

void normal_pair(const RngBlock& block, double& first, double& second) {
  const double radius = std::sqrt(-2.0 * std::log(uniform01(block.v[0], block.v[1])));
  const double angle = 2.0 * std::numbers::pi * uniform01(block.v[2], block.v[3]);
  first = radius * std::cos(angle);
  second = radius * std::sin(angle);
}

}  // namespace statelab
