// The trained parameters of a model: names, shapes, initial values and what weight decay touches. Names, shapes and initial values are
// the official modules'.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/tensor.h"
#include "models/model_config.h"

namespace statelab {

/// How a parameter is drawn.
enum class Init {
  kUniform,  ///< U(-scale, scale)
  kNormal,   ///< N(0, scale^2)
  kOnes,
  kDtBias,       ///< inverse softplus of dt0, dt0 log-uniform in [dt_min, dt_max], at least 1e-4
  kLogUniformA,  ///< log U(1, 16)
  kLogUniformA0  ///< log U(0, 16): Gated DeltaNet's
};

struct ParameterSpec {
  std::string
      name;  ///< as in the official state_dict, e.g. "backbone.layers.0.mixer.in_proj.weight"
  Shape shape;
  Init init = Init::kUniform;
  double scale = 1;
  bool decays = true;  ///< weight decay applies (models.md section 2.5)
};

/// All trained parameters, in state_dict order. The configuration must be valid. Source: models.md sections 2.2, 3.1, 6.1 and 7.1.
/// Deviates: for gated_delta_net and delta_net the authors' layer projects q, k, v, gate, a and b each by itself; here their rows
/// stand in this order in in_proj.weight, those of the convolutions in conv1d.weight, and all start from the initialiser of the
/// other mixers instead of N(0, 0.02^2), so that models differ in the mixer alone.
std::vector<ParameterSpec> parameter_specs(const ModelConfig& config);
int64_t parameter_count(const ModelConfig& config);

/// Initial values of one parameter, computed in double on the host. The draw is keyed by the parameter's name, so a
/// parameter that two models share starts equal in both.
std::vector<double> initial_values(const ParameterSpec& spec, const ModelConfig& config,
                                   uint32_t seed);

}  // namespace statelab
