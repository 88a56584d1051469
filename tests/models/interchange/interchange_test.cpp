// Names, shapes and bits of exported weights, and what import refuses.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <set>

#include "tests/models/interchange/fixtures.h"

namespace statelab::interchange {
namespace {

using Tensors = std::vector<NamedTensor>;

std::string shape_text(const NamedTensor& t) {
  std::string text = t.name;
  for (const int e : t.shape) text += ' ' + std::to_string(e);
  return text;
}

std::set<std::string> names(const ModelConfig& c, const std::string& layout) {
  std::set<std::string> out;
  for (const NamedTensor& t : interchange_tensors(c, layout)) out.insert(shape_text(t));
  return out;
}

void expect_same_bits(const Tensors& a, const Tensors& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].name, b[i].name);
    ASSERT_EQ(a[i].shape, b[i].shape) << a[i].name;
    EXPECT_EQ(std::memcmp(a[i].data.data(), b[i].data.data(), a[i].data.size() * sizeof(float)), 0)
        << a[i].name;
  }
}

TEST(Interchange, ImportOfExportIsTheSameToTheBitForEveryMixerAndSwitch) {
  for (const Fixture& f : fixtures()) {
    for (const std::string& layout : {f.layout, std::string(kOwnLayout)}) {
      SCOPED_TRACE(f.name + " " + layout);
      Tensors weights = weights_of(f.config, "round trip");
      weights[0].data[0] = -0.f;
      weights[0].data[1] = std::numeric_limits<float>::denorm_min();
      Metadata unread;
      const std::string bytes =
          write_safetensors(to_interchange(f.config, layout, weights, unread), unread);
      const SafetensorsFile file = read_safetensors(bytes);
      expect_same_bits(from_interchange(f.config, layout, file.tensors, file.metadata), weights);
    }
  }
}

TEST(Interchange, Mamba3HasTheNamesAndShapesOfTheAuthorsLanguageModel) {
  ModelConfig c = base("mamba3");
  c.out_norm = "rms", c.mlp = "swiglu", c.ngroups = 2, c.pad_vocab_multiple = 8;
  const std::string mixer = "backbone.layers.0.mixer.";
  const std::set<std::string> expected = {
      "backbone.embedding.weight 8 8",
      "backbone.layers.0.norm.weight 8",
      mixer + "in_proj.weight 72 8",  // 2*16 + 2*2*8 + 3*2 + 2 angles
      mixer + "dt_bias 2",
      mixer + "B_bias 2 1 8",
      mixer + "C_bias 2 1 8",
      mixer + "B_norm.weight 8",
      mixer + "C_norm.weight 8",
      mixer + "D 2",
      mixer + "norm.weight 16",
      mixer + "out_proj.weight 8 16",
      "backbone.layers.0.norm2.weight 8",
      "backbone.layers.0.mlp.fc1.weight 256 8",
      "backbone.layers.0.mlp.fc2.weight 8 128",
      "backbone.norm_f.weight 8",
      "lm_head.weight 8 8"};
  EXPECT_EQ(names(c, "mamba_ssm"), expected);
  c.tie_embeddings = true;  // PyTorch lists the shared tensor under both names
  EXPECT_EQ(names(c, "mamba_ssm"), expected);
  c.bc_bias = false;  // written as zeros
  EXPECT_EQ(names(c, "mamba_ssm"), expected);
}

TEST(Interchange, Mamba2HasTheNamesAndShapesOfTheAuthorsLanguageModel) {
  const std::string mixer = "backbone.layers.0.mixer.";
  EXPECT_EQ(
      names(base("mamba2"), "mamba_ssm"),
      (std::set<std::string>{
          "backbone.embedding.weight 5 8", "backbone.layers.0.norm.weight 8",
          mixer + "in_proj.weight 50 8", mixer + "conv1d.weight 32 1 4", mixer + "conv1d.bias 32",
          mixer + "dt_bias 2", mixer + "A_log 2", mixer + "D 2", mixer + "norm.weight 16",
          mixer + "out_proj.weight 8 16", "backbone.norm_f.weight 8", "lm_head.weight 5 8"}));
}

