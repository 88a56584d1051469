// Rotations of four channels by unit quaternions: the smallest ones that do not commute (SU(2),
// acting on the left).
//
// Channels 4b..4b+3 hold (w, x, y, z) of one quaternion. Code convention, as for plane rotations
// with +Phi:
//   s_t = exp(axis_t),  g_t = g_{t-1} s_t (new factor on the RIGHT),  khat = g k',  qhat = g q'
// (Hamilton products) and the scan of mamba3.h. It equals the literal recurrence that multiplies
// the state by conj(s_t) on the left. axis = (phi, 0, 0) turns planes (0, 1) and (2, 3) by +phi.
#pragma once

#include <cmath>
#include <vector>

#include "models/reference/scalar.h"

namespace statelab::reference {

template <class S>
struct Quaternion {
  S w{}, x{}, y{}, z{};
  friend Quaternion operator*(const Quaternion& p, const Quaternion& q) {
    return {p.w * q.w - p.x * q.x - p.y * q.y - p.z * q.z,
            p.w * q.x + p.x * q.w + p.y * q.z - p.z * q.y,
            p.w * q.y - p.x * q.z + p.y * q.w + p.z * q.x,
            p.w * q.z + p.x * q.y - p.y * q.x + p.z * q.w};
  }
  friend Quaternion operator+(const Quaternion& p, const Quaternion& q) {
    return {p.w + q.w, p.x + q.x, p.y + q.y, p.z + q.z};
  }
  friend Quaternion operator*(const S& c, const Quaternion& q) {
    return {c * q.w, c * q.x, c * q.y, c * q.z};
  }
};

template <class S>
Quaternion<S> conjugate(const Quaternion<S>& q) {
  return {q.w, -q.x, -q.y, -q.z};
}

/// sin(r) / r and (cos(r) - sin(r)/r) / r^2 from r^2, by series near 0.
template <class S>
void exponential_factors(const S& r2, S& sinc, S& slope, S& cosine) {
  using std::cos;
  using std::sin;
  using std::sqrt;
  if (real_part(r2) < 1e-3) {
    sinc = S(1) - r2 / S(6) * (S(1) - r2 / S(20) * (S(1) - r2 / S(42) * (S(1) - r2 / S(72))));
    slope = S(-1.0 / 3) * (S(1) - r2 / S(10) * (S(1) - r2 / S(28) * (S(1) - r2 / S(54))));
    cosine = S(1) - r2 / S(2) * (S(1) - r2 / S(12) * (S(1) - r2 / S(30) * (S(1) - r2 / S(56))));
    return;
  }
  const S r = sqrt(r2);
  sinc = sin(r) / r;
  cosine = cos(r);
  slope = (cosine - sinc) / r2;
}

/// (cos r, sin r / r * axis), r = |axis|.
template <class S>
Quaternion<S> quaternion_exp(const S* axis) {
  S sinc, slope, cosine;
  exponential_factors(S(axis[0] * axis[0] + axis[1] * axis[1] + axis[2] * axis[2]), sinc, slope,
                      cosine);
  return {cosine, sinc * axis[0], sinc * axis[1], sinc * axis[2]};
}

template <class S>
struct QuaternionInputs {
  int seqlen = 0, blocks = 0, headdim = 0;  ///< d_state = 4 * blocks
  std::vector<S> q, k;                      ///< (seqlen, d_state)
  std::vector<S> q_bias, k_bias;            ///< (d_state)
  std::vector<S> v;                         ///< (seqlen, headdim)
  std::vector<S> a, dt, trap;               ///< (seqlen)
  std::vector<S> axis;                      ///< (seqlen, blocks, 3)
  S D = S(0);
};

/// Everything that the backward pass needs, and o (seqlen, headdim).
template <class S>
struct QuaternionOutputs {
  std::vector<S> o;
  std::vector<S> khat, qhat;     ///< (seqlen, d_state)
  std::vector<Quaternion<S>> g;  ///< (seqlen, blocks)
  std::vector<S> lookahead;  ///< G_t = H_t + delta_{t+1} v_t khat_t^T  (seqlen, headdim, d_state)
};

/// Which side a new factor of the prefix goes; kLeft is wrong and serves as a negative control.
enum class PrefixSide { kRight, kLeft };

/// Prefix products and a scan with scalar decay.
template <class S>
QuaternionOutputs<S> quaternion_scan(const QuaternionInputs<S>& in,
                                     PrefixSide side = PrefixSide::kRight) {
  using std::exp;
  const int N = 4 * in.blocks, P = in.headdim, T = in.seqlen;
  QuaternionOutputs<S> out;
  out.o.assign(std::size_t(T) * P, S(0));
  out.khat.resize(std::size_t(T) * N);
  out.qhat.resize(std::size_t(T) * N);
  std::vector<Quaternion<S>> g(in.blocks, Quaternion<S>{S(1), S(0), S(0), S(0)});
  std::vector<S> state(std::size_t(P) * N, S(0));
  for (int t = 0; t < T; ++t) {
    for (int b = 0; b < in.blocks; ++b) {
      const Quaternion<S> s = quaternion_exp(&in.axis[(std::size_t(t) * in.blocks + b) * 3]);
      g[b] = side == PrefixSide::kRight ? g[b] * s : s * g[b];
      out.g.push_back(g[b]);
      const auto turn = [&](const std::vector<S>& x, const std::vector<S>& bias,
                            std::vector<S>& hat) {
        const std::size_t at = std::size_t(t) * N + 4 * b;
        const Quaternion<S> r =
            g[b] * Quaternion<S>{x[at] + bias[4 * b], x[at + 1] + bias[4 * b + 1],
                                 x[at + 2] + bias[4 * b + 2], x[at + 3] + bias[4 * b + 3]};
        hat[at] = r.w, hat[at + 1] = r.x, hat[at + 2] = r.y, hat[at + 3] = r.z;
      };
      turn(in.k, in.k_bias, out.khat);
      turn(in.q, in.q_bias, out.qhat);
    }
    const S lambda = sigmoid(in.trap[t]), gamma = lambda * in.dt[t], alpha = exp(in.a[t]);
    const S next_delta = t + 1 < T ? (S(1) - sigmoid(in.trap[t + 1])) * in.dt[t + 1] : S(0);
    const S* khat = &out.khat[std::size_t(t) * N];
    const S* qhat = &out.qhat[std::size_t(t) * N];
    for (int p = 0; p < P; ++p) {
      const S v = in.v[std::size_t(t) * P + p];
      S o = in.D * v;
      for (int i = 0; i < N; ++i) {
        S& G = state[std::size_t(p) * N + i];
        const S h = alpha * G + gamma * v * khat[i];
        o += h * qhat[i];
        G = h + next_delta * v * khat[i];
        out.lookahead.push_back(G);
      }
      out.o[std::size_t(t) * P + p] = o;
    }
  }
  return out;
}

/// The literal recurrence: the state itself is turned by conj(s_t) on the left, B and C stay as
/// they are. o (seqlen, headdim).
template <class S>
std::vector<S> literal_quaternion(const QuaternionInputs<S>& in) {
  using std::exp;
  const int N = 4 * in.blocks, P = in.headdim;
  std::vector<S> o(std::size_t(in.seqlen) * P, S(0));
  std::vector<Quaternion<S>> h(std::size_t(P) * in.blocks, Quaternion<S>{S(0), S(0), S(0), S(0)});
  for (int t = 0; t < in.seqlen; ++t) {
    const S lambda = sigmoid(in.trap[t]), gamma = lambda * in.dt[t],
            delta = (S(1) - lambda) * in.dt[t];
    const S alpha = exp(in.a[t]);
    for (int b = 0; b < in.blocks; ++b) {
      const Quaternion<S> r =
          conjugate(quaternion_exp(&in.axis[(std::size_t(t) * in.blocks + b) * 3]));
      const auto biased = [&](const std::vector<S>& x, const std::vector<S>& bias, int s) {
        const std::size_t at = std::size_t(s) * N + 4 * b;
        return Quaternion<S>{x[at] + bias[4 * b], x[at + 1] + bias[4 * b + 1],
                             x[at + 2] + bias[4 * b + 2], x[at + 3] + bias[4 * b + 3]};
      };
      const Quaternion<S> k = biased(in.k, in.k_bias, t), q = biased(in.q, in.q_bias, t);
      for (int p = 0; p < P; ++p) {
        Quaternion<S>& hp = h[std::size_t(p) * in.blocks + b];
        Quaternion<S> u = hp;
        if (t > 0)
          u = u + S(delta * in.v[std::size_t(t - 1) * P + p]) * biased(in.k, in.k_bias, t - 1);
        hp = alpha * (r * u) + S(gamma * in.v[std::size_t(t) * P + p]) * k;
        o[std::size_t(t) * P + p] += q.w * hp.w + q.x * hp.x + q.y * hp.y + q.z * hp.z;
      }
    }
    for (int p = 0; p < P; ++p) o[std::size_t(t) * P + p] += in.D * in.v[std::size_t(t) * P + p];
  }
  return o;
}

/// Gradients of sum(o * do) with respect to every input, in the inputs' shapes.
/// The scan's adjoint walks back over the lookahead states; a cotangent of g is the quaternion of
/// its four partials.
template <class S>
QuaternionInputs<S> quaternion_scan_backward(const QuaternionInputs<S>& in,
                                             const QuaternionOutputs<S>& fwd,
                                             const std::vector<S>& d_o) {
  using std::exp;
  const int N = 4 * in.blocks, P = in.headdim, T = in.seqlen;
  QuaternionInputs<S> d = in;
  for (std::vector<S>* v :
       {&d.q, &d.k, &d.q_bias, &d.k_bias, &d.v, &d.a, &d.dt, &d.trap, &d.axis}) {
    for (S& x : *v) x = S(0);
  }
  d.D = S(0);
  std::vector<S> Gb(std::size_t(P) * N, S(0));  // cotangent of G_t
  std::vector<Quaternion<S>> acc(in.blocks, Quaternion<S>{S(0), S(0), S(0), S(0)});
  const auto load = [](const S* x) { return Quaternion<S>{x[0], x[1], x[2], x[3]}; };
  for (int t = T - 1; t >= 0; --t) {
    const S lambda = sigmoid(in.trap[t]), gamma = lambda * in.dt[t], alpha = exp(in.a[t]);
    const S next_delta = t + 1 < T ? (S(1) - sigmoid(in.trap[t + 1])) * in.dt[t + 1] : S(0);
    const S s = gamma + next_delta;
    const S* khat = &fwd.khat[std::size_t(t) * N];
    const S* qhat = &fwd.qhat[std::size_t(t) * N];
    S c(0);
    for (int i = 0; i < N; ++i) c += khat[i] * qhat[i];
    std::vector<S> dkhat(N, S(0)), dqhat(N, S(0));
    S ds(0), da(0), ov(0);
    for (int p = 0; p < P; ++p) {
      const S v = in.v[std::size_t(t) * P + p], o = d_o[std::size_t(t) * P + p];
      S dv = (gamma * c + in.D) * o;
      ov += o * v;
      for (int i = 0; i < N; ++i) {
        const S G = t > 0 ? fwd.lookahead[(std::size_t(t - 1) * P + p) * N + i] : S(0);
        S& gb = Gb[std::size_t(p) * N + i];
        ds += v * gb * khat[i];
        dv += s * gb * khat[i];
        dkhat[i] += s * gb * v;
        dqhat[i] += alpha * G * o;
        da += alpha * (gb * G + o * G * qhat[i]);
        gb = alpha * (gb + o * qhat[i]);
      }
      d.v[std::size_t(t) * P + p] = dv;
    }
    d.D += ov;
    d.a[t] = da;
    const S dgamma = ds + c * ov, dc = gamma * ov;
    d.dt[t] += lambda * dgamma;
    d.trap[t] += in.dt[t] * dgamma * lambda * (S(1) - lambda);
    if (t + 1 < T) {  // delta_{t+1} enters s_t
      const S next = sigmoid(in.trap[t + 1]);
      d.dt[t + 1] += (S(1) - next) * ds;
      d.trap[t + 1] -= in.dt[t + 1] * ds * next * (S(1) - next);
    }
    for (int b = 0; b < in.blocks; ++b) {
      const std::size_t at = std::size_t(t) * N + 4 * b;
      const Quaternion<S> g = fwd.g[std::size_t(t) * in.blocks + b];
      const auto biased = [&](const std::vector<S>& x, const std::vector<S>& bias) {
        return Quaternion<S>{x[at] + bias[4 * b], x[at + 1] + bias[4 * b + 1],
                             x[at + 2] + bias[4 * b + 2], x[at + 3] + bias[4 * b + 3]};
      };
      const Quaternion<S> q = biased(in.q, in.q_bias), k = biased(in.k, in.k_bias);
      const Quaternion<S> dqh = load(&dqhat[4 * b]), dkh = load(&dkhat[4 * b]);
      const Quaternion<S> dq = conjugate(g) * dqh + dc * k, dk = conjugate(g) * dkh + dc * q;
      const auto store = [&](const Quaternion<S>& x, std::vector<S>& to, std::vector<S>& bias) {
        const S parts[4] = {x.w, x.x, x.y, x.z};
        for (int i = 0; i < 4; ++i) {
          to[at + i] = parts[i];
          bias[4 * b + i] += parts[i];
        }
      };
      store(dq, d.q, d.q_bias);
      store(dk, d.k, d.k_bias);

      // g_t = g_{t-1} s_t: the cotangent of g_t gathers its own uses and what g_{t+1} passes back.
      const S* axis = &in.axis[(std::size_t(t) * in.blocks + b) * 3];
      acc[b] = dqh * conjugate(q) + dkh * conjugate(k) + acc[b];
      const Quaternion<S> before =
          t > 0 ? fwd.g[std::size_t(t - 1) * in.blocks + b] : Quaternion<S>{S(1), S(0), S(0), S(0)};
      const Quaternion<S> dstep = conjugate(before) * acc[b];
      acc[b] = acc[b] * conjugate(quaternion_exp(axis));
      S sinc, slope, cosine;
      exponential_factors(S(axis[0] * axis[0] + axis[1] * axis[1] + axis[2] * axis[2]), sinc, slope,
                          cosine);
      const S along =
          (dstep.x * axis[0] + dstep.y * axis[1] + dstep.z * axis[2]) * slope - dstep.w * sinc;
      const S vec[3] = {dstep.x, dstep.y, dstep.z};
      for (int i = 0; i < 3; ++i)
        d.axis[(std::size_t(t) * in.blocks + b) * 3 + i] = vec[i] * sinc + axis[i] * along;
    }
  }
  return d;
}

}  // namespace statelab::reference
