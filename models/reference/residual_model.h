// The whole language model from named parameters: embedding, pre-norm residual layers, head, loss.
//   h = Embedding[ids];  h += Mixer(RMSNorm(h));  h += MLP(RMSNorm(h)) where there is one;  logits
//   = RMSNorm(h) W_head^T
// Names are those of the authors' MambaLMHeadModel.
#pragma once

#include <string>
#include <vector>

#include "models/reference/gated_delta_net.h"
#include "models/reference/lstm.h"
#include "models/reference/mamba2.h"
#include "models/reference/mamba3.h"

namespace statelab::reference {

/// Logits (batch, seqlen, padded vocabulary) of tokens (batch, seqlen).
template <class S>
std::vector<S> model_logits(const ModelConfig& config, const Parameters<S>& parameters,
                            const std::vector<int32_t>& tokens, int batch, int seqlen) {
  const int d = config.d_model, V = config.padded_vocab(), rows = batch * seqlen;
  const auto& embedding = parameter(parameters, "backbone.embedding.weight", std::size_t(V) * d);
  std::vector<S> h(std::size_t(rows) * d), normed(h.size());
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < d; ++i)
      h[std::size_t(r) * d + i] = embedding[std::size_t(tokens[r]) * d + i];
  }
  const auto norm_all = [&](const std::string& name) {
    const auto& w = parameter(parameters, name, d);
    for (int r = 0; r < rows; ++r)
      rms_norm(&h[std::size_t(r) * d], w.data(), d, &normed[std::size_t(r) * d]);
  };
  const auto add = [&](const std::vector<S>& x) {
    for (std::size_t i = 0; i < h.size(); ++i) h[i] += x[i];
  };
  for (int l = 0; l < config.n_layers; ++l) {
    const std::string layer = "backbone.layers." + std::to_string(l) + ".";
    norm_all(layer + "norm.weight");
    if (config.mixer == "mamba3") {
      add(mamba3_block(config, parameters, layer + "mixer.", normed, batch, seqlen));
    } else if (config.mixer == "mamba2") {
      add(mamba2_block(config, parameters, layer + "mixer.", normed, batch, seqlen));
    } else if (config.is_delta_rule()) {
      add(delta_rule_block(config, parameters, layer + "mixer.", normed, batch, seqlen));
    } else if (config.mixer == "lstm") {
      add(lstm_block(config, parameters, layer + "mixer.", normed, batch, seqlen));
    } else {
      throw std::invalid_argument(
          "[reference] mixer must be mamba3, mamba2, gated_delta_net, delta_net or lstm, is " +
          config.mixer);
    }
    if (config.mlp == "swiglu") {
      norm_all(layer + "norm2.weight");
      add(swiglu(normed, parameters.at(layer + "mlp.fc1.weight"),
                 parameters.at(layer + "mlp.fc2.weight"), rows, d));
    }
  }
  norm_all("backbone.norm_f.weight");
  const auto& head = config.tie_embeddings
                         ? embedding
                         : parameter(parameters, "lm_head.weight", std::size_t(V) * d);
  return linear(normed, head, rows, d, V);
}

/// Mean cross entropy over supervised positions (target >= 0); padding of the vocabulary does not
/// compete.
template <class S>
S model_loss(const ModelConfig& config, const Parameters<S>& parameters,
             const std::vector<int32_t>& tokens, const std::vector<int32_t>& targets, int batch,
             int seqlen) {
  return masked_cross_entropy(model_logits(config, parameters, tokens, batch, seqlen), targets,
                              config.padded_vocab(), config.vocab_size);
}

}  // namespace statelab::reference