TEST(Interchange, GatedDeltaNetHasTheNamesAndShapesOfFlashLinearAttention) {
  ModelConfig c = base("gated_delta_net");
  c.conv = true, c.d_state = 4;
  const std::string attn = "model.layers.0.attn.", mlp = "model.layers.0.mlp.";
  std::set<std::string> expected = {"model.embeddings.weight 5 8",
                                    "model.layers.0.attn_norm.weight 8",
                                    attn + "q_proj.weight 4 8",
                                    attn + "k_proj.weight 4 8",
                                    attn + "v_proj.weight 16 8",
                                    attn + "g_proj.weight 16 8",
                                    attn + "a_proj.weight 2 8",
                                    attn + "b_proj.weight 2 8",
                                    attn + "q_conv1d.weight 4 1 4",
                                    attn + "k_conv1d.weight 4 1 4",
                                    attn + "v_conv1d.weight 16 1 4",
                                    attn + "A_log 2",
                                    attn + "dt_bias 2",
                                    attn + "o_norm.weight 8",
                                    attn + "o_proj.weight 8 16",
                                    "model.layers.0.mlp_norm.weight 8",
                                    mlp + "gate_proj.weight 8 8",
                                    mlp + "up_proj.weight 8 8",
                                    mlp + "down_proj.weight 8 8",
                                    "model.norm.weight 8",
                                    "lm_head.weight 5 8"};
  EXPECT_EQ(names(c, "flash-linear-attention"), expected);
  c.mixer = "delta_net";
  for (const char* absent : {"g_proj.weight 16 8", "a_proj.weight 2 8", "A_log 2", "dt_bias 2"})
    EXPECT_EQ(expected.erase(attn + absent), 1u);
  EXPECT_EQ(names(c, "flash-linear-attention"), expected);
}

TEST(Interchange, TheDeltaRulesRowsAreSplitInTheirOrder) {
  ModelConfig c = base("gated_delta_net");
  c.conv = true, c.d_state = 4;
  Tensors weights = weights_of(c, "rows");
  for (NamedTensor& t : weights) {
    if (t.name.ends_with("in_proj.weight") || t.name.ends_with("conv1d.weight")) {
      const size_t row = t.data.size() / static_cast<size_t>(t.shape[0]);
      for (size_t i = 0; i < t.data.size(); ++i) t.data[i] = static_cast<float>(i / row);
    }
  }
  Metadata unread;
  std::map<std::string, float> first;
  for (const NamedTensor& t : to_interchange(c, "flash-linear-attention", weights, unread))
    first[t.name] = t.data[0];
  const std::string attn = "model.layers.0.attn.";
  // [q G*K | k G*K | v H*V | gate H*V | a H | b H]
  EXPECT_EQ(first[attn + "q_proj.weight"], 0);
  EXPECT_EQ(first[attn + "k_proj.weight"], 4);
  EXPECT_EQ(first[attn + "v_proj.weight"], 8);
  EXPECT_EQ(first[attn + "g_proj.weight"], 24);
  EXPECT_EQ(first[attn + "a_proj.weight"], 40);
  EXPECT_EQ(first[attn + "b_proj.weight"], 42);
  EXPECT_EQ(first[attn + "q_conv1d.weight"], 0);
  EXPECT_EQ(first[attn + "k_conv1d.weight"], 4);
  EXPECT_EQ(first[attn + "v_conv1d.weight"], 8);
}

TEST(Interchange, SwitchesThatTheModuleLacksBecomeZeroRows) {
  ModelConfig c = base("mamba3");
  c.rotation = "none", c.discretization = "half";
  Metadata unread;
  for (const NamedTensor& t : to_interchange(c, "mamba_ssm", weights_of(c, "zeros"), unread)) {
    if (!t.name.ends_with("in_proj.weight")) continue;
    ASSERT_EQ(t.shape, (std::vector<int>{56, 8}));  // ... | trap 2 | angles 2
    for (size_t i = 0; i < t.data.size(); ++i) EXPECT_EQ(t.data[i] == 0, i >= 52 * 8) << i;
  }
  EXPECT_EQ(unread["unread.backbone.layers.0.mixer.in_proj.weight"].size(), 4u * 8 * 8);
}

