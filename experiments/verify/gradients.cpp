// verify gradients: every differentiable op and every model, values and gradients, against the
// literal references. The reference's gradient comes from running the literal code on a tape,
// contracted with a fixed random cotangent.
#include <cmath>

#include "experiments/verify/findings.h"
#include "experiments/verify/model_variants.h"
#include "experiments/verify/production.h"
#include "models/reference/residual_model.h"
#include "models/reference/tape.h"

namespace statelab::verify {
namespace {

using namespace reference;  // NOLINT: the literal forms are what this file is about

/// Production's answer to one case: outputs and gradients in the groups' order.
struct Answer {
  std::vector<double> y;
  Groups gradients;
};

struct OpCase {
  std::string name, where;
  std::vector<std::string> groups;
  Groups at;
  std::function<std::vector<Var>(const std::vector<std::vector<Var>>&)> literal;
  std::function<Answer(const Engine&, const std::vector<double>& dy)> production;
};

/// Inputs drawn for one case, by group.
struct Draw {
  uint32_t seed, system;
  std::vector<double> operator()(uint32_t group, std::size_t size, double lo, double hi) const {
    return uniform_values(seed, (1u << 22) + system, group, size, lo, hi);
  }
};

std::vector<int32_t> random_tokens(const Draw& draw, uint32_t group, std::size_t size, int lo,
                                   int hi) {
  std::vector<int32_t> out;
  for (double u : draw(group, size, lo, hi)) out.push_back(static_cast<int32_t>(std::floor(u)));
  return out;
}

OpCase embedding_case(const Draw& draw) {
  const int V = 5, d = 7, B = 3, T = 11;
  const std::vector<int32_t> tokens = random_tokens(draw, 0, B * T, 0, V);
  OpCase c{"embedding", "V=5 d=7", {"weight"}, {draw(1, V * d, -1, 1)}, {}, {}};
  c.literal = [=](const auto& x) {
    std::vector<Var> y;
    for (int32_t token : tokens)
      y.insert(y.end(), x[0].begin() + token * d, x[0].begin() + (token + 1) * d);
    return y;
  };
  c.production = [=, at = c.at](const Engine& e, const std::vector<double>& dy) {
    const OpArray ids = token_array({B, T}, tokens), w = real_array({V, d}, at[0]);
    return Answer{
        e.run(Op::kEmbedding, {}, {ids, w}).outputs[0].data,
        {e.run(Op::kEmbeddingBwd, {}, {ids, real_array({B, T, d}, dy), w}).outputs[0].data}};
  };
  return c;
}

OpCase linear_case(const Draw& draw, int rows, int in, int out) {
  OpCase c{"linear",
           "rows=" + std::to_string(rows) + " " + std::to_string(in) + "->" + std::to_string(out),
           {"x", "weight"},
           {draw(0, std::size_t(rows) * in, -1, 1), draw(1, std::size_t(in) * out, -1, 1)},
           {},
           {}};
  c.literal = [=](const auto& x) { return linear(x[0], x[1], rows, in, out); };
  c.production = [=, at = c.at](const Engine& e, const std::vector<double>& dy) {
    const OpArray x = real_array({1, rows, in}, at[0]), w = real_array({out, in}, at[1]);
    const OpArray d = real_array({1, rows, out}, dy);
    return Answer{e.run(Op::kLinear, {}, {x, w}).outputs[0].data,
                  {e.run(Op::kLinearBwdX, {}, {d, w}).outputs[0].data,
                   e.run(Op::kLinearBwdW, {}, {d, x}).outputs[0].data}};
  };
  return c;
}

OpCase rms_norm_case(const Draw& draw, int rows, int n) {
  OpCase c{"rms_norm",
           "rows=" + std::to_string(rows) + " n=" + std::to_string(n),
           {"x", "weight"},
           {draw(0, std::size_t(rows) * n, -1, 1), draw(1, n, 0.5, 1.5)},
           {},
           {}};
  c.literal = [=](const auto& x) {
    std::vector<Var> y(x[0].size());
    for (int r = 0; r < rows; ++r)
      rms_norm(&x[0][std::size_t(r) * n], x[1].data(), n, &y[std::size_t(r) * n]);
    return y;
  };
  c.production = [=, at = c.at](const Engine& e, const std::vector<double>& dy) {
    const OpArray x = real_array({1, rows, n}, at[0]), w = real_array({n}, at[1]);
    const RmsNormAttrs attrs{kNormEpsilon};
    const OpRun back = e.run(Op::kRmsNormBwd, attrs, {real_array({1, rows, n}, dy), x, w});
    return Answer{e.run(Op::kRmsNorm, attrs, {x, w}).outputs[0].data,
                  {back.outputs[0].data, back.outputs[1].data}};
  };
  return c;
}

OpCase swiglu_case(const Draw& draw) {
  const int rows = 9, F = 13;
  OpCase c{"swiglu", "rows=9 F=13", {"ug"}, {draw(0, rows * 2 * F, -3, 3)}, {}, {}};
  c.literal = [=](const auto& x) {
    std::vector<Var> y;
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < F; ++i) y.push_back(x[0][r * 2 * F + i] * silu(x[0][r * 2 * F + F + i]));
    }
    return y;
  };
  c.production = [=, at = c.at](const Engine& e, const std::vector<double>& dy) {
    const OpArray ug = real_array({1, rows, 2 * F}, at[0]);
    return Answer{e.run(Op::kSwiglu, {}, {ug}).outputs[0].data,
                  {e.run(Op::kSwigluBwd, {}, {real_array({1, rows, F}, dy), ug}).outputs[0].data}};
  };
  return c;
}

