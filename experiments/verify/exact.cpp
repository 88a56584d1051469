// verify exact: weights set by hand with which a whole production model counts modulo m, for ever
// in exact arithmetic.
//
// The first token is BOS; only it has a value, 1, and the state never decays (a = 0), so the state
// is that one value turned by the sum of the angles since. Token r turns it by 2 pi r / m, hence
// the two heads read
//   o_0 = cos(2 pi count / m),   o_1 = sin(2 pi count / m),
// and the head's rows (cos(2 pi k / m), sin(2 pi k / m)) are largest for k = count mod m. m = 2 is
// parity. Mamba-2 with eigenvalues in [-1, 1] does parity with alpha = -1 for a one and +1 for a
// zero; the delta rules with keys k = e_0 throughout and beta = 2 for a one, 0 for a zero, which
// reflect the state or leave it. An LSTM writes the opposite of its own output for a one and holds its
// cell for a zero; its gates are so far in saturation that the cell stays 1 or -1 to the last bit.
#include <algorithm>
#include <cmath>

#include "experiments/verify/findings.h"
#include "models/cohort.h"
#include "models/model.h"
#include "models/reference/scalar.h"

namespace statelab::verify {
namespace {

constexpr int kWidth = 8;  // d_model: token dimensions 0..5, results 6 and 7
constexpr int kBosDimension = 5;
constexpr double kPi = reference::kPi;

/// Increments that occur: 0..m-1 where they fit the embedding, otherwise 0 and 1.
int increments(int modulus) { return modulus <= kBosDimension ? modulus : 2; }

struct HandMade {
  std::string name;
  int modulus = 2;
  ModelConfig config;
  MemberState weights;