TEST(Interchange, EverySwitchWithoutCounterpartIsRefusedWithTheRemedy) {
  struct Case {
    const char* field;
    ModelConfig config;
    const char* remedy;
  };
  std::vector<Case> cases;
  const auto add = [&](const char* field, const char* mixer, const char* remedy, auto change) {
    cases.push_back({field, base(mixer), remedy});
    change(cases.back().config);
  };
  using C = ModelConfig;
  add("rotation", "mamba3", "model.rotation=data_dependent or none",
      [](C& c) { c.rotation = "standard"; });
  add("discretization", "mamba3", "model.discretization=trapezoidal or half",
      [](C& c) { c.discretization = "euler"; });
  add("bc_norm", "mamba3", "model.bc_norm=true", [](C& c) { c.bc_norm = false; });
  add("conv", "mamba3", "model.conv=false", [](C& c) { c.conv = true; });
  add("d_state", "mamba3", "model.d_state of at least 4",
      [](C& c) { c.rotation = "none", c.d_state = 2; });
  add("eigenvalue_range", "mamba2", "model.eigenvalue_range=[0,1]",
      [](C& c) { c.eigenvalue_min = -1; });
  add("ngroups", "delta_net", "model.ngroups=2", [](C&) {});
  for (const Case& k : cases) {
    ASSERT_TRUE(validate(k.config).empty()) << k.field;
    const Counterpart counterpart = counterpart_of(k.config);
    ASSERT_EQ(counterpart.missing.size(), 1u) << k.field;
    EXPECT_EQ(counterpart.missing[0].field, k.field);
    EXPECT_NE(counterpart.missing[0].message.find(k.remedy), std::string::npos)
        << counterpart.missing[0].message;
    EXPECT_NE(counterpart.missing[0].message.find("--layout statelab"), std::string::npos);
    Metadata unread;
    const Tensors weights = weights_of(k.config, "missing");
    EXPECT_THROW(to_interchange(k.config, counterpart.layout, weights, unread),
                 std::invalid_argument);
    EXPECT_NO_THROW(to_interchange(k.config, kOwnLayout, weights, unread));
  }
}

TEST(Interchange, ConstructorsCarryEveryShapeAndSwitch) {
  const auto line_with = [](const ModelConfig& c, const std::string& start) {
    for (const std::string& line : counterpart_of(c).constructor) {
      if (line.rfind(start, 0) == 0) return line;
    }
    return std::string();
  };
  ModelConfig c = base("mamba3");
  c.out_norm = "rms";
  EXPECT_EQ(
      line_with(c, "config"),
      "config = MambaConfig(d_model=8, d_intermediate=0, n_layer=1, vocab_size=5, "
      "ssm_cfg={\"layer\": \"Mamba3\", \"d_state\": 8, \"expand\": 2, \"headdim\": 8, \"ngroups\": "
      "1, "
      "\"rope_fraction\": 0.5, \"A_floor\": 0.0001, \"is_outproj_norm\": True, \"is_mimo\": "
      "False}, "
      "rms_norm=True, residual_in_fp32=True, pad_vocab_size_multiple=1, tie_embeddings=False)");
  c = base("gated_delta_net");
  c.eigenvalue_min = -1, c.d_state = 6, c.conv = true;
  EXPECT_EQ(
      line_with(c, "config"),
      "config = GatedDeltaNetConfig(hidden_size=8, num_hidden_layers=1, vocab_size=5, num_heads=1, "
      "num_v_heads=2, head_dim=6, expand_v=1.3333333333333333, use_gate=True, "
      "allow_neg_eigval=True, use_short_conv=True, conv_size=4, intermediate_size=8, "
      "hidden_act=\"swish\", norm_eps=1e-05, tie_word_embeddings=False)");
  c = base("delta_net");
  c.eigenvalue_min = -1, c.ngroups = 2;
  EXPECT_NE(line_with(c, "config").find("expand_k=2, expand_v=2, use_gate=False"),
            std::string::npos)
      << line_with(c, "config");
  EXPECT_NE(line_with(c, "for block"), "") << "the config class has no field for [-1, 1]";
  EXPECT_EQ(line_with(base("lstm"), "model"),
            "model = LstmLanguageModel(vocab_size=5, d_model=8, hidden_size=16, n_layers=1, "
            "d_intermediate=0, tie_embeddings=False)  # the class stands in models/interchange.md");
}

/// What is said when the tensors of `c`, changed by `damage`, are imported.
std::string reason(const ModelConfig& c, const std::function<void(Tensors&)>& damage,
                   const Metadata& unread = {}) {
  const std::string layout = counterpart_of(c).layout;
  Metadata kept;
  Tensors tensors = to_interchange(c, layout, weights_of(c, "refused"), kept);
  for (const auto& [key, value] : unread) kept[key] = value;
  damage(tensors);
  try {
    from_interchange(c, layout, tensors, kept);
  } catch (const InterchangeError& e) {
    return e.what();
  }
  return "";
}

NamedTensor& named(Tensors& tensors, const std::string& end) {
  for (NamedTensor& t : tensors) {
    if (t.name.ends_with(end)) return t;
  }
  throw std::logic_error("no tensor " + end);
}