OpCase conv_case(const Draw& draw, int T, bool bias) {
  const int B = 2, width = 11, begin = 3, channels = 6;
  OpCase c{bias ? "causal_conv1d" : "causal_conv1d without bias",
           "T=" + std::to_string(T) + " channels=6 of 11",
           {"x", "weight"},
           {draw(0, std::size_t(B) * T * width, -2, 2), draw(1, channels * kConvWidth, -1, 1)},
           {},
           {}};
  if (bias) {
    c.groups.push_back("bias");
    c.at.push_back(draw(2, channels, -1, 1));
  }
  c.literal = [=](const auto& x) {
    std::vector<Var> y = x[0];
    convolve_columns(y, x[1], bias ? x[2] : std::vector<Var>(), B, T, width, begin, channels);
    return y;
  };
  c.production = [=, at = c.at](const Engine& e, const std::vector<double>& dy) {
    const CausalConv1dAttrs attrs{begin, channels, kConvWidth};
    const std::vector<OpArray> in = {real_array({B, T, width}, at[0]),
                                     real_array({channels, 1, kConvWidth}, at[1]),
                                     bias ? real_array({channels}, at[2]) : absent_array()};
    const OpRun back =
        e.run(Op::kCausalConv1dBwd, attrs, {real_array({B, T, width}, dy), in[0], in[1], in[2]});
    Answer answer{e.run(Op::kCausalConv1d, attrs, in).outputs[0].data,
                  {back.outputs[0].data, back.outputs[1].data}};
    if (bias) answer.gradients.push_back(back.outputs[2].data);
    return answer;
  };
  return c;
}

OpCase cross_entropy_case(const Draw& draw) {
  const int B = 3, T = 10, columns = 8, classes = 5;
  std::vector<int32_t> targets = random_tokens(draw, 1, B * T, -2, classes);
  for (int32_t& t : targets) t = std::max(t, -1);
  OpCase c{"cross_entropy",
           "5 of 8 columns, masked",
           {"logits"},
           {draw(0, B * T * columns, -4, 4)},
           {},
           {}};
  c.literal = [=](const auto& x) {
    return std::vector<Var>{masked_cross_entropy(x[0], targets, columns, classes)};
  };
  c.production = [=, at = c.at](const Engine& e, const std::vector<double>& dy) {
    const CrossEntropyAttrs attrs{classes};
    const OpArray logits = real_array({B, T, columns}, at[0]),
                  labels = token_array({B, T}, targets);
    return Answer{e.run(Op::kCrossEntropy, attrs, {logits, labels}).outputs[0].data,
                  {e.run(Op::kCrossEntropyBwd, attrs, {real_array({1}, dy), logits, labels})
                       .outputs[0]
                       .data}};
  };
  return c;
}

