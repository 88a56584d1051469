// Graph, gradient table, memory plan and their verifier.
#include "models/graph.h"

#include <gtest/gtest.h>

#include "kernels/error.h"
#include "models/model.h"

namespace statelab {
namespace {

std::string message(const std::function<void()>& f) {
  try {
    f();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

Graph training_graph(std::vector<ValueId>& keep, int layers = 3) {
  ModelConfig c;
  c.n_layers = layers;
  c.d_model = 8;
  c.headdim = 8;
  c.d_state = 8;
  c.mlp = "swiglu";
  Graph g;
  const ForwardGraph f = build_forward(g, c, g.state("step", DType::kInt32, {1}), 2, 5);
  keep = add_gradients(g, f.loss, f.parameters);
  return g;
}

TEST(Graph, ShapeErrorNamesOpRuleAndShapes) {
  Graph g;
  const ValueId x = g.parameter("x", {4, 8}), w = g.parameter("w", {3, 7});
  EXPECT_EQ(message([&] {
              g.apply(Op::kLinear, {}, {x, w});
            }),
            "[linear] x (.., in) and weight (out, in) must agree in `in`: x (4, 8), weight (3, 7)");
  Mamba3ScanAttrs a;
  EXPECT_EQ(message([&] {
              g.apply(Op::kMamba3Scan, a, {x, w, w, w, w, w, w, w});
            }),
            "[mamba3_scan] proj must be (batch, seqlen, 7), is (4, 8)");
  EXPECT_EQ(message([&] { g.apply(Op::kAdd, {}, {x}); }), "[add] takes 2 operands, got 1");
}

TEST(Graph, WhatIsAddedHasTheShapeAndTypeOfTheSum) {
  Graph g;
  const ValueId x = g.parameter("x", {4, 8}), w = g.parameter("w", {3, 8}),
                n = g.parameter("n", {8});
  const ValueId count = g.state("count", DType::kInt32, {4, 3});
  const auto refusal = [&](Op op, const Attributes& attributes, const std::vector<ValueId>& in) {
    return message([&] { g.apply(op, attributes, in); });
  };
  EXPECT_EQ(refusal(Op::kLinear, {}, {x, w, x}), "[linear] addend must be (4, 3), is (4, 8)");
  EXPECT_EQ(refusal(Op::kLinear, {}, {x, w, count}), "[linear] addend has the wrong element type");
  EXPECT_EQ(refusal(Op::kLinear, {}, {x, w, kNoValue}), "");
  const ValueId dy = g.parameter("dy", {4, 3});
  EXPECT_EQ(refusal(Op::kLinearBwd, {}, {dy, w, x}), "");
  EXPECT_EQ(refusal(Op::kLinearBwd, {}, {dy, w}), "[linear_bwd] takes 3 or 4 operands, got 2");
  const ValueId targets = g.state("targets", DType::kInt32, {2, 2});
  EXPECT_EQ(refusal(Op::kLinearBwd, {}, {dy, w, x, targets}),
            "[linear_bwd] rows with targets must be (batch, seqlen, columns), are (4, 3)");
  EXPECT_EQ(refusal(Op::kLinearBwd, {}, {x, w, x}),
            "[linear_bwd] dy (.., out) and weight (out, in) must agree in `out`: dy (4, 8), weight "
            "(3, 8)");
  EXPECT_EQ(refusal(Op::kLinearBwd, {}, {dy, w, dy}), "[linear_bwd] x must be (4, 8), is (4, 3)");
  EXPECT_EQ(refusal(Op::kLinear, {}, {x, w, x, x}), "[linear] takes 2 or 3 operands, got 4");
  EXPECT_EQ(refusal(Op::kRmsNormBwd, RmsNormAttrs{}, {x, x, n, w}),
            "[rms_norm_bwd] addend must be (4, 8), is (3, 8)");
  EXPECT_EQ(refusal(Op::kAdd, {}, {count, count}), "[add] a has the wrong element type");
}

TEST(Graph, HeadLossRefusesWhatDoesNotFitItsHead) {
  Graph g;
  const ValueId h = g.parameter("h", {2, 3, 8}), flat = g.parameter("flat", {6, 8}),
                norm = g.parameter("norm", {8}), head = g.parameter("head", {5, 8}),
                one = g.parameter("one", {1}), targets = g.state("t", DType::kInt32, {2, 3});
  const auto refusal = [&](const std::vector<ValueId>& in, int classes = 5) {
    return message([&] { g.apply(Op::kHeadLoss, HeadLossAttrs{1e-5, classes}, in); });
  };
  EXPECT_EQ(refusal({h, norm, head, targets, one}), "");
  EXPECT_EQ(refusal({flat, norm, head, targets, one}),
            "[head_loss] h must be (batch, seqlen, d), is (6, 8)");
  EXPECT_EQ(refusal({h, norm, head, targets, one}, 6),
            "[head_loss] head must be (>= 6, 8), is (5, 8)");
  EXPECT_EQ(refusal({h, one, head, targets, one}), "[head_loss] norm must be (8), is (1)");
  EXPECT_EQ(refusal({h, norm, head, one, one}), "[head_loss] targets has the wrong element type");
  EXPECT_EQ(refusal({h, norm, head, targets, norm}), "[head_loss] dloss must be (1), is (8)");
  EXPECT_EQ(message([&] {
              const ValueId logits = g.parameter("logits", {2, 3, 5});
              g.apply(Op::kCrossEntropyBwd, CrossEntropyAttrs{5}, {norm, logits, targets});
            }),
            "[cross_entropy_bwd] dloss must be (1), is (8)");
}

TEST(Graph, OutProjLossRefusesWhatDoesNotFitTheResidualStream) {
  Graph g;
  const ValueId y = g.parameter("y", {2, 1, 6}), w = g.parameter("w", {8, 6}),
                x = g.parameter("x", {2, 3, 8}), norm = g.parameter("norm", {8}),
                head = g.parameter("head", {5, 8}), one = g.parameter("one", {1}),
                targets = g.state("t", DType::kInt32, {2, 3});
  const auto refusal = [&](const std::vector<ValueId>& in) {
    return message([&] { g.apply(Op::kOutProjLoss, HeadLossAttrs{1e-5, 5}, in); });
  };
  EXPECT_EQ(refusal({y, w, x, norm, head, targets, one}), "");
  EXPECT_EQ(refusal({y, w, x, norm, head, targets}), "[out_proj_loss] takes 7 operands, got 6");
  EXPECT_EQ(refusal({x, w, x, norm, head, targets, one}),
            "[out_proj_loss] y must be (2, 1, 8), is (2, 3, 8)");
  EXPECT_EQ(refusal({y, head, x, norm, head, targets, one}),
            "[out_proj_loss] out_proj must be (8, 6), is (5, 8)");
  EXPECT_EQ(refusal({y, w, head, norm, head, targets, one}),
            "[out_proj_loss] x must be (batch, seqlen, d), is (5, 8)");
  EXPECT_EQ(refusal({y, w, x, norm, w, targets, one}),
            "[out_proj_loss] head must be (>= 5, 8), is (8, 6)");
}

TEST(Autodiff, OpWithoutGradientIsAnErrorThatNamesIt) {
  Graph g;
  const ValueId x = g.parameter("x", {3});
  const ValueId norm = g.apply1(Op::kGlobalNorm, {}, {x});
  EXPECT_EQ(message([&] { add_gradients(g, norm, std::vector<ValueId>{x}); }),
            "[global_norm] has no gradient");
}

TEST(Autodiff, ParameterThatDoesNotInfluenceTheLossIsAnError) {
  Graph g;
  const ForwardGraph f = build_forward(g, ModelConfig{}, g.state("step", DType::kInt32, {1}), 1, 2);
  const ValueId stray = g.parameter("stray", {3});
  EXPECT_EQ(message([&] { add_gradients(g, f.loss, std::vector<ValueId>{stray}); }),
            "[autodiff] stray does not influence the loss");
}

TEST(MemoryPlan, ReusesMemoryAndPassesItsVerifier) {
  std::vector<ValueId> keep;
  const Graph g = training_graph(keep);
  const std::vector<int64_t> workspace(g.nodes().size(), 640);
  int64_t sum = 0;
  for (const GraphValue& v : g.values())
    sum += v.role == Role::kTemporary ? 3 * member_stride_bytes(v.type.shape, v.type.dtype, 4) : 0;
  const MemoryPlan plan = plan_memory(g, workspace, keep, 3, 4);
  EXPECT_LT(plan.bytes, sum * 3 / 4);
  EXPECT_NO_THROW(verify_graph(g, plan, workspace, keep, 3, 4));
}

TEST(MemoryPlan, DroppedOutputsTakeNoMemory) {
  Graph g;
  const ValueId step = g.state("step", DType::kInt32, {1});
  const ForwardGraph f = build_forward(g, ModelConfig{}, step, 2, 5, /*with_loss=*/false);
  EXPECT_EQ(f.loss, kNoValue);
  const std::vector<ValueId> keep = {f.logits};
  const std::vector<int64_t> workspace(g.nodes().size(), 0);
  const MemoryPlan all = plan_memory(g, workspace, keep, 3, 4),
                   some = plan_memory(g, workspace, keep, 3, 4, Unread::kDropped);
  EXPECT_LT(some.bytes, all.bytes);
  EXPECT_NO_THROW(verify_graph(g, some, workspace, keep, 3, 4, Unread::kDropped));
  EXPECT_GE(some.offset[static_cast<size_t>(f.logits)], 0);
  EXPECT_GE(some.offset[static_cast<size_t>(f.targets)], 0) << "a draw writes all it has";
  for (const Node& node : g.nodes()) {
    if (node.op != Op::kMamba3Scan) continue;
    EXPECT_GE(some.offset[static_cast<size_t>(node.outputs[0])], 0);
    for (size_t i = 1; i < node.outputs.size(); ++i)
      EXPECT_EQ(some.offset[static_cast<size_t>(node.outputs[i])], -1) << i;
  }
}

TEST(MemoryPlan, VerifierFindsOverlapMisalignmentAndOverrun) {
  std::vector<ValueId> keep;
  const Graph g = training_graph(keep, 1);
  const std::vector<int64_t> workspace(g.nodes().size(), 0);
  const MemoryPlan good = plan_memory(g, workspace, keep, 1, 4);
  auto with = [&](ValueId id, int64_t offset) {
    MemoryPlan bad = good;
    bad.offset[static_cast<size_t>(id)] = offset;
    return message([&] { verify_graph(g, bad, workspace, keep, 1, 4); });
  };
  const int64_t other = good.offset[static_cast<size_t>(keep[1])];
  EXPECT_EQ(with(keep[0], other), "memory plan: two live values share memory");
  EXPECT_EQ(with(keep[0], good.offset[static_cast<size_t>(keep[0])] + 4),
            "memory plan: a value lies outside the arena or off alignment");
  EXPECT_EQ(with(keep[0], good.bytes),
            "memory plan: a value lies outside the arena or off alignment");
}

TEST(Verifier, ReadingAWeightAfterItsUpdateIsFound) {
  Graph g;
  const ValueId step = g.state("step", DType::kInt32, {1}),
                counter = g.state("optimizer_step", DType::kInt32, {1});
  g.apply(Op::kAdvance, {}, {step, counter});
  g.apply(Op::kAdvance, {}, {step, counter});
  const std::vector<int64_t> workspace(2, 0);
  const MemoryPlan plan = plan_memory(g, workspace, {}, 1, 4);
  EXPECT_EQ(message([&] { verify_graph(g, plan, workspace, {}, 1, 4); }),
            "node 1 (advance) updates step a second time");
}

TEST(Verifier, OutputsOfAnotherTypeThanTheRuleGivesAreFound) {
  Graph g;
  const ValueId x = g.parameter("x", {4, 8}), w = g.parameter("w", {8, 8});
  const ValueId narrow = g.apply1(Op::kLinear, {}, {x, g.parameter("v", {3, 8})});
  const ValueId y = g.apply1(Op::kLinear, {}, {x, w});
  const std::vector<int64_t> workspace(1, 0);
  const auto verified = [&](Node node, const std::vector<ValueId>& keep) {
    const Graph other = g.with_nodes({std::move(node)});
    const MemoryPlan plan = plan_memory(other, workspace, keep, 1, 4);
    return message([&] { verify_graph(other, plan, workspace, keep, 1, 4); });
  };
  EXPECT_EQ(verified({Op::kLinear, {}, {x, w}, {y}}, {y}), "");
  EXPECT_EQ(verified({Op::kLinear, {}, {x, w}, {narrow}}, {}),
            "node 0 (linear) writes (4, 8) to linear.0.0 (4, 3)");
  EXPECT_EQ(verified({Op::kLinear, {}, {x, w}, {y, narrow}}, {}),
            "node 0 (linear) writes 2 values, its op 1");
  EXPECT_EQ(verified({Op::kAdd, {}, {x, w}, {y}}, {}),
            "node 0 (add): [add] b must be (4, 8), is (8, 8)");
  EXPECT_EQ(verified({Op::kLinear, {}, {x, w}, {y}}, {narrow}),
            "linear.0.0 is kept, but no node writes it");
}

}  // namespace
}  // namespace statelab
