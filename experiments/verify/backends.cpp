// verify backends: every backend and precision against the fp64 engine at the shapes that train,
// and 50 training steps side by side with a literal optimiser.
#include <cmath>

#include "experiments/verify/findings.h"
#include "experiments/verify/model_variants.h"
#include "experiments/verify/production.h"
#include "models/cohort.h"
#include "models/reference/adamw.h"
#include "models/reference/residual_model.h"
#include "models/reference/tape.h"

namespace statelab::verify {
namespace {

using reference::Groups;

constexpr uint32_t kSystem = 1u << 24;

/// Outputs of an op, forward then backward, as one engine computes them.
struct OpTrace {
  std::vector<double> values;
  Groups gradients;
};

std::vector<OpArray> scan_inputs(const ScanOp& scan, const ModelConfig& config, int batch, int T,
                                 uint32_t seed) {
  const auto draw = [&](uint32_t group, std::size_t size, double lo, double hi) {
    return uniform_values(seed, kSystem, group, size, lo, hi);
  };
  std::vector<OpArray> in = {real_array({batch, T, scan.d_proj},
                                        draw(0, std::size_t(batch) * T * scan.d_proj, -1.5, 1.5))};
  for (const std::string& slot : scan.slots) {
    OpArray value = absent_array();
    for (const ParameterSpec& spec : parameter_specs(config)) {
      if (spec.name != "backbone.layers.0.mixer." + slot) continue;
      const bool matrix = spec.shape.rank() == 2;
      const double reach = 1 / std::sqrt(double(spec.shape.last()));
      value = real_array(spec.shape, draw(static_cast<uint32_t>(in.size()),
                                          static_cast<std::size_t>(spec.shape.size()),
                                          matrix ? -reach : 0.5, matrix ? reach : 1.5));
    }
    in.push_back(value);
  }
  return in;
}

OpArray scan_cotangent(const ModelConfig& config, int batch, int T, uint32_t seed) {
  return real_array(
      {batch, T, config.d_inner()},
      uniform_values(seed, kSystem, 40, std::size_t(batch) * T * config.d_inner(), -1, 1));
}

OpTrace trace_scan(const Engine& engine, const ModelConfig& config, int batch, int T,
                   uint32_t seed) {
  const ScanOp scan = scan_op(config);
  const std::vector<OpArray> in = scan_inputs(scan, config, batch, T, seed);
  const OpRun forward = engine.run(scan.forward, scan.attributes, in);
  std::vector<OpArray> back = {scan_cotangent(config, batch, T, seed)};
  back.insert(back.end(), in.begin(), in.end());
  back.insert(back.end(), forward.outputs.begin() + scan.kept, forward.outputs.end());
  OpTrace trace{forward.outputs[0].data, {}};
  const OpRun gradient = engine.run(scan.backward, scan.attributes, back);
  for (std::size_t i = 0; i < gradient.outputs.size(); ++i) {
    if (i == 0 || !in[i].absent) trace.gradients.push_back(gradient.outputs[i].data);
  }
  return trace;
}

/// The scan's row at one position of each sequence, and the gradients of a cotangent there: by the op that computes nothing else,
/// or picked from the whole scan.
OpTrace trace_scan_at(const Engine& engine, const ModelConfig& config, int batch, int T,
                      uint32_t seed, bool whole) {
  const ScanOp scan = scan_op(config);
  std::vector<OpArray> in = scan_inputs(scan, config, batch, T, seed);
  const std::size_t operands = in.size();
  std::vector<int32_t> at(std::size_t(batch) * T, -1);
  for (int b = 0; b < batch; ++b) at[std::size_t(b) * T + T / (b + 1) - 1] = 0;
  const OpArray targets = token_array({batch, T}, at), dy = scan_cotangent(config, batch, 1, seed);
  std::vector<OpArray> back;
  OpTrace trace;
  OpRun gradient;
  if (whole) {
    const OpRun forward = engine.run(scan.forward, scan.attributes, in);
    trace.values = engine.run(Op::kSelect, {}, {forward.outputs[0], targets}).outputs[0].data;
    back = {engine.run(Op::kSelectBwd, {}, {dy, targets}).outputs[0]};
    back.insert(back.end(), in.begin(), in.end());
    back.insert(back.end(), forward.outputs.begin() + scan.kept, forward.outputs.end());
    gradient = engine.run(scan.backward, scan.attributes, back);
  } else {
    const bool mamba3 = config.mixer == "mamba3";
    in.push_back(targets);
    const OpRun forward =
        engine.run(mamba3 ? Op::kMamba3ScanAt : Op::kMamba2ScanAt, scan.attributes, in);
    trace.values = forward.outputs[0].data;
    back = {dy};
    back.insert(back.end(), in.begin(), in.end());
    back.push_back(forward.outputs[1]);
    gradient =
        engine.run(mamba3 ? Op::kMamba3ScanAtBwd : Op::kMamba2ScanAtBwd, scan.attributes, back);
  }
  for (std::size_t i = 0; i < operands; ++i) {
    if (!in[i].absent) trace.gradients.push_back(gradient.outputs[i].data);
  }
  return trace;
}

OpTrace trace_linear(const Engine& engine, int rows, int n, int m, uint32_t seed) {
  const OpArray x =
      real_array({1, rows, n}, uniform_values(seed, kSystem, 50, std::size_t(rows) * n, -1, 1));
  const OpArray w =
      real_array({m, n}, uniform_values(seed, kSystem, 51, std::size_t(m) * n, -1, 1));
  const OpArray d =
      real_array({1, rows, m}, uniform_values(seed, kSystem, 52, std::size_t(rows) * m, -1, 1));
  return {engine.run(Op::kLinear, {}, {x, w}).outputs[0].data,
          {engine.run(Op::kLinearBwdX, {}, {d, w}).outputs[0].data,
           engine.run(Op::kLinearBwdW, {}, {d, x}).outputs[0].data}};
}

Findings compare_with(const OpTrace& expected, const std::string& expected_name, bool with_exact,
                      const std::string& name, const std::string& where,
                      const std::function<OpTrace(const Engine&)>& trace) {
  Findings found;
  for (const Engine& engine : engines()) {
    if (&engine == &engines().front() && !with_exact) continue;
    const OpTrace actual = trace(engine);
    const std::string identity = name + ": " + engine.name + " = " + expected_name;
    found.push_back({identity + ", values", relative_error(actual.values, expected.values),
                     engine.tolerance(), where, engine.reason(), "", false});
    found.push_back({identity + ", gradients",
                     gradient_error(actual.gradients, expected.gradients, engine.smallest_share()),
                     engine.tolerance(), where, engine.reason(), "", false});
  }
  return found;
}

Findings compare_engines(const std::string& name, const std::string& where,
                         const std::function<OpTrace(const Engine&)>& trace) {
  const Engine& exact = engines().front();
  return compare_with(trace(exact), exact.name, false, name, where, trace);
}

/// Logits and gradients of the loss at random weights.
OpTrace trace_model(const Engine& engine, const ModelConfig& config, int batch, int T,
                    uint32_t seed) {
  std::vector<std::string> names;
  const Groups at = random_parameters(config, seed, kSystem, &names);
  const auto size = static_cast<std::size_t>(batch) * T;
  std::vector<int32_t> tokens, targets;
  for (double u : uniform_values(seed, kSystem, 60, size, 0, config.vocab_size))
    tokens.push_back(static_cast<int32_t>(u));
  for (double u : uniform_values(seed, kSystem, 61, size, -1, config.vocab_size))
    targets.push_back(static_cast<int32_t>(std::floor(u)));
  const auto trace = [&](auto model) {
    for (std::size_t i = 0; i < names.size(); ++i) model.set(names[i], at[i]);
    model.run(tokens, targets);
    OpTrace out{model.logits(), {}};
    for (const std::string& name : names) out.gradients.push_back(model.gradient(name));
    return out;
  };
  if (engine.fp64) return trace(Model<double>(config, batch, T, true, engine.device));
  return trace(Model<float>(config, batch, T, true, engine.device));
}

/// Running parity of random bits, every position supervised but the first: something that can be
/// learnt a little.
class ParityBits : public DataSource {
 public:
  explicit ParityBits(uint32_t seed) : seed_(seed) {}
  void draw(int, uint32_t step, uint32_t sample, std::span<int32_t> tokens,
            std::span<int32_t> targets) const override {
    const auto u = uniform_values(seed_, kSystem + 1 + step, 1000 + sample, tokens.size(), 0, 2);
    int32_t parity = 0;
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      tokens[t] = static_cast<int32_t>(u[t]);
      parity ^= tokens[t];
      targets[t] = t == 0 ? -1 : parity;
    }
  }

