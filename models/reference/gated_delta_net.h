// Gated DeltaNet as its equations read. The rule, for one sequence and one head (state S is K x V):
//   q, k l2-normalised (1e-6 inside the root), beta = beta_max sigmoid(b)
//   S' = exp(g_t) S_{t-1},  r = v_t - S'^T k_t,  S_t = S' + beta_t k_t r^T
//   o_t = K^(-1/2) S_t^T q_t
// so the transition is exp(g)(I - beta k k^T); beta_max = 2 lets its eigenvalue along k reach -1.
// Source: Yang, Kautz, Hatamizadeh, "Gated Delta Networks"; flash-linear-attention's layer.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "models/model_config.h"
#include "models/reference/primitives.h"

namespace statelab::reference {

template <class S>
struct GatedDeltaInputs {
  int seqlen = 0, key_dim = 0, value_dim = 0;
  std::vector<S> q, k;  ///< (seqlen, key_dim), raw: normalised inside
  std::vector<S> v;     ///< (seqlen, value_dim)
  std::vector<S> b, g;  ///< (seqlen): logit of beta, log decay <= 0
  double beta_max = 1;  ///< 1 or 2
};

/// o (seqlen, value_dim).
template <class S>
std::vector<S> gated_delta_rule(const GatedDeltaInputs<S>& in) {
  using std::exp;
  const int K = in.key_dim, V = in.value_dim;
  std::vector<S> state(std::size_t(K) * V, S(0)), q(K), k(K), o(std::size_t(in.seqlen) * V);
  const S scale(1 / std::sqrt(double(K)));
  for (int t = 0; t < in.seqlen; ++t) {
    l2_norm(&in.q[std::size_t(t) * K], K, q.data());
    l2_norm(&in.k[std::size_t(t) * K], K, k.data());
    const S beta = S(in.beta_max) * sigmoid(in.b[t]), decay = exp(in.g[t]);
    for (int j = 0; j < V; ++j) {
      S r = in.v[std::size_t(t) * V + j];
      for (int i = 0; i < K; ++i) {
        state[std::size_t(i) * V + j] = decay * state[std::size_t(i) * V + j];
        r -= state[std::size_t(i) * V + j] * k[i];
      }
      S out(0);
      for (int i = 0; i < K; ++i) {
        state[std::size_t(i) * V + j] += beta * k[i] * r;
        out += state[std::size_t(i) * V + j] * q[i];
      }
      o[std::size_t(t) * V + j] = scale * out;
    }
  }
  return o;
}

struct GatedDeltaNetShape {
  int d_model = 0, nheads = 1, key_dim = 0, value_dim = 0;
  double beta_max = 1;
  double norm_epsilon = kNormEpsilon;
};

/// The layer as its authors wire it, with their parameter names: a projection and a convolution
/// each for q, k and v, output gate, a head of q and k per head of v; u and the result (batch,
/// seqlen, d_model).
template <class S>
std::vector<S> gated_delta_net_block(const GatedDeltaNetShape& shape,
                                     const Parameters<S>& parameters, const std::string& prefix,
                                     const std::vector<S>& u, int batch, int seqlen) {
  using std::exp;
  const int d = shape.d_model, H = shape.nheads, K = shape.key_dim, V = shape.value_dim,
            rows = batch * seqlen;
  const auto get = [&](const std::string& name, std::size_t size) -> const std::vector<S>& {
    return parameter(parameters, prefix + name, size);
  };
  const auto project = [&](const std::string& name, int out) {
    return linear(u, get(name + "_proj.weight", std::size_t(out) * d), rows, d, out);
  };
  const auto convolve = [&](const std::string& name, int channels) {
    const std::vector<S> x = project(name, channels);
    const auto& w = get(name + "_conv1d.weight", std::size_t(channels) * kConvWidth);
    std::vector<S> y;
    for (int b = 0; b < batch; ++b) {
      const auto begin = x.begin() + std::ptrdiff_t(b) * seqlen * channels;
      const std::vector<S> one(begin, begin + std::ptrdiff_t(seqlen) * channels);
      const std::vector<S> conv =
          causal_conv_silu(one, w.data(), static_cast<const S*>(nullptr), seqlen, channels);
      y.insert(y.end(), conv.begin(), conv.end());
    }
    return y;
  };
  const std::vector<S> q = convolve("q", H * K), k = convolve("k", H * K), v = convolve("v", H * V);
  const std::vector<S> gate = project("g", H * V), raw_b = project("b", H), raw_a = project("a", H);
  const auto& A_log = get("A_log", H);
  const auto& dt_bias = get("dt_bias", H);
  const auto& o_norm = get("o_norm.weight", V);
  std::vector<S> y(std::size_t(rows) * H * V);
  for (int b = 0; b < batch; ++b) {
    for (int h = 0; h < H; ++h) {
      GatedDeltaInputs<S> in;
      in.seqlen = seqlen, in.key_dim = K, in.value_dim = V, in.beta_max = shape.beta_max;
      for (int t = 0; t < seqlen; ++t) {
        const std::size_t row = std::size_t(b) * seqlen + t;
        for (int i = 0; i < K; ++i) {
          in.q.push_back(q[row * H * K + h * K + i]);
          in.k.push_back(k[row * H * K + h * K + i]);
        }
        for (int j = 0; j < V; ++j) in.v.push_back(v[row * H * V + h * V + j]);
        in.b.push_back(raw_b[row * H + h]);
        in.g.push_back(-exp(A_log[h]) * softplus(S(raw_a[row * H + h] + dt_bias[h])));
      }
      const std::vector<S> o = gated_delta_rule(in);
      for (int t = 0; t < seqlen; ++t) {
        const std::size_t at = ((std::size_t(b) * seqlen + t) * H + h) * V;
        gated_rms_norm_before(&o[std::size_t(t) * V], &gate[at], o_norm.data(), V, V, &y[at],
                              shape.norm_epsilon);
      }
    }
  }
  return linear(y, get("o_proj.weight", std::size_t(d) * H * V), rows, H * V, d);
}

/// Everything between the convolution and out_proj of gated_delta_net and delta_net:
///   proj (batch, seqlen, d_proj) = [q G*K | k G*K | v H*V | gate H*V | a H | b H]
/// and the result (batch, seqlen, d_inner). Head h reads q and k of group h div (H / G). delta_net
/// has neither gate nor a: g = 0, and the norm alone follows the rule. Without a convolution, which
/// applies it, SiLU of q, k and v happens here.
template <class S>
std::vector<S> delta_rule_inner(const ModelConfig& config, const Parameters<S>& parameters,
                                const std::string& prefix, const std::vector<S>& proj, int batch,
                                int seqlen) {
  using std::exp;
  const bool gated = config.mixer == "gated_delta_net";
  const int H = config.nheads(), G = config.ngroups, K = config.d_state, V = config.headdim;
  const int v0 = 2 * G * K, gate0 = v0 + H * V, a0 = gate0 + H * V, b0 = gated ? a0 + H : gate0,
            d_proj = b0 + H;
  const auto get = [&](const char* name, std::size_t elements) -> const std::vector<S>& {
    return parameter(parameters, prefix + name, elements);
  };
  const auto& norm = get("norm.weight", V);
  const auto act = [&](const S& x) { return config.conv ? x : silu(x); };
  std::vector<S> y(std::size_t(batch) * seqlen * H * V);
  for (int b = 0; b < batch; ++b) {
    for (int h = 0; h < H; ++h) {
      const int group = h / (H / G);
      GatedDeltaInputs<S> in;
      in.seqlen = seqlen, in.key_dim = K, in.value_dim = V;
      in.beta_max = config.eigenvalue_min < 0 ? 2 : 1;
      for (int t = 0; t < seqlen; ++t) {
        const S* row = &proj[(std::size_t(b) * seqlen + t) * d_proj];
        for (int i = 0; i < K; ++i) {
          in.q.push_back(act(row[group * K + i]));
          in.k.push_back(act(row[(G + group) * K + i]));
        }
        for (int j = 0; j < V; ++j) in.v.push_back(act(row[v0 + h * V + j]));
        in.b.push_back(row[b0 + h]);
        in.g.push_back(gated ? -exp(get("A_log", H)[h]) *
                                   softplus(S(row[a0 + h] + get("dt_bias", H)[h]))
                             : S(0));
      }
      const std::vector<S> o = gated_delta_rule(in);
      for (int t = 0; t < seqlen; ++t) {
        const std::size_t at = std::size_t(b) * seqlen + t;
        const S* o_t = &o[std::size_t(t) * V];
        S* y_t = &y[(at * H + h) * V];
        if (gated) {
          gated_rms_norm_before(o_t, &proj[at * d_proj + gate0 + h * V], norm.data(), V, V, y_t);
        } else {
          rms_norm(o_t, norm.data(), V, y_t);
        }
      }
    }
  }
  return y;
}

/// The whole mixer of the production model: in_proj, q, k, v = silu(conv(q, k, v)) where there is a
/// convolution (it has no bias), delta_rule_inner, out_proj. u and the result (batch, seqlen,
/// d_model).
template <class S>
std::vector<S> delta_rule_block(const ModelConfig& config, const Parameters<S>& parameters,
                                const std::string& prefix, const std::vector<S>& u, int batch,
                                int seqlen) {
  const bool gated = config.mixer == "gated_delta_net";
  const int d = config.d_model, d_inner = config.d_inner(), H = config.nheads(),
            d_conv = 2 * config.ngroups * config.d_state + d_inner,
            d_proj = d_conv + (gated ? d_inner + 2 * H : H);
  const auto get = [&](const char* name, std::size_t elements) -> const std::vector<S>& {
    return parameter(parameters, prefix + name, elements);
  };
  std::vector<S> proj =
      linear(u, get("in_proj.weight", std::size_t(d_proj) * d), batch * seqlen, d, d_proj);
  if (config.conv) {
    convolve_columns(proj, get("conv1d.weight", std::size_t(d_conv) * kConvWidth), {}, batch,
                     seqlen, d_proj, 0, d_conv);
  }
  const std::vector<S> y = delta_rule_inner(config, parameters, prefix, proj, batch, seqlen);
  return linear(y, get("out_proj.weight", std::size_t(d) * d_inner), batch * seqlen, d_inner, d);
}

}  // namespace statelab::reference
