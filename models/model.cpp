#include "models/model.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "kernels/cuda/kernel.h"
#include "models/fusion.h"
#include "models/program.h"

namespace statelab {
namespace {

std::string text(double v) {
  std::string s = std::to_string(v);
  s.erase(s.find_last_not_of('0') + 1);
  if (s.back() == '.') s.pop_back();
  return s;
}

int nangles(const ModelConfig& c) {
  const int rotated = static_cast<int>(c.d_state * c.rope_fraction);
  return (rotated - rotated % 2) / 2;
}

template <class T>
bool one_of(const T& value, std::initializer_list<T> allowed) {
  for (const T& a : allowed) {
    if (value == a) return true;
  }
  return false;
}

}  // namespace

std::vector<ModelProblem> validate(const ModelConfig& c) {
  std::vector<ModelProblem> out;
  auto problem = [&](const char* field, const std::string& message) {
    out.push_back({field, message});
  };
  auto choice = [&](const char* field, const std::string& value,
                    std::initializer_list<std::string> allowed) {
    if (one_of(value, allowed)) return;
    std::string list;
    for (const auto& a : allowed) list += (list.empty() ? "" : ", ") + a;
    problem(field, "must be one of " + list + ", is " + value);
  };
  auto positive = [&](const char* field, int value) {
    if (value < 1) problem(field, "must be at least 1, is " + std::to_string(value));
  };
  choice("mixer", c.mixer, {"mamba3", "mamba2", "gated_delta_net", "delta_net", "lstm"});
  positive("vocab_size", c.vocab_size);
  positive("n_layers", c.n_layers);
  positive("d_model", c.d_model);
  positive("expand", c.expand);
  positive("headdim", c.headdim);
  positive("ngroups", c.ngroups);
  positive("d_state", c.d_state);
  positive("chunk_size", c.chunk_size);
  positive("pad_vocab_multiple", c.pad_vocab_multiple);
  if (c.chunk_size > 1024)
    problem("chunk_size", "must be at most 1024, is " + std::to_string(c.chunk_size));
  choice("rotation", c.rotation, {"data_dependent", "standard", "none"});
  choice("discretization", c.discretization, {"trapezoidal", "euler", "half"});
  choice("a_activation", c.a_activation, {"softplus", "heavy_tail"});
  choice("out_norm", c.out_norm, {"none", "rms"});
  choice("mlp", c.mlp, {"none", "swiglu"});
  choice("scan", c.scan, {"auto", "chunked", "recurrent"});
  if (!(c.rope_fraction == 0.5 || c.rope_fraction == 1.0))
    problem("rope_fraction", "must be 0.5 or 1, is " + text(c.rope_fraction));
  if (!(c.a_floor >= 0) || !std::isfinite(c.a_floor))
    problem("a_floor", "must be at least 0, is " + text(c.a_floor));
  if (!(c.dt_min > 0) || !(c.dt_max >= c.dt_min) || !std::isfinite(c.dt_max)) {
    problem("dt_range", "must be [min, max] with 0 < min <= max, is [" + text(c.dt_min) + ", " +
                            text(c.dt_max) + "]");
  }
  if (c.mimo_rank != 1) problem("mimo_rank", "must be 1 (SISO), is " + std::to_string(c.mimo_rank));
  const bool unit = c.eigenvalue_min == 0 && c.eigenvalue_max == 1,
             symmetric = c.eigenvalue_min == -1 && c.eigenvalue_max == 1;
  if (!unit && !symmetric) {
    problem("eigenvalue_range", "must be [0, 1] or [-1, 1], is [" + text(c.eigenvalue_min) + ", " +
                                    text(c.eigenvalue_max) + "]");
  } else if (symmetric && c.mixer == "mamba3") {
    problem("eigenvalue_range",
            "must be [0, 1] for mamba3, whose rotation supplies the signs; is [-1, 1]");
  }
  if (c.d_intermediate < 0)
    problem("d_intermediate", "must be at least 0, is " + std::to_string(c.d_intermediate));
  if (!out.empty()) return out;
  if (static_cast<int64_t>(c.expand) * c.d_model > (1 << 20)) {
    problem("d_model", "expand * d_model must be at most 1048576, is " +
                           std::to_string(static_cast<int64_t>(c.expand) * c.d_model));
    return out;
  }
  if (c.mixer == "lstm") return out;  // one state of d_inner units, no heads
  if (c.d_inner() % c.headdim != 0) {
    problem("headdim", "must divide expand * d_model = " + std::to_string(c.d_inner()) + ", is " +
                           std::to_string(c.headdim));
  } else if (c.nheads() % c.ngroups != 0) {
    problem("ngroups", "must divide the number of heads, " + std::to_string(c.nheads()) + ", is " +
                           std::to_string(c.ngroups));
  }
  if (c.mixer == "mamba3" && c.rotation != "none" && nangles(c) == 0) {
    problem("d_state", "must be at least 2 / rope_fraction to hold a rotated pair, is " +
                           std::to_string(c.d_state));
  }
  return out;
}

Mamba3ScanAttrs mamba3_attrs(const ModelConfig& c) {
  using A = Mamba3ScanAttrs;
  A a;
  a.nheads = c.nheads();
  a.headdim = c.headdim;
  a.ngroups = c.ngroups;
  a.d_state = c.d_state;
  a.nangles = nangles(c);
  a.rotation = c.rotation == "none"       ? A::Rotation::kNone
               : c.rotation == "standard" ? A::Rotation::kStandard
                                          : A::Rotation::kDataDependent;
  a.discretization = c.discretization == "euler"  ? A::Discretization::kEuler
                     : c.discretization == "half" ? A::Discretization::kHalf
                                                  : A::Discretization::kTrapezoidal;
  a.heavy_tail = c.a_activation == "heavy_tail";
  a.a_floor = c.a_floor;
  a.chunked = c.scan != "recurrent";
  a.chunk_size = c.chunk_size;
  return a;
}

Mamba2ScanAttrs mamba2_attrs(const ModelConfig& c) {
  Mamba2ScanAttrs a;
  a.nheads = c.nheads();
  a.headdim = c.headdim;
  a.ngroups = c.ngroups;
  a.d_state = c.d_state;
  a.negative_eigenvalues = c.eigenvalue_min < 0;
  a.chunked = c.scan != "recurrent";
  a.chunk_size = c.chunk_size;
  return a;
}

GatedDeltaScanAttrs gated_delta_attrs(const ModelConfig& c) {
  GatedDeltaScanAttrs a;
  a.nheads = c.nheads();
  a.headdim = c.headdim;
  a.ngroups = c.ngroups;
  a.d_state = c.d_state;
  a.beta_max = c.eigenvalue_min < 0 ? 2 : 1;
  a.decay = a.gate = c.mixer == "gated_delta_net";
  a.activate = !c.conv;
  a.chunked = c.scan != "recurrent";
  a.chunk_size = c.chunk_size;
  return a;
}

ModelConfig computed_on(const ComputeDevice& device, ModelConfig c) {
  if (!device.is_cuda() || c.mixer == "lstm") return c;
  c.chunk_size = (c.is_delta_rule() ? cuda_delta_chunk_size : cuda_chunk_size)(
      c.headdim, c.d_state, c.scan == "recurrent" ? 1 : c.chunk_size, device.index);
  c.scan = "chunked";
  return c;
}

ForwardGraph build_forward(Graph& graph, const ModelConfig& c, ValueId step, int batch, int seqlen,
                           bool with_loss, const Needed& needed) {
  ForwardGraph f;
  const auto drawn = graph.apply(Op::kDraw, DrawAttrs{batch, seqlen}, {step});
  f.tokens = drawn[0];
  f.targets = drawn[1];
  std::vector<std::pair<std::string, ValueId>> by_name;
  for (const auto& spec : parameter_specs(c)) {
    f.parameters.push_back(graph.parameter(spec.name, spec.shape));
    by_name.emplace_back(spec.name, f.parameters.back());
  }
  auto weight = [&](const std::string& name) {
    for (const auto& [n, id] : by_name) {
      if (n == name) return id;
    }
    return kNoValue;
  };
  const RmsNormAttrs norm{1e-5};
  auto selected = [&](ValueId x) { return graph.apply1(Op::kSelect, {}, {x, f.targets}); };
  ValueId targets = f.targets;
  ValueId h = graph.apply1(Op::kEmbedding, {}, {f.tokens, weight("backbone.embedding.weight")});
  for (int l = 0; l < c.n_layers; ++l) {
    const std::string layer = "backbone.layers." + std::to_string(l) + ".",
                      mixer = layer + "mixer.";
    const ValueId u = graph.apply1(Op::kRmsNorm, norm, {h, weight(layer + "norm.weight")});
    ValueId proj = graph.apply1(Op::kLinear, {}, {u, weight(mixer + "in_proj.weight")});
    if (weight(mixer + "conv1d.weight") != kNoValue) {
      // Its columns follow those of Mamba's gate; a delta rule's come first.
      const int begin = c.is_delta_rule() ? 0 : c.d_inner();
      std::vector<ValueId> operands = {proj, weight(mixer + "conv1d.weight"),
                                       weight(mixer + "conv1d.bias")};
      if (needed.up_to_target) operands.push_back(f.targets);
      proj =
          graph.apply1(Op::kCausalConv1d, CausalConv1dAttrs{begin, c.conv_channels(), 4}, operands);
    }
    f.observable.push_back({mixer + "proj", proj});
    const bool one_position = needed.one_position && l + 1 == c.n_layers;
    bool at_position = false;  // y has one row a sequence already
    ValueId y;
    auto scan_at = [&](Op op, const Attributes& attributes, std::vector<ValueId> operands) {
      operands.push_back(f.targets);
      at_position = one_position && takes_node({op, attributes, operands, {}}, graph, needed.takes);
      if (at_position) y = graph.apply1(op, attributes, operands);
      return at_position;
    };
    if (c.mixer == "mamba3") {
      std::vector<ValueId> operands = {proj,
                                       weight(mixer + "dt_bias"),
                                       weight(mixer + "B_bias"),
                                       weight(mixer + "C_bias"),
                                       weight(mixer + "B_norm.weight"),
                                       weight(mixer + "C_norm.weight"),
                                       weight(mixer + "D"),
                                       weight(mixer + "norm.weight")};
      if (!scan_at(Op::kMamba3ScanAt, mamba3_attrs(c), operands)) {
        if (needed.up_to_target) operands.push_back(f.targets);
        const auto scan = graph.apply(Op::kMamba3Scan, mamba3_attrs(c), operands);
        y = scan[0];
        f.observable.push_back({mixer + "Phi", scan[2]});
      }
    } else if (c.mixer == "lstm") {
      const auto lstm = graph.apply(Op::kLstm, LstmAttrs{c.d_inner()},
                                    {proj, weight(mixer + "weight_hh"), weight(mixer + "bias")});
      y = lstm[0];
      f.observable.push_back({mixer + "gates", lstm[1]});
    } else if (c.is_delta_rule()) {
      y = graph.apply(Op::kGatedDeltaScan, gated_delta_attrs(c),
                      {proj, weight(mixer + "dt_bias"), weight(mixer + "A_log"),
                       weight(mixer + "norm.weight")})[0];
    } else {
      std::vector<ValueId> operands = {proj, weight(mixer + "dt_bias"), weight(mixer + "A_log"),
                                       weight(mixer + "D"), weight(mixer + "norm.weight")};
      const Mamba2ScanAttrs scan = mamba2_attrs(c);
      if (scan.negative_eigenvalues || !scan_at(Op::kMamba2ScanAt, scan, operands)) {
        if (needed.up_to_target) operands.push_back(f.targets);
        y = graph.apply(Op::kMamba2Scan, scan, operands)[0];
      }
    }
    if (one_position) {
      if (!at_position) y = selected(y);
      h = selected(h), targets = selected(f.targets);
    }
    h = graph.apply1(Op::kAdd, {},
                     {h, graph.apply1(Op::kLinear, {}, {y, weight(mixer + "out_proj.weight")})});
    if (c.mlp == "swiglu") {
      const ValueId v = graph.apply1(Op::kRmsNorm, norm, {h, weight(layer + "norm2.weight")});
      const ValueId ug = graph.apply1(Op::kLinear, {}, {v, weight(layer + "mlp.fc1.weight")});
      const ValueId m = graph.apply1(Op::kSwiglu, {}, {ug});
      h = graph.apply1(Op::kAdd, {},
                       {h, graph.apply1(Op::kLinear, {}, {m, weight(layer + "mlp.fc2.weight")})});
    }
  }
  const ValueId out = graph.apply1(Op::kRmsNorm, norm, {h, weight("backbone.norm_f.weight")});
  const ValueId head = weight(c.tie_embeddings ? "backbone.embedding.weight" : "lm_head.weight");
  f.logits = graph.apply1(Op::kLinear, {}, {out, head});
  if (!with_loss) return f;
  const auto loss =
      graph.apply(Op::kCrossEntropy, CrossEntropyAttrs{c.vocab_size}, {f.logits, targets});
  f.loss = loss[0];
  f.accuracy = loss[1];
  return f;
}

// ---- Model ----------------------------------------------------------------------------------------------------------

template <class S>
struct Model<S>::Impl {
  ModelConfig config;
  std::vector<ParameterSpec> specs;
  Backend backend;
  MemberStore store;
  ForwardGraph forward;
  std::vector<ValueId> gradients;
  std::unique_ptr<Program> program;
  std::span<const int32_t> tokens, targets;
  int batch, seqlen;