TEST(Interchange, TensorsThatDoNotFitAreRefusedWithTheReason) {
  const ModelConfig c = base("mamba3");
  EXPECT_EQ(reason(c, [](Tensors&) {}), "");
  EXPECT_EQ(reason(c, [](Tensors& t) { t.erase(t.begin()); }),
            "backbone.embedding.weight (5, 8) is missing");
  EXPECT_EQ(reason(c,
                   [](Tensors& t) {
                     t.push_back({"backbone.extra", {2}, {0, 0}});
                   }),
            "backbone.extra (2) belongs to no parameter of this configuration");
  EXPECT_EQ(reason(c,
                   [](Tensors& t) {
                     named(t, "dt_bias").shape = {2, 1};
                   }),
            "backbone.layers.0.mixer.dt_bias: shape must be (2), is (2, 1)");
  EXPECT_EQ(reason(c, [](Tensors& t) { named(t, "mixer.D").data[1] = NAN; }),
            "backbone.layers.0.mixer.D: element 1 is not finite");
  const std::string both =
      reason(c, [](Tensors& t) { named(t, "mixer.D").name = "backbone.layers.0.mixer.E"; });
  EXPECT_EQ(both,
            "backbone.layers.0.mixer.D (2) is missing\n"
            "backbone.layers.0.mixer.E (2) belongs to no parameter of this configuration");
}

TEST(Interchange, ValuesThatTheConfigurationRulesOutAreRefused) {
  ModelConfig c = base("mamba3");
  c.tie_embeddings = true, c.bc_bias = false, c.rotation = "none";
  EXPECT_NE(reason(c, [](Tensors& t) { named(t, "lm_head.weight").data[3] += 1; })
                .find("must equal the embedding with model.tie_embeddings: true"),
            std::string::npos);
  EXPECT_NE(reason(c, [](Tensors& t) { named(t, "B_bias").data[3] = 1; })
                .find("B_bias: element 3 must be 0 with model.bc_bias: false, is 1.0"),
            std::string::npos);
  EXPECT_NE(reason(c, [](Tensors& t) { named(t, "in_proj.weight").data.back() = 2; })
                .find("must be 0 with model.rotation: none, is 2.0"),
            std::string::npos);
  const std::string key = "unread.backbone.layers.0.mixer.in_proj.weight";
  EXPECT_NE(reason(c, [](Tensors&) {}, {{key, "00ff"}}).find("must be 128 hexadecimal digits"),
            std::string::npos);
  // Tensors that say nothing new may be absent.
  EXPECT_EQ(reason(c,
                   [](Tensors& t) {
                     std::erase_if(t, [](const NamedTensor& x) {
                       return x.name == "lm_head.weight" || x.name.ends_with("B_bias") ||
                              x.name.ends_with("C_bias");
                     });
                   }),
            "");
  ModelConfig delta = base("gated_delta_net");
  EXPECT_NE(reason(delta, [](Tensors& t) { named(t, "down_proj.weight").data[5] = 1; })
                .find("must be 0 with model.mlp: none"),
            std::string::npos);
  EXPECT_EQ(reason(delta, [](Tensors& t) { named(t, "up_proj.weight").data[5] = 1; }), "");
  EXPECT_EQ(reason(delta,
                   [](Tensors& t) {
                     std::erase_if(t, [](const NamedTensor& x) {
                       return x.name.find("mlp") != std::string::npos;
                     });
                   }),
            "");
}

TEST(Interchange, TheTwoBiasesOfTorchsLstmAreAdded) {
  const ModelConfig c = base("lstm");
  Metadata unread;
  Tensors tensors = to_interchange(c, "torch.nn.LSTM", weights_of(c, "bias"), unread);
  NamedTensor& hh = named(tensors, "bias_hh_l0");
  for (const float v : hh.data) EXPECT_EQ(v, 0);
  hh.data[7] = 0.25f;
  const float before = named(tensors, "bias_ih_l0").data[7];
  Tensors back = from_interchange(c, "torch.nn.LSTM", tensors, unread);
  EXPECT_EQ(named(back, "mixer.bias").data[7], before + 0.25f);
}

TEST(Interchange, AnotherLibrarysLayoutIsRefused) {
  EXPECT_THROW(interchange_tensors(base("mamba3"), "flash-linear-attention"), InterchangeError);
  EXPECT_THROW(interchange_tensors(base("lstm"), "onnx"), InterchangeError);
}

}  // namespace
}  // namespace statelab::interchange