  std::vector<float>& weight(const std::string& name_) {
    for (NamedTensor& t : weights.weights) {
      if (t.name == name_) return t.data;
    }
    throw std::logic_error("hand-made model has no parameter " + name_);
  }
  std::vector<float>& mixer(const std::string& name_) {
    return weight("backbone.layers.0.mixer." + name_);
  }
};

/// The parts that all mixers share: one-hot embedding, norms of 1, zero mixer, head.
HandMade skeleton(const std::string& name, int modulus, ModelConfig config) {
  HandMade made{name, modulus, config, {}};
  for (const ParameterSpec& spec : parameter_specs(config)) {
    NamedTensor t{spec.name, spec.shape.extents(),
                  std::vector<float>(static_cast<std::size_t>(spec.shape.size()), 0)};
    if (spec.name.find("norm") != std::string::npos) std::fill(t.data.begin(), t.data.end(), 1.0f);
    made.weights.weights.push_back(t);
  }
  auto& embedding = made.weight("backbone.embedding.weight");
  for (int r = 0; r < increments(modulus); ++r) embedding[std::size_t(r) * kWidth + r] = 1;
  embedding[std::size_t(modulus) * kWidth + kBosDimension] = 1;
  auto& head = made.weight("lm_head.weight");
  for (int k = 0; k < modulus; ++k) {
    head[std::size_t(k) * kWidth + 6] = static_cast<float>(std::cos(2 * kPi * k / modulus));
    head[std::size_t(k) * kWidth + 7] = static_cast<float>(std::sin(2 * kPi * k / modulus));
  }
  auto& out_proj = made.mixer("out_proj.weight");  // (d_model, d_inner): channel 0 of each head
  out_proj[std::size_t(6) * kWidth + 0] = 1;
  out_proj[std::size_t(7) * kWidth + config.headdim] = 1;
  return made;
}

ModelConfig small_config(const std::string& mixer, int modulus) {
  ModelConfig c;
  c.mixer = mixer;
  c.vocab_size = modulus + 1;
  c.d_model = kWidth, c.expand = 1, c.headdim = 4, c.ngroups = 1, c.d_state = 4;
  c.a_floor = 0;
  return c;
}

/// RMSNorm turns a one-hot embedding into this multiple of it.
double one_hot_scale() { return 1 / std::sqrt(1.0 / kWidth + 1e-5); }

/// Sets `row` of in_proj so that tokens of embedding dimension i project to values[i].
void project(HandMade& made, int row, const std::vector<double>& values) {
  auto& in_proj = made.mixer("in_proj.weight");
  for (std::size_t i = 0; i < values.size(); ++i) {
    in_proj[std::size_t(row) * kWidth + i] = static_cast<float>(values[i] / one_hot_scale());
  }
}

HandMade mamba3_counter(int modulus, const std::string& rotation) {
  ModelConfig config = small_config("mamba3", modulus);
  config.rotation = rotation;
  const std::string what = modulus == 2 ? "parity" : "counting mod " + std::to_string(modulus);
  HandMade made = skeleton(what + ", mamba3" + (rotation == "none" ? " without rotation" : ""),
                           modulus, config);
  const int H = config.nheads(), d_inner = config.d_inner(), N = config.d_state;
  const int x = d_inner, dd_dt = 2 * d_inner + 2 * N, dd_A = dd_dt + H, ang = dd_A + 2 * H;
  const std::vector<double> all(kBosDimension + 1, 1.0);
  const double dt = 1 / std::tanh(3.0);
  for (int row = 0; row < d_inner; ++row)
    project(made, row, std::vector<double>(all.size(), 3.0));  // open gate
  for (int h = 0; h < H; ++h) {
    project(made, x + h * config.headdim, {0, 0, 0, 0, 0, 1});
    project(made, dd_A + h,
            std::vector<double>(all.size(), -1000.0));  // softplus gives 0: no decay
    made.mixer("dt_bias")[h] = static_cast<float>(dt + std::log(-std::expm1(-dt)));
    made.mixer("B_bias")[std::size_t(h) * N] = 1;
  }
  made.mixer("C_bias")[0] = 1;                    // head 0 reads the cosine
  made.mixer("C_bias")[std::size_t(N) + 1] = -1;  // head 1: e_0 . Rot(Phi) (-e_1) = sin(Phi)
  std::vector<double> raw(kBosDimension + 1, 0.0);
  for (int r = 0; r < increments(modulus); ++r) {
    const double turn = 2 * kPi * (2 * r > modulus ? r - modulus : r) / modulus;
    raw[static_cast<std::size_t>(r)] = std::atanh(turn / dt / kPi);
  }
  project(made, ang, raw);
  return made;
}

HandMade mamba2_parity(double eigenvalue_min) {
  ModelConfig config = small_config("mamba2", 2);
  config.eigenvalue_min = eigenvalue_min;
  HandMade made =
      skeleton(eigenvalue_min < 0 ? "parity, mamba2 [-1,1]" : "parity, mamba2 [0,1]", 2, config);
  const int H = config.nheads(), d_inner = config.d_inner(), N = config.d_state;
  const int x = d_inner, B = 2 * d_inner, C = B + N, dd_dt = C + N;
  for (int row = 0; row < d_inner; ++row)
    project(made, row, std::vector<double>(kBosDimension + 1, 3.0));
  project(made, x, {0, 0, 0, 0, 0, 4});
  project(made, B, {0, 0, 0, 0, 0, 4});
  project(made, C, std::vector<double>(kBosDimension + 1, 4.0));
  for (int h = 0; h < H; ++h) project(made, dd_dt + h, {-100, 100, 0, 0, 0, 1});  // alpha = +1, -1
  auto& conv = made.mixer("conv1d.weight");
  for (std::size_t c = 0; c < conv.size() / 4; ++c) conv[c * 4 + 3] = 1;  // the current token alone
  return made;
}

/// BOS writes (beta in the middle of its range, v > 0); afterwards v = 0, so a one with beta = 2
/// turns S into S - 2 k k^T S = -S. With beta up to 1 a one can only wipe the state out.
HandMade delta_parity(const std::string& mixer, double eigenvalue_min) {
  ModelConfig config = small_config(mixer, 2);
  config.eigenvalue_min = eigenvalue_min;
  HandMade made =
      skeleton("parity, " + mixer + (eigenvalue_min < 0 ? " [-1,1]" : " [0,1]"), 2, config);
  const bool gated = mixer == "gated_delta_net";
  const int H = config.nheads(), d_inner = config.d_inner(), K = config.d_state;
  const int q = 0, k = K, v = 2 * K, gate = v + d_inner, a = gate + d_inner,
            b = gated ? a + H : gate;
  const std::vector<double> all(kBosDimension + 1, 1.0);
  project(made, q, std::vector<double>(all.size(), 4096.0));  // so large that its norm is 1 in fp32
  project(made, k, std::vector<double>(all.size(), 4096.0));
  project(made, v, {0, 0, 0, 0, 0, 4});
  for (int h = 0; h < H; ++h) {
    project(made, b + h, {-100, 100, 0, 0, 0, 0});
    if (gated) project(made, a + h, std::vector<double>(all.size(), -1000.0));  // g = 0
  }
  if (gated) {
    for (int row = 0; row < d_inner; ++row)
      project(made, gate + row, std::vector<double>(all.size(), 3.0));
  }
  return made;
}

/// Unit 0 holds the sign. BOS writes 1; a one writes tanh(-100 h) = -sign(h), h = +-tanh(1); a zero keeps the cell. Without
/// weight_hh nothing that is written can depend on what is held.
HandMade lstm_parity(bool recurrent) {
  const ModelConfig config = small_config("lstm", 2);
  HandMade made =
      skeleton(recurrent ? "parity, lstm" : "parity, lstm without weight_hh", 2, config);
  const int H = config.d_inner(), i = 0, f = H, g = 2 * H, o = 3 * H;
  project(made, i, {-200, 200, 0, 0, 0, 200});
  project(made, f, {200, -200, 0, 0, 0, -200});
  project(made, g, {0, 0, 0, 0, 0, 100});
  project(made, o, std::vector<double>(kBosDimension + 1, 200.0));
  if (recurrent) made.mixer("weight_hh")[std::size_t(g) * H] = -100;
  return made;
}

/// BOS, then random increments; sample 1 has the largest increment throughout, sample 2 ones in
/// turn with zeros.
class CountingData : public DataSource {
 public:
  CountingData(uint32_t seed, int modulus) : seed_(seed), modulus_(modulus) {}
  void draw(int, uint32_t, uint32_t sample, std::span<int32_t> tokens,
            std::span<int32_t> targets) const override {
    const int n = increments(modulus_);
    const auto u = uniform_values(seed_, (1u << 25) + static_cast<uint32_t>(modulus_), sample,
                                  tokens.size(), 0, n);
    int count = 0;
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      int r = static_cast<int>(u[t]);
      if (sample == 1) r = n - 1;
      if (sample == 2) r = static_cast<int>(t % 2);
      tokens[t] = t == 0 ? modulus_ : r;
      if (t > 0) count = (count + r) % modulus_;
      targets[t] = count;
    }
  }

