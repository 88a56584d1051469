// What a model is: the resolved `model:` block of a run. Plain data; validate() says what is impossible.
#pragma once

#include <string>
#include <vector>

namespace statelab {

/// Field names, values and defaults are those of the YAML (README of experiments/). Symbols of the mathematics in
/// brackets (spec models.md section 0).
struct ModelConfig {
  std::string mixer = "mamba3";  ///< mamba3 | mamba2 | gated_delta_net | delta_net | lstm
  int vocab_size = 3;            ///< [V] given by the task, not by the user
  int n_layers = 1;
  int d_model = 64;            ///< [d] residual width
  int expand = 2;              ///< [E] d_inner = expand * d_model
  int headdim = 64;            ///< [P, V] d_inner = nheads * headdim
  int ngroups = 1;             ///< [G] groups that share B and C (q and k); divides nheads
  int d_state = 64;            ///< [N, K] state size per channel; size of the keys
  double rope_fraction = 0.5;  ///< mamba3: part of the state that rotates, 0.5 or 1
  std::string rotation = "data_dependent";  ///< mamba3: data_dependent | standard | none
  std::string discretization =
      "trapezoidal";  ///< mamba3: trapezoidal | euler (lambda = 1) | half (lambda = 1/2)
  std::string a_activation = "softplus";  ///< mamba3: softplus | heavy_tail
  double a_floor = 1e-4;                  ///< mamba3: |A| is at least this
  double dt_min = 1e-3, dt_max = 1e-1;    ///< range of the initial step size (YAML: dt_range)
  bool bc_norm = true;                    ///< mamba3: RMSNorm of B and C
  bool bc_bias = true;                    ///< mamba3: head-wise biases of B and C
  /// mamba3, gated_delta_net, delta_net: short causal convolution of x, B, C (q, k, v); mamba2 always has one.
  /// Deviates: off by default, though the published layers of the delta rules have it.
  bool conv = false;
  std::string out_norm =
      "none";         ///< mamba3: none | rms (norm before gate); mamba2 always norms after the gate
  int mimo_rank = 1;  ///< mamba3: only 1 (SISO) so far
  double eigenvalue_min = 0,
         eigenvalue_max =
             1;  ///< mamba2, gated_delta_net, delta_net: [0, 1] or [-1, 1] (YAML: eigenvalue_range)
  std::string mlp = "none";  ///< none | swiglu
  int d_intermediate = 0;  ///< swiglu hidden size before rounding up to 128; 0 = int(8 d_model / 3)
  bool tie_embeddings = false;
  int pad_vocab_multiple = 1;  ///< vocabulary rounded up to a multiple (official: 8)
  std::string scan =
      "auto";           ///< auto | chunked | recurrent; auto = chunked; see also computed_on()
  int chunk_size = 64;  ///< [Q] tokens per chunk of the chunked scan

  int d_inner() const { return expand * d_model; }
  int nheads() const { return d_inner() / headdim; }
  bool is_delta_rule() const { return mixer == "gated_delta_net" || mixer == "delta_net"; }
  /// Of the short convolution, where there is one: x, B and C, or q, k and v.
  int conv_channels() const { return d_inner() + 2 * ngroups * d_state; }
  int padded_vocab() const {
    return (vocab_size + pad_vocab_multiple - 1) / pad_vocab_multiple * pad_vocab_multiple;
  }
};

/// One broken rule: which field, and the rule with the actual value.
struct ModelProblem {
  std::string field;    ///< as in YAML, below `model.`, e.g. "headdim"
  std::string message;  ///< e.g. "must divide expand * d_model = 128, is 48"
};

/// Every rule that the configuration breaks; empty when the model can be built.
std::vector<ModelProblem> validate(const ModelConfig& config);

}  // namespace statelab
