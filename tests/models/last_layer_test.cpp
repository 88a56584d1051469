// A last layer computed at the one supervised position of each sequence: the loss and the gradients of the whole layer.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "models/fusion.h"
#include "tests/models/training_graph.h"

namespace statelab {
namespace {

constexpr int kBatch = 4, kSeqlen = 9;

Training training(const ModelConfig& config, const Needed& needed) {
  return statelab::training(config, kBatch, kSeqlen, needed);
}

/// One target a row, none in row 2.
std::vector<std::vector<double>> computed(const Graph& graph, const ModelConfig& config,
                                          const std::vector<ValueId>& values) {
  return statelab::computed(graph, config, values, [](uint32_t row, size_t t) {
    return t == (row == 0 ? 8 : 2 * row) && row != 2 ? static_cast<int32_t>(row) : -1;
  });
}

std::vector<ModelConfig> configs() {
  ModelConfig small;
  small.vocab_size = 5, small.n_layers = 2, small.d_model = small.headdim = small.d_state = 8;
  std::vector<ModelConfig> out(8, small);
  out[1].mlp = "swiglu", out[1].n_layers = 1;
  out[2].mixer = "mamba2", out[2].conv = true;
  out[3].mixer = "mamba2", out[3].eigenvalue_min = -1;
  out[4].mixer = "gated_delta_net";
  out[5].mixer = "delta_net", out[5].conv = true;
  out[6].mixer = "lstm", out[6].tie_embeddings = true;
  out[7].rotation = "standard", out[7].out_norm = "rms";
  return out;
}

const auto kEverything = [](const CallShapes&) { return true; };

Needed at_one_position(bool scans) {
  return {true, true, [scans](const CallShapes&) { return scans; }};
}

TEST(LastLayer, AtOnePositionHasTheLossAndTheGradientsOfTheWhole) {
  for (const ModelConfig& config : configs()) {
    const Training whole = training(config, {});
    const auto expected = computed(whole.graph, config, whole.results);
    for (const bool scans : {false, true}) {
      const Training one = training(config, at_one_position(scans));
      for (const bool fuses : {false, true}) {
        const Graph graph =
            fuses ? fused(one.graph, one.results, [](const CallShapes&) { return true; })
                  : one.graph;
        const auto actual = computed(graph, config, one.results);
        ASSERT_EQ(actual.size(), expected.size());
        for (size_t i = 0; i < actual.size(); ++i) {
          double largest = 0, error = 0;
          for (size_t k = 0; k < actual[i].size(); ++k) {
            largest = std::max(largest, std::abs(expected[i][k]));
            error = std::max(error, std::abs(actual[i][k] - expected[i][k]));
          }
          EXPECT_TRUE(error <= 1e-12 * largest)
              << config.mixer << " " << scans << fuses << " " << i << ": " << error;
        }
      }
    }
  }
}

TEST(LastLayer, ScansAtThePositionWhereTheDeviceTakesThem) {
  for (const ModelConfig& config : configs()) {
    auto scans = [&](bool taken) {
      const Graph graph = training(config, at_one_position(taken)).graph;
      return count(graph, Op::kMamba3ScanAt) + count(graph, Op::kMamba2ScanAt);
    };
    const bool possible =
        config.mixer == "mamba3" || (config.mixer == "mamba2" && config.eigenvalue_min == 0);
    EXPECT_EQ(scans(true), possible ? 1 : 0) << config.mixer;
    EXPECT_EQ(scans(false), 0) << config.mixer;
  }
}

TEST(LastLayer, ConvolutionsHaveTheTargets) {
  for (const ModelConfig& config : configs()) {
    const Graph graph = training(config, at_one_position(true)).graph;
    for (const Node& node : graph.nodes()) {
      if (node.op == Op::kCausalConv1d) {
        EXPECT_EQ(node.inputs.size(), 4u) << config.mixer;
      }
      if (node.op == Op::kCausalConv1dBwd) {
        EXPECT_EQ(node.inputs.size(), 5u) << config.mixer;
      }
    }
  }
}

TEST(LastLayer, EverythingBehindTheRecurrenceHasOneRowASequence) {
  for (const ModelConfig& config : configs()) {
    const Graph graph = training(config, at_one_position(true)).graph;
    const auto loss = std::find_if(graph.nodes().rbegin(), graph.nodes().rend(),
                                   [](const Node& node) { return node.op == Op::kCrossEntropy; });
    ASSERT_NE(loss, graph.nodes().rend());
    EXPECT_EQ(graph.value(loss->inputs[0]).type.shape[1], 1) << config.mixer;
    EXPECT_EQ(count(graph, Op::kSelectBwd),
              count(graph, Op::kMamba3ScanAt) + count(graph, Op::kMamba2ScanAt) == 1 ? 1 : 2);
  }
}

TEST(LastLayer, LinearLayersAreGivenTheTargetsThatTheScansAreGiven) {
  for (const ModelConfig& config : configs()) {
    const Training t = training(config, at_one_position(true));
    const Graph graph = fused(t.graph, t.results, [](const CallShapes&) { return true; });
    int given = 0;
    for (const Node& node : graph.nodes()) {
      if (node.op == Op::kLinearBwd) given += node.inputs.size() > 3 ? 1 : 0;
      if (node.op == Op::kNormLinearBwd) given += node.inputs.size() > 4 ? 1 : 0;
    }
    const bool mamba = config.mixer == "mamba3" || config.mixer == "mamba2";
    EXPECT_EQ(given > 0, mamba) << config.mixer;
  }
}

TEST(LastLayer, WhatFollowsItsRecurrenceBecomesOneNode) {
  for (const ModelConfig& config : configs()) {
    const Training t = training(config, at_one_position(true));
    const auto fused_with = [&](bool out_proj_loss) {
      return fused(t.graph, t.results, [=](const CallShapes& shapes) {
        return out_proj_loss || shapes.op != Op::kOutProjLoss;
      });
    };
    const Graph graph = fused_with(true), apart = fused_with(false);
    const bool possible = config.mlp != "swiglu";  // another residual lies between
    EXPECT_EQ(count(graph, Op::kOutProjLoss), possible ? 1 : 0) << config.mixer;
    EXPECT_EQ(count(graph, Op::kHeadLoss), possible ? 0 : 1) << config.mixer;
    EXPECT_EQ(count(apart, Op::kOutProjLoss), 0);
    EXPECT_EQ(count(apart, Op::kHeadLoss), 1);
    if (possible) {
      // two selects, out_proj, one linear_bwd and a select_bwd less
      EXPECT_EQ(apart.nodes().size() - graph.nodes().size(), 5u) << config.mixer;
      EXPECT_EQ(count(graph, Op::kSelect), count(apart, Op::kSelect) - 2) << config.mixer;
      EXPECT_EQ(count(graph, Op::kSelectBwd), count(apart, Op::kSelectBwd) - 1) << config.mixer;
    }
    const Training whole = training(config, {});
    EXPECT_EQ(count(fused(whole.graph, whole.results, kEverything), Op::kOutProjLoss), 0)
        << config.mixer << ": every position is computed";
  }
}

TEST(LastLayer, WhateverIsKeptIsWrittenAndTheVerifierPasses) {
  for (const ModelConfig& config : configs()) {
    const Training t = training(config, at_one_position(true));
    for (size_t v = 0; v < t.graph.values().size(); ++v) {
      if (t.graph.values()[v].role != Role::kTemporary) continue;
      std::vector<ValueId> keep = t.results;
      keep.push_back(static_cast<ValueId>(v));
      const Graph graph = fused(t.graph, keep, kEverything);
      const std::vector<int64_t> workspace(graph.nodes().size(), 64);
      const MemoryPlan plan = plan_memory(graph, workspace, keep, 3, 4, Unread::kDropped);
      ASSERT_NO_THROW(verify_graph(graph, plan, workspace, keep, 3, 4, Unread::kDropped))
          << config.mixer << " keeps " << t.graph.values()[v].name;
      EXPECT_GE(plan.offset[v], 0) << config.mixer << " keeps " << t.graph.values()[v].name;
    }
  }
}

TEST(LastLayer, AnOutProjWhoseSumOrGradientSomebodyElseReadsStaysApart) {
  const Training t = training(configs()[0], at_one_position(true));
  const auto fuses = [&](ValueId kept) {
    std::vector<ValueId> keep = t.results;
    keep.push_back(kept);
    return count(fused(t.graph, keep, kEverything), Op::kOutProjLoss) == 1;
  };
  for (const Node& node : t.graph.nodes()) {
    const bool at_one = t.graph.value(node.outputs[0]).type.shape.rank() > 1 &&
                        t.graph.value(node.outputs[0]).type.shape[1] == 1;
    if (node.op == Op::kSelect || node.op == Op::kCrossEntropyBwd || node.op == Op::kRmsNorm ||
        node.op == Op::kAdd || node.op == Op::kLinear || node.op == Op::kRmsNormBwd) {
      EXPECT_EQ(fuses(node.outputs[0]), !at_one) << op_name(node.op);
    }
    if (node.op == Op::kLinearBwdW || node.op == Op::kSelectBwd || node.op == Op::kCrossEntropy) {
      EXPECT_TRUE(fuses(node.outputs[0])) << op_name(node.op) << ": is still there";
    }
  }
}

}  // namespace
}  // namespace statelab