 private:
  uint32_t seed_;
};

constexpr int kTrainingSteps = 50;

/// Loss and gradients of one batch at the given weights.
using LossAndGradients = std::function<double(
    const std::vector<std::vector<double>>& weights, const std::vector<int32_t>& tokens,
    const std::vector<int32_t>& targets, std::vector<std::vector<double>>& gradients)>;

/// The norm behind the delta rule magnifies outputs near zero, so rounding one weight to float moves
/// the losses of 50 steps at 1e-3 by up to a hundredth, in fp64 too; smaller steps stay comparable.
double learning_rate(const ModelConfig& config) {
  return config.mixer == "gated_delta_net" ? 1e-5 : 1e-3;
}

Findings train_side_by_side(const std::string& name, const ModelConfig& config, int batch, int T,
                            uint32_t seed, const Engine& engine, const LossAndGradients& evaluate) {
  CohortShape shape;
  shape.model = config;
  shape.batch = batch;
  shape.stages = {{kTrainingSteps, T}};
  shape.schedule.name = "constant";
  shape.schedule.warmup = 0;
  MemberSettings settings;
  settings.init_seed = seed;
  settings.lr = learning_rate(config);
  const ParityBits data(seed);
  TrainCohort cohort(shape, {&settings, 1}, data, engine.device);

  reference::AdamWState state;
  reference::AdamWSettings adamw{settings.lr,
                                 settings.beta1,
                                 settings.beta2,
                                 settings.eps,
                                 settings.weight_decay,
                                 settings.clip_norm,
                                 {}};
  const MemberState start = cohort.snapshot(0);
  const std::vector<ParameterSpec> specs = parameter_specs(config);
  for (std::size_t i = 0; i < specs.size(); ++i) {
    state.weights.emplace_back(start.weights[i].data.begin(), start.weights[i].data.end());
    state.exp_avg.emplace_back(start.weights[i].data.size(), 0.0);
    adamw.decays.push_back(specs[i].decays);
  }
  state.exp_avg_sq = state.exp_avg;

  double loss_error = 0, norm_error = 0, first_loss = 0, last_loss = 0;
  std::vector<int32_t> tokens(static_cast<std::size_t>(batch) * T), targets(tokens.size());
  for (int step = 0; step < kTrainingSteps; ++step) {
    for (int b = 0; b < batch; ++b) {
      const std::size_t at = static_cast<std::size_t>(b) * T;
      data.draw(0, static_cast<uint32_t>(step), static_cast<uint32_t>(b),
                std::span(tokens).subspan(at, static_cast<std::size_t>(T)),
                std::span(targets).subspan(at, static_cast<std::size_t>(T)));
    }
    std::vector<std::vector<double>> gradients;
    const double loss = evaluate(state.weights, tokens, targets, gradients);
    const double norm = reference::adamw_step(state, gradients, adamw);
    cohort.run(1);
    const TrainMetrics metrics = cohort.read_metrics(0);
    const auto worse = [](double so_far, double e) {
      return e <= so_far ? so_far : e;
    };  // keeps NaN
    loss_error = worse(loss_error, std::abs(metrics.loss - loss) / std::abs(loss));
    norm_error = worse(norm_error, std::abs(metrics.grad_norm - norm) / std::abs(norm));
    if (step == 0) first_loss = loss;
    last_loss = loss;
  }
  double weight_error = 0;
  const MemberState end = cohort.snapshot(0);
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const std::vector<double> trained(end.weights[i].data.begin(), end.weights[i].data.end());
    const double moved = kTrainingSteps * settings.lr;  // AdamW moves a weight by about lr a step
    weight_error = std::max(weight_error, relative_error(trained, state.weights[i], moved));
  }
  char note[80];
  std::snprintf(note, sizeof note, "loss %.4f to %.4f", first_loss, last_loss);
  const std::string where = std::to_string(kTrainingSteps) +
                            " steps, batch=" + std::to_string(batch) + " T=" + std::to_string(T);
  const std::string identity = "training " + name + " and " + engine.name + ": ";
  return {{identity + "losses", loss_error, 1e-3, where, "fp32 drift over 50 steps", note, false},
          {identity + "gradient norms", norm_error, 1e-2, where, "fp32 drift over 50 steps", note,
           false},
          {identity + "final weights", weight_error, 2e-2, where, "share of the distance moved",
           note, false}};
}

