// Which module of another library computes what a configuration computes, how it is built, and which switches it lacks.
// Facts of the libraries: models.md sections 2, 3, 5 - 7 and 12.
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "models/interchange.h"
#include "models/model.h"

namespace statelab {
namespace {

const char* boolean(bool value) { return value ? "True" : "False"; }

/// The shortest text that reads back as the same number.
std::string number(double value) {
  char text[32];
  for (int digits = 1; digits <= 17; ++digits) {
    std::snprintf(text, sizeof text, "%.*g", digits, value);
    if (std::strtod(text, nullptr) == value) break;
  }
  return text;
}

/// "name=1, other=True" with commas between.
class PythonArguments {
 public:
  PythonArguments& add(const std::string& name, const std::string& value) {
    text_ += (text_.empty() ? "" : ", ") + name + '=' + value;
    return *this;
  }
  PythonArguments& add(const std::string& name, const char* value) {
    return add(name, std::string(value));
  }
  PythonArguments& add(const std::string& name, int value) {
    return add(name, std::to_string(value));
  }
  PythonArguments& add(const std::string& name, bool value) { return add(name, boolean(value)); }
  PythonArguments& add(const std::string& name, double value) { return add(name, number(value)); }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

int mlp_width(const ModelConfig& c) {
  for (const ParameterSpec& spec : parameter_specs(c)) {
    if (spec.name == "backbone.layers.0.mlp.fc2.weight") return spec.shape.last();
  }
  return 0;
}

/// The smallest factor f >= value / base for which Python's int(base * f) is `value`.
double factor(int value, int base) {
  double f = static_cast<double>(value) / base;
  while (static_cast<int>(base * f) < value) f = std::nextafter(f, HUGE_VAL);
  return f;
}

void refuse(Counterpart& out, const char* field, const std::string& what,
            const std::string& remedy) {
  out.missing.push_back(
      {field, what + "; " + remedy + ", or write the project's own names with --layout statelab"});
}

std::string ssm_arguments(const ModelConfig& c) {
  std::string text =
      "{\"layer\": \"" + std::string(c.mixer == "mamba3" ? "Mamba3" : "Mamba2") + '"';
  const auto add = [&](const char* name, const std::string& value) {
    text += std::string(", \"") + name + "\": " + value;
  };
  add("d_state", std::to_string(c.d_state));
  add("expand", std::to_string(c.expand));
  add("headdim", std::to_string(c.headdim));
  add("ngroups", std::to_string(c.ngroups));
  if (c.mixer == "mamba3") {
    add("rope_fraction", number(c.rope_fraction));
    add("A_floor", number(c.a_floor));
    add("is_outproj_norm", boolean(c.out_norm == "rms"));
    add("is_mimo", "False");
  } else {
    add("d_conv", "4");
  }
  return text + "}";
}

Counterpart mamba(const ModelConfig& c) {
  Counterpart out;
  out.layout = "mamba_ssm";
  PythonArguments config;
  config.add("d_model", c.d_model)
      .add("d_intermediate", mlp_width(c))
      .add("n_layer", c.n_layers)
      .add("vocab_size", c.vocab_size)
      .add("ssm_cfg", ssm_arguments(c))
      .add("rms_norm", true)
      .add("residual_in_fp32", true)
      .add("pad_vocab_size_multiple", c.pad_vocab_multiple)
      .add("tie_embeddings", c.tie_embeddings);
  out.constructor = {"from mamba_ssm.models.config_mamba import MambaConfig",
                     "from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel",
                     "config = MambaConfig(" + config.text() + ")",
                     "model = MambaLMHeadModel(config)"};
  if (c.pad_vocab_multiple != 8) {
    out.notes.push_back("the vocabulary is written as trained, hence pad_vocab_size_multiple=" +
                        std::to_string(c.pad_vocab_multiple) +
                        "; the module's default, 8, expects other shapes");
  }
  if (c.mixer == "mamba2") {
    if (c.eigenvalue_min < 0) {
      refuse(out, "eigenvalue_range",
             "the authors' Mamba-2 has eigenvalues in [0, 1] only, is [-1, 1]",
             "train with model.eigenvalue_range=[0,1]");
    }
    return out;
  }
  if (c.rotation == "standard") {
    refuse(out, "rotation",
           "the authors' Mamba-3 has no rotation by fixed frequencies, is standard",
           "train with model.rotation=data_dependent or none");
  }
  if (c.discretization == "euler") {
    refuse(out, "discretization",
           "the authors' Mamba-3 has no constant lambda = 1 (trap rows have no bias), is euler",
           "train with model.discretization=trapezoidal or half");
  }
  if (!c.bc_norm) {
    refuse(out, "bc_norm", "the authors' Mamba-3 always norms B and C, is false",
           "train with model.bc_norm=true");
  }
  if (c.conv) {
    refuse(out, "conv", "the authors' Mamba-3 has no short convolution, is true",
           "train with model.conv=false");
  }
  if (mamba3_attrs(c).nangles == 0) {
    refuse(out, "d_state",
           "the authors' Mamba-3 holds at least one rotated pair, is " + std::to_string(c.d_state),
           "train with model.d_state of at least " + number(2 / c.rope_fraction));
  }
  out.notes.push_back(
      c.a_activation == "softplus"
          ? "model.a_activation: softplus is Mamba-3 as first released (March 2026) and "
            "flash-linear-attention's; mamba_ssm since June 2026 computes A by the heavy-tailed "
            "function under the same names and shapes, which gives other logits without an error"
          : "model.a_activation: heavy_tail is mamba_ssm since June 2026; the first release and "
            "flash-linear-attention compute A by softplus under the same names and shapes, which "
            "gives other logits without an error");
  if (c.rotation == "none") {
    out.notes.push_back("model.rotation: none is written as zeros in the last " +
                        std::to_string(mamba3_attrs(c).nangles) +
                        " rows of in_proj, the angles: tanh 0 = 0");
  }
  if (c.discretization == "half") {
    out.notes.push_back("model.discretization: half is written as zeros in the " +
                        std::to_string(c.nheads()) + " trap rows of in_proj: sigmoid 0 = 1/2");
  }
  if (!c.bc_bias)
    out.notes.push_back("model.bc_bias: false is written as zeros in B_bias and C_bias");
  return out;
}

Counterpart delta(const ModelConfig& c) {
  Counterpart out;
  out.layout = "flash-linear-attention";
  const bool gated = c.mixer == "gated_delta_net", signs = c.eigenvalue_min < 0;
  PythonArguments config;
  config.add("hidden_size", c.d_model)
      .add("num_hidden_layers", c.n_layers)
      .add("vocab_size", c.padded_vocab());
  if (gated) {
    config.add("num_heads", c.ngroups)
        .add("num_v_heads", c.nheads())
        .add("head_dim", c.d_state)
        .add("expand_v", factor(c.headdim, c.d_state))
        .add("use_gate", true)
        .add("allow_neg_eigval", signs);
  } else {
    config.add("num_heads", c.nheads())
        .add("expand_k", factor(c.ngroups * c.d_state, c.d_model))
        .add("expand_v", factor(c.d_inner(), c.d_model))
        .add("use_gate", false)
        .add("use_beta", true)
        .add("qk_norm", "\"l2\"")
        .add("qk_activation", "\"silu\"");
  }
  const int width = c.mlp == "none" ? 8 : mlp_width(c);
  config.add("use_short_conv", c.conv)
      .add("conv_size", 4)
      .add("intermediate_size", width)
      .add("hidden_act", "\"swish\"")
      .add("norm_eps", 1e-5)
      .add("tie_word_embeddings", c.tie_embeddings);
  const std::string name = gated ? "GatedDeltaNet" : "DeltaNet";
  out.constructor = {"from fla.models import " + name + "Config, " + name + "ForCausalLM",
                     "config = " + name + "Config(" + config.text() + ")",
                     "model = " + name + "ForCausalLM(config)"};
  if (!gated && signs) {
    out.constructor.push_back(
        "for block in model.model.layers: block.attn.allow_neg_eigval = True  # not a field of its "
        "config");
  }
  if (!gated && c.ngroups != c.nheads()) {
    refuse(out, "ngroups",
           "flash-linear-attention's DeltaNet has keys of their own for each of the " +
               std::to_string(c.nheads()) + " heads, is " + std::to_string(c.ngroups),
           "train with model.ngroups=" + std::to_string(c.nheads()));
  }
  if (c.mlp == "none") {
    out.notes.push_back(
        "model.mlp: none is written as an MLP of width 8 whose down_proj is zero: the library's "
        "block "
        "always has one");
  }
  out.notes.push_back(
      "norm_eps=1e-05 as trained; the library's default, 1e-06, gives slightly other logits");
  return out;
}

Counterpart lstm(const ModelConfig& c) {
  Counterpart out;
  out.layout = "torch.nn.LSTM";
  PythonArguments arguments;
  arguments.add("vocab_size", c.padded_vocab())
      .add("d_model", c.d_model)
      .add("hidden_size", c.d_inner())
      .add("n_layers", c.n_layers)
      .add("d_intermediate", mlp_width(c))
      .add("tie_embeddings", c.tie_embeddings);
  out.constructor = {"model = LstmLanguageModel(" + arguments.text() +
                     ")  # the class stands in models/interchange.md"};
  out.notes.push_back("bias_hh_l0 is zero: bias_ih_l0 holds the only bias");
  return out;
}

}  // namespace

Counterpart counterpart_of(const ModelConfig& c) {
  if (c.mixer == "lstm") return lstm(c);
  return c.mixer == "mamba2" || c.mixer == "mamba3" ? mamba(c) : delta(c);
}

}  // namespace statelab