/// The scan ops, between the projections: proj, then the mixer's parameters by official name.
OpCase scan_case(const Draw& draw, const Variant& variant, int batch, int T) {
  const ModelConfig config = variant.config;
  const ScanOp scan = scan_op(config);
  const std::string prefix = "backbone.layers.0.mixer.";
  OpCase c{scan.name + ", " + variant.name,
           "batch=" + std::to_string(batch) + " T=" + std::to_string(T),
           {"proj"},
           {draw(0, std::size_t(batch) * T * scan.d_proj, -2, 2)},
           {},
           {}};
  std::vector<Shape> shapes;
  std::vector<bool> present;
  for (const std::string& slot : scan.slots) {
    present.push_back(false);
    for (const ParameterSpec& spec : parameter_specs(config)) {
      if (spec.name != prefix + slot) continue;
      present.back() = true;
      shapes.push_back(spec.shape);
      c.groups.push_back(slot);
      const bool scale = slot.ends_with("norm.weight");
      c.at.push_back(draw(static_cast<uint32_t>(c.at.size()),
                          static_cast<std::size_t>(spec.shape.size()), scale ? 0.5 : -1,
                          scale ? 1.5 : 1));
    }
  }
  const std::vector<std::string> groups = c.groups;
  c.literal = [=](const auto& x) {
    Parameters<Var> parameters;
    for (std::size_t i = 1; i < groups.size(); ++i) parameters[groups[i]] = x[i];
    if (config.mixer == "mamba3") return mamba3_inner(config, parameters, "", x[0], batch, T);
    if (config.mixer == "mamba2") return mamba2_inner(config, parameters, "", x[0], batch, T);
    if (config.mixer == "lstm") return lstm(x[0], x[1], x[2], batch, T, config.d_inner());
    return delta_rule_inner(config, parameters, "", x[0], batch, T);
  };
  c.production = [=, at = c.at](const Engine& e, const std::vector<double>& dy) {
    std::vector<OpArray> in = {real_array({batch, T, scan.d_proj}, at[0])};
    std::size_t next = 0;
    for (bool there : present) {
      in.push_back(there ? real_array(shapes[next], at[next + 1]) : absent_array());
      next += there;
    }
    const OpRun forward = e.run(scan.forward, scan.attributes, in);
    std::vector<OpArray> back_in = {real_array({batch, T, config.d_inner()}, dy)};
    back_in.insert(back_in.end(), in.begin(), in.end());
    back_in.insert(back_in.end(), forward.outputs.begin() + scan.kept, forward.outputs.end());
    const OpRun back = e.run(scan.backward, scan.attributes, back_in);
    Answer answer{forward.outputs[0].data, {back.outputs[0].data}};
    for (std::size_t i = 0; i < present.size(); ++i) {
      if (present[i]) answer.gradients.push_back(back.outputs[i + 1].data);
    }
    return answer;
  };
  return c;
}

Findings check(const OpCase& c, const Draw& draw) {
  Recording tape(c.at);
  const std::vector<Var> y = c.literal(tape.inputs);
  const std::vector<double> dy = draw(99, y.size(), -1, 1);
  const Groups expected = tape.gradient(y, dy);
  std::vector<double> values;
  for (const Var& v : y) values.push_back(v.value);
  Findings found;
  for (const Engine& engine : engines()) {
    const Answer answer = c.production(engine, dy);
    std::string worst;
    const double error =
        gradient_error(answer.gradients, expected, engine.smallest_share(), &worst, &c.groups);
    found.push_back({c.name + " " + engine.name + ": values", relative_error(answer.y, values),
                     engine.tolerance(), c.where, engine.reason(), "", false});
    found.push_back({c.name + " " + engine.name + ": gradients", error, engine.tolerance(),
                     c.where + " d" + worst, engine.reason(), "", false});
  }
  return found;
}

