#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "models/cohort.h"
#include "models/model.h"
#include "models/program.h"

namespace statelab {
namespace {

void load(MemberStore& store, const ModelConfig& model, const MemberState& state, int member) {
  const auto specs = parameter_specs(model);
  if (state.weights.size() != specs.size())
    throw std::invalid_argument("evaluate: the weights are not those of this model");
  for (size_t i = 0; i < specs.size(); ++i) {
    const NamedTensor& t = state.weights[i];
    if (t.name != specs[i].name || Shape(t.shape) != specs[i].shape) {
      throw std::invalid_argument("evaluate: " + t.name + " " + Shape(t.shape).text() +
                                  " does not match " + specs[i].name + " " + specs[i].shape.text());
    }
    std::copy(t.data.begin(), t.data.end(), store.data<float>(t.name, member));
  }
}

/// Sequences per pass: a function of the shape only, so that a row always meets the same neighbours' sizes.
int pass_size(const EvalShape& shape) {
  constexpr int kPositions = 1 << 14;
  return std::clamp(kPositions / std::max(shape.seqlen, 1), 1, std::max(shape.batch, 1));
}

double logsumexp(const float* l, int n) {
  double top = l[0];
  for (int i = 1; i < n; ++i) top = std::max(top, static_cast<double>(l[i]));
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += std::exp(static_cast<double>(l[i]) - top);
  return top + std::log(sum);
}

/// Counts one sequence: logits (seqlen, width), targets (seqlen).
void count(EvalCounts& c, const float* logits, const int32_t* targets, int seqlen, int width,
           int classes, int begin, int end) {
  bool all_right = true, any = false;
  for (int t = 0; t < seqlen; ++t) {
    if (targets[t] < 0) continue;
    const float* l = logits + static_cast<int64_t>(t) * width;
    int best = begin;
    for (int i = begin + 1; i < end; ++i) {
      if (l[i] > l[best]) best = i;
    }
    const bool right = best == targets[t];
    all_right = all_right && right;
    any = true;
    const auto at = static_cast<size_t>(t);
    c.tokens += 1;
    c.tokens_correct += right;
    c.loss_sum += logsumexp(l, classes) - static_cast<double>(l[targets[t]]);
    c.position_total[at] += 1;
    c.position_correct[at] += right;
    c.prefix_correct[at] += all_right;
  }
  c.sequences += 1;
  c.sequences_correct += any && all_right;
}

}  // namespace

std::vector<EvalCounts> evaluate(const EvalShape& shape,
                                 std::span<const MemberState* const> weights,
                                 const DataSource& data, uint32_t data_step, int64_t samples,
                                 int threads) {
  const int members = static_cast<int>(weights.size()), batch = pass_size(shape),
            width = shape.model.padded_vocab();
  const int begin = shape.legal_end > 0 ? shape.legal_begin : 0,
            end = shape.legal_end > 0 ? shape.legal_end : shape.model.vocab_size;
  ThreadPool pool(std::max(threads, 1));
  MemberStore store(members, sizeof(float));
  Graph graph;
  const ValueId step = graph.state("step", DType::kInt32, {1});
  const ForwardGraph f = build_forward(graph, shape.model, step, batch, shape.seqlen);
  CpuProgram<float> program(graph, store, pool, {f.logits, f.targets});
  for (int m = 0; m < members; ++m) load(store, shape.model, *weights[static_cast<size_t>(m)], m);

  const auto length = static_cast<size_t>(shape.seqlen);
  EvalCounts empty;
  empty.position_total.resize(length);
  empty.position_correct.resize(length);
  empty.prefix_correct.resize(length);
  std::vector<EvalCounts> out(static_cast<size_t>(members), empty);
  for (int64_t first = 0; first < samples; first += batch) {
    program.set_draw([&](int member, uint32_t, uint32_t row, std::span<int32_t> tokens,
                         std::span<int32_t> targets) {
      data.draw(member, data_step, static_cast<uint32_t>(first + row), tokens, targets);
    });
    program.run();
    pool.parallel_for(members, [&](int64_t m, int) {
      const float* logits = program.data<float>(f.logits, static_cast<int>(m));
      const int32_t* targets = program.data<int32_t>(f.targets, static_cast<int>(m));
      for (int64_t b = 0; b < std::min<int64_t>(batch, samples - first); ++b) {
        count(out[static_cast<size_t>(m)], logits + b * shape.seqlen * width,
              targets + b * shape.seqlen, shape.seqlen, width, shape.model.vocab_size, begin, end);
      }
    });
  }
  return out;
}

std::vector<float> logits(const ModelConfig& config, const MemberState& weights,
                          std::span<const int32_t> tokens) {
  Model<float> model(config, 1, static_cast<int>(tokens.size()), false);
  for (const NamedTensor& t : weights.weights)
    model.set(t.name, std::vector<double>(t.data.begin(), t.data.end()));
  const std::vector<int32_t> targets(tokens.size(), -1);
  model.run(tokens, targets);
  const std::vector<double> out = model.logits();
  return {out.begin(), out.end()};
}

}  // namespace statelab
