#include "models/parameters.h"

#include <algorithm>
#include <cmath>

#include "kernels/rng.h"
#include "models/model.h"

namespace statelab {
namespace {

int mlp_hidden(const ModelConfig& c) {
  const int wanted =
      c.d_intermediate > 0 ? c.d_intermediate : static_cast<int>(8.0 * c.d_model / 3.0);
  return (wanted + 127) / 128 * 128;
}

int mixer_projection(const ModelConfig& c) {
  if (c.mixer == "lstm") return 4 * c.d_inner();
  return c.mixer == "mamba3"   ? mamba3_attrs(c).d_proj()
         : c.mixer == "mamba2" ? mamba2_attrs(c).d_proj()
                               : gated_delta_attrs(c).d_proj();
}

uint32_t name_hash(const std::string& name) {  // FNV-1a
  uint32_t h = 2166136261u;
  for (char ch : name) h = (h ^ static_cast<unsigned char>(ch)) * 16777619u;
  return h;
}

using Specs = std::vector<ParameterSpec>;

// What stands between in_proj and out_proj of a mixer; `mixer` is the prefix of its names.

void add_mamba3(Specs& out, const ModelConfig& c, const std::string& mixer) {
  if (c.conv) {
    out.push_back({mixer + "conv1d.weight", {c.conv_channels(), 1, 4}, Init::kUniform, 0.5});
    out.push_back({mixer + "conv1d.bias", {c.conv_channels()}, Init::kUniform, 0.5, false});
  }
  out.push_back({mixer + "dt_bias", {c.nheads()}, Init::kDtBias, 1, false});
  if (c.bc_bias) {
    out.push_back({mixer + "B_bias", {c.nheads(), 1, c.d_state}, Init::kOnes, 1, false});
    out.push_back({mixer + "C_bias", {c.nheads(), 1, c.d_state}, Init::kOnes, 1, false});
  }
  if (c.bc_norm) {
    out.push_back({mixer + "B_norm.weight", {c.d_state}, Init::kOnes, 1, false});
    out.push_back({mixer + "C_norm.weight", {c.d_state}, Init::kOnes, 1, false});
  }
  out.push_back({mixer + "D", {c.nheads()}, Init::kOnes, 1, false});
  if (c.out_norm == "rms")
    out.push_back({mixer + "norm.weight", {c.d_inner()}, Init::kOnes, 1, false});
}

void add_mamba2(Specs& out, const ModelConfig& c, const std::string& mixer) {
  out.push_back({mixer + "conv1d.weight", {c.conv_channels(), 1, 4}, Init::kUniform, 0.5});
  out.push_back({mixer + "conv1d.bias", {c.conv_channels()}, Init::kUniform, 0.5, false});
  out.push_back({mixer + "dt_bias", {c.nheads()}, Init::kDtBias, 1, false});
  out.push_back({mixer + "A_log", {c.nheads()}, Init::kLogUniformA, 1, false});
  out.push_back({mixer + "D", {c.nheads()}, Init::kOnes, 1, false});
  out.push_back({mixer + "norm.weight", {c.d_inner()}, Init::kOnes, 1, false});
}

void add_delta_rule(Specs& out, const ModelConfig& c, const std::string& mixer) {
  if (c.conv)
    out.push_back({mixer + "conv1d.weight", {c.conv_channels(), 1, 4}, Init::kUniform, 0.5});
  if (c.mixer == "gated_delta_net") {
    out.push_back({mixer + "dt_bias", {c.nheads()}, Init::kDtBias, 1, false});
    out.push_back({mixer + "A_log", {c.nheads()}, Init::kLogUniformA0, 1, false});
  }
  out.push_back({mixer + "norm.weight", {c.headdim}, Init::kOnes, 1, false});
}

void add_lstm(Specs& out, const ModelConfig& c, const std::string& mixer) {
  const double from_hidden = 1 / std::sqrt(c.d_inner());
  out.push_back({mixer + "weight_hh", {4 * c.d_inner(), c.d_inner()}, Init::kUniform, from_hidden});
  out.push_back({mixer + "bias", {4 * c.d_inner()}, Init::kUniform, from_hidden, false});
}

}  // namespace

std::vector<ParameterSpec> parameter_specs(const ModelConfig& c) {
  std::vector<ParameterSpec> out;
  const double from_model = 1 / std::sqrt(c.d_model), residual = 1 / std::sqrt(c.n_layers);
  out.push_back({"backbone.embedding.weight", {c.padded_vocab(), c.d_model}, Init::kNormal, 0.02});
  for (int l = 0; l < c.n_layers; ++l) {
    const std::string layer = "backbone.layers." + std::to_string(l) + ".",
                      mixer = layer + "mixer.";
    out.push_back({layer + "norm.weight", {c.d_model}, Init::kOnes, 1, false});
    out.push_back(
        {mixer + "in_proj.weight", {mixer_projection(c), c.d_model}, Init::kUniform, from_model});
    if (c.mixer == "mamba3") {
      add_mamba3(out, c, mixer);
    } else if (c.mixer == "mamba2") {
      add_mamba2(out, c, mixer);
    } else if (c.is_delta_rule()) {
      add_delta_rule(out, c, mixer);
    } else {
      add_lstm(out, c, mixer);
    }
    out.push_back({mixer + "out_proj.weight",
                   {c.d_model, c.d_inner()},
                   Init::kUniform,
                   residual / std::sqrt(c.d_inner())});
    if (c.mlp == "swiglu") {
      const int F = mlp_hidden(c);
      out.push_back({layer + "norm2.weight", {c.d_model}, Init::kOnes, 1, false});
      out.push_back({layer + "mlp.fc1.weight", {2 * F, c.d_model}, Init::kUniform, from_model});
      out.push_back(
          {layer + "mlp.fc2.weight", {c.d_model, F}, Init::kUniform, residual / std::sqrt(F)});
    }
  }
  out.push_back({"backbone.norm_f.weight", {c.d_model}, Init::kOnes, 1, false});
  if (!c.tie_embeddings)
    out.push_back({"lm_head.weight", {c.padded_vocab(), c.d_model}, Init::kUniform, from_model});
  return out;
}

int64_t parameter_count(const ModelConfig& config) {
  int64_t n = 0;
  for (const auto& spec : parameter_specs(config)) n += spec.shape.size();
  return n;
}

std::vector<double> initial_values(const ParameterSpec& spec, const ModelConfig& config,
                                   uint32_t seed) {
  std::vector<double> out(static_cast<size_t>(spec.shape.size()), 1.0);
  const RngKey key{seed, Stream::kInit};
  const uint32_t parameter = name_hash(spec.name);
  for (size_t i = 0; i < out.size(); ++i) {
    const auto element = static_cast<uint32_t>(i);
    const RngBlock block = philox(key, {element, parameter, 0, 0});
    const double u = uniform01(block.v[0], block.v[1]);
    switch (spec.init) {
      case Init::kOnes:
        break;
      case Init::kUniform:
        out[i] = spec.scale * (2 * u - 1);
        break;
      case Init::kNormal: {
        double first, second;
        normal_pair(block, first, second);
        out[i] = spec.scale * first;
        break;
      }
      case Init::kDtBias: {
        const double lo = std::log(config.dt_min), hi = std::log(config.dt_max);
        const double dt0 = std::max(std::exp(lo + u * (hi - lo)), 1e-4);
        out[i] = dt0 + std::log(-std::expm1(-dt0));
        break;
      }
      case Init::kLogUniformA:
        out[i] = std::log(1 + 15 * u);
        break;
      case Init::kLogUniformA0:
        out[i] = std::log(16 * std::max(u, 0x1p-53));
        break;
    }
  }
  return out;
}

}  // namespace statelab
