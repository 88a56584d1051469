// Fused graphs: which nodes are left, and that they compute what the graph computed.
#include "models/fusion.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/models/training_graph.h"
#include "tests/support/random.h"

namespace statelab {
namespace {

ModelConfig small(void (*change)(ModelConfig&)) {
  ModelConfig c;
  c.vocab_size = 5;
  c.n_layers = 2;
  c.d_model = c.headdim = c.d_state = 8;
  change(c);
  return c;
}

Training training(const ModelConfig& config) { return statelab::training(config, 3, 7); }

/// A target at every third position.
std::vector<std::vector<double>> computed(const Graph& graph, const ModelConfig& config,
                                          const std::vector<ValueId>& values) {
  return statelab::computed(graph, config, values, [](uint32_t row, size_t t) {
    return t % 3 == row % 3 ? static_cast<int32_t>((t + row) % 5) : -1;
  });
}

const auto kNothing = [](const CallShapes&) { return false; };
const auto kEverything = [](const CallShapes&) { return true; };
const auto kHeads = [](const CallShapes& shapes) { return shapes.op == Op::kHeadLoss; };

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
    const Graph graph = fused(t.graph, t.results, kHeads);
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

TEST(Fusion, EitherTermMayBeTheProductAndHasOneAddendAtMost) {
  Graph g;
  const ValueId x = g.parameter("x", {4, 8}), w = g.parameter("w", {8, 8});
  const ValueId y = g.apply1(Op::kLinear, {}, {x, w}), first = g.apply1(Op::kAdd, {}, {y, x});
  const ValueId z = g.apply1(Op::kLinear, {}, {x, w}), second = g.apply1(Op::kAdd, {}, {first, z});
  const ValueId third = g.apply1(Op::kAdd, {}, {second, x});
  const Graph graph = fused(g, std::vector{third}, kNothing);
  ASSERT_EQ(graph.nodes().size(), 3u);
  EXPECT_EQ(graph.nodes()[0].inputs, (std::vector{x, w, x}));
  EXPECT_EQ(graph.nodes()[0].outputs, std::vector{first});
  EXPECT_EQ(graph.nodes()[1].inputs, (std::vector{x, w, first}));
  EXPECT_EQ(graph.nodes()[1].outputs, std::vector{second});
  EXPECT_EQ(graph.nodes()[2].op, Op::kAdd) << "the second linear has its addend already";
}

TEST(Fusion, TheGradientOfANormsWeightTakesNoAddend) {
  Graph g;
  const ValueId x = g.parameter("x", {4, 8}), w = g.parameter("w", {8});
  const std::vector<ValueId> d = g.apply(Op::kRmsNormBwd, RmsNormAttrs{}, {x, x, w});
  const ValueId dx = g.apply1(Op::kAdd, {}, {x, d[0]}), dw = g.apply1(Op::kAdd, {}, {w, d[1]});
  const Graph graph = fused(g, std::vector{dx, dw}, kNothing);
  ASSERT_EQ(graph.nodes().size(), 2u);
  EXPECT_EQ(graph.nodes()[0].inputs, (std::vector{x, x, w, x}));
  EXPECT_EQ(graph.nodes()[0].outputs, (std::vector{dx, d[1]}));
  EXPECT_EQ(graph.nodes()[1].outputs, std::vector{dw});
}

/// Overwrites a weight and its moments.
void update(Graph& g, ValueId weight, ValueId exp_avg, ValueId exp_avg_sq, ValueId gradient) {
  const ValueId one = g.apply1(Op::kConstant, ConstantAttrs{1.0}, {});
  g.apply(Op::kAdamW, AdamWAttrs{{true}},
          {one, g.state("lr", DType::kFloat64, {1}), g.state("step", DType::kInt32, {1}),
           g.state("settings", DType::kFloat64, {kSettings}),
           g.state("diverged_at", DType::kInt32, {1}), weight, exp_avg, exp_avg_sq, gradient});
}

TEST(Fusion, AStateThatChangesBeforeItIsAddedIsNotReadEarlier) {
  for (const bool changes : {false, true}) {
    Graph g;
    const ValueId x = g.parameter("x", {4, 8}), w = g.parameter("w", {8, 8});
    const ValueId m = g.state("m", DType::kReal, {4, 8}), v = g.state("v", DType::kReal, {4, 8});
    const ValueId p = g.parameter("p", {4, 8});
    const ValueId y = g.apply1(Op::kLinear, {}, {x, w});
    if (changes) update(g, p, m, v, x);
    const ValueId sum = g.apply1(Op::kAdd, {}, {m, y});
    EXPECT_EQ(count(fused(g, std::vector{sum}, kNothing), Op::kAdd), changes ? 1 : 0);
  }
}

TEST(Fusion, WhateverIsKeptIsWrittenAndTheVerifierPasses) {
  for (const ModelConfig& config : configs()) {
    const Training t = training(config);
    std::vector<ValueId> all;
    for (size_t v = 0; v < t.graph.values().size(); ++v) {
      const auto id = static_cast<ValueId>(v);
      if (t.graph.value(id).role != Role::kTemporary) continue;
      all.push_back(id);
      std::vector<ValueId> keep = t.results;
      keep.push_back(id);
      const Graph graph = fused(t.graph, keep, kEverything);
      const std::vector<int64_t> workspace(graph.nodes().size(), 64);
      const MemoryPlan plan = plan_memory(graph, workspace, keep, 3, 4, Unread::kDropped);
      ASSERT_NO_THROW(verify_graph(graph, plan, workspace, keep, 3, 4, Unread::kDropped))
          << config.mixer << " keeps " << t.graph.value(id).name;
      EXPECT_GE(plan.offset[v], 0) << config.mixer << " keeps " << t.graph.value(id).name;
    }
    EXPECT_EQ(fused(t.graph, all, kHeads).nodes().size(), t.graph.nodes().size())
        << config.mixer << ": nothing lies between values that are all kept";
  }
}

/// norm, linear, cross_entropy and their gradients by hand, so that each operand can be another.
struct HandMadeHead {
  Graph graph;
  ValueId h = graph.parameter("h", {2, 3, 8}), norm = graph.parameter("norm", {8}),
          head = graph.parameter("head", {6, 8}), dloss = graph.parameter("dloss", {1}),
          targets = graph.state("targets", DType::kInt32, {2, 3});
  ValueId u, logits, loss, dlogits, du, dhead;
  std::vector<ValueId> results;

