// The models that verification walks through: every mixer with every switch.
#pragma once

#include <string>
#include <vector>

#include "kernels/op.h"
#include "models/model.h"

namespace statelab::verify {

struct Variant {
  std::string name;
  ModelConfig config;
};

/// Mixers whose scan differs: 4 heads in 2 groups, chunks of 16 tokens.
std::vector<Variant> scan_variants();
/// The op between the projections of a mixer.
struct ScanOp {
  std::string name;  ///< "mamba3_scan"
  Op forward{}, backward{};
  Attributes attributes;
  int d_proj = 0;
  std::vector<std::string> slots;  ///< operands after proj by the parameter's name in the mixer
  int kept = 1;  ///< the backward op reads the forward op's outputs from this one on
};
ScanOp scan_op(const ModelConfig& config);

/// Whole models: the scans' switches again, with convolution, SwiGLU, tied head, padding and more
/// layers.
std::vector<Variant> model_variants();

/// Random parameters in the order of parameter_specs(): norms in [0.5, 1.5], matrices uniform
/// within 1 / sqrt(fan-in) as when training starts. Larger ones make gradients so sensitive that
/// rounding the weights to float alone moves them by more than the fp32 tolerance.
std::vector<std::vector<double>> random_parameters(const ModelConfig& config, uint32_t seed,
                                                   uint32_t system,
                                                   std::vector<std::string>* names);

}  // namespace statelab::verify