 private:
  uint32_t seed_;
  int modulus_;
};

struct Outcome {
  double wrong_share = 0;
  int64_t first_error = 0;  ///< tokens, BOS included
};

Outcome outcome(int64_t wrong, int64_t total, int64_t first_error) {
  return {double(wrong) / double(total), first_error};
}

Outcome run_fp32(const HandMade& made, const CountingData& data, int seqlen, int sequences) {
  EvalShape shape;
  shape.model = made.config;
  shape.seqlen = seqlen;
  shape.batch = 1;
  shape.legal_end = made.modulus;
  const MemberState* weights = &made.weights;
  const EvalCounts counts = evaluate(shape, {&weights, 1}, data, 0, sequences, 1).at(0);
  int64_t first = 0;
  for (std::size_t t = 0; t < counts.position_total.size() && first == 0; ++t) {
    if (counts.position_correct[t] < counts.position_total[t]) first = static_cast<int64_t>(t) + 1;
  }
  return outcome(counts.tokens - counts.tokens_correct, counts.tokens, first);
}

Outcome run_fp64(const HandMade& made, const CountingData& data, int seqlen, int sequences) {
  Model<double> model(made.config, 1, seqlen, false);
  for (const NamedTensor& t : made.weights.weights) {
    model.set(t.name, std::vector<double>(t.data.begin(), t.data.end()));
  }
  std::vector<int32_t> tokens(static_cast<std::size_t>(seqlen)), targets(tokens.size());
  int64_t wrong = 0, first = 0;
  for (int s = 0; s < sequences; ++s) {
    data.draw(0, 0, static_cast<uint32_t>(s), tokens, targets);
    model.run(tokens, targets);
    const std::vector<double> logits = model.logits();
    for (int t = 0; t < seqlen; ++t) {
      const auto row = logits.begin() + std::ptrdiff_t(t) * made.config.padded_vocab();
      const auto answer = std::max_element(row, row + made.modulus) - row;
      if (answer == targets[static_cast<std::size_t>(t)]) continue;
      ++wrong;
      if (first == 0 || t + 1 < first) first = t + 1;
    }
  }
  return outcome(wrong, int64_t(seqlen) * sequences, first);
}

}  // namespace

