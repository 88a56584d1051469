// One step of AdamW with clipping by the global norm, as its equations read:
//   g <- g min(1, clip / (|g| + 1e-6)),  w <- w (1 - lr decay)
//   m <- b1 m + (1 - b1) g,  v <- b2 v + (1 - b2) g^2
//   w <- w - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps),  t = 1, 2, ...
// Source: Loshchilov and Hutter, "Decoupled weight decay regularization"; PyTorch's clip_grad_norm_
// and AdamW.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

namespace statelab::reference {

struct AdamWState {
  int step = 0;
  std::vector<std::vector<double>> weights, exp_avg, exp_avg_sq;
};

struct AdamWSettings {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.1;
  double clip_norm = 1;      ///< 0 = no clipping
  std::vector<bool> decays;  ///< per parameter
};

/// Updates the state by one step; returns the gradient's norm before clipping.
inline double adamw_step(AdamWState& state, const std::vector<std::vector<double>>& gradients,
                         const AdamWSettings& settings) {
  double squares = 0;
  for (const auto& group : gradients) {
    for (double g : group) squares += g * g;
  }
  const double norm = std::sqrt(squares);
  const double clip =
      settings.clip_norm > 0 ? std::min(1.0, settings.clip_norm / (norm + 1e-6)) : 1.0;
  ++state.step;
  const double c1 = 1 - std::pow(settings.beta1, state.step),
               c2 = 1 - std::pow(settings.beta2, state.step);
  for (std::size_t p = 0; p < gradients.size(); ++p) {
    for (std::size_t i = 0; i < gradients[p].size(); ++i) {
      const double g = clip * gradients[p][i];
      double &w = state.weights[p][i], &m = state.exp_avg[p][i], &v = state.exp_avg_sq[p][i];
      if (settings.decays[p]) w *= 1 - settings.lr * settings.weight_decay;
      m = settings.beta1 * m + (1 - settings.beta1) * g;
      v = settings.beta2 * v + (1 - settings.beta2) * g * g;
      w -= settings.lr * (m / c1) / (std::sqrt(v / c2) + settings.eps);
    }
  }
  return norm;
}

}  // namespace statelab::reference
