// Small models, one a mixer and switch, whose exported files and logits are pinned in tests/golden/interchange.
#pragma once

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/checkpoint.h"
#include "models/interchange.h"
#include "models/model.h"
#include "tests/support/random.h"

namespace statelab::interchange {

struct Fixture {
  std::string name;
  ModelConfig config;
  std::string layout;
};

inline ModelConfig base(const std::string& mixer) {
  ModelConfig c;
  c.mixer = mixer;
  c.vocab_size = 5;
  c.d_model = 8;
  c.headdim = 8;  // two heads
  c.d_state = 8;
  c.chunk_size = 4;
  c.dt_min = 0.1, c.dt_max = 1.0;  // so that rotations and decays matter
  return c;
}

inline std::vector<Fixture> fixtures() {
  std::vector<Fixture> out;
  const auto add = [&](const char* name, const char* mixer, auto change, bool own = false) {
    ModelConfig c = base(mixer);
    change(c);
    out.push_back({name, c, own ? kOwnLayout : counterpart_of(c).layout});
  };
  using C = ModelConfig;
  add("mamba3", "mamba3", [](C&) {});
  add("mamba3_heavy_tail", "mamba3", [](C& c) {
    c.n_layers = 2, c.ngroups = 2, c.a_activation = "heavy_tail", c.out_norm = "rms";
    c.rope_fraction = 1, c.tie_embeddings = true, c.pad_vocab_multiple = 8;
  });
  add("mamba3_zeroed_rows", "mamba3", [](C& c) {
    c.rotation = "none", c.discretization = "half", c.bc_bias = false, c.mlp = "swiglu";
  });
  add(
      "mamba3_own_switches", "mamba3",
      [](C& c) {
        c.rotation = "standard", c.discretization = "euler", c.bc_norm = false, c.conv = true;
      },
      true);
  add("mamba2", "mamba2", [](C& c) { c.n_layers = 2, c.ngroups = 2; });
  add(
      "mamba2_signed", "mamba2", [](C& c) { c.eigenvalue_min = -1; }, true);
  add("gated_delta_net", "gated_delta_net",
      [](C& c) { c.n_layers = 2, c.eigenvalue_min = -1, c.conv = true, c.d_state = 4; });
  add("gated_delta_net_mlp", "gated_delta_net", [](C& c) { c.mlp = "swiglu", c.ngroups = 2; });
  add("delta_net", "delta_net",
      [](C& c) { c.ngroups = 2, c.conv = true, c.tie_embeddings = true; });
  add("lstm", "lstm", [](C& c) { c.n_layers = 2; });
  return out;
}

/// Weights away from their initial values, so that no switch hides behind a zero or a one.
inline std::vector<NamedTensor> weights_of(const ModelConfig& c, const std::string& seed) {
  std::vector<NamedTensor> out;
  for (const ParameterSpec& spec : parameter_specs(c)) {
    NamedTensor t{spec.name, {spec.shape.extents().begin(), spec.shape.extents().end()}, {}};
    const std::vector<double> start = initial_values(spec, c, 3);
    const std::vector<double> shift =
        testing_support::uniform(seed + spec.name, start.size(), -0.4, 0.4);
    for (size_t i = 0; i < start.size(); ++i)
      t.data.push_back(static_cast<float>(start[i] + shift[i]));
    out.push_back(std::move(t));
  }
  return out;
}

/// The switches that a reader of the file needs, as `statelab export` writes them.
inline std::string config_json(const ModelConfig& c) {
  return nlohmann::json{{"model",
                         {{"mixer", c.mixer},
                          {"n_layers", c.n_layers},
                          {"d_model", c.d_model},
                          {"expand", c.expand},
                          {"headdim", c.headdim},
                          {"ngroups", c.ngroups},
                          {"d_state", c.d_state},
                          {"rope_fraction", c.rope_fraction},
                          {"rotation", c.rotation},
                          {"discretization", c.discretization},
                          {"a_activation", c.a_activation},
                          {"a_floor", c.a_floor},
                          {"eigenvalue_range", {c.eigenvalue_min, c.eigenvalue_max}}}}}
      .dump();
}

inline std::string file_of(const Fixture& f, const std::string& seed) {
  Metadata metadata;
  const auto tensors = to_interchange(f.config, f.layout, weights_of(f.config, seed), metadata);
  metadata["statelab.layout"] = f.layout;
  metadata["statelab.config"] = config_json(f.config);
  return write_safetensors(tensors, metadata);
}

/// (sequences, length)
inline std::vector<std::vector<int32_t>> tokens_of(const Fixture& f) {
  std::vector<std::vector<int32_t>> out;
  for (const char* part : {" first", " second"})
    out.push_back(testing_support::integers(f.name + part, 19, 5));
  return out;
}

inline std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace statelab::interchange
