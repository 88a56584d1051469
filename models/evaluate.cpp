#include <algorithm>
#include <cstdint>
#include <iterator>
#include <memory>
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
    store.write<float>(t.name, member, t.data);
  }
}

/// One pass: draw, forward, count, and on to the next.
Graph evaluation_pass(const EvalShape& shape, int batch, int64_t samples,
                      const ComputeDevice& device) {
  Graph graph;
  const ValueId pass = graph.state("pass", DType::kInt32, {1});
  const ValueId passes = graph.state("passes", DType::kInt32, {1});  // advance moves two counters
  const ValueId counts = graph.state("counts", DType::kFloat64, {kScores + 3 * shape.seqlen});
  const ForwardGraph f = build_forward(graph, computed_on(device, shape.model), pass, batch,
                                       shape.seqlen, /*with_loss=*/false);
  const int begin = shape.legal_end > 0 ? shape.legal_begin : 0,
            end = shape.legal_end > 0 ? shape.legal_end : shape.model.vocab_size;
  graph.apply(Op::kScore, ScoreAttrs{shape.model.vocab_size, begin, end, samples},
              {f.logits, f.targets, pass, counts});
  graph.apply(Op::kAdvance, {}, {pass, passes});
  return graph;
}

/// Sequences per pass, at most `most`. No result depends on it: a row never meets its neighbours, counts are integers and
/// losses are added in the order of the samples. On a CUDA device as many as keep it busy (2^20 positions of all members, and
/// 128 sequences, for a scan walks each in order) and fit into half of its free memory.
int pass_size(const EvalShape& shape, int members, int64_t samples, int64_t most,
              const ComputeDevice& device) {
  const int seqlen = std::max(shape.seqlen, 1);
  if (!device.is_cuda()) {
    constexpr int kPositions = 1 << 14;
    return std::clamp(kPositions / seqlen, 1, std::max(shape.batch, 1));
  }
  constexpr int64_t kPositions = 1 << 20, kSequences = 128;
  constexpr int64_t kMemberPositions = 1 << 22;  // times a projection's columns stays below 2^31
  constexpr int kProbe = 16;  // a workspace of fixed size weighs little in so many sequences
  const int64_t per_sequence =
      planned_arena_bytes(evaluation_pass(shape, kProbe, samples, device), {}, 1, device) / kProbe;
  const int64_t busy = std::max(kPositions / seqlen, kSequences) / members,
                fitting = cuda_memory_info(device.index).free_bytes / 2 /
                          std::max<int64_t>(1, per_sequence * members);
  most = std::max<int64_t>(1, std::min({busy, fitting, kMemberPositions / seqlen, samples, most}));
  const int64_t passes = std::max<int64_t>(1, (samples + most - 1) / most);
  return static_cast<int>(std::max<int64_t>(1, (samples + passes - 1) / passes));
}

EvalCounts counts_of(const std::vector<double>& sums, int seqlen) {
  const auto whole = [](double x) { return static_cast<int64_t>(x); };
  EvalCounts c;
  c.sequences = whole(sums[kScoreSequences]);
  c.sequences_correct = whole(sums[kScoreSequencesCorrect]);
  c.tokens = whole(sums[kScoreTokens]);
  c.tokens_correct = whole(sums[kScoreTokensCorrect]);
  c.loss_sum = sums[kScoreLoss];
  auto at = sums.begin() + kScores;
  for (auto* counts : {&c.position_total, &c.position_correct, &c.prefix_correct}) {
    std::transform(at, at + seqlen, std::back_inserter(*counts), whole);
    at += seqlen;
  }
  return c;
}

}  // namespace

std::vector<EvalCounts> evaluate(const EvalShape& shape,
                                 std::span<const MemberState* const> weights,
                                 const DataSource& data, uint32_t data_step, int64_t samples,
                                 const ComputeDevice& device) {
  const int members = static_cast<int>(weights.size());
  Backend backend(device);
  MemberStore store(members, sizeof(float), backend.stream());
  int batch = pass_size(shape, members, samples, INT32_MAX, device);
  std::unique_ptr<Program> program;
  while (program == nullptr) {
    try {
      program =
          make_program<float>(evaluation_pass(shape, batch, samples, device), store, backend, {});
    } catch (const CudaOutOfMemory&) {  // others took what was free
      if (batch == 1) throw;
      batch = pass_size(shape, members, samples, batch / 2, device);
    }
  }
  for (int m = 0; m < members; ++m) load(store, shape.model, *weights[static_cast<size_t>(m)], m);
  program->set_draw(
      [&](int member, uint32_t pass, uint32_t row, std::span<int32_t> tokens,
          std::span<int32_t> targets) {
        data.draw(member, data_step, pass * static_cast<uint32_t>(batch) + row, tokens, targets);
      },
      device.is_cuda() ? data.cuda_draw(device.index, data_step) : nullptr);
  program->run((samples + batch - 1) / batch);
  std::vector<EvalCounts> out;
  for (const std::vector<double>& sums : store.read_members<double>("counts"))
    out.push_back(counts_of(sums, shape.seqlen));
  return out;
}

void check_evaluation(const EvalShape& shape, const ComputeDevice& device) {
  planned_arena_bytes(evaluation_pass(shape, 1, 1, device), {}, 1, device);
}

std::vector<float> logits(const ModelConfig& config, const MemberState& weights,
                          std::span<const int32_t> tokens, const ComputeDevice& device) {
  Model<float> model(config, 1, static_cast<int>(tokens.size()), false, device);
  for (const NamedTensor& t : weights.weights)
    model.set(t.name, std::vector<double>(t.data.begin(), t.data.end()));
  const std::vector<int32_t> targets(tokens.size(), -1);
  model.run(tokens, targets);
  const std::vector<double> out = model.logits();
  return {out.begin(), out.end()};
}

}  // namespace statelab
