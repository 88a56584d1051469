// The `model:` part of the field table.
#include "experiments/field_build.h"

namespace statelab {

std::vector<Field> model_fields() {
  constexpr double kWide = 65536;
  // All but lstm, whose state is one vector of d_inner units.
  const std::vector<std::string> scans = {"mamba3", "mamba2", "gated_delta_net", "delta_net"};
  std::vector<Field> t;
  t.push_back(choice_field("model.mixer", STATELAB_MEMBER(model.mixer),
                           {"mamba3", "mamba2", "gated_delta_net", "delta_net", "lstm"},
                           "What mixes across time; `statelab models` lists them."));
  t.push_back(
      ranged_field("model.n_layers", STATELAB_MEMBER(model.n_layers), 1, 256, "Residual layers."));
  t.push_back(ranged_field("model.d_model", STATELAB_MEMBER(model.d_model), 1, kWide,
                           "Width of the residual stream."));
  t.push_back(ranged_field(
      "model.expand", STATELAB_MEMBER(model.expand), 1, 64,
      "Inner width is expand * d_model; 2 in the authors' models. The units of an LSTM."));
  t.push_back(
      for_mixers(scans, ranged_field("model.headdim", STATELAB_MEMBER(model.headdim), 1, kWide,
                                     "Channels per head; divides the inner width.")));
  t.push_back(for_mixers(
      scans, ranged_field("model.ngroups", STATELAB_MEMBER(model.ngroups), 1, kWide,
                          "Groups of heads that share B and C, with the delta rules q and k; "
                          "divides the number of heads.")));
  t.push_back(for_mixers(
      scans, ranged_field("model.d_state", STATELAB_MEMBER(model.d_state), 1, kWide,
                          "State size per channel; with the delta rules the size of the keys.")));
  t.push_back(
      for_mixer("mamba3", ranged_field("model.rope_fraction", STATELAB_MEMBER(model.rope_fraction),
                                       0, 1, "Part of the state that rotates: 0.5 or 1.")));
  t.push_back(
      for_mixer("mamba3", choice_field("model.rotation", STATELAB_MEMBER(model.rotation),
                                       {"data_dependent", "standard", "none"},
                                       "Where the angles come from: the input (the RoPE trick), "
                                       "fixed frequencies, or no rotation at all.")));
  t.push_back(for_mixer(
      "mamba3",
      choice_field(
          "model.discretization", STATELAB_MEMBER(model.discretization),
          {"trapezoidal", "euler", "half"},
          "Weight of the previous input: learned (trapezoidal), zero (euler) or one half.")));
  t.push_back(
      for_mixer("mamba3", choice_field("model.a_activation", STATELAB_MEMBER(model.a_activation),
                                       {"softplus", "heavy_tail"},
                                       "How the decay rate |A| follows from its projection.")));
  t.push_back(for_mixer("mamba3", ranged_field("model.a_floor", STATELAB_MEMBER(model.a_floor), 0,
                                               1, "Smallest |A|.")));
  Field dt =
      pair_field("model.dt_range", STATELAB_MEMBER(model.dt_min), STATELAB_MEMBER(model.dt_max), 0,
                 100, "Range of the initial step sizes. Larger steps mean larger initial angles.");
  dt.min_open = true;
  t.push_back(for_mixers({"mamba3", "mamba2", "gated_delta_net"}, std::move(dt)));
  t.push_back(for_mixer("mamba3", scalar_field("model.bc_norm", STATELAB_MEMBER(model.bc_norm),
                                               "RMSNorm of B and C.")));
  t.push_back(for_mixer("mamba3", scalar_field("model.bc_bias", STATELAB_MEMBER(model.bc_bias),
                                               "Head-wise biases of B and C.")));
  t.push_back(for_mixers(
      {"mamba3", "gated_delta_net", "delta_net"},
      scalar_field(
          "model.conv", STATELAB_MEMBER(model.conv),
          "Short causal convolution of x, B and C, with the delta rules of q, k and v. Off "
          "in the published Mamba-3, on in the published Gated DeltaNet and DeltaNet, so "
          "set it to true for those. Mamba-2 always has one.")));
  t.push_back(for_mixer(
      "mamba3",
      choice_field("model.out_norm", STATELAB_MEMBER(model.out_norm), {"none", "rms"},
                   "RMSNorm of the output before the gate. Mamba-2 always norms after the gate.")));
  t.push_back(
      for_mixer("mamba3", ranged_field("model.mimo_rank", STATELAB_MEMBER(model.mimo_rank), 1, 64,
                                       "Rank of the state's input and output; 1 = SISO.")));
  t.push_back(for_mixers({"mamba2", "gated_delta_net", "delta_net"},
                         pair_field("model.eigenvalue_range", STATELAB_MEMBER(model.eigenvalue_min),
                                    STATELAB_MEMBER(model.eigenvalue_max), -1, 1,
                                    "[0, 1], or [-1, 1] for negative eigenvalues.")));
  t.push_back(choice_field("model.mlp", STATELAB_MEMBER(model.mlp), {"none", "swiglu"},
                           "MLP after each mixer."));
  t.push_back(ranged_field(
      "model.d_intermediate", STATELAB_MEMBER(model.d_intermediate), 0, 1048576,
      "Hidden width of the MLP, rounded up to a multiple of 128; 0 = 8/3 of d_model."));
  t.push_back(scalar_field("model.tie_embeddings", STATELAB_MEMBER(model.tie_embeddings),
                           "The head shares the embedding's weights."));
  t.push_back(ranged_field("model.pad_vocab_multiple", STATELAB_MEMBER(model.pad_vocab_multiple), 1,
                           4096,
                           "The vocabulary is rounded up to a multiple of this; the padding is "
                           "never right. The official default is 8."));
  t.push_back(for_mixers(
      scans,
      choice_field("model.scan", STATELAB_MEMBER(model.scan), {"auto", "chunked", "recurrent"},
                   "How the recurrence is computed; auto = chunked. Both are exact, their rounding "
                   "differs. A "
                   "CUDA device takes chunks of 16 tokens for recurrent.")));
  t.push_back(for_mixers(
      scans,
      ranged_field("model.chunk_size", STATELAB_MEMBER(model.chunk_size), 1, 4096,
                   "Tokens per chunk of the chunked scan. Part of a run's identity, since "
                   "it decides the order of the sums. A CUDA device takes the largest of 16, "
                   "32, 64 that is not above it and fits its memory on chip.")));
  return t;
}

}  // namespace statelab
