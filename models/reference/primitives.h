// The layers around a mixer as plain loops: linear maps, norms, the short convolution, SwiGLU and
// the loss.
//
// Arrays are row-major std::vector or pointers. "rows" counts everything in front of the last axis.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "models/reference/scalar.h"

namespace statelab::reference {

inline constexpr double kNormEpsilon = 1e-5;
inline constexpr int kConvWidth = 4;

/// Parameters of one member by their official name, row-major.
template <class S>
using Parameters = std::map<std::string, std::vector<S>>;

/// The parameter called `name`, which must have `size` elements. Throws std::invalid_argument with
/// both sizes.
template <class S>
const std::vector<S>& parameter(const Parameters<S>& parameters, const std::string& name,
                                std::size_t size) {
  const auto it = parameters.find(name);
  if (it == parameters.end())
    throw std::invalid_argument("[reference] parameter " + name + " is missing");
  if (it->second.size() != size) {
    throw std::invalid_argument("[reference] parameter " + name + " needs " + std::to_string(size) +
                                " elements, has " + std::to_string(it->second.size()));
  }
  return it->second;
}

/// y = x W^T;  x (rows, in), W (out, in), y (rows, out).
template <class S>
std::vector<S> linear(const std::vector<S>& x, const std::vector<S>& W, int rows, int in, int out) {
  std::vector<S> y(static_cast<std::size_t>(rows) * out, S(0));
  for (int r = 0; r < rows; ++r) {
    for (int o = 0; o < out; ++o) {
      S sum(0);
      for (int i = 0; i < in; ++i) sum += x[std::size_t(r) * in + i] * W[std::size_t(o) * in + i];
      y[std::size_t(r) * out + o] = sum;
    }
  }
  return y;
}

/// y_i = x_i / sqrt(mean(x^2) + eps) * w_i over n channels; y may be x.
template <class S>
void rms_norm(const S* x, const S* w, int n, S* y, double eps = kNormEpsilon) {
  using std::sqrt;
  S squares(0);
  for (int i = 0; i < n; ++i) squares += x[i] * x[i];
  const S r = S(1) / sqrt(squares / S(double(n)) + S(eps));
  for (int i = 0; i < n; ++i) y[i] = x[i] * r * w[i];
}

/// Statistics over consecutive groups of group_size channels; the weight stays per channel.
template <class S>
void grouped_rms_norm(const S* x, const S* w, int n, int group_size, S* y,
                      double eps = kNormEpsilon) {
  for (int g = 0; g < n; g += group_size) rms_norm(x + g, w + g, group_size, y + g, eps);
}

/// y = RMS_w(x * silu(z)): the gate first (norm_before_gate = False).
template <class S>
void gated_rms_norm_after(const S* x, const S* z, const S* w, int n, int group_size, S* y,
                          double eps = kNormEpsilon) {
  std::vector<S> gated(n);
  for (int i = 0; i < n; ++i) gated[i] = x[i] * silu(z[i]);
  grouped_rms_norm(gated.data(), w, n, group_size, y, eps);
}

/// y = RMS_w(x) * silu(z): the norm first (norm_before_gate = True).
template <class S>
void gated_rms_norm_before(const S* x, const S* z, const S* w, int n, int group_size, S* y,
                           double eps = kNormEpsilon) {
  std::vector<S> normed(n);
  grouped_rms_norm(x, w, n, group_size, normed.data(), eps);
  for (int i = 0; i < n; ++i) y[i] = normed[i] * silu(z[i]);
}

/// y_i = x_i / sqrt(sum x^2 + eps).
template <class S>
void l2_norm(const S* x, int n, S* y, double eps = 1e-6) {
  using std::sqrt;
  S squares(0);
  for (int i = 0; i < n; ++i) squares += x[i] * x[i];
  const S r = S(1) / sqrt(squares + S(eps));
  for (int i = 0; i < n; ++i) y[i] = x[i] * r;
}

/// Depthwise causal convolution of one sequence, then SiLU:
///   y[t, c] = silu(b_c + sum_j w[c, j] x[t - 3 + j, c]),  x[<0] = 0;   x, y (seqlen, channels), w
///   (channels, 1, 4).
/// `bias` may be null.
template <class S>
std::vector<S> causal_conv_silu(const std::vector<S>& x, const S* w, const S* bias, int seqlen,
                                int channels) {
  std::vector<S> y(x.size());
  for (int t = 0; t < seqlen; ++t) {
    for (int c = 0; c < channels; ++c) {
      S sum = bias ? bias[c] : S(0);
      for (int j = 0; j < kConvWidth; ++j) {
        const int s = t - (kConvWidth - 1) + j;
        if (s >= 0) sum += w[std::size_t(c) * kConvWidth + j] * x[std::size_t(s) * channels + c];
      }
      y[std::size_t(t) * channels + c] = silu(sum);
    }
  }
  return y;
}

/// causal_conv_silu on columns [begin, begin + channels) of x (batch, seqlen, width), in place; the
/// others stay. An empty bias is zero.
template <class S>
void convolve_columns(std::vector<S>& x, const std::vector<S>& w, const std::vector<S>& bias,
                      int batch, int seqlen, int width, int begin, int channels) {
  for (int b = 0; b < batch; ++b) {
    std::vector<S> part;
    for (int t = 0; t < seqlen; ++t) {
      const S* row = &x[(std::size_t(b) * seqlen + t) * width + begin];
      part.insert(part.end(), row, row + channels);
    }
    part = causal_conv_silu(part, w.data(), bias.empty() ? nullptr : bias.data(), seqlen, channels);
    for (int t = 0; t < seqlen; ++t) {
      for (int c = 0; c < channels; ++c) {
        x[(std::size_t(b) * seqlen + t) * width + begin + c] = part[std::size_t(t) * channels + c];
      }
    }
  }
}

/// SwiGLU: fc1 (2F, d) gives the value u (first F rows) and the gate g; y = (u * silu(g)) fc2^T,
/// fc2 (d, F).
template <class S>
std::vector<S> swiglu(const std::vector<S>& x, const std::vector<S>& fc1, const std::vector<S>& fc2,
                      int rows, int d) {
  const int F = static_cast<int>(fc2.size() / std::size_t(d));
  if (fc1.size() != std::size_t(2) * F * d) {
    throw std::invalid_argument("[reference] swiglu: fc1 needs " +
                                std::to_string(std::size_t(2) * F * d) + " elements, has " +
                                std::to_string(fc1.size()));
  }
  const std::vector<S> both = linear(x, fc1, rows, d, 2 * F);
  std::vector<S> m(std::size_t(rows) * F);
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < F; ++i) {
      m[std::size_t(r) * F + i] =
          both[std::size_t(r) * 2 * F + i] * silu(both[std::size_t(r) * 2 * F + F + i]);
    }
  }
  return linear(m, fc2, rows, F, d);
}

/// Mean over supervised rows (target >= 0) of logsumexp(logits) - logits[target] over the first
/// `classes` columns; the rest is padding. logits (rows, columns). No supervised row: 0.
template <class S>
S masked_cross_entropy(const std::vector<S>& logits, const std::vector<int32_t>& targets,
                       int columns, int classes) {
  using std::exp;
  using std::log;
  S sum(0);
  int count = 0;
  for (std::size_t r = 0; r < targets.size(); ++r) {
    if (targets[r] < 0) continue;
    const S* l = &logits[r * std::size_t(columns)];
    double top = double(real_part(l[0]));
    for (int v = 1; v < classes; ++v) top = real_part(l[v]) > top ? double(real_part(l[v])) : top;
    S total(0);
    for (int v = 0; v < classes; ++v) total += exp(l[v] - S(top));
    sum += log(total) + S(top) - l[targets[r]];
    ++count;
  }
  return count == 0 ? sum : sum / S(double(count));
}

}  // namespace statelab::reference