  Impl(const ModelConfig& c, int batch_size, int length, bool with_gradients,
       const ComputeDevice& device, const std::vector<std::string>& observed)
      : config(c),
        specs(parameter_specs(c)),
        backend(device),
        store(1, sizeof(S), backend.stream()),
        batch(batch_size),
        seqlen(length) {
    Graph graph;
    const ValueId step = graph.state("step", DType::kInt32, {1});
    forward = build_forward(graph, computed_on(device, config), step, batch, seqlen);
    std::vector<ValueId> keep = {forward.logits, forward.loss, forward.accuracy};
    std::erase_if(forward.observable, [&](const ObservableValue& v) {
      return std::find(observed.begin(), observed.end(), v.name) == observed.end();
    });
    for (const ObservableValue& v : forward.observable) keep.push_back(v.id);
    for (const std::string& name : observed) observable(name);
    if (with_gradients) {
      gradients = add_gradients(graph, forward.loss, forward.parameters);
      keep.insert(keep.end(), gradients.begin(), gradients.end());
    }
    program = make_program<S>(graph, store, backend, keep);
    program->set_draw(
        [this](int, uint32_t, uint32_t row, std::span<int32_t> t, std::span<int32_t> y) {
          for (size_t i = 0; i < t.size(); ++i) {
            t[i] = tokens[row * t.size() + i];
            y[i] = targets[row * t.size() + i];
          }
        });
  }

