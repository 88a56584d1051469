// The production model (graph, fused ops, gradient table) against the literal reference, switch by switch.
#include "models/model.h"

#include <gtest/gtest.h>

#include "models/reference/residual_model.h"
#include "models/reference/tape.h"
#include "tests/support/random.h"
#include "tests/support/tolerance.h"

namespace statelab {
namespace {

using testing_support::relative_error;

struct Case {
  const char* name;
  ModelConfig config;
  int batch = 2, seqlen = 11;
};

ModelConfig small(void (*change)(ModelConfig&)) {
  ModelConfig c;
  c.vocab_size = 5;
  c.d_model = 6;
  c.expand = 2;
  c.headdim = 3;  // 4 heads
  c.d_state = 8;
  c.chunk_size = 4;
  c.dt_min = 0.1, c.dt_max = 1.0;  // so that rotations and decays matter
  change(c);
  return c;
}

std::vector<Case> cases() {
  using C = ModelConfig;
  std::vector<Case> out = {
      {"Default", small([](C&) {})},
      {"Recurrent", small([](C& c) { c.scan = "recurrent"; })},
      {"OneChunk", small([](C& c) { c.chunk_size = 64; })},
      {"ChunkOfOneToken", small([](C& c) { c.chunk_size = 1; })},
      {"RopeFractionOne", small([](C& c) { c.rope_fraction = 1; })},
      {"NoRotation", small([](C& c) { c.rotation = "none"; })},
      {"StandardRotation", small([](C& c) { c.rotation = "standard"; })},
      {"Euler", small([](C& c) { c.discretization = "euler"; })},
      {"HalfTrapezoid", small([](C& c) { c.discretization = "half"; })},
      {"HeavyTail", small([](C& c) { c.a_activation = "heavy_tail"; })},
      {"HighFloor", small([](C& c) { c.a_floor = 0.7; })},
      {"NoBcNorm", small([](C& c) { c.bc_norm = false; })},
      {"NoBcBias", small([](C& c) { c.bc_bias = false; })},
      {"Conv", small([](C& c) { c.conv = true; })},
      {"OutNorm", small([](C& c) { c.out_norm = "rms"; })},
      {"TwoGroups", small([](C& c) { c.ngroups = 2; })},
      {"Swiglu", small([](C& c) {
         c.mlp = "swiglu";
         c.d_model = 3;
         c.headdim = 3;
       })},
      {"TiedPadded", small([](C& c) {
         c.tie_embeddings = true;
         c.pad_vocab_multiple = 8;
       })},
      {"TwoLayersTwoGroupsConvNorm", small([](C& c) {
         c.n_layers = 2;
         c.ngroups = 2;
         c.conv = true;
         c.out_norm = "rms";
         c.mlp = "swiglu";
       })},
      {"Mamba2", small([](C& c) { c.mixer = "mamba2"; })},
      {"Mamba2Recurrent", small([](C& c) {
         c.mixer = "mamba2";
         c.scan = "recurrent";
       })},
      {"Mamba2Signed", small([](C& c) {
         c.mixer = "mamba2";
         c.eigenvalue_min = -1;
       })},
      {"Mamba2SignedRecurrent", small([](C& c) {
         c.mixer = "mamba2";
         c.eigenvalue_min = -1;
         c.scan = "recurrent";
       })},
      {"Mamba2GroupsSwigluTwoLayers", small([](C& c) {
         c.mixer = "mamba2";
         c.ngroups = 2;
         c.mlp = "swiglu";
         c.n_layers = 2;
       })},
  };
  const auto delta = [&](const char* name, void (*change)(ModelConfig&)) {
    ModelConfig c = small([](C& x) {
      x.mixer = "gated_delta_net";
      x.eigenvalue_min = -1;
    });
    change(c);
    out.push_back({name, c});
  };
  delta("GatedDeltaNet", [](C&) {});
  delta("GatedDeltaNetRecurrent", [](C& c) { c.scan = "recurrent"; });
  delta("GatedDeltaNetOneChunk", [](C& c) { c.chunk_size = 64; });
  delta("GatedDeltaNetChunkOfOneToken", [](C& c) { c.chunk_size = 1; });
  delta("GatedDeltaNetConv", [](C& c) { c.conv = true; });
  delta("GatedDeltaNetUnsigned", [](C& c) { c.eigenvalue_min = 0; });
  delta("GatedDeltaNetTwoGroups", [](C& c) { c.ngroups = 2; });
  delta("GatedDeltaNetGroupsConvSwigluTwoLayers", [](C& c) {
    c.ngroups = 4;
    c.conv = true;
    c.mlp = "swiglu";
    c.n_layers = 2;
  });
  delta("DeltaNet", [](C& c) { c.mixer = "delta_net"; });
  delta("DeltaNetRecurrent", [](C& c) {
    c.mixer = "delta_net";
    c.scan = "recurrent";
  });
  delta("DeltaNetUnsignedConvGroups", [](C& c) {
    c.mixer = "delta_net";
    c.eigenvalue_min = 0;
    c.conv = true;
    c.ngroups = 2;
  });
  out.push_back({"OneToken", small([](C&) {}), 1, 1});
  out.push_back({"LongerThanManyChunks", small([](C& c) { c.headdim = 12; }), 1, 37});
  out.push_back({"Mamba2OneToken", small([](C& c) { c.mixer = "mamba2"; }), 1, 1});
  out.push_back({"Lstm", small([](C& c) { c.mixer = "lstm"; })});
  out.push_back({"LstmOfAnyWidth", small([](C& c) {
                   c.mixer = "lstm";
                   c.d_model = 5, c.expand = 1, c.headdim = 64;  // no heads to divide it into
                 })});
  out.push_back({"LstmTwoLayersSwigluTied", small([](C& c) {
                   c.mixer = "lstm", c.n_layers = 2, c.mlp = "swiglu", c.tie_embeddings = true;
                 })});
  out.push_back({"LstmManySequences", small([](C& c) { c.mixer = "lstm", c.expand = 1; }), 19, 4});
  out.push_back({"LstmOneToken", small([](C& c) { c.mixer = "lstm"; }), 1, 1});
  out.push_back({"GatedDeltaNetOneToken", small([](C& c) { c.mixer = "gated_delta_net"; }), 1, 1});
  out.push_back({"DeltaNetLongerThanManyChunks", small([](C& c) {
                   c.mixer = "delta_net";
                   c.eigenvalue_min = -1;
                   c.headdim = 12;
                 }),
                 1, 37});
  return out;
}

class Against : public ::testing::TestWithParam<Case> {};

TEST_P(Against, LiteralReferenceInLogitsLossAndEveryGradient) {
  const Case& p = GetParam();
  ASSERT_TRUE(validate(p.config).empty())
      << validate(p.config)[0].field << ": " << validate(p.config)[0].message;
  Model<double> model(p.config, p.batch, p.seqlen, true);
  model.initialise(7);
  reference::Groups groups;
  std::vector<std::string> names;
  for (const auto& spec :
       model.parameters()) {  // away from the initial values, where biases and norms are all ones
    std::vector<double> values = model.get(spec.name);
    const auto noise = testing_support::uniform(p.name + spec.name, values.size(), -0.3, 0.3);
    for (size_t i = 0; i < values.size(); ++i) values[i] += noise[i];
    model.set(spec.name, values);
    groups.push_back(values);
    names.push_back(spec.name);
  }
  const size_t rows = static_cast<size_t>(p.batch * p.seqlen);
  const auto tokens = testing_support::integers(p.name, rows, 5);
  auto targets = testing_support::integers(std::string(p.name) + "targets", rows, 5);
  for (size_t i = 0; i + 1 < rows; i += 3) targets[i] = -1;
  const double loss = model.run(tokens, targets);

  reference::Recording recording(groups);
  reference::Parameters<reference::Var> parameters;
  for (size_t i = 0; i < names.size(); ++i) parameters[names[i]] = recording.inputs[i];
  const auto logits = reference::model_logits(p.config, parameters, tokens, p.batch, p.seqlen);
  const auto expected_loss = reference::masked_cross_entropy(
      logits, targets, p.config.padded_vocab(), p.config.vocab_size);
  std::vector<double> expected_logits;
  for (const auto& l : logits) expected_logits.push_back(l.value);
  EXPECT_LE(relative_error(model.logits(), expected_logits), 1e-12);
  EXPECT_NEAR(loss, expected_loss.value, 1e-12);
  const reference::Groups gradients = recording.gradient({expected_loss}, {1.0});
  double largest = 0;
  for (const auto& g : gradients) {
    for (double x : g) largest = std::max(largest, std::abs(x));
  }
  ASSERT_GT(largest, 1e-3);
  for (size_t i = 0; i < names.size(); ++i) {
    const auto actual = model.gradient(names[i]);
    double difference = 0;
    for (size_t e = 0; e < actual.size(); ++e)
      difference = std::max(difference, std::abs(actual[e] - gradients[i][e]));
    EXPECT_TRUE(difference <= 1e-11 * largest)
        << names[i] << " differs by " << difference << ", largest gradient " << largest;
  }
}

INSTANTIATE_TEST_SUITE_P(Model, Against, ::testing::ValuesIn(cases()),
                         [](const auto& p) { return p.param.name; });

TEST(Model, FloatFollowsDoubleTo1em4) {
  for (const char* mixer : {"mamba3", "mamba2", "gated_delta_net", "delta_net", "lstm"}) {
    ModelConfig c;
    c.mixer = mixer;
    c.vocab_size = 5;
    c.d_model = 32;
    Model<float> single(c, 2, 130, true);
    Model<double> exact(c, 2, 130, true);
    single.initialise(3);
    exact.initialise(3);
    const auto tokens = testing_support::integers(mixer, 260, 5),
               targets = testing_support::integers("t", 260, 5);
    EXPECT_NEAR(single.run(tokens, targets), exact.run(tokens, targets), 1e-5);
    EXPECT_LE(relative_error(single.logits(), exact.logits()), 1e-4) << mixer;
    for (const auto& spec : exact.parameters()) {
      EXPECT_LE(relative_error(single.gradient(spec.name), exact.gradient(spec.name)), 1e-3)
          << mixer << " " << spec.name;
    }
  }
}

TEST(Model, ParameterNamesAndShapesAreTheOfficialModules) {
  ModelConfig c;  // 1 layer, d_model 64, d_state 64, headdim 64
  c.vocab_size = 3;
  std::vector<std::string> lines;
  for (const auto& s : parameter_specs(c)) lines.push_back(s.name + " " + s.shape.text());
  EXPECT_EQ(
      lines,
      (std::vector<std::string>{
          "backbone.embedding.weight (3, 64)", "backbone.layers.0.norm.weight (64)",
          "backbone.layers.0.mixer.in_proj.weight (406, 64)", "backbone.layers.0.mixer.dt_bias (2)",
          "backbone.layers.0.mixer.B_bias (2, 1, 64)", "backbone.layers.0.mixer.C_bias (2, 1, 64)",
          "backbone.layers.0.mixer.B_norm.weight (64)",
          "backbone.layers.0.mixer.C_norm.weight (64)", "backbone.layers.0.mixer.D (2)",
          "backbone.layers.0.mixer.out_proj.weight (64, 128)", "backbone.norm_f.weight (64)",
          "lm_head.weight (3, 64)"}));
  c.pad_vocab_multiple = 16;
  EXPECT_EQ(parameter_count(c), 36740);
  c.n_layers = 3;
  EXPECT_EQ(parameter_count(c), 105996);
}

TEST(Model, AnLstmHasTheMatricesOfOneLayerAndNoHeads) {
  ModelConfig c;
  c.mixer = "lstm";
  c.vocab_size = 3;
  c.headdim = 48;  // does not divide 128, and need not
  EXPECT_TRUE(validate(c).empty());
  std::vector<std::string> lines;
  for (const auto& s : parameter_specs(c)) {
    const std::string prefix = "backbone.layers.0.mixer.";
    if (!s.name.starts_with(prefix)) continue;
    lines.push_back(s.name.substr(prefix.size()) + " " + s.shape.text());
    const bool bias = s.name.ends_with("bias");
    EXPECT_EQ(s.decays, !bias) << s.name;
    if (!bias && !s.name.ends_with("weight_hh")) continue;
    double largest = 0;
    for (double x : initial_values(s, c, 11)) largest = std::max(largest, std::abs(x));
    EXPECT_LE(largest, 1 / std::sqrt(128.0)) << s.name;  // torch.nn.LSTM's range
    EXPECT_GE(largest, 0.97 / std::sqrt(128.0)) << s.name;
  }
  EXPECT_EQ(lines, (std::vector<std::string>{"in_proj.weight (512, 64)", "weight_hh (512, 128)",
                                             "bias (512)", "out_proj.weight (64, 128)"}));
}

TEST(Model, ParametersOfTheDeltaRulesFollowTheirSwitches) {
  ModelConfig c;
  c.mixer = "gated_delta_net";
  c.vocab_size = 3;
  c.ngroups = 2;  // 2 heads
  c.conv = true;
  const auto mixer_lines = [](const ModelConfig& config) {
    std::vector<std::string> lines;
    for (const auto& s : parameter_specs(config)) {
      const std::string prefix = "backbone.layers.0.mixer.";
      if (s.name.starts_with(prefix))
        lines.push_back(s.name.substr(prefix.size()) + " " + s.shape.text());
    }
    return lines;
  };
  EXPECT_EQ(mixer_lines(c),
            (std::vector<std::string>{"in_proj.weight (516, 64)", "conv1d.weight (384, 1, 4)",
                                      "dt_bias (2)", "A_log (2)", "norm.weight (64)",
                                      "out_proj.weight (64, 128)"}));
  c.conv = false;
  c.mixer = "delta_net";  // neither gate nor decay
  EXPECT_EQ(mixer_lines(c),
            (std::vector<std::string>{"in_proj.weight (386, 64)", "norm.weight (64)",
                                      "out_proj.weight (64, 128)"}));
}

TEST(Model, MlpHiddenSizeRoundsUpTo128) {
  ModelConfig c;
  c.mlp = "swiglu";
  for (auto [d_model, wanted, hidden] : {std::tuple{64, 0, 256}, {32, 0, 128}, {64, 1500, 1536}}) {
    c.d_model = d_model;
    c.d_intermediate = wanted;
    for (const auto& s : parameter_specs(c)) {
      const Shape fc1{2 * hidden, d_model}, fc2{d_model, hidden};
      EXPECT_TRUE(s.name != "backbone.layers.0.mlp.fc1.weight" || s.shape == fc1) << s.shape.text();
      EXPECT_TRUE(s.name != "backbone.layers.0.mlp.fc2.weight" || s.shape == fc2) << s.shape.text();
    }
  }
}

TEST(Model, WeightDecayExemptsBiasesNormsAndScanParameters) {
  ModelConfig c;
  c.conv = true;
  c.mlp = "swiglu";
  c.out_norm = "rms";
  for (const char* mixer : {"mamba3", "mamba2", "gated_delta_net", "delta_net"}) {
    c.mixer = mixer;
    for (const auto& s : parameter_specs(c)) {
      const bool matrix = s.name.ends_with("proj.weight") || s.name.ends_with("embedding.weight") ||
                          s.name.ends_with("lm_head.weight") || s.name.ends_with("fc1.weight") ||
                          s.name.ends_with("fc2.weight") || s.name.ends_with("conv1d.weight");
      EXPECT_EQ(s.decays, matrix) << s.name;
    }
  }
}

TEST(Model, InitialValuesFollowTheirDistributions) {
  ModelConfig c;
  c.n_layers = 4;
  c.mixer = "mamba2";
  for (const auto& spec : parameter_specs(c)) {
    const auto v = initial_values(spec, c, 11);
    const auto [lo, hi] = std::minmax_element(v.begin(), v.end());
    double mean = 0, square = 0;
    for (double x : v)
      mean += x / static_cast<double>(v.size()), square += x * x / static_cast<double>(v.size());
    if (spec.name.ends_with("in_proj.weight")) {
      EXPECT_NEAR(*hi, 1 / 8.0, 1e-3);
      EXPECT_NEAR(square, 1 / 64.0 / 3, 2e-4);
      EXPECT_NEAR(mean, 0, 2e-3);  // four standard errors
    } else if (spec.name.ends_with("out_proj.weight")) {
      EXPECT_NEAR(*hi, 1 / std::sqrt(128.0) / 2, 1e-3);  // divided by sqrt(n_layers)
    } else if (spec.name.ends_with("A_log")) {
      EXPECT_GE(*lo, 0);
      EXPECT_LE(*hi, std::log(16.0));
    } else if (spec.name.ends_with("dt_bias")) {
      for (double x : v) {
        const double dt = std::log1p(std::exp(x));
        EXPECT_GE(dt, 1e-3 * (1 - 1e-9));
        EXPECT_LE(dt, 1e-1 * (1 + 1e-9));
      }
    }
  }
}

TEST(Model, GatedDeltaNetStartsWithDecayRatesFromZeroTo16) {
  ModelConfig c;
  c.mixer = "gated_delta_net";
  c.d_model = 4096;  // 128 heads
  double lowest = 16, highest = 0;
  for (const auto& spec : parameter_specs(c)) {
    if (!spec.name.ends_with("A_log")) continue;
    for (double x : initial_values(spec, c, 11)) {
      lowest = std::min(lowest, std::exp(x));
      highest = std::max(highest, std::exp(x));
    }
  }
  EXPECT_LT(lowest, 0.8);  // Mamba-2's begin at 1; 128 draws miss [0, 0.8) in 1 of 700 seeds
  EXPECT_GT(highest, 15.2);
  EXPECT_LE(highest, 16);
}

TEST(Model, ImpossibleConfigurationsAreNamedWithTheirValue) {
  auto first = [](void (*change)(ModelConfig&)) {
    ModelConfig c;
    change(c);
    const auto problems = validate(c);
    return problems.empty() ? std::string() : problems[0].field + " " + problems[0].message;
  };
  EXPECT_EQ(first([](ModelConfig&) {}), "");
  EXPECT_EQ(first([](ModelConfig& c) { c.headdim = 48; }),
            "headdim must divide expand * d_model = 128, is 48");
  EXPECT_EQ(first([](ModelConfig& c) { c.ngroups = 3; }),
            "ngroups must divide the number of heads, 2, is 3");
  EXPECT_EQ(first([](ModelConfig& c) { c.rope_fraction = 0.25; }),
            "rope_fraction must be 0.5 or 1, is 0.25");
  EXPECT_EQ(first([](ModelConfig& c) { c.dt_min = 1; }),
            "dt_range must be [min, max] with 0 < min <= max, is [1, 0.1]");
  EXPECT_EQ(
      first([](ModelConfig& c) { c.eigenvalue_min = -1; }),
      "eigenvalue_range must be [0, 1] for mamba3, whose rotation supplies the signs; is [-1, 1]");
  EXPECT_EQ(first([](ModelConfig& c) { c.d_state = 2; }),
            "d_state must be at least 2 / rope_fraction to hold a rotated pair, is 2");
  EXPECT_EQ(first([](ModelConfig& c) { c.mixer = "mamba4"; }),
            "mixer must be one of mamba3, mamba2, gated_delta_net, delta_net, lstm, is mamba4");
  for (const char* mixer : {"gated_delta_net", "delta_net"}) {
    ModelConfig c;
    c.mixer = mixer;
    c.eigenvalue_min = -1;
    EXPECT_TRUE(validate(c).empty()) << mixer;
    c.ngroups = 3;
    ASSERT_EQ(validate(c).size(), 1u) << mixer;
    EXPECT_EQ(validate(c)[0].message, "must divide the number of heads, 2, is 3");
    c.ngroups = 1;
    c.eigenvalue_min = -0.5;
    ASSERT_EQ(validate(c).size(), 1u) << mixer;
    EXPECT_EQ(validate(c)[0].message, "must be [0, 1] or [-1, 1], is [-0.5, 1]");
    c.eigenvalue_min = -1;
    c.d_state = 1;  // no rotated pair is asked for
    EXPECT_TRUE(validate(c).empty()) << mixer;
  }
}

}  // namespace
}  // namespace statelab
