#include "experiments/verify/model_variants.h"

#include <cmath>
#include <functional>

#include "experiments/verify/findings.h"

namespace statelab::verify {
namespace {

Variant variant(const std::string& name, const std::function<void(ModelConfig&)>& change) {
  ModelConfig c;
  c.vocab_size = 5;
  c.d_model = 6;
  c.expand = 2;
  c.headdim = 3;
  c.ngroups = 2;
  c.d_state = 8;
  c.chunk_size = 16;
  change(c);
  return {name, c};
}

}  // namespace

std::vector<Variant> scan_variants() {
  return {
      variant("default", [](ModelConfig&) {}),
      variant("recurrent", [](ModelConfig& c) { c.scan = "recurrent"; }),
      variant("rope_fraction 1", [](ModelConfig& c) { c.rope_fraction = 1; }),
      variant("heavy-tail A", [](ModelConfig& c) { c.a_activation = "heavy_tail"; }),
      variant("A at its floor", [](ModelConfig& c) { c.a_floor = 0.5; }),
      variant("standard rotation", [](ModelConfig& c) { c.rotation = "standard"; }),
      variant("no rotation", [](ModelConfig& c) { c.rotation = "none"; }),
      variant("Euler", [](ModelConfig& c) { c.discretization = "euler"; }),
      variant("lambda 1/2", [](ModelConfig& c) { c.discretization = "half"; }),
      variant("no B/C norm", [](ModelConfig& c) { c.bc_norm = false; }),
      variant("no B/C bias", [](ModelConfig& c) { c.bc_bias = false; }),
      variant("output norm", [](ModelConfig& c) { c.out_norm = "rms"; }),
      variant("mamba2", [](ModelConfig& c) { c.mixer = "mamba2"; }),
      variant("mamba2 recurrent", [](ModelConfig& c) { c.mixer = "mamba2", c.scan = "recurrent"; }),
      variant("mamba2 [-1,1]", [](ModelConfig& c) { c.mixer = "mamba2", c.eigenvalue_min = -1; }),
      variant(
          "mamba2 [-1,1] recurrent",
          [](ModelConfig& c) { c.mixer = "mamba2", c.eigenvalue_min = -1, c.scan = "recurrent"; }),
      variant("gated_delta_net", [](ModelConfig& c) { c.mixer = "gated_delta_net"; }),
      variant("gated_delta_net recurrent",
              [](ModelConfig& c) { c.mixer = "gated_delta_net", c.scan = "recurrent"; }),
      variant("gated_delta_net [-1,1]",
              [](ModelConfig& c) { c.mixer = "gated_delta_net", c.eigenvalue_min = -1; }),
      variant("gated_delta_net [-1,1] recurrent",
              [](ModelConfig& c) {
                c.mixer = "gated_delta_net", c.eigenvalue_min = -1, c.scan = "recurrent";
              }),
      variant("gated_delta_net [-1,1] after a convolution",
              [](ModelConfig& c) {
                c.mixer = "gated_delta_net", c.eigenvalue_min = -1, c.conv = true;
              }),
      variant("delta_net", [](ModelConfig& c) { c.mixer = "delta_net"; }),
      variant("delta_net [-1,1]",
              [](ModelConfig& c) { c.mixer = "delta_net", c.eigenvalue_min = -1; }),
      variant("delta_net [-1,1] recurrent",
              [](ModelConfig& c) {
                c.mixer = "delta_net", c.eigenvalue_min = -1, c.scan = "recurrent";
              }),
      variant("lstm", [](ModelConfig& c) { c.mixer = "lstm"; }),
  };
}

ScanOp scan_op(const ModelConfig& config) {
  if (config.mixer == "mamba3") {
    const Mamba3ScanAttrs a = mamba3_attrs(config);
    return {"mamba3_scan",
            Op::kMamba3Scan,
            Op::kMamba3ScanBwd,
            a,
            a.d_proj(),
            {"dt_bias", "B_bias", "C_bias", "B_norm.weight", "C_norm.weight", "D", "norm.weight"}};
  }
  if (config.mixer == "mamba2") {
    const Mamba2ScanAttrs a = mamba2_attrs(config);
    return {"mamba2_scan",      Op::kMamba2Scan,
            Op::kMamba2ScanBwd, a,
            a.d_proj(),         {"dt_bias", "A_log", "D", "norm.weight"}};
  }
  if (config.mixer == "lstm") {
    const int hidden = config.d_inner();
    return {"lstm", Op::kLstm, Op::kLstmBwd, LstmAttrs{hidden}, 4 * hidden, {"weight_hh", "bias"},
            0};
  }
  const GatedDeltaScanAttrs a = gated_delta_attrs(config);
  return {"gated_delta_scan",
          Op::kGatedDeltaScan,
          Op::kGatedDeltaScanBwd,
          a,
          a.d_proj(),
          {"dt_bias", "A_log", "norm.weight"}};
}

std::vector<Variant> model_variants() {
  return {
      variant("mamba3", [](ModelConfig&) {}),
      variant("mamba3 2 layers, SwiGLU, tied",
              [](ModelConfig& c) { c.n_layers = 2, c.mlp = "swiglu", c.tie_embeddings = true; }),
      variant("mamba3 conv, output norm, padded",
              [](ModelConfig& c) { c.conv = true, c.out_norm = "rms", c.pad_vocab_multiple = 8; }),
      variant("mamba3 no rotation, Euler, bare",
              [](ModelConfig& c) {
                c.rotation = "none", c.discretization = "euler", c.bc_norm = false,
                c.bc_bias = false;
              }),
      variant("mamba2", [](ModelConfig& c) { c.mixer = "mamba2"; }),
      variant("mamba2 [-1,1], 2 layers, SwiGLU",
              [](ModelConfig& c) {
                c.mixer = "mamba2", c.eigenvalue_min = -1, c.n_layers = 2, c.mlp = "swiglu";
              }),
      variant("gated_delta_net", [](ModelConfig& c) { c.mixer = "gated_delta_net"; }),
      variant("gated_delta_net [-1,1], conv, 2 layers, SwiGLU",
              [](ModelConfig& c) {
                c.mixer = "gated_delta_net", c.eigenvalue_min = -1, c.conv = true, c.n_layers = 2,
                c.mlp = "swiglu";
              }),
      variant("delta_net [-1,1]",
              [](ModelConfig& c) { c.mixer = "delta_net", c.eigenvalue_min = -1; }),
      variant("lstm", [](ModelConfig& c) { c.mixer = "lstm"; }),
      variant("lstm 2 layers, SwiGLU",
              [](ModelConfig& c) { c.mixer = "lstm", c.n_layers = 2, c.mlp = "swiglu"; }),
  };
}

std::vector<std::vector<double>> random_parameters(const ModelConfig& config, uint32_t seed,
                                                   uint32_t system,
                                                   std::vector<std::string>* names) {
  std::vector<std::vector<double>> values;
  for (const ParameterSpec& spec : parameter_specs(config)) {
    const auto group = static_cast<uint32_t>(values.size());
    const auto size = static_cast<std::size_t>(spec.shape.size());
    const bool norm = spec.name.ends_with("norm.weight") || spec.name.ends_with("norm2.weight") ||
                      spec.name.ends_with("norm_f.weight");
    const double scale = spec.shape.rank() == 2 ? 1 / std::sqrt(double(spec.shape.last())) : 1;
    values.push_back(uniform_values(seed, (1u << 23) + system, group, size, norm ? 0.5 : -scale,
                                    norm ? 1.5 : scale));
    names->push_back(spec.name);
  }
  return values;
}

}  // namespace statelab::verify