Findings exact_suite(const SuiteOptions& options, std::vector<ExactReach>* reaches) {
  const int seqlen = options.quick ? 4096 : 65536, sequences = 4;
  struct Task {
    HandMade made;
    bool fp64;
    bool control;        ///< must get it wrong
    bool must_be_exact;  ///< otherwise the reach is a result only
  };
  std::vector<Task> tasks;
  for (bool fp64 : {false, true}) {
    for (int modulus :
         options.quick ? std::vector<int>{2, 5} : std::vector<int>{2, 5, 64, 256, 1024}) {
      if (fp64 && modulus > 256) continue;  // its logits alone would take half a gigabyte
      tasks.push_back({mamba3_counter(modulus, "data_dependent"), fp64, false, modulus <= 5});
    }
    tasks.push_back({mamba2_parity(-1), fp64, false, true});
    tasks.push_back({delta_parity("gated_delta_net", -1), fp64, false, true});
    tasks.push_back({delta_parity("delta_net", -1), fp64, false, true});
    tasks.push_back({lstm_parity(true), fp64, false, true});
    tasks.push_back({mamba2_parity(0), fp64, true, false});
    tasks.push_back({lstm_parity(false), fp64, true, false});
    tasks.push_back({delta_parity("gated_delta_net", 0), fp64, true, false});
    tasks.push_back({mamba3_counter(2, "none"), fp64, true, false});
  }
  std::vector<ExactReach> found_reaches(tasks.size());
  const Findings found =
      find_in_parallel(static_cast<int>(tasks.size()), options.threads, [&](int i) {
        const Task& task = tasks[static_cast<std::size_t>(i)];
        const CountingData data(options.seed, task.made.modulus);
        const int length = task.control ? 4096 : seqlen;
        const Outcome got = task.fp64 ? run_fp64(task.made, data, length, sequences)
                                      : run_fp32(task.made, data, length, sequences);
        const std::string engine = task.fp64 ? "cpu fp64" : "cpu fp32";
        const std::string where = std::to_string(length) + " tokens x " + std::to_string(sequences);
        if (task.control) {
          return Findings{{"control: " + task.made.name + ", " + engine, got.wrong_share, 0.1,
                           where, "cannot solve it", "share of wrong answers", true}};
        }
        found_reaches[static_cast<std::size_t>(i)] = {task.made.name, engine, length, sequences,
                                                      got.first_error};
        if (!task.must_be_exact) return Findings{};
        return Findings{{task.made.name + ", " + engine + ": every answer right", got.wrong_share,
                         0, where, "exact", "share of wrong answers", false}};
      });
  for (const ExactReach& r : found_reaches) {
    if (r.tokens > 0) reaches->push_back(r);
  }
  return found;
}

}  // namespace statelab::verify