  struct Change {
    double eps_bwd = 1e-5;
    int classes_bwd = 5;
    bool other_h = false, other_norm = false, other_head = false, other_targets = false;
    bool transposed = false, early_reader = false, h_changes = false;
    ValueId HandMadeHead::*read_again = nullptr;
  };
  explicit HandMadeHead(const Change& c) {
    if (c.transposed) h = graph.parameter("h6", {2, 3, 6}), norm = graph.parameter("norm6", {6});
    if (c.transposed) head = graph.parameter("head6", {6, 6});
    const auto other = [&](ValueId id) {
      return graph.parameter("other", graph.value(id).type.shape);
    };
    if (c.h_changes) h = graph.state("moment", DType::kReal, {2, 3, 8});
    u = graph.apply1(Op::kRmsNorm, RmsNormAttrs{1e-5}, {h, norm});
    if (c.h_changes)
      update(graph, other(h), h, graph.state("v", DType::kReal, {2, 3, 8}), other(h));
    logits = graph.apply1(Op::kLinear, {}, {u, head});
    const auto scores = graph.apply(Op::kCrossEntropy, CrossEntropyAttrs{5}, {logits, targets});
    loss = scores[0];
    if (c.early_reader) results.push_back(graph.apply1(Op::kAdd, {}, {loss, loss}));
    const ValueId targets_bwd =
        c.other_targets ? graph.state("other", DType::kInt32, {2, 3}) : targets;
    dlogits = graph.apply1(Op::kCrossEntropyBwd, CrossEntropyAttrs{c.classes_bwd},
                           {dloss, logits, targets_bwd});
    du = graph.apply1(Op::kLinearBwdX, {}, {dlogits, c.other_head ? other(head) : head});
    dhead = graph.apply1(Op::kLinearBwdW, {},
                         c.transposed ? std::vector{u, dlogits} : std::vector{dlogits, u});
    const auto d = graph.apply(Op::kRmsNormBwd, RmsNormAttrs{c.eps_bwd},
                               {du, c.other_h ? other(h) : h, c.other_norm ? other(norm) : norm});
    if (c.read_again != nullptr)
      results.push_back(graph.apply1(Op::kAdd, {}, {this->*c.read_again, this->*c.read_again}));
    for (const ValueId id : {scores[0], scores[1], d[0], d[1], dhead}) results.push_back(id);
  }
  int fused_heads(std::vector<ValueId> keep = {}) const {
    keep.insert(keep.end(), results.begin(), results.end());
    return count(fused(graph, keep, kEverything), Op::kHeadLoss);
  }
};

TEST(Fusion, AHeadIsOneNodeOnlyWhereBothDirectionsAgree) {
  using H = HandMadeHead;
  EXPECT_EQ(H({}).fused_heads(), 1);
  EXPECT_EQ(H({.eps_bwd = 1e-6}).fused_heads(), 0);
  EXPECT_EQ(H({.classes_bwd = 6}).fused_heads(), 0);
  EXPECT_EQ(H({.other_h = true}).fused_heads(), 0);
  EXPECT_EQ(H({.other_norm = true}).fused_heads(), 0);
  EXPECT_EQ(H({.other_head = true}).fused_heads(), 0);
  EXPECT_EQ(H({.other_targets = true}).fused_heads(), 0);
  EXPECT_EQ(H({.transposed = true}).fused_heads(), 0) << "its dhead is that of the transpose";
}

TEST(Fusion, AHeadIsOneNodeOnlyWhereNobodyReadsWhatLiesBetween) {
  using H = HandMadeHead;
  const std::vector<ValueId H::*> between = {&H::u, &H::logits, &H::dlogits, &H::du};
  for (const auto value : between) {
    EXPECT_EQ(H({.read_again = value}).fused_heads(), 0);
    const H whole({});
    EXPECT_EQ(whole.fused_heads({whole.*value}), 0);
  }
  for (const auto value : {&H::h, &H::loss, &H::dhead})
    EXPECT_EQ(H({.read_again = value}).fused_heads(), 1) << "is still there";
  EXPECT_EQ(H({.early_reader = true}).fused_heads(), 0)
      << "the one node would write the loss after its reader";
}

TEST(Fusion, AHeadIsReadBeforeItsUpdate) {
  EXPECT_EQ(HandMadeHead({.h_changes = true}).fused_heads(), 0) << "read before and after";
  HandMadeHead h({});
  const auto moments = [&](const char* name) { return h.graph.state(name, DType::kReal, {6, 8}); };
  update(h.graph, h.head, moments("m"), moments("v"), h.dhead);
  const Graph graph = fused(h.graph, h.results, kEverything);
  EXPECT_EQ(count(graph, Op::kHeadLoss), 1);
  EXPECT_EQ(graph.nodes().back().op, Op::kAdamW);
}

// ---- linear_bwd

TEST(Fusion, BothGradientsOfALinearBecomeOneNodeWithTheSameResults) {
  for (const ModelConfig& config : configs()) {
    const Training t = training(config);
    const Graph graph = fused(t.graph, t.results,
                              [](const CallShapes& shapes) { return shapes.op == Op::kLinearBwd; });
    EXPECT_EQ(count(graph, Op::kLinearBwd), count(t.graph, Op::kLinearBwdX)) << config.mixer;
    EXPECT_EQ(count(graph, Op::kLinearBwdX), 0) << config.mixer;
    EXPECT_EQ(count(graph, Op::kLinearBwdW),
              count(t.graph, Op::kLinearBwdW) - count(t.graph, Op::kLinearBwdX));
    EXPECT_TRUE(computed(graph, config, t.results) == computed(t.graph, config, t.results))
        << config.mixer;
    EXPECT_EQ(count(fused(t.graph, t.results, kNothing), Op::kLinearBwd), 0);
    // Those of the head are in its one node.
    const Graph all = fused(t.graph, t.results, kEverything);
    EXPECT_EQ(count(all, Op::kLinearBwd) + count(all, Op::kNormLinearBwd) + 1,
              count(t.graph, Op::kLinearBwdX))
        << config.mixer;
    EXPECT_EQ(count(all, Op::kLinearBwdX), 0) << config.mixer;
  }
}

// ---- norm_linear

TEST(Fusion, ANormThatOnlyALayerReadsIsNotStored) {
  for (const ModelConfig& config : configs()) {
    const Training t = training(config);
    const Graph graph = fused(t.graph, t.results, [](const CallShapes& shapes) {
      return shapes.op == Op::kLinearBwd || shapes.op == Op::kNormLinear ||
             shapes.op == Op::kNormLinearBwd;
    });
    // Of every block and of the head; a recurrence's output norm stays.
    const int layers = config.n_layers * (config.mlp == "swiglu" ? 2 : 1) + 1;
    EXPECT_EQ(count(graph, Op::kNormLinear), layers) << config.mixer;
    EXPECT_EQ(count(graph, Op::kNormLinearBwd), layers) << config.mixer;
    EXPECT_EQ(count(graph, Op::kRmsNorm), count(t.graph, Op::kRmsNorm) - layers);
    EXPECT_EQ(count(graph, Op::kRmsNormBwd), count(t.graph, Op::kRmsNormBwd));
    EXPECT_TRUE(computed(graph, config, t.results) == computed(t.graph, config, t.results))
        << config.mixer;
  }
}

TEST(Fusion, ANormIsStoredWhereItsGradientNeedsIt) {
  for (const ModelConfig& config : configs()) {
    const Training t = training(config);
    for (const Op refused : {Op::kLinearBwd, Op::kNormLinear, Op::kNormLinearBwd}) {
      const Graph graph = fused(t.graph, t.results, [&](const CallShapes& shapes) {
        return shapes.op != refused && shapes.op != Op::kHeadLoss;
      });
      EXPECT_EQ(count(graph, Op::kNormLinear), 0) << config.mixer << " " << op_name(refused);
      EXPECT_EQ(count(graph, Op::kNormLinearBwd), 0) << config.mixer;
    }
  }
}

TEST(Fusion, ANormThatSomebodyElseReadsStays) {
  Graph g;
  const ValueId x = g.parameter("x", {4, 6}), norm = g.parameter("norm", {6}),
                w = g.parameter("w", {3, 6});
  const ValueId u = g.apply1(Op::kRmsNorm, RmsNormAttrs{}, {x, norm}),
                y = g.apply1(Op::kLinear, {}, {u, w}), z = g.apply1(Op::kLinear, {}, {u, w});
  EXPECT_EQ(count(fused(g, std::vector{y, z}, kEverything), Op::kNormLinear), 0);
  EXPECT_EQ(count(fused(g, std::vector{y, u}, kEverything), Op::kNormLinear), 0);
  Graph alone;
  const ValueId a = alone.parameter("x", {4, 6}), b = alone.parameter("norm", {6}),
                c = alone.parameter("w", {3, 6});
  const ValueId only =
      alone.apply1(Op::kLinear, {}, {alone.apply1(Op::kRmsNorm, RmsNormAttrs{}, {a, b}), c});
  EXPECT_EQ(count(fused(alone, std::vector{only}, kEverything), Op::kNormLinear), 1);
}

/// dx = dy w and dW = dy^T x by hand, in either order, with what may stand between them.
struct HandMadeGradients {
  Graph graph;
  ValueId dy = graph.parameter("dy", {4, 6}), w = graph.parameter("w", {6, 8}),
          x = graph.parameter("x", {4, 8});
  ValueId dx = kNoValue, dw = kNoValue;
  std::vector<ValueId> results;

