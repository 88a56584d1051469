// Mamba-3 (SISO) as its equations read: explicit states, one token at a time.
//
// The scan, for one sequence and one head (state H is headdim x d_state, * is elementwise):
//   lambda = sigmoid(trap), gamma = lambda dt, delta = (1 - lambda) dt, alpha = exp(a)
//   Phi_t  = sum_{s<=t} dt_s pi tanh(ang_s), inclusive; pair (2j, 2j+1) turns by +Phi[j]
//   khat   = Rot(Phi)(k + k_bias),  qhat = Rot(Phi)(q + q_bias)
//   H_t    = alpha_t H_{t-1} + alpha_t delta_t v_{t-1} khat_{t-1}^T + gamma_t v_t khat_t^T
//   o_t    = H_t qhat_t + D v_t
//   y_t    = o_t * silu(z_t)
// First step: no state and no previous term. Source: Mamba-3 paper (Propositions 2-4), authors'
// step reference.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "models/model_config.h"
#include "models/reference/primitives.h"

namespace statelab::reference {

enum class Rotation { kDataDependent, kStandard, kNone };
enum class Discretization { kTrapezoidal, kEuler, kHalf };  ///< lambda = sigmoid(trap) | 1 | 1/2

inline Rotation rotation_named(const std::string& name) {
  if (name == "data_dependent") return Rotation::kDataDependent;
  if (name == "standard") return Rotation::kStandard;
  if (name == "none") return Rotation::kNone;
  throw std::invalid_argument("[mamba3] rotation must be data_dependent, standard or none, is " +
                              name);
}

inline Discretization discretization_named(const std::string& name) {
  if (name == "trapezoidal") return Discretization::kTrapezoidal;
  if (name == "euler") return Discretization::kEuler;
  if (name == "half") return Discretization::kHalf;
  throw std::invalid_argument("[mamba3] discretization must be trapezoidal, euler or half, is " +
                              name);
}

/// Rotated angles per head: half of the largest even number of channels in d_state * rope_fraction.
inline int rotation_angles(int d_state, double rope_fraction) {
  const int rotated = static_cast<int>(d_state * rope_fraction);
  return (rotated - rotated % 2) / 2;
}

/// What one head of one sequence sees. Empty z: no gate (y = o).
template <class S>
struct Mamba3Inputs {
  int seqlen = 0, d_state = 0, headdim = 0, nangles = 0;
  std::vector<S> q, k;            ///< (seqlen, d_state), after B/C norm, before bias and rotation
  std::vector<S> q_bias, k_bias;  ///< (d_state)
  std::vector<S> v;               ///< (seqlen, headdim)
  std::vector<S> a, dt, trap;     ///< (seqlen): log decay <= 0, step size > 0, logit of lambda
  std::vector<S> ang;  ///< (seqlen, nangles), before pi tanh; unused unless data dependent
  std::vector<S> z;    ///< (seqlen, headdim), gate before SiLU
  S D = S(0);
};

/// What a later call needs to continue: all zero before the first token.
template <class S>
struct Mamba3Carry {
  std::vector<S> phi;    ///< (nangles)
  std::vector<S> state;  ///< H (headdim, d_state)
  std::vector<S> khat;   ///< (d_state), previous rotated key
  std::vector<S> v;      ///< (headdim), previous value
  int position = 0;      ///< tokens seen: only the standard rotation looks at it
};

template <class S>
struct Mamba3Outputs {
  std::vector<S> o, y;  ///< (seqlen, headdim), before and after the gate
  Mamba3Carry<S> last;
};

/// Rotates the interleaved pairs (2j, 2j+1), j < phi.size(), of x by phi[j].
template <class S>
void rotate_pairs(std::vector<S>& x, const std::vector<S>& phi) {
  using std::cos;
  using std::sin;
  for (std::size_t j = 0; j < phi.size(); ++j) {
    const S c = cos(phi[j]), s = sin(phi[j]), x0 = x[2 * j], x1 = x[2 * j + 1];
    x[2 * j] = x0 * c - x1 * s;
    x[2 * j + 1] = x0 * s + x1 * c;
  }
}

/// The three-term recurrence above. `first`: state to continue from, or null.
template <class S>
Mamba3Outputs<S> mamba3_scan(const Mamba3Inputs<S>& in, Rotation rotation,
                             Discretization discretization, const Mamba3Carry<S>* first = nullptr) {
  using std::exp;
  using std::tanh;
  const int N = in.d_state, P = in.headdim, n = in.nangles;
  Mamba3Outputs<S> out;
  out.o.assign(std::size_t(in.seqlen) * P, S(0));
  out.y = out.o;
  Mamba3Carry<S>& c = out.last;
  if (first != nullptr) {
    c = *first;
  } else {
    c.phi.assign(n, S(0));
    c.state.assign(std::size_t(P) * N, S(0));
    c.khat.assign(N, S(0));
    c.v.assign(P, S(0));
  }
  for (int t = 0; t < in.seqlen; ++t) {
    const S dt = in.dt[t], alpha = exp(in.a[t]);
    S lambda(1);
    if (discretization == Discretization::kTrapezoidal) lambda = sigmoid(in.trap[t]);
    if (discretization == Discretization::kHalf) lambda = S(0.5);
    const S gamma = lambda * dt, delta = (S(1) - lambda) * dt;

    for (int j = 0; j < n; ++j) {
      if (rotation == Rotation::kDataDependent)
        c.phi[j] += dt * S(kPi) * tanh(in.ang[std::size_t(t) * n + j]);
      if (rotation == Rotation::kStandard)
        c.phi[j] = S((c.position + t) * std::pow(10000.0, -double(j) / n));
    }
    std::vector<S> khat(N), qhat(N);
    for (int i = 0; i < N; ++i) {
      khat[i] = in.k[std::size_t(t) * N + i] + in.k_bias[i];
      qhat[i] = in.q[std::size_t(t) * N + i] + in.q_bias[i];
    }
    if (rotation != Rotation::kNone) {
      rotate_pairs(khat, c.phi);
      rotate_pairs(qhat, c.phi);
    }
    for (int p = 0; p < P; ++p) {
      const S v = in.v[std::size_t(t) * P + p];
      S o = in.D * v;
      for (int i = 0; i < N; ++i) {
        S& h = c.state[std::size_t(p) * N + i];
        h = alpha * h + alpha * delta * c.v[p] * c.khat[i] + gamma * v * khat[i];
        o += h * qhat[i];
      }
      out.o[std::size_t(t) * P + p] = o;
      out.y[std::size_t(t) * P + p] = in.z.empty() ? o : o * silu(in.z[std::size_t(t) * P + p]);
    }
    c.khat = khat;
    for (int p = 0; p < P; ++p) c.v[p] = in.v[std::size_t(t) * P + p];
  }
  c.position += in.seqlen;
  return out;
}

/// What the switches of ModelConfig make of one layer's sizes.
struct Mamba3Sizes {
  int H, P, N, G, angles, d_inner, d_conv, d_proj;
  explicit Mamba3Sizes(const ModelConfig& c)
      : H(c.nheads()),
        P(c.headdim),
        N(c.d_state),
        G(c.ngroups),
        angles(rotation_angles(N, c.rope_fraction)),
        d_inner(c.d_inner()),
        d_conv(d_inner + 2 * G * N),
        d_proj(d_inner + d_conv + 3 * H + angles) {}
};

/// Everything between in_proj (and the convolution) and out_proj:
///   [z, x, B, C, dd_dt, dd_A, trap, ang] = proj, sizes d_inner, d_inner, G N, G N, H, H, H, S
///   B, C = RMSNorm(B), RMSNorm(C) per group, then biases per head
///   dt = softplus(dd_dt + dt_bias),  a = -max(f(dd_A), a_floor) dt,  f = softplus | heavy_tail
///   out_norm rms: y = RMS_w(o; per head) * silu(z), otherwise y = o * silu(z)
/// Shapes: proj (batch, seqlen, d_proj), result (batch, seqlen, d_inner). Parameters are read as
/// prefix + official name.
template <class S>
std::vector<S> mamba3_inner(const ModelConfig& config, const Parameters<S>& parameters,
                            const std::string& prefix, const std::vector<S>& proj, int batch,
                            int seqlen) {
  const Mamba3Sizes size(config);
  const int H = size.H, P = size.P, N = size.N, d_inner = size.d_inner, d_bc = size.G * N;
  const Rotation rotation = rotation_named(config.rotation);
  const Discretization discretization = discretization_named(config.discretization);
  if (config.a_activation != "softplus" && config.a_activation != "heavy_tail") {
    throw std::invalid_argument("[mamba3] a_activation must be softplus or heavy_tail, is " +
                                config.a_activation);
  }
  const auto get = [&](const char* name, std::size_t elements) -> const std::vector<S>& {
    return parameter(parameters, prefix + name, elements);
  };
  const auto& dt_bias = get("dt_bias", H);
  const auto& D = get("D", H);
  std::vector<S> y(std::size_t(batch) * seqlen * d_inner);
  for (int b = 0; b < batch; ++b) {
    const S* row0 = &proj[std::size_t(b) * seqlen * size.d_proj];
    for (int h = 0; h < H; ++h) {
      const int group = h / (H / size.G);
      Mamba3Inputs<S> in;
      in.seqlen = seqlen, in.d_state = N, in.headdim = P, in.nangles = size.angles;
      in.D = D[h];
      in.k_bias.assign(N, S(0));
      in.q_bias.assign(N, S(0));
      if (config.bc_bias) {
        const auto& B_bias = get("B_bias", std::size_t(H) * N);
        const auto& C_bias = get("C_bias", std::size_t(H) * N);
        for (int i = 0; i < N; ++i) {
          in.k_bias[i] = B_bias[std::size_t(h) * N + i];
          in.q_bias[i] = C_bias[std::size_t(h) * N + i];
        }
      }
      for (int t = 0; t < seqlen; ++t) {
        const S* row = row0 + std::size_t(t) * size.d_proj;
        const S* heads = row + 2 * d_inner + 2 * d_bc;  // dd_dt (H), dd_A (H), trap (H), ang (S)
        for (int p = 0; p < P; ++p) {
          in.z.push_back(row[h * P + p]);
          in.v.push_back(row[d_inner + h * P + p]);
        }
        std::vector<S> B(row + 2 * d_inner + group * N, row + 2 * d_inner + (group + 1) * N);
        std::vector<S> C(row + 2 * d_inner + d_bc + group * N,
                         row + 2 * d_inner + d_bc + (group + 1) * N);
        if (config.bc_norm) {
          rms_norm(B.data(), get("B_norm.weight", N).data(), N, B.data());
          rms_norm(C.data(), get("C_norm.weight", N).data(), N, C.data());
        }
        in.k.insert(in.k.end(), B.begin(), B.end());
        in.q.insert(in.q.end(), C.begin(), C.end());
        const S dt = softplus(S(heads[h] + dt_bias[h]));
        S magnitude =
            config.a_activation == "softplus" ? softplus(heads[H + h]) : heavy_tail(heads[H + h]);
        if (real_part(magnitude) < config.a_floor) magnitude = S(config.a_floor);
        in.dt.push_back(dt);
        in.a.push_back(-magnitude * dt);
        in.trap.push_back(heads[2 * H + h]);
        for (int j = 0; j < size.angles; ++j) in.ang.push_back(heads[3 * H + j]);
      }
      const Mamba3Outputs<S> scan = mamba3_scan(in, rotation, discretization);
      for (int t = 0; t < seqlen; ++t) {
        S* dst = &y[(std::size_t(b) * seqlen + t) * d_inner + h * P];
        if (config.out_norm == "rms") {
          gated_rms_norm_before(&scan.o[std::size_t(t) * P], &in.z[std::size_t(t) * P],
                                &get("norm.weight", d_inner)[h * P], P, P, dst);
        } else {
          for (int p = 0; p < P; ++p) dst[p] = scan.y[std::size_t(t) * P + p];
        }
      }
    }
  }
  return y;
}

/// The whole mixer, from the residual stream to the residual stream, with every switch of
/// ModelConfig: in_proj, [x, B, C] = silu(conv([x, B, C])) where conv is on, mamba3_inner,
/// out_proj. u and the result (batch, seqlen, d_model).
template <class S>
std::vector<S> mamba3_block(const ModelConfig& config, const Parameters<S>& parameters,
                            const std::string& prefix, const std::vector<S>& u, int batch,
                            int seqlen) {
  const Mamba3Sizes size(config);
  const int d = config.d_model;
  const auto get = [&](const char* name, std::size_t elements) -> const std::vector<S>& {
    return parameter(parameters, prefix + name, elements);
  };
  std::vector<S> proj = linear(u, get("in_proj.weight", std::size_t(size.d_proj) * d),
                               batch * seqlen, d, size.d_proj);
  if (config.conv) {
    convolve_columns(proj, get("conv1d.weight", std::size_t(size.d_conv) * kConvWidth),
                     get("conv1d.bias", size.d_conv), batch, seqlen, size.d_proj, size.d_inner,
                     size.d_conv);
  }
  const std::vector<S> y = mamba3_inner(config, parameters, prefix, proj, batch, seqlen);
  return linear(y, get("out_proj.weight", std::size_t(d) * size.d_inner), batch * seqlen,
                size.d_inner, d);
}

}  // namespace statelab::reference
