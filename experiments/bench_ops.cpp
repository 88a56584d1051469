#include "experiments/bench_ops.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "experiments/build_info.h"
#include "experiments/execution.h"
#include "kernels/cpu/run_op.h"
#include "kernels/cuda/kernel.h"
#include "kernels/cuda/run_op.h"
#include "kernels/cuda/time_op.h"
#include "kernels/rng.h"
#include "models/model.h"

namespace statelab {
namespace {

using Arrays = std::vector<OpArray>;

constexpr int kVocab = 16, kCheckedSequences = 3;

/// Random operands; each call draws others.
class Draws {
 public:
  /// Uniform, four numbers a block of random bits: fast, and 32 bits are more than a float holds.
  OpArray real(Shape shape, double low = -1, double high = 1) {
    const double width = (high - low) * 0x1p-32;
    return real_array(shape, fill(shape, [=](uint32_t bits) {
                        return static_cast<double>(static_cast<float>(low + width * bits));
                      }));
  }
  OpArray integer(Shape shape, uint32_t bound) {
    std::vector<double> data =
        fill(shape, [=](uint32_t bits) -> double { return bounded(bits, bound); });
    return {{DType::kInt32, std::move(shape)}, std::move(data), false};
  }

 private:
  template <class F>
  std::vector<double> fill(const Shape& shape, F&& number) {
    std::vector<double> data(static_cast<size_t>(shape.size()));
    for (size_t i = 0; i < data.size(); i += 4) {
      const RngBlock b = philox({0, Stream::kVerify}, {static_cast<uint32_t>(i / 4), 0, 0, array_});
      for (size_t j = i; j < std::min(data.size(), i + 4); ++j) data[j] = number(b.v[j - i]);
    }
    ++array_;
    return data;
  }
  uint32_t array_ = 0;
};

OpArray scalar(DType dtype, double value) { return {{dtype, {1}}, {value}, false}; }

/// The operands of a scan's backward op: the cotangent, the forward op's operands and all its outputs but y.
Arrays backward_operands(Op forward, const Attributes& attributes, OpArray dy, Arrays in,
                         int threads) {
  const OpRun run = run_op<float>(forward, attributes, in, threads);
  Arrays out = {std::move(dy)};
  std::move(in.begin(), in.end(), std::back_inserter(out));
  out.insert(out.end(), run.outputs.begin() + 1, run.outputs.end());
  return out;
}

// ---- what is timed: shapes of a model with one layer, d_model 64

class Works {
 public:
  Works(const ComputeDevice& device, int batch) : device_(device), batch_(batch) {}

  std::vector<BenchWork> all() {
    product();
    for (const bool backward : {false, true}) each_length([&](int t) { mamba3(t, backward); });
    for (const bool backward : {false, true}) each_length([&](int t) { mamba2(t, backward); });
    for (const bool backward : {false, true})
      each_length([&](int t) { mamba3(t, backward, true); });
    for (const bool backward : {false, true})
      each_length([&](int t) { mamba2(t, backward, true); });
    for (const bool backward : {false, true}) each_length([&](int t) { lstm(t, backward); });
    for (const bool backward : {false, true}) each_length([&](int t) { gated_delta(t, backward); });
    const ModelConfig model;
    const int d_proj = mamba3_attrs(model).d_proj();
    const Op products[] = {Op::kLinear, Op::kLinearBwdX, Op::kLinearBwdW, Op::kLinearBwd};
    for (const Op op : products)
      each_length([&](int t) { linear(op, "in_proj", t, model.d_model, d_proj); });
    for (const Op op : {Op::kNormLinear, Op::kNormLinearBwd})
      each_length([&](int t) { norm_linear(op, t, model.d_model, d_proj); });
    for (const Op op : products)
      each_length([&](int t) { linear(op, "out_proj", t, model.d_inner(), model.d_model); });
    for (const bool backward : {false, true})
      each_length([&](int t) { rms_norm(t, model.d_model, backward); });
    for (const bool backward : {false, true}) each_length([&](int t) { conv(t, backward); });
    for (const bool backward : {false, true})
      each_length([&](int t) { embedding(t, model.d_model, backward); });
    for (const bool backward : {false, true})
      each_length([&](int t) { cross_entropy(t, backward); });
    each_length([&](int t) { head_loss(t, model.d_model); });
    each_length([&](int t) { out_proj_loss(t, model.d_model, model.d_inner()); });
    optimizer();
    return std::move(works_);
  }