  struct Change {
    bool dw_first = false, other_dy = false, x_has_another_shape = false, first_is_read = false;
    bool w_changes = false, x_changes = false, x_comes_between = false;
  };
  explicit HandMadeGradients(const Change& c) {
    if (c.x_has_another_shape) x = graph.parameter("x222", {2, 2, 8});
    const auto bwd_x = [&] { dx = graph.apply1(Op::kLinearBwdX, {}, {dy, w}); };
    const auto bwd_w = [&] {
      dw = graph.apply1(Op::kLinearBwdW, {}, {c.other_dy ? graph.parameter("o", {4, 6}) : dy, x});
    };
    c.dw_first ? bwd_w() : bwd_x();
    const ValueId first = c.dw_first ? dw : dx;
    if (c.first_is_read) results.push_back(graph.apply1(Op::kAdd, {}, {first, first}));
    if (c.w_changes) changes(w);
    if (c.x_changes) changes(x);
    if (c.x_comes_between) x = graph.apply1(Op::kAdd, {}, {x, x});
    c.dw_first ? bwd_x() : bwd_w();
    results.insert(results.end(), {dx, dw});
  }
  void changes(ValueId weight) {
    const Shape shape = graph.value(weight).type.shape;
    update(graph, weight, graph.state("m", DType::kReal, shape),
           graph.state("v", DType::kReal, shape), graph.parameter("g", shape));
  }
  Graph fused_graph() const { return fused(graph, results, kEverything); }
  int fused_pairs() const { return count(fused_graph(), Op::kLinearBwd); }
};

TEST(Fusion, GradientsOfALinearAreOneNodeWhereTheSecondStood) {
  using H = HandMadeGradients;
  for (const bool dw_first : {false, true}) {
    const H h({.dw_first = dw_first});
    const Graph graph = h.fused_graph();
    ASSERT_EQ(graph.nodes().size(), 1u);
    EXPECT_EQ(graph.nodes()[0].op, Op::kLinearBwd);
    EXPECT_EQ(graph.nodes()[0].inputs, (std::vector{h.dy, h.w, h.x}));
    EXPECT_EQ(graph.nodes()[0].outputs, (std::vector{h.dx, h.dw}));
  }
  const Graph between = H({.x_comes_between = true}).fused_graph();
  ASSERT_EQ(between.nodes().size(), 2u);
  EXPECT_EQ(between.nodes()[1].op, Op::kLinearBwd) << "after the x that it reads";
}

TEST(Fusion, GradientsOfALinearStayTwoNodesWhereOneCouldNotStandForBoth) {
  using H = HandMadeGradients;
  EXPECT_EQ(H({.other_dy = true}).fused_pairs(), 0);
  EXPECT_EQ(H({.x_has_another_shape = true}).fused_pairs(), 0);
  for (const bool dw_first : {false, true}) {
    EXPECT_EQ(H({.dw_first = dw_first, .first_is_read = true}).fused_pairs(), 0)
        << "before the one node would write it";
    EXPECT_EQ(H({.dw_first = dw_first, .w_changes = true}).fused_pairs(), dw_first ? 1 : 0);
    EXPECT_EQ(H({.dw_first = dw_first, .x_changes = true}).fused_pairs(), dw_first ? 0 : 1);
  }
}

}  // namespace
}  // namespace statelab
