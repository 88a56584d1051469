// Weights under the names of the authors' modules, and back: what `load_state_dict(strict=True)` takes. interchange.md shows
// both directions in Python.
//
//   layout                   mixers                       names (models.md sections 2.2, 2.4, 7.1)
//   mamba_ssm                mamba2, mamba3               MambaLMHeadModel
//   flash-linear-attention   gated_delta_net, delta_net   GatedDeltaNetForCausalLM, DeltaNetForCausalLM
//   torch.nn.LSTM            lstm                         torch.nn.LSTM inside this project's residual block
//   statelab                 all                          parameter_specs()
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "models/model_config.h"
#include "models/safetensors.h"

namespace statelab {

inline constexpr const char* kOwnLayout = "statelab";

/// The module of another library that computes what a configuration computes.
struct Counterpart {
  std::string layout;
  std::vector<std::string>
      constructor;  ///< Python lines that build `model`, whose state_dict has these names and shapes
  std::vector<std::string> notes;  ///< what a reader of the file must know, one sentence each
  /// Switches that the module does not have; `message` ends with the remedy. Empty when the weights can be written.
  std::vector<ModelProblem> missing;
};

/// The configuration must be valid.
Counterpart counterpart_of(const ModelConfig& config);

/// Tensors that do not fit the configuration: all reasons, one a line.
class InterchangeError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Which tensors a file of this layout has, in order, and of which shape; no data.
/// Errors: InterchangeError for a layout that the mixer does not have.
std::vector<NamedTensor> interchange_tensors(const ModelConfig& config, const std::string& layout);

/// `weights` in the order of parameter_specs(), as checkpoints hold them. Rows that the configuration never reads, but the
/// module would (angles of rotation: none, trap of discretization: half), are zeros in the result; their trained-over values
/// go to `unread` (hexadecimal, key "unread.<tensor>"), so that import gives back the same bits.
/// Errors: std::invalid_argument when the counterpart lacks a switch or a weight has another shape; InterchangeError for a layout that the mixer
/// does not have.
std::vector<NamedTensor> to_interchange(const ModelConfig& config, const std::string& layout,
                                        const std::vector<NamedTensor>& weights, Metadata& unread);

/// The inverse. Tensors that say nothing new may be absent: a tied head, biases that are zero by configuration, an MLP that
/// contributes nothing.
/// Errors: InterchangeError for missing, unknown or misshapen tensors, values that are not finite, and non-zero values where
///         the configuration has none.
std::vector<NamedTensor> from_interchange(const ModelConfig& config, const std::string& layout,
                                          const std::vector<NamedTensor>& tensors,
                                          const Metadata& unread);

}  // namespace statelab