  ValueId observable(const std::string& name) const {
    for (const ObservableValue& v : forward.observable) {
      if (v.name == name) return v.id;
    }
    throw std::invalid_argument("the model has no value " + name + " to observe");
  }

  std::vector<double> read(ValueId id) const {
    const std::vector<S> values = program->read<S>(id, 0);
    return {values.begin(), values.end()};
  }
};

template <class S>
Model<S>::Model(const ModelConfig& config, int batch, int seqlen, bool with_gradients,
                const ComputeDevice& device, const std::vector<std::string>& observed)
    : impl_(std::make_unique<Impl>(config, batch, seqlen, with_gradients, device, observed)) {}
template <class S>
Model<S>::~Model() = default;

template <class S>
const std::vector<ParameterSpec>& Model<S>::parameters() const {
  return impl_->specs;
}

template <class S>
void Model<S>::set(const std::string& name, std::span<const double> values) {
  if (!impl_->store.has(name)) throw std::invalid_argument("the model has no parameter " + name);
  const auto n = static_cast<size_t>(impl_->store.elements(name));
  if (values.size() != n) {
    throw std::invalid_argument(name + " has " + std::to_string(n) + " elements, got " +
                                std::to_string(values.size()));
  }
  std::vector<S> converted(n);
  for (size_t i = 0; i < n; ++i) converted[i] = static_cast<S>(values[i]);
  impl_->store.template write<S>(name, 0, converted);
}

template <class S>
std::vector<double> Model<S>::get(const std::string& name) const {
  const std::vector<S> values = impl_->store.template read<S>(name, 0);
  return {values.begin(), values.end()};
}

template <class S>
void Model<S>::initialise(uint32_t seed) {
  for (const auto& spec : impl_->specs) set(spec.name, initial_values(spec, impl_->config, seed));
}

template <class S>
double Model<S>::run(std::span<const int32_t> tokens, std::span<const int32_t> targets) {
  const auto n = static_cast<size_t>(impl_->batch) * static_cast<size_t>(impl_->seqlen);
  if (tokens.size() != n || targets.size() != n)
    throw std::invalid_argument("tokens and targets must have batch * seqlen elements");
  impl_->tokens = tokens;
  impl_->targets = targets;
  impl_->program->run();
  return impl_->read(impl_->forward.loss)[0];
}

template <class S>
double Model<S>::accuracy() const {
  return impl_->read(impl_->forward.accuracy)[0];
}

template <class S>
std::vector<double> Model<S>::logits() const {
  return impl_->read(impl_->forward.logits);
}

template <class S>
std::vector<double> Model<S>::gradient(const std::string& name) const {
  for (size_t i = 0; i < impl_->gradients.size(); ++i) {
    if (impl_->specs[i].name == name) return impl_->read(impl_->gradients[i]);
  }
  throw std::invalid_argument("no gradient of " + name);
}

template <class S>
std::vector<double> Model<S>::observed(const std::string& name) const {
  return impl_->read(impl_->observable(name));
}

template class Model<float>;
template class Model<double>;

}  // namespace statelab