 private:
  template <class F>
  static void each_length(F&& add) {
    for (const int seqlen : {40, 160}) add(seqlen);
  }

  BenchWork& add(Op op, std::string work, Attributes attributes, int seqlen) {
    BenchWork& w = works_.emplace_back();
    w.op = op;
    w.work = std::move(work);
    w.attributes = std::move(attributes);
    w.batch = batch_;
    w.seqlen = seqlen;
    if (seqlen <= 40) w.members = {1, 16};
    return w;
  }

  double tokens(int seqlen) const { return static_cast<double>(batch_) * seqlen; }

  /// As models/model.h builds it on this device.
  ModelConfig model(const std::string& mixer) const {
    ModelConfig config;
    config.mixer = mixer;
    config.vocab_size = kVocab;
    if (mixer == "gated_delta_net") config.headdim = config.d_inner();
    return computed_on(device_, config);
  }

  /// Both scans: see train_flop_per_token().
  template <class Attrs>
  double scan_flop(const Attrs& a, int seqlen, bool backward) const {
    const double L = std::min(a.chunk_size, seqlen), N = a.d_state, P = a.headdim;
    double head = backward ? (L + 1) * (3 * N + 2 * P) : (L + 1) * (N + P);
    if (seqlen > a.chunk_size) head += (backward ? 10 : 4) * N * P;
    return tokens(seqlen) * a.nheads * head;
  }

  /// One query against the keys of all tokens.
  template <class Attrs>
  double at_flop(const Attrs& a, int seqlen, bool backward) const {
    return tokens(seqlen) * a.nheads *
           (backward ? 6.0 * a.d_state + 4.0 * a.headdim : 2.0 * a.d_state + 2.0 * a.headdim);
  }

  static OpArray last_targets(Draws& draws, int batch, int seqlen) {
    OpArray targets = draws.integer({batch, seqlen}, kVocab);
    for (size_t i = 0; i < targets.data.size(); ++i) {
      if (i % static_cast<size_t>(seqlen) + 1 < static_cast<size_t>(seqlen)) targets.data[i] = -1;
    }
    return targets;
  }

  void product() {
    constexpr int kBatch = 64, kSeqlen = 256, kIn = 1024, kOut = 1024;
    linear(Op::kLinear, "large", kSeqlen, kIn, kOut);
    BenchWork& w = works_.back();
    w.flop *= static_cast<double>(kBatch) / w.batch;
    w.batch = kBatch;
  }

  void linear(Op op, const std::string& name, int seqlen, int in, int out) {
    BenchWork& w =
        add(op, name + " " + std::to_string(in) + " -> " + std::to_string(out), {}, seqlen);
    w.flop = (op == Op::kLinearBwd ? 4 : 2) * tokens(seqlen) * in * out;
    w.operands = [=](int batch, int) -> Arrays {
      Draws draws;
      const double scale = 1 / std::sqrt(in);
      const Shape x{batch, seqlen, in}, y{batch, seqlen, out}, weight{out, in};
      if (op == Op::kLinearBwdW) return {draws.real(y), draws.real(x)};
      Arrays in_order = {draws.real(op == Op::kLinear ? x : y), draws.real(weight, -scale, scale)};
      if (op == Op::kLinearBwd) in_order.push_back(draws.real(x));
      return in_order;
    };
  }

  /// in_proj with the norm before it.
  void norm_linear(Op op, int seqlen, int in, int out) {
    BenchWork& w = add(op, "in_proj " + std::to_string(in) + " -> " + std::to_string(out),
                       RmsNormAttrs{}, seqlen);
    w.flop = (op == Op::kNormLinearBwd ? 4 : 2) * tokens(seqlen) * in * out;
    w.operands = [=](int batch, int) -> Arrays {
      Draws draws;
      const double scale = 1 / std::sqrt(in);
      const OpArray x = draws.real({batch, seqlen, in}), norm = draws.real({in}, 0.5, 1.5),
                    weight = draws.real({out, in}, -scale, scale);
      if (op == Op::kNormLinear) return {x, norm, weight};
      return {draws.real({batch, seqlen, out}), weight, x, norm};
    };
  }