/// Loss and gradients by the production graph in fp64.
LossAndGradients by_fp64_graph(const ModelConfig& config, int batch, int T) {
  const auto model = std::make_shared<Model<double>>(config, batch, T, true);
  return [model](const auto& weights, const auto& tokens, const auto& targets, auto& gradients) {
    const auto& specs = model->parameters();
    for (std::size_t i = 0; i < specs.size(); ++i) model->set(specs[i].name, weights[i]);
    const double loss = model->run(tokens, targets);
    for (const ParameterSpec& spec : specs) gradients.push_back(model->gradient(spec.name));
    return loss;
  };
}

/// Loss and gradients by the literal recurrences on a tape.
LossAndGradients by_literal(const ModelConfig& config, int batch, int T) {
  return [config, batch, T](const auto& weights, const auto& tokens, const auto& targets,
                            auto& gradients) {
    reference::Recording tape(weights);
    reference::Parameters<reference::Var> parameters;
    const auto specs = parameter_specs(config);
    for (std::size_t i = 0; i < specs.size(); ++i) parameters[specs[i].name] = tape.inputs[i];
    const reference::Var loss =
        reference::model_loss(config, parameters, tokens, targets, batch, T);
    gradients = tape.gradient({loss}, {1.0});
    return loss.value;
  };
}

}  // namespace

