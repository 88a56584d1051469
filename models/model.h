// From a ModelConfig to parameters and a forward graph. Names, shapes and initial values are the official modules'
// (models.md sections 2.2, 2.3, 3.1, 6.1).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "models/backend.h"
#include "models/checkpoint.h"
#include "models/graph.h"
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

/// All trained parameters, in state_dict order. The configuration must be valid.
std::vector<ParameterSpec> parameter_specs(const ModelConfig& config);
int64_t parameter_count(const ModelConfig& config);

/// Initial values of one parameter, computed in double on the host. The draw is keyed by the parameter's name, so a
/// parameter that two models share starts equal in both.
std::vector<double> initial_values(const ParameterSpec& spec, const ModelConfig& config,
                                   uint32_t seed);

/// Attributes of the mixer's scan for this configuration.
Mamba3ScanAttrs mamba3_attrs(const ModelConfig& config);
Mamba2ScanAttrs mamba2_attrs(const ModelConfig& config);
/// gated_delta_net and delta_net.
/// Deviates: the authors' layer projects q, k, v, gate, a and b each by itself; here their rows stand in this order in
/// in_proj.weight, those of the convolutions in conv1d.weight, and all start from the initialiser of the other mixers instead
/// of N(0, 0.02^2), so that models differ in the mixer alone.
GatedDeltaScanAttrs gated_delta_attrs(const ModelConfig& config);

/// The configuration as this device computes it. A CUDA device always scans by chunks, of the size that its memory on chip
/// holds: 64, 32 or 16 tokens, at most `chunk_size`; `scan: recurrent` asks for the smallest. Parameters stay the same.
ModelConfig computed_on(const ComputeDevice& device, ModelConfig config);

/// A value between the layers' parameters that inspection may read.
struct ObservableValue {
  std::string name;
  ValueId id;
};

struct ForwardGraph {
  ValueId tokens = kNoValue, targets = kNoValue;
  ValueId logits = kNoValue;                     ///< (batch, seqlen, padded vocabulary)
  ValueId loss = kNoValue, accuracy = kNoValue;  ///< kNoValue without a loss
  std::vector<ValueId> parameters;               ///< in the order of parameter_specs()
  /// Per layer l, prefix "backbone.layers.l.mixer.": "proj", what the recurrence reads (batch, seqlen, columns of its op),
  /// convolved where there is a convolution; mamba3's "Phi" (batch, seqlen, H, S); lstm's "gates" (batch, seqlen,
  /// [i | f | g | o]) after their activation.
  std::vector<ObservableValue> observable;
};

/// Appends embedding, residual stack, head and, unless told otherwise, loss to `graph`; `step` is the counter that the draw
/// reads. `config` is used as it is: see computed_on(). Throws ShapeError for an impossible shape.
ForwardGraph build_forward(Graph& graph, const ModelConfig& config, ValueId step, int batch,
                           int seqlen, bool with_loss = true);

/// One model in scalar S with weights set by hand: forward, loss and gradients of one batch. For tests, verification
/// and inspection; training goes through TrainCohort.
/// Errors: std::invalid_argument for double on a CUDA device, UnsupportedOp for a shape that it cannot compute.
template <class S>
class Model {
 public:
  /// `observed`: names of ForwardGraph::observable that stay readable; std::invalid_argument for others.
  Model(const ModelConfig& config, int batch, int seqlen, bool with_gradients,
        const ComputeDevice& device = 1, const std::vector<std::string>& observed = {});
  ~Model();

  const std::vector<ParameterSpec>& parameters() const;
  void set(const std::string& name, std::span<const double> values);
  std::vector<double> get(const std::string& name) const;
  void initialise(uint32_t seed);

  /// tokens, targets (batch, seqlen); target -1 = not supervised. Returns the loss.
  double run(std::span<const int32_t> tokens, std::span<const int32_t> targets);
  double accuracy() const;
  std::vector<double> logits() const;  ///< (batch, seqlen, padded vocabulary)
  std::vector<double> gradient(
      const std::string& name) const;  ///< after run(), with_gradients only
  std::vector<double> observed(
      const std::string& name) const;  ///< after run(); row-major, see ForwardGraph::observable

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace statelab