  /// `at`: the scan at the last position.
  void mamba3(int seqlen, bool backward, bool at = false) {
    const Mamba3ScanAttrs a = mamba3_attrs(model("mamba3"));
    const Op forward = at ? Op::kMamba3ScanAt : Op::kMamba3Scan, op = !backward ? forward
                                                                      : at ? Op::kMamba3ScanAtBwd
                                                                           : Op::kMamba3ScanBwd;
    BenchWork& w = add(op, at ? at_name(a) : scan_name(a), a, seqlen);
    w.flop = at ? at_flop(a, seqlen, backward) : scan_flop(a, seqlen, backward);
    w.operands = [=](int batch, int threads) -> Arrays {
      Draws draws;
      const Shape heads{a.nheads}, bias{a.nheads, 1, a.d_state}, state{a.d_state};
      OpArray proj = draws.real({batch, seqlen, a.d_proj()}, -1.5, 1.5);
      OpArray dt_bias = draws.real(heads, -3, 0);
      OpArray b_bias = draws.real(bias, 0.5, 1.5), c_bias = draws.real(bias, 0.5, 1.5);
      OpArray b_norm = draws.real(state, 0.5, 1.5), c_norm = draws.real(state, 0.5, 1.5);
      OpArray d = draws.real(heads, 0.5, 1.5);
      Arrays in = {std::move(proj),   std::move(dt_bias), std::move(b_bias), std::move(c_bias),
                   std::move(b_norm), std::move(c_norm),  std::move(d),      absent_array()};
      if (at) in.push_back(last_targets(draws, batch, seqlen));
      if (!backward) return in;
      return backward_operands(forward, a, draws.real({batch, at ? 1 : seqlen, a.d_inner()}),
                               std::move(in), threads);
    };
  }

  void mamba2(int seqlen, bool backward, bool at = false) {
    const Mamba2ScanAttrs a = mamba2_attrs(model("mamba2"));
    const Op forward = at ? Op::kMamba2ScanAt : Op::kMamba2Scan, op = !backward ? forward
                                                                      : at ? Op::kMamba2ScanAtBwd
                                                                           : Op::kMamba2ScanBwd;
    BenchWork& w = add(op, at ? at_name(a) : scan_name(a), a, seqlen);
    w.flop = at ? at_flop(a, seqlen, backward) : scan_flop(a, seqlen, backward);
    w.operands = [=](int batch, int threads) -> Arrays {
      Draws draws;
      const Shape heads{a.nheads};
      OpArray proj = draws.real({batch, seqlen, a.d_proj()}, -1.5, 1.5);
      OpArray dt_bias = draws.real(heads, -3, 0), a_log = draws.real(heads, 0, 2.7);
      OpArray d = draws.real(heads, 0.5, 1.5), norm = draws.real({a.d_inner()}, 0.5, 1.5);
      Arrays in = {std::move(proj), std::move(dt_bias), std::move(a_log), std::move(d),
                   std::move(norm)};
      if (at) in.push_back(last_targets(draws, batch, seqlen));
      if (!backward) return in;
      return backward_operands(forward, a, draws.real({batch, at ? 1 : seqlen, a.d_inner()}),
                               std::move(in), threads);
    };
  }

  void lstm(int seqlen, bool backward) {
    const LstmAttrs a{model("lstm").d_inner()};
    const int hidden = a.hidden;
    BenchWork& w =
        add(backward ? Op::kLstmBwd : Op::kLstm, std::to_string(hidden) + " units", a, seqlen);
    w.flop = (backward ? 16 : 8) * tokens(seqlen) * hidden * hidden;
    w.operands = [=](int batch, int threads) -> Arrays {
      Draws draws;
      const double scale = 1 / std::sqrt(hidden);
      OpArray proj = draws.real({batch, seqlen, 4 * hidden}, -1.5, 1.5);
      OpArray weight = draws.real({4 * hidden, hidden}, -scale, scale);
      Arrays in = {std::move(proj), std::move(weight), draws.real({4 * hidden}, -scale, scale)};
      if (!backward) return in;
      OpArray y = run_op<float>(Op::kLstm, a, in, threads).outputs[0];
      Arrays out = backward_operands(Op::kLstm, a, draws.real({batch, seqlen, hidden}),
                                     std::move(in), threads);
      out.insert(out.begin() + 4, std::move(y));  // its backward op reads y as well
      return out;
    };
  }