template <class S>
void check_model_in(const Engine& engine, const Variant& variant,
                    const std::vector<std::string>& names, const Groups& at,
                    const std::vector<int32_t>& tokens, const std::vector<int32_t>& targets,
                    int batch, int T, const std::vector<double>& logits, const Groups& expected,
                    Findings& found) {
  Model<S> model(variant.config, batch, T, true, engine.device);
  for (std::size_t i = 0; i < names.size(); ++i) model.set(names[i], at[i]);
  model.run(tokens, targets);
  Groups gradients;
  for (const std::string& name : names) gradients.push_back(model.gradient(name));
  const std::string where = "batch=" + std::to_string(batch) + " T=" + std::to_string(T);
  found.push_back({"model " + variant.name + " " + engine.name + ": logits",
                   relative_error(model.logits(), logits), engine.tolerance(), where,
                   engine.reason(), "", false});
  std::string worst;
  const double error = gradient_error(gradients, expected, engine.smallest_share(), &worst, &names);
  found.push_back({"model " + variant.name + " " + engine.name + ": gradients of the loss", error,
                   engine.tolerance(), where + " d" + worst, engine.reason(), "", false});
}

Findings check_model(const Variant& variant, const Draw& draw, int batch, int T) {
  std::vector<std::string> names;
  const Groups at = random_parameters(variant.config, draw.seed, draw.system, &names);
  const std::vector<int32_t> tokens =
      random_tokens(draw, 90, std::size_t(batch) * T, 0, variant.config.vocab_size);
  std::vector<int32_t> targets =
      random_tokens(draw, 91, tokens.size(), -1, variant.config.vocab_size);
  Recording tape(at);
  Parameters<Var> parameters;
  for (std::size_t i = 0; i < names.size(); ++i) parameters[names[i]] = tape.inputs[i];
  const std::vector<Var> logits = model_logits(variant.config, parameters, tokens, batch, T);
  const Var loss = masked_cross_entropy(logits, targets, variant.config.padded_vocab(),
                                        variant.config.vocab_size);
  const Groups expected = tape.gradient({loss}, {1.0});
  std::vector<double> values;
  for (const Var& v : logits) values.push_back(v.value);
  Findings found;
  for (const Engine& engine : engines()) {
    const auto check_in = engine.fp64 ? check_model_in<double> : check_model_in<float>;
    check_in(engine, variant, names, at, tokens, targets, batch, T, values, expected, found);
  }
  return found;
}

}  // namespace

Findings gradients_suite(const SuiteOptions& options) {
  std::vector<std::function<Findings()>> checks;
  const auto add = [&](const auto& make) {
    const Draw draw{options.seed, static_cast<uint32_t>(checks.size())};
    checks.push_back([=] { return check(make(draw), draw); });
  };
  const auto both = [&](std::vector<int> full, std::vector<int> quick) {
    return options.quick ? quick : full;
  };
  add([](const Draw& d) { return embedding_case(d); });
  for (int rows : both({1, 5, 33, 300}, {1, 33})) {
    for (int in : both({1, 8, 65}, {9}))
      add([=](const Draw& d) { return linear_case(d, rows, in, 17); });
  }
  for (int n : both({1, 7, 64, 129}, {7, 64}))
    add([=](const Draw& d) { return rms_norm_case(d, 13, n); });
  add([](const Draw& d) { return swiglu_case(d); });
  for (bool bias : {true, false}) {
    for (int T : both({1, 2, 3, 4, 5, 33}, {1, 5, 33}))
      add([=](const Draw& d) { return conv_case(d, T, bias); });
  }
  add([](const Draw& d) { return cross_entropy_case(d); });
  for (const Variant& variant : scan_variants()) {
    for (int T : both({1, 2, 15, 16, 17, 31, 33, 65}, {1, 17, 33})) {
      add([=](const Draw& d) { return scan_case(d, variant, 2, T); });
    }
  }
  for (const Variant& variant : model_variants()) {
    for (int T : both({5, 33, 70}, {33})) {
      const Draw draw{options.seed, static_cast<uint32_t>(checks.size())};
      checks.push_back([=] { return check_model(variant, draw, 2, T); });
    }
  }
  return find_in_parallel(static_cast<int>(checks.size()), options.threads,
                          [&](int i) { return checks[static_cast<std::size_t>(i)](); });
}

}  // namespace statelab::verify