Findings backends_suite(const SuiteOptions& options) {
  std::vector<std::function<Findings()>> checks;
  ModelConfig big;
  big.d_model = 64, big.headdim = 64, big.d_state = 64;
  ModelConfig mamba2 = big;
  mamba2.mixer = "mamba2";
  ModelConfig gated_delta_net = big, delta_net = big;
  gated_delta_net.mixer = "gated_delta_net", gated_delta_net.eigenvalue_min = -1;
  delta_net.mixer = "delta_net", delta_net.eigenvalue_min = -1;
  const int T = options.quick ? 65 : 160;
  const uint32_t seed = options.seed;
  ModelConfig lstm = big;
  lstm.mixer = "lstm";
  checks.push_back([=] {
    return compare_engines("lstm", "batch=3 T=" + std::to_string(T) + " 128 units",
                           [&](const Engine& e) { return trace_scan(e, lstm, 3, T, seed); });
  });
  for (const ModelConfig& config : {big, mamba2, gated_delta_net, delta_net}) {
    checks.push_back([=] {
      return compare_engines(
          scan_op(config).name + (config.is_delta_rule() ? ", " + config.mixer : ""),
          "batch=3 T=" + std::to_string(T) + " H=2 P=64 N=64",
          [&](const Engine& e) { return trace_scan(e, config, 3, T, seed); });
    });
  }
  for (const ModelConfig& config : {big, mamba2}) {
    checks.push_back([=] {
      const Engine& exact = engines().front();
      return compare_with(
          trace_scan_at(exact, config, 3, T, seed, true), "whole scan, " + exact.name, true,
          scan_op(config).name + " at one position",
          "batch=3 T=" + std::to_string(T) + " H=2 P=64 N=64",
          [&](const Engine& e) { return trace_scan_at(e, config, 3, T, seed, false); });
    });
  }
  checks.push_back([=] {
    return compare_engines("linear", "3 x T=" + std::to_string(T) + " 64->406",
                           [&](const Engine& e) { return trace_linear(e, 3 * T, 64, 406, seed); });
  });
  for (const Variant& variant : model_variants()) {
    checks.push_back([=] {
      return compare_engines(
          "model " + variant.name, "batch=2 T=" + std::to_string(T),
          [&](const Engine& e) { return trace_model(e, variant.config, 2, T, seed); });
    });
  }
  for (const char* mixer : {"mamba3", "mamba2", "gated_delta_net", "lstm"}) {
    ModelConfig tiny;
    tiny.mixer = mixer;
    if (tiny.mixer == "gated_delta_net") tiny.eigenvalue_min = -1, tiny.conv = true;
    tiny.d_model = 8, tiny.headdim = 8, tiny.d_state = 4, tiny.chunk_size = 8;
    for (const Engine& engine : engines()) {
      if (engine.fp64) continue;
      checks.push_back([=] {
        return train_side_by_side(std::string(mixer) + ", literal fp64", tiny, 4, 12, seed, engine,
                                  by_literal(tiny, 4, 12));
      });
    }
    ModelConfig small = tiny;
    small.d_model = 32, small.headdim = 16, small.d_state = 16, small.n_layers = 2,
    small.chunk_size = 16;
    for (const Engine& engine : engines()) {
      if (engine.fp64) continue;
      checks.push_back([=] {
        return train_side_by_side(std::string(mixer) + ", fp64 graph", small, 8, 24, seed, engine,
                                  by_fp64_graph(small, 8, 24));
      });
    }
  }
  return find_in_parallel(static_cast<int>(checks.size()), options.threads,
                          [&](int i) { return checks[static_cast<std::size_t>(i)](); });
}

}  // namespace statelab::verify