  /// One head of 64 keys and 128 values, as the project's runs have it.
  void gated_delta(int seqlen, bool backward) {
    const GatedDeltaScanAttrs a = gated_delta_attrs(model("gated_delta_net"));
    BenchWork& w =
        add(backward ? Op::kGatedDeltaScanBwd : Op::kGatedDeltaScan, scan_name(a), a, seqlen);
    const double L = std::min(a.chunk_size, seqlen), K = a.d_state, V = a.headdim;
    w.flop = tokens(seqlen) * a.nheads *
             ((L + 1) * (backward ? 6 * K + 5 * V : 2 * K + 2 * V) +
              (seqlen > a.chunk_size ? (backward ? 14 : 6) * K * V : 0));
    w.operands = [=](int batch, int threads) -> Arrays {
      Draws draws;
      const Shape heads{a.nheads};
      OpArray proj = draws.real({batch, seqlen, a.d_proj()}, -1.5, 1.5);
      OpArray dt_bias = draws.real(heads, -3, 0), a_log = draws.real(heads, 0, 2.7);
      OpArray norm = draws.real({a.headdim}, 0.5, 1.5);
      Arrays in = {std::move(proj), std::move(dt_bias), std::move(a_log), std::move(norm)};
      if (!backward) return in;
      return backward_operands(Op::kGatedDeltaScan, a, draws.real({batch, seqlen, a.d_inner()}),
                               std::move(in), threads);
    };
  }

  template <class Attrs>
  static std::string at_name(const Attrs& a) {
    return std::to_string(a.nheads) + " heads of " + std::to_string(a.headdim) + ", d_state " +
           std::to_string(a.d_state) + ", last position";
  }
  template <class Attrs>
  static std::string scan_name(const Attrs& a) {
    return std::to_string(a.nheads) + " heads of " + std::to_string(a.headdim) + ", d_state " +
           std::to_string(a.d_state) + ", chunks of " + std::to_string(a.chunk_size);
  }

  void rms_norm(int seqlen, int columns, bool backward) {
    BenchWork& w = add(backward ? Op::kRmsNormBwd : Op::kRmsNorm, std::to_string(columns),
                       RmsNormAttrs{}, seqlen);
    w.operands = [=](int batch, int) -> Arrays {
      Draws draws;
      const Shape rows{batch, seqlen, columns};
      Arrays in = {draws.real(rows, -2, 2), draws.real({columns}, 0.5, 1.5)};
      if (backward) in.insert(in.begin(), draws.real(rows));
      return in;
    };
  }

  /// Mamba-2's: x, B and C of the projection.
  void conv(int seqlen, bool backward) {
    const Mamba2ScanAttrs m = mamba2_attrs(model("mamba2"));
    const CausalConv1dAttrs a{m.d_inner(), m.d_inner() + 2 * m.ngroups * m.d_state, 4};
    const int columns = m.d_proj();
    BenchWork& w = add(backward ? Op::kCausalConv1dBwd : Op::kCausalConv1d,
                       std::to_string(a.channels) + " of " + std::to_string(columns) +
                           " columns, width " + std::to_string(a.width),
                       a, seqlen);
    w.operands = [=](int batch, int) -> Arrays {
      Draws draws;
      const Shape rows{batch, seqlen, columns};
      Arrays in = {draws.real(rows, -2, 2), draws.real({a.channels, 1, a.width}, -0.5, 0.5),
                   draws.real({a.channels}, -0.5, 0.5)};
      if (backward) in.insert(in.begin(), draws.real(rows));
      return in;
    };
  }

  void embedding(int seqlen, int d_model, bool backward) {
    BenchWork& w = add(backward ? Op::kEmbeddingBwd : Op::kEmbedding,
                       std::to_string(kVocab) + " symbols, " + std::to_string(d_model), {}, seqlen);
    w.operands = [=](int batch, int) -> Arrays {
      Draws draws;
      Arrays in = {draws.integer({batch, seqlen}, kVocab), draws.real({kVocab, d_model})};
      if (backward) in.insert(in.begin() + 1, draws.real({batch, seqlen, d_model}));
      return in;
    };
  }

  void cross_entropy(int seqlen, bool backward) {
    BenchWork& w =
        add(backward ? Op::kCrossEntropyBwd : Op::kCrossEntropy,
            std::to_string(kVocab) + " classes, all positions", CrossEntropyAttrs{kVocab}, seqlen);
    w.operands = [=](int batch, int) -> Arrays {
      Draws draws;
      Arrays in = {draws.real({batch, seqlen, kVocab}, -4, 4),
                   draws.integer({batch, seqlen}, kVocab)};
      if (backward) in.insert(in.begin(), scalar(DType::kReal, 1));
      return in;
    };
  }

