// An LSTM layer as its equations read. For one sequence, states h and c of H units, zero before the first token:
//   (i, f, g, o) = x_t + W_hh h_{t-1} + b                       x_t = in_proj u_t, PyTorch's order of the gates
//   c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g),   h_t = sigmoid(o) tanh(c_t),   out_t = out_proj h_t
// Source: Hochreiter & Schmidhuber 1997, with the forget gate of Gers, Schmidhuber & Cummins 2000; torch.nn.LSTM, whose two
// biases are one here and whose weight_ih is in_proj.weight.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "models/model_config.h"
#include "models/reference/primitives.h"

namespace statelab::reference {

/// h (batch, seqlen, hidden) from x (batch, seqlen, 4 hidden).
template <class S>
std::vector<S> lstm(const std::vector<S>& x, const std::vector<S>& weight_hh,
                    const std::vector<S>& bias, int batch, int seqlen, int hidden) {
  using std::tanh;
  std::vector<S> out;
  for (int b = 0; b < batch; ++b) {
    std::vector<S> h(hidden, S(0)), c(hidden, S(0)), next(hidden);
    for (int t = 0; t < seqlen; ++t) {
      for (int u = 0; u < hidden; ++u) {
        S gate[4];
        for (int q = 0; q < 4; ++q) {
          const std::size_t row = std::size_t(q) * hidden + u;
          gate[q] = x[(std::size_t(b) * seqlen + t) * 4 * hidden + row] + bias[row];
          for (int k = 0; k < hidden; ++k) gate[q] += weight_hh[row * hidden + k] * h[k];
        }
        c[u] = sigmoid(gate[1]) * c[u] + sigmoid(gate[0]) * S(tanh(gate[2]));
        next[u] = sigmoid(gate[3]) * S(tanh(c[u]));
      }
      h = next;
      out.insert(out.end(), h.begin(), h.end());
    }
  }
  return out;
}

/// The whole mixer; u and the result (batch, seqlen, d_model).
template <class S>
std::vector<S> lstm_block(const ModelConfig& config, const Parameters<S>& parameters,
                          const std::string& prefix, const std::vector<S>& u, int batch,
                          int seqlen) {
  const int d = config.d_model, H = config.d_inner(), rows = batch * seqlen;
  const auto get = [&](const std::string& name, std::size_t size) -> const std::vector<S>& {
    return parameter(parameters, prefix + name, size);
  };
  const std::vector<S> x = linear(u, get("in_proj.weight", std::size_t(4) * H * d), rows, d, 4 * H);
  const std::vector<S> h = lstm(x, get("weight_hh", std::size_t(4) * H * H),
                                get("bias", std::size_t(4) * H), batch, seqlen, H);
  return linear(h, get("out_proj.weight", std::size_t(d) * H), rows, H, d);
}

}  // namespace statelab::reference
