#include "experiments/transition.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>

#include "models/model.h"

namespace statelab {
namespace {

using Quantity = TransitionSeries::Quantity;
using Values = std::vector<double>;

constexpr int kTokensPerPass = 16384;  // bounds the memory of a pass; no number depends on it
constexpr double kL2Eps = 1e-6;        // of the delta rules' normed keys

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double softplus(double x) { return x > 20 ? x : std::log1p(std::exp(x)); }
double heavy_tail(double x) { return x >= 0 ? 1 + x : 1 / (1 - x); }

/// A layer's parameters by their last name, and what its recurrence read, (positions, width).
class Layer {
 public:
  Layer(int index, const MemberState& weights, const Values& proj, int width)
      : index_(index),
        prefix_("backbone.layers." + std::to_string(index) + ".mixer."),
        weights_(weights),
        proj_(proj),
        width_(static_cast<size_t>(width)) {}

  int index() const { return index_; }
  size_t positions() const { return proj_.size() / width_; }
  const double* at(size_t position) const { return proj_.data() + position * width_; }
  /// Empty where the model has none.
  std::vector<float> parameter(const std::string& name) const {
    for (const NamedTensor& t : weights_.weights) {
      if (t.name == prefix_ + name) return t.data;
    }
    return {};
  }

 private:
  int index_;
  std::string prefix_;
  const MemberState& weights_;
  const Values& proj_;
  size_t width_;
};

TransitionSeries series(const Layer& layer, Quantity quantity, int head) {
  TransitionSeries s;
  s.quantity = quantity;
  s.layer = layer.index();
  s.head = head;
  s.values.resize(layer.positions());
  return s;
}

/// B or C of one group at one position as the scan rotates it: normed, with the head's bias.
void prepared(const double* raw, int n, const std::vector<float>& norm,
              const std::vector<float>& bias, int head, double eps, Values& out) {
  double scale = 1;
  if (!norm.empty()) {
    double squares = 0;
    for (int i = 0; i < n; ++i) squares += raw[i] * raw[i];
    scale = 1 / std::sqrt(squares / n + eps);
  }
  out.resize(static_cast<size_t>(n));
  for (int i = 0; i < n; ++i) {
    const auto u = static_cast<size_t>(i);
    out[u] = raw[i] * scale * (norm.empty() ? 1 : norm[u]) +
             (bias.empty() ? 0 : bias[static_cast<size_t>(head * n + i)]);
  }
}

/// Shares of the rotated pairs in a head's scores.
Values pair_weights(const Layer& layer, const Mamba3ScanAttrs& a, int head) {
  const auto B_norm = layer.parameter("B_norm.weight"), C_norm = layer.parameter("C_norm.weight"),
             B_bias = layer.parameter("B_bias"), C_bias = layer.parameter("C_bias");
  const int N = a.d_state, group = head / (a.nheads / a.ngroups),
            blocks = N - a.nangles;  // rotated pairs, then single channels
  Values b2(static_cast<size_t>(blocks)), c2(b2.size()), B, C;
  for (size_t t = 0; t < layer.positions(); ++t) {
    const double* row = layer.at(t) + 2 * a.d_inner();
    prepared(row + group * N, N, B_norm, B_bias, head, a.eps, B);
    prepared(row + (a.ngroups + group) * N, N, C_norm, C_bias, head, a.eps, C);
    for (int i = 0; i < N; ++i) {
      const auto block = static_cast<size_t>(i < 2 * a.nangles ? i / 2 : i - a.nangles);
      b2[block] += B[static_cast<size_t>(i)] * B[static_cast<size_t>(i)];
      c2[block] += C[static_cast<size_t>(i)] * C[static_cast<size_t>(i)];
    }
  }
  Values weight(b2.size());
  double sum = 0;
  for (size_t j = 0; j < weight.size(); ++j) sum += weight[j] = std::sqrt(b2[j] * c2[j]);
  for (double& w : weight) w = sum > 0 ? w / sum : 0;
  weight.resize(static_cast<size_t>(a.nangles));
  return weight;
}

void mamba3(const ModelConfig& c, const Layer& layer, std::vector<TransitionSeries>& out) {
  using A = Mamba3ScanAttrs;
  const A a = mamba3_attrs(c);
  const auto dt_bias = layer.parameter("dt_bias");
  const int dt_column = 2 * a.d_inner() + 2 * a.ngroups * a.d_state,
            A_column = dt_column + a.nheads, angle_column = A_column + 2 * a.nheads;
  const auto dt_of = [&](const double* row, int h) {
    return softplus(row[dt_column + h] + dt_bias[static_cast<size_t>(h)]);
  };
  for (int h = 0; h < a.nheads; ++h) {
    TransitionSeries decay = series(layer, Quantity::kDecay, h);
    for (size_t t = 0; t < layer.positions(); ++t) {
      const double* row = layer.at(t);
      const double raw = row[A_column + h];
      const double rate = std::max(a.heavy_tail ? heavy_tail(raw) : softplus(raw), a.a_floor);
      decay.values[t] = std::exp(-rate * dt_of(row, h));
    }
    out.push_back(std::move(decay));
    if (a.rotation == A::Rotation::kNone) continue;
    const Values weight = pair_weights(layer, a, h);
    for (int j = 0; j < a.nangles; ++j) {
      TransitionSeries angle = series(layer, Quantity::kAngle, h);
      angle.pair = j;
      angle.weight = weight[static_cast<size_t>(j)];
      const double fixed =
          std::pow(10000.0, -static_cast<double>(j) / a.nangles) / std::numbers::pi;
      for (size_t t = 0; t < layer.positions(); ++t) {
        const double* row = layer.at(t);
        angle.values[t] = wrapped_turns(a.rotation == A::Rotation::kStandard
                                            ? fixed
                                            : dt_of(row, h) * std::tanh(row[angle_column + j]));
      }
      out.push_back(std::move(angle));
    }
  }
}

void mamba2(const ModelConfig& c, const Layer& layer, std::vector<TransitionSeries>& out) {
  const Mamba2ScanAttrs a = mamba2_attrs(c);
  const auto dt_bias = layer.parameter("dt_bias"), A_log = layer.parameter("A_log");
  const int dt_column = 2 * a.d_inner() + 2 * a.ngroups * a.d_state;
  for (int h = 0; h < a.nheads; ++h) {
    const auto u = static_cast<size_t>(h);
    TransitionSeries decay = series(layer, Quantity::kDecay, h);
    for (size_t t = 0; t < layer.positions(); ++t) {
      const double dt = softplus(layer.at(t)[dt_column + h] + dt_bias[u]);
      const double alpha = std::exp(-dt * std::exp(static_cast<double>(A_log[u])));
      decay.values[t] = a.negative_eigenvalues ? 2 * alpha - 1 : alpha;
    }
    out.push_back(std::move(decay));
  }
}

void delta(const ModelConfig& c, const Layer& layer, std::vector<TransitionSeries>& out) {
  const GatedDeltaScanAttrs a = gated_delta_attrs(c);
  const auto dt_bias = layer.parameter("dt_bias"), A_log = layer.parameter("A_log");
  const int K = a.d_state, b_column = a.d_proj() - a.nheads, a_column = b_column - a.nheads;
  for (int h = 0; h < a.nheads; ++h) {
    const auto u = static_cast<size_t>(h);
    const int k_column = (a.ngroups + h / (a.nheads / a.ngroups)) * K;
    TransitionSeries decay = series(layer, Quantity::kDecay, h),
                     eigenvalue = series(layer, Quantity::kEigenvalue, h);
    for (size_t t = 0; t < layer.positions(); ++t) {
      const double* row = layer.at(t);
      const double g = a.decay ? -std::exp(static_cast<double>(A_log[u])) *
                                     softplus(row[a_column + h] + dt_bias[u])
                               : 0;
      double squares = 0;
      for (int i = 0; i < K; ++i) {
        double k = row[k_column + i];
        if (a.activate) k *= sigmoid(k);
        squares += k * k;
      }
      const double beta = a.beta_max * sigmoid(row[b_column + h]);
      decay.values[t] = std::exp(g);
      eigenvalue.values[t] = std::exp(g) * (1 - beta * squares / (squares + kL2Eps));
    }
    if (a.decay) out.push_back(std::move(decay));
    out.push_back(std::move(eigenvalue));
  }
}

void lstm(const ModelConfig& c, int layer, const Values& gates,
          std::vector<TransitionSeries>& out) {
  TransitionSeries forget;
  forget.quantity = Quantity::kForgetGate;
  forget.layer = layer;
  forget.head = -1;
  forget.units = c.d_inner();
  const auto hidden = static_cast<ptrdiff_t>(forget.units);
  for (auto row = gates.begin(); row != gates.end(); row += 4 * hidden)
    forget.values.insert(forget.values.end(), row + hidden, row + 2 * hidden);
  out.push_back(std::move(forget));
}

}  // namespace

double wrapped_turns(double turns) { return turns - 2 * std::ceil((turns - 1) / 2); }

double arithmetic_mean(std::span<const double> values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

double circular_mean(std::span<const double> turns) {
  double x = 0, y = 0;
  for (const double t : turns) {
    x += std::cos(std::numbers::pi * t);
    y += std::sin(std::numbers::pi * t);
  }
  return wrapped_turns(std::atan2(y, x) / std::numbers::pi);
}

const char* quantity_name(Quantity quantity) {
  switch (quantity) {
    case Quantity::kDecay:
      return "decay";
    case Quantity::kAngle:
      return "angle";
    case Quantity::kEigenvalue:
      return "eigenvalue";
    case Quantity::kForgetGate:
      return "forget_gate";
  }
  return "";
}

std::vector<TransitionSeries> transitions(const ModelConfig& config, const MemberState& weights,
                                          std::span<const int32_t> tokens,
                                          std::span<const int32_t> targets, int samples, int seqlen,
                                          int threads) {
  const bool is_lstm = config.mixer == "lstm";
  std::vector<std::string> names;
  for (int l = 0; l < config.n_layers; ++l) {
    names.push_back("backbone.layers." + std::to_string(l) + ".mixer." +
                    (is_lstm ? "gates" : "proj"));
  }
  const int batch = std::clamp(kTokensPerPass / seqlen, 1, samples);
  Model<float> model(config, batch, seqlen, false, threads, names);
  for (const NamedTensor& t : weights.weights)
    model.set(t.name, std::vector<double>(t.data.begin(), t.data.end()));
  std::vector<Values> read(names.size());
  const auto row = static_cast<size_t>(seqlen);
  for (int begin = 0; begin < samples; begin += batch) {
    std::vector<int32_t> x, y;  // a last pass that is not full takes the first sequences again
    for (int b = 0; b < batch; ++b) {
      const size_t at = static_cast<size_t>((begin + b) % samples) * row;
      x.insert(x.end(), tokens.begin() + static_cast<ptrdiff_t>(at),
               tokens.begin() + static_cast<ptrdiff_t>(at + row));
      y.insert(y.end(), targets.begin() + static_cast<ptrdiff_t>(at),
               targets.begin() + static_cast<ptrdiff_t>(at + row));
    }
    model.run(x, y);
    const int used = std::min(batch, samples - begin);
    for (size_t l = 0; l < names.size(); ++l) {
      const Values values = model.observed(names[l]);
      const auto count = static_cast<ptrdiff_t>(values.size()) / batch * used;
      read[l].insert(read[l].end(), values.begin(), values.begin() + count);
    }
  }
  std::vector<TransitionSeries> out;
  for (int l = 0; l < config.n_layers; ++l) {
    const Values& values = read[static_cast<size_t>(l)];
    if (is_lstm) {
      lstm(config, l, values, out);
      continue;
    }
    const auto positions = static_cast<size_t>(samples) * row;
    const Layer layer(l, weights, values, static_cast<int>(values.size() / positions));
    if (config.mixer == "mamba3") {
      mamba3(config, layer, out);
    } else if (config.mixer == "mamba2") {
      mamba2(config, layer, out);
    } else {
      delta(config, layer, out);
    }
  }
  return out;
}

}  // namespace statelab