  void head_loss(int seqlen, int columns) {
    const HeadLossAttrs attributes{.eps = RmsNormAttrs{}.eps, .classes = kVocab};
    BenchWork& w =
        add(Op::kHeadLoss, std::to_string(kVocab) + " classes, last position", attributes, seqlen);
    w.operands = [=](int batch, int) -> Arrays {
      Draws draws;
      const double scale = 1 / std::sqrt(columns);
      OpArray h = draws.real({batch, seqlen, columns}, -2, 2),
              norm = draws.real({columns}, 0.5, 1.5),
              head = draws.real({kVocab, columns}, -scale, scale),
              targets = last_targets(draws, batch, seqlen);
      return {std::move(h), std::move(norm), std::move(head), std::move(targets),
              scalar(DType::kReal, 1)};
    };
  }

  void out_proj_loss(int seqlen, int columns, int d_inner) {
    head_loss(seqlen, columns);
    BenchWork& w = works_.back();
    w.op = Op::kOutProjLoss;
    w.operands = [=, head = w.operands](int batch, int threads) -> Arrays {
      Arrays in = head(batch, threads);
      Draws draws;
      const double scale = 1 / std::sqrt(d_inner);
      OpArray y = draws.real({batch, 1, d_inner}),
              out_proj = draws.real({columns, d_inner}, -scale, scale);
      in.insert(in.begin(), {std::move(y), std::move(out_proj)});
      return in;
    };
  }

  /// global_norm and adamw over the parameters of a model.
  void optimizer() {
    const std::vector<ParameterSpec> specs = parameter_specs(model("mamba3"));
    AdamWAttrs a;
    int64_t count = 0;
    for (const ParameterSpec& spec : specs) {
      a.decays.push_back(spec.decays);
      count += spec.shape.size();
    }
    const std::string name = std::to_string(specs.size()) + " parameters of mamba3, " +
                             std::to_string(count) + " elements";
    add(Op::kGlobalNorm, name, {}, 0).operands = [specs](int, int) {
      Draws draws;
      Arrays in;
      for (const ParameterSpec& spec : specs) in.push_back(draws.real(spec.shape));
      return in;
    };
    works_.back().batch = 0;
    add(Op::kAdamW, name, a, 0).operands = [specs](int, int) {
      Draws draws;
      const OpArray settings{{DType::kFloat64, {kSettings}}, {1e-3, 0.9, 0.999, 1e-8, 0.1, 1}};
      Arrays in = {scalar(DType::kReal, 2), scalar(DType::kFloat64, 1e-3),
                   scalar(DType::kInt32, 100), settings, scalar(DType::kInt32, -1)};
      for (const ParameterSpec& spec : specs) {
        in.push_back(draws.real(spec.shape));
        in.push_back(draws.real(spec.shape, -0.1, 0.1));
        in.push_back(draws.real(spec.shape, 1e-4, 0.01));
        in.push_back(draws.real(spec.shape));
      }
      return in;
    };
    works_.back().batch = 0;
  }

