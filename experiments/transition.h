// What a trained model does to its state at each token: the learned transition, head by head.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "models/checkpoint.h"
#include "models/model_config.h"

namespace statelab {

/// One number per position.
struct TransitionSeries {
  enum class Quantity {
    kDecay,  ///< mamba3, mamba2: alpha_t, signed; gated_delta_net: exp(g_t), off the key
    kAngle,  ///< mamba3: phi_t = dt_t theta_t of one rotated pair, wrapped to (-1, 1], in units of pi
    kEigenvalue,  ///< delta rules: exp(g_t) (1 - beta_t |k_t|^2), along the key
    kForgetGate,  ///< lstm: sig(f_t), all units one after the other
  };
  Quantity quantity = Quantity::kDecay;
  int layer = 0;
  int head = 0;   ///< -1 = all units of an LSTM
  int pair = -1;  ///< of an angle: channels (2 pair, 2 pair + 1) of the state
  /// Of an angle: rms |C_pair| rms |B_pair| over positions, after norm and bias, as a share of the head's sum over all pairs and
  /// unrotated channels: the largest part that the pair can take in the head's scores C^T B.
  double weight = 0;
  std::vector<double> values;  ///< (samples, seqlen), or (samples, seqlen, units)
  int units = 1;
};

/// An angle in units of pi, to (-1, 1].
double wrapped_turns(double turns);
/// 0 of nothing.
double arithmetic_mean(std::span<const double> values);
/// Direction of the mean of unit vectors at these angles, all in units of pi, in (-1, 1].
double circular_mean(std::span<const double> turns);

const char* quantity_name(TransitionSeries::Quantity quantity);  ///< "decay" ...

/// Runs the model in float on the CPU. tokens, targets (samples, seqlen); a sequence with a target is needed.
/// Sources: models.md 3.2, 6.2, 6.4, 7.2; the LSTM's gates as its op computes them.
std::vector<TransitionSeries> transitions(const ModelConfig& config, const MemberState& weights,
                                          std::span<const int32_t> tokens,
                                          std::span<const int32_t> targets, int samples, int seqlen,
                                          int threads = 1);

}  // namespace statelab
