// From a ModelConfig to a forward graph over its parameters (parameters.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/call.h"
#include "models/backend.h"
#include "models/checkpoint.h"
#include "models/graph.h"
#include "models/model_config.h"
#include "models/parameters.h"

namespace statelab {

/// Attributes of the mixer's scan for this configuration.
Mamba3ScanAttrs mamba3_attrs(const ModelConfig& config);
Mamba2ScanAttrs mamba2_attrs(const ModelConfig& config);
GatedDeltaScanAttrs gated_delta_attrs(const ModelConfig& config);  ///< gated_delta_net, delta_net

/// The configuration as this device computes it. A CUDA device scans by chunks, of the size that its memory on chip holds: 64, 32
/// or 16 tokens, 32 or 16 for the delta rules; the largest that is not above `chunk_size`, at least 16. `scan: recurrent` asks for
/// the smallest. An LSTM has no chunks and stays as it is. Parameters stay the same.
ModelConfig computed_on(const ComputeDevice& device, ModelConfig config);

/// A value between the layers' parameters that inspection may read.
struct ObservableValue {
  std::string name;
  ValueId id;
};

struct ForwardGraph {
  ValueId tokens = kNoValue, targets = kNoValue;
  ValueId logits = kNoValue;                     ///< (batch, seqlen, padded vocabulary); see Needed
  ValueId loss = kNoValue, accuracy = kNoValue;  ///< kNoValue without a loss
  std::vector<ValueId> parameters;               ///< in the order of parameter_specs()
  /// Per layer l, prefix "backbone.layers.l.mixer.": "proj", what the recurrence reads (batch, seqlen, columns of its op),
  /// convolved where there is a convolution; mamba3's "Phi" (batch, seqlen, H, S), but of a scan at one position; lstm's "gates" (batch, seqlen,
  /// [i | f | g | o]) after their activation.
  std::vector<ObservableValue> observable;
};

/// What is computed of a sequence where only the loss and its gradients are wanted.
struct Needed {
  /// Nothing behind its last target: mamba3_scan, mamba2_scan and causal_conv1d are given the targets. Numbers behind it are finite
  /// everywhere: a delta rule turns the convolution's zeros there into zeros.
  bool up_to_target = false;
  /// Of the last layer only the position of the one target: where there are several, the last. Behind the recurrence tensors then
  /// are (batch, 1, columns), logits too. The same equations, summed in another order.
  bool one_position = false;
  /// Does the device take such a scan (kMamba3ScanAt, kMamba2ScanAt)? Where it does not, the whole scan's row is selected.
  std::function<bool(const CallShapes&)> takes = [](const CallShapes&) { return false; };
};

/// Appends embedding, residual stack, head and, unless told otherwise, loss to `graph`; `step` is the counter that the draw
/// reads. `config` is used as it is: see computed_on(). Throws ShapeError for an impossible shape.
ForwardGraph build_forward(Graph& graph, const ModelConfig& config, ValueId step, int batch,
                           int seqlen, bool with_loss = true, const Needed& needed = {});

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