  ComputeDevice device_;
  int batch_;
  std::vector<BenchWork> works_;
};

// ---- checks

double largest(const OpArray& a) {
  double out = 0;
  for (const double x : a.data) out = std::max(out, std::abs(x));
  return out;
}

/// Largest difference; infinity when one is no number. Angles are equal up to whole turns.
double largest_difference(const OpArray& actual, const OpArray& expected, bool angles) {
  if (actual.data.size() != expected.data.size()) return std::numeric_limits<double>::infinity();
  double out = 0;
  for (size_t i = 0; i < actual.data.size(); ++i) {
    double d = actual.data[i] - expected.data[i];
    if (!std::isfinite(d)) return std::numeric_limits<double>::infinity();
    if (angles) d = std::remainder(d, 2 * std::numbers::pi);
    out = std::max(out, std::abs(d));
  }
  return out;
}

/// The gradient of an absent operand says nothing.
bool is_compared(Op op, const Arrays& operands, size_t output) {
  const bool one_each =
      op == Op::kMamba3ScanBwd || op == Op::kGatedDeltaScanBwd || op == Op::kMamba3ScanAtBwd;
  return !one_each || !operands[output + 1].absent;
}

Precision precision_of(const BenchWork& work, const ComputeDevice& device) {
  return work.flop > 0 ? device.precision : Precision::kFp32;
}

/// Has the device this op for these shapes? Some stand for others on some devices only.
bool taken(const BenchWork& work, const Arrays& operands) {
  std::vector<const ValueType*> in;
  for (const OpArray& a : operands) in.push_back(a.absent ? nullptr : &a.type);
  const std::vector<ValueType> out = infer(work.op, work.attributes, in);
  return cuda_limit({work.op, &work.attributes, in, out}).empty();
}

}  // namespace

std::vector<BenchWork> bench_works(const ComputeDevice& device, int batch) {
  return Works(device, batch).all();
}

void check_op_result(const BenchWork& work, const Arrays& operands, const OpRun& actual,
                     const OpRun& expected, Precision precision) {
  const double tolerance = work.flop == 0 || precision == Precision::kFp32 ? 1e-4
                           : precision == Precision::kTf32                 ? 1e-2
                                                                           : 5e-2;
  const auto refuse = [&](const std::string& what, double error) {
    throw BenchRefused(std::string(op_name(work.op)) + " (" + work.work + ")" +
                       (work.seqlen ? ", " + std::to_string(work.seqlen) + " tokens: " : ": ") +
                       what + " is off by " + std::to_string(error) +
                       " of its largest element in double precision, " + "tolerated are " +
                       std::to_string(tolerance));
  };
  const auto compare = [&](const OpArray& a, const OpArray& b, double floor, bool angles,
                           const std::string& what) {
    const double difference = largest_difference(a, b, angles);
    const double scale = std::max(largest(b), floor);
    if (!(difference <= tolerance * scale))
      refuse(what, scale > 0 ? difference / scale : difference);
  };
  // A gradient of few elements may be a sum that happens to cancel: its terms are like those of the others.
  double scale = 0;
  for (size_t i = 0; i < expected.outputs.size(); ++i) {
    if (is_compared(work.op, operands, i)) scale = std::max(scale, largest(expected.outputs[i]));
  }
  for (size_t i = 0; i < expected.outputs.size(); ++i) {
    if (!is_compared(work.op, operands, i)) continue;
    const double floor = expected.outputs[i].data.size() < 16 ? 0.1 * scale : 0;
    compare(actual.outputs[i], expected.outputs[i], floor, work.op == Op::kMamba3Scan && i == 2,
            "output " + std::to_string(i));
  }
  for (const int i : updated_inputs(work.op, static_cast<int>(operands.size()))) {
    const auto at = static_cast<size_t>(i);
    compare(actual.inputs[at], expected.inputs[at], 0, false, "state " + std::to_string(i));
  }
}

BenchOpsReport bench_ops(const BenchOpsOptions& options, const ComputeDevice& device) {
  refuse_slow_builds();
  const CudaDevice& here = machine_cuda_devices().at(static_cast<size_t>(device.index));
  BenchOpsReport report;
  report.device = here.name;
  report.driver = cuda_version_text(here.driver_version);
  report.toolkit = cuda_version_text(here.runtime_version);
  report.precision = precision_name(device.precision);
  report.build_type = build_info().build_type;
  report.commit = build_info().commit;
  report.copy_bytes_per_s = cuda_copy_rate(device.index);
  for (const BenchWork& work : bench_works(device, options.batch)) {
    const Precision precision = precision_of(work, device);
    const Arrays few = work.operands(kCheckedSequences, options.threads);
    if (!taken(work, few)) continue;
    const OpRun expected = run_op<double>(work.op, work.attributes, few, options.threads);
    for (const int members : work.members) {
      const std::vector<Arrays> same(static_cast<size_t>(members), few);
      for (const OpRun& actual :
           run_op_cuda(work.op, work.attributes, same, precision, device.index))
        check_op_result(work, few, actual, expected, precision);
    }
    const Arrays operands = work.operands(work.batch, options.threads);
    for (const int members : work.members) {
      const CudaTiming t =
          time_op_cuda(work.op, work.attributes, operands, members, precision, device.index);
      const double seconds = t.hot_us * 1e-6;
      BenchOpsRow& row = report.rows.emplace_back();
      row.op = op_name(work.op);
      row.work = work.work;
      row.precision = precision_name(precision);
      row.batch = work.batch;
      row.seqlen = work.seqlen;
      row.members = members;
      row.cold_us = t.cold_us;
      row.hot_us = t.hot_us;
      row.member_us = t.hot_us / members;
      row.spread_pct = t.spread_pct;
      row.bytes_per_s = static_cast<double>(t.bytes) / seconds;
      row.share_of_copy_pct = 100 * row.bytes_per_s / report.copy_bytes_per_s;
      row.flop_per_s = work.flop * members / seconds;
      if (report.rows.size() == 1) report.product_flop_per_s = row.flop_per_s;
      row.share_of_product_pct = 100 * row.flop_per_s / report.product_flop_per_s;
    }
  }
  return report;
}

}  // namespace statelab
