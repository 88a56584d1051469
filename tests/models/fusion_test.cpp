// Fused graphs: which nodes are left, and that they compute what the graph computed.
#include "models/fusion.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "models/member_store.h"
#include "models/model.h"
#include "models/program.h"
#include "tests/support/random.h"

namespace statelab {
namespace {

struct Training {
  Graph graph;
  std::vector<ValueId> results;  ///< loss, accuracy, then the gradients
};

ModelConfig small(void (*change)(ModelConfig&)) {
  ModelConfig c;
  c.vocab_size = 5;
  c.n_layers = 2;
  c.d_model = c.headdim = c.d_state = 8;
  change(c);
  return c;
}

Training training(const ModelConfig& config) {
  Training t;
  const ValueId step = t.graph.state("step", DType::kInt32, {1});
  const ForwardGraph f = build_forward(t.graph, config, step, 3, 7);
  t.results = {f.loss, f.accuracy};
  for (const ValueId id : add_gradients(t.graph, f.loss, f.parameters)) t.results.push_back(id);
  return t;
}

int count(const Graph& graph, Op op) {
  return static_cast<int>(std::count_if(graph.nodes().begin(), graph.nodes().end(),
                                        [&](const Node& node) { return node.op == op; }));
}

/// What the values hold after the graph has run once, in double.
std::vector<std::vector<double>> computed(const Graph& graph, const ModelConfig& config,
                                          const std::vector<ValueId>& values) {
  ThreadPool pool(1);
  MemberStore store(1, sizeof(double));
  CpuProgram<double> program(graph, store, pool, values);
  for (const ParameterSpec& spec : parameter_specs(config))
    store.write<double>(spec.name, 0, initial_values(spec, config, 4));
  program.set_draw(
      [](int, uint32_t, uint32_t row, std::span<int32_t> tokens, std::span<int32_t> targets) {
        for (size_t t = 0; t < tokens.size(); ++t) {
          tokens[t] = static_cast<int32_t>((3 * t + row) % 5);
          targets[t] = t % 3 == row % 3 ? static_cast<int32_t>((t + row) % 5) : -1;
        }
      });
  program.run();
  std::vector<std::vector<double>> out;
  for (const ValueId id : values) out.push_back(program.read<double>(id, 0));
  return out;
}

const auto kNothing = [](const CallShapes&) { return false; };
const auto kEverything = [](const CallShapes&) { return true; };

const std::vector<ModelConfig>& configs() {
  static const std::vector<ModelConfig> all = {
      small([](ModelConfig&) {}),
      small([](ModelConfig& c) { c.mlp = "swiglu", c.n_layers = 3; }),
      small([](ModelConfig& c) { c.tie_embeddings = true, c.pad_vocab_multiple = 16; }),
      small([](ModelConfig& c) { c.mixer = "mamba2", c.conv = true; }),
      small([](ModelConfig& c) { c.mixer = "gated_delta_net"; }),
      small([](ModelConfig& c) { c.mixer = "lstm", c.n_layers = 1; })};
  return all;
}

TEST(Fusion, ResidualsAndTheirGradientsAreAddedWhereTheirTermsAreComputed) {
  for (const ModelConfig& config : configs()) {
    const Training t = training(config);
    const Graph graph = fused(t.graph, t.results, kNothing);
    EXPECT_EQ(count(graph, Op::kAdd), config.tie_embeddings ? 1 : 0) << config.mixer;
    const int residuals = config.n_layers * (config.mlp == "swiglu" ? 2 : 1);
    EXPECT_EQ(t.graph.nodes().size() - graph.nodes().size(), 2u * static_cast<size_t>(residuals));
    EXPECT_EQ(graph.values().size(), t.graph.values().size());
    for (const Node& node : graph.nodes()) {
      if (node.op == Op::kLinear) {
        EXPECT_LE(node.inputs.size(), 3u);
      }
      if (node.op == Op::kRmsNormBwd) {
        EXPECT_LE(node.inputs.size(), 4u);
      }
    }
    EXPECT_TRUE(computed(graph, config, t.results) == computed(t.graph, config, t.results))
        << config.mixer;
  }
}

TEST(Fusion, ValuesThatAreKeptOrReadTwiceAreStillComputed) {
  Graph g;
  const ValueId x = g.parameter("x", {4, 8}), w = g.parameter("w", {8, 8});
  const ValueId y = g.apply1(Op::kLinear, {}, {x, w}), sum = g.apply1(Op::kAdd, {}, {x, y});
  EXPECT_EQ(count(fused(g, std::vector{sum}, kNothing), Op::kAdd), 0);
  EXPECT_EQ(count(fused(g, std::vector{sum, y}, kNothing), Op::kAdd), 1);
  const ValueId twice = g.apply1(Op::kAdd, {}, {y, sum});
  EXPECT_EQ(count(fused(g, std::vector{twice}, kNothing), Op::kAdd), 2);
}

TEST(Fusion, ASumWhoseOtherTermComesLaterStays) {
  Graph g;
  const ValueId x = g.parameter("x", {4, 8}), w = g.parameter("w", {8, 8});
  const ValueId y = g.apply1(Op::kLinear, {}, {x, w});
  const ValueId later = g.apply1(Op::kRmsNorm, RmsNormAttrs{}, {x, g.parameter("n", {8})});
  const ValueId sum = g.apply1(Op::kAdd, {}, {y, later});
  EXPECT_EQ(count(fused(g, std::vector{sum}, kNothing), Op::kAdd), 1);
  const ValueId z = g.apply1(Op::kLinear, {}, {sum, w});
  const ValueId both = g.apply1(Op::kAdd, {}, {z, z});
  EXPECT_EQ(count(fused(g, std::vector{both}, kNothing), Op::kAdd), 2) << "z is read twice";
}

TEST(Fusion, TheHeadAndItsGradientBecomeOneNode) {
  for (const ModelConfig& config : configs()) {
    const Training t = training(config);
    const Graph graph = fused(t.graph, t.results, kEverything);
    EXPECT_EQ(count(graph, Op::kHeadLoss), 1) << config.mixer;
    EXPECT_EQ(count(graph, Op::kCrossEntropy) + count(graph, Op::kCrossEntropyBwd), 0);
    EXPECT_EQ(count(graph, Op::kRmsNorm) + 1, count(t.graph, Op::kRmsNorm));
    EXPECT_EQ(count(graph, Op::kLinear) + 1, count(t.graph, Op::kLinear));
    const auto one = computed(graph, config, t.results), all = computed(t.graph, config, t.results);
    for (size_t i = 0; i < all.size(); ++i) {
      double largest = 0, error = 0;
      for (size_t k = 0; k < all[i].size(); ++k) {
        largest = std::max(largest, std::abs(all[i][k]));
        error = std::max(error, std::abs(one[i][k] - all[i][k]));
      }
      EXPECT_TRUE(error <= 1e-12 * largest) << config.mixer << " " << i << ": " << error;
    }
  }
}

TEST(Fusion, AHeadWhoseLogitsAreKeptOrThatNoKernelTakesStays) {
  Training t = training(configs()[0]);
  EXPECT_EQ(count(fused(t.graph, t.results, kNothing), Op::kHeadLoss), 0);
  for (const Node& node : t.graph.nodes()) {
    if (node.op == Op::kCrossEntropy) t.results.push_back(node.inputs[0]);
  }
  EXPECT_EQ(count(fused(t.graph, t.results, kEverything), Op::kHeadLoss), 0);
}

}  // namespace
}  // namespace statelab
