// Mamba-2 as its equations read. The scan, for one sequence and one head:
//   H_t = alpha_t H_{t-1} + dt_t x_t B_t^T,   o_t = H_t C_t + D x_t
//   alpha_t = lo + (hi - lo) exp(dt_t A)
// Eigenvalue range [0, 1] gives exp(dt A), [-1, 1] gives 2 exp(dt A) - 1.
// Source: Mamba-2 paper and authors' module; the range [-1, 1] carries over the substitution of
// Grazzi et al.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "models/model_config.h"
#include "models/reference/primitives.h"

namespace statelab::reference {

template <class S>
struct Mamba2Inputs {
  int seqlen = 0, d_state = 0, headdim = 0;
  std::vector<S> C, B;  ///< (seqlen, d_state)
  std::vector<S> x;     ///< (seqlen, headdim)
  std::vector<S> dt;    ///< (seqlen), > 0
  S A = S(0), D = S(0);
  double eigenvalue_min = 0, eigenvalue_max = 1;
};

template <class S>
struct Mamba2Outputs {
  std::vector<S> o;      ///< (seqlen, headdim)
  std::vector<S> state;  ///< (headdim, d_state)
};

/// `state`: what to continue from; empty = 0.
template <class S>
Mamba2Outputs<S> mamba2_scan(const Mamba2Inputs<S>& in, const std::vector<S>& state = {}) {
  using std::exp;
  const int N = in.d_state, P = in.headdim;
  Mamba2Outputs<S> out;
  out.o.assign(std::size_t(in.seqlen) * P, S(0));
  out.state = state.empty() ? std::vector<S>(std::size_t(P) * N, S(0)) : state;
  for (int t = 0; t < in.seqlen; ++t) {
    const S alpha =
        S(in.eigenvalue_min) + S(in.eigenvalue_max - in.eigenvalue_min) * exp(in.dt[t] * in.A);
    for (int p = 0; p < P; ++p) {
      const S x = in.x[std::size_t(t) * P + p];
      S o = in.D * x;
      for (int i = 0; i < N; ++i) {
        S& h = out.state[std::size_t(p) * N + i];
        h = alpha * h + in.dt[t] * x * in.B[std::size_t(t) * N + i];
        o += h * in.C[std::size_t(t) * N + i];
      }
      out.o[std::size_t(t) * P + p] = o;
    }
  }
  return out;
}

/// Everything between the convolution and out_proj: [z, x, B, C, dd_dt] = proj with x, B, C already
/// convolved, scan per head, gate first, then RMSNorm over groups of d_inner / G channels. Shapes:
/// proj (batch, seqlen, 2 d_inner + 2 G N + H), result (batch, seqlen, d_inner).
template <class S>
std::vector<S> mamba2_inner(const ModelConfig& config, const Parameters<S>& parameters,
                            const std::string& prefix, const std::vector<S>& proj, int batch,
                            int seqlen) {
  using std::exp;
  const int d_inner = config.d_inner(), H = config.nheads(), P = config.headdim;
  const int N = config.d_state, G = config.ngroups, d_bc = G * N,
            d_proj = 2 * d_inner + 2 * d_bc + H;
  const auto get = [&](const char* name, std::size_t elements) -> const std::vector<S>& {
    return parameter(parameters, prefix + name, elements);
  };
  const auto& dt_bias = get("dt_bias", H);
  const auto& A_log = get("A_log", H);
  const auto& D = get("D", H);
  const auto& norm = get("norm.weight", d_inner);
  std::vector<S> y(std::size_t(batch) * seqlen * d_inner);
  for (int b = 0; b < batch; ++b) {
    const S* row0 = &proj[std::size_t(b) * seqlen * d_proj];
    std::vector<S> o(std::size_t(seqlen) * d_inner);
    for (int h = 0; h < H; ++h) {
      const int group = h / (H / G);
      Mamba2Inputs<S> in;
      in.seqlen = seqlen, in.d_state = N, in.headdim = P;
      in.A = -exp(A_log[h]);
      in.D = D[h];
      in.eigenvalue_min = config.eigenvalue_min;
      in.eigenvalue_max = config.eigenvalue_max;
      for (int t = 0; t < seqlen; ++t) {
        const S* row = row0 + std::size_t(t) * d_proj;
        for (int p = 0; p < P; ++p) in.x.push_back(row[d_inner + h * P + p]);
        for (int i = 0; i < N; ++i) {
          in.B.push_back(row[2 * d_inner + group * N + i]);
          in.C.push_back(row[2 * d_inner + d_bc + group * N + i]);
        }
        in.dt.push_back(softplus(S(row[2 * d_inner + 2 * d_bc + h] + dt_bias[h])));
      }
      const Mamba2Outputs<S> scan = mamba2_scan(in);
      for (int t = 0; t < seqlen; ++t) {
        for (int p = 0; p < P; ++p)
          o[std::size_t(t) * d_inner + h * P + p] = scan.o[std::size_t(t) * P + p];
      }
    }
    for (int t = 0; t < seqlen; ++t) {
      gated_rms_norm_after(&o[std::size_t(t) * d_inner], row0 + std::size_t(t) * d_proj,
                           norm.data(), d_inner, d_inner / G,
                           &y[(std::size_t(b) * seqlen + t) * d_inner]);
    }
  }
  return y;
}

/// The whole mixer: in_proj, xBC = silu(conv(xBC)), mamba2_inner, out_proj. u and the result
/// (batch, seqlen, d_model).
template <class S>
std::vector<S> mamba2_block(const ModelConfig& config, const Parameters<S>& parameters,
                            const std::string& prefix, const std::vector<S>& u, int batch,
                            int seqlen) {
  const int d = config.d_model, d_inner = config.d_inner(),
            d_conv = d_inner + 2 * config.ngroups * config.d_state;
  const int d_proj = d_inner + d_conv + config.nheads();
  const auto get = [&](const char* name, std::size_t elements) -> const std::vector<S>& {
    return parameter(parameters, prefix + name, elements);
  };
  std::vector<S> proj =
      linear(u, get("in_proj.weight", std::size_t(d_proj) * d), batch * seqlen, d, d_proj);
  convolve_columns(proj, get("conv1d.weight", std::size_t(d_conv) * kConvWidth),
                   get("conv1d.bias", d_conv), batch, seqlen, d_proj, d_inner, d_conv);
  const std::vector<S> y = mamba2_inner(config, parameters, prefix, proj, batch, seqlen);
  return linear(y, get("out_proj.weight", std::size_t(d) * d_inner), batch * seqlen, d_inner, d);
}

}  // namespace statelab::reference
