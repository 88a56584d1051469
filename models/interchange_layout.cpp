#include "models/interchange_layout.h"

#include <cstring>
#include <map>

#include "models/interchange.h"

namespace statelab {
namespace {

using Piece = InterchangePiece;

constexpr int kNoMlpWidth =
    8;  // hidden width of an MLP that is written only because the module has one

/// Pieces in the order in which they are added; every row of every parameter belongs to one.
class Pieces {
 public:
  explicit Pieces(const ModelConfig& config) {
    for (const ParameterSpec& spec : parameter_specs(config))
      shapes_[spec.name] = spec.shape.extents();
  }
  bool has(const std::string& parameter) const { return shapes_.count(parameter) != 0; }
  const std::vector<int>& shape(const std::string& parameter) const {
    return shapes_.at(parameter);
  }

  Piece& whole(const std::string& name, const std::string& parameter) {
    return add({Piece::Kind::kRows, name, shape(parameter), parameter});
  }
  /// The next `rows` rows of a parameter that lies in several tensors.
  void rows(const std::string& name, const std::string& parameter, int rows) {
    std::vector<int> part = shape(parameter);
    part[0] = rows;
    add({Piece::Kind::kRows, name, part, parameter, next_[parameter]});
    next_[parameter] += rows;
  }
  Piece& add(Piece piece) {
    pieces_.push_back(std::move(piece));
    return pieces_.back();
  }
  std::vector<Piece> take() { return std::move(pieces_); }

 private:
  std::map<std::string, std::vector<int>> shapes_;
  std::map<std::string, int> next_;
  std::vector<Piece> pieces_;
};

std::string layer_name(int layer) { return "backbone.layers." + std::to_string(layer) + "."; }

/// The head, also when it is tied: PyTorch's state_dict lists both names.
void add_head(Pieces& pieces, const std::string& embedding) {
  if (pieces.has("lm_head.weight")) {
    pieces.whole("lm_head.weight", "lm_head.weight");
  } else {
    pieces.add({Piece::Kind::kTied, "lm_head.weight", pieces.shape(embedding), embedding});
  }
}

std::vector<Piece> mamba_pieces(const ModelConfig& c) {
  Pieces pieces(c);
  const Mamba3ScanAttrs attrs = mamba3_attrs(c);
  for (const ParameterSpec& spec : parameter_specs(c)) {
    if (spec.name == "lm_head.weight") continue;
    Piece& piece = pieces.whole(spec.name, spec.name);
    const bool in_proj = spec.name.ends_with("mixer.in_proj.weight");
    const bool dt_bias = spec.name.ends_with("mixer.dt_bias");
    if (c.mixer != "mamba3") continue;
    const int end = attrs.d_proj(), angles = end - attrs.nangles;
    if (in_proj && c.discretization == "half") {
      piece.blank.push_back({angles - attrs.nheads, angles});
      piece.because = "model.discretization: half";
    }
    if (in_proj && c.rotation == "none") {
      piece.blank.push_back({angles, end});
      piece.because += (piece.because.empty() ? "" : ", ") + std::string("model.rotation: none");
    }
    if (dt_bias && !c.bc_bias) {
      const std::string mixer = spec.name.substr(0, spec.name.size() - std::strlen("dt_bias"));
      for (const char* bias : {"B_bias", "C_bias"}) {
        Piece zeros{Piece::Kind::kZeros, mixer + bias, {c.nheads(), 1, c.d_state}};
        zeros.because = "model.bc_bias: false";
        pieces.add(zeros);
      }
    }
  }
  add_head(pieces, "backbone.embedding.weight");
  return pieces.take();
}

std::vector<Piece> delta_pieces(const ModelConfig& c) {
  Pieces pieces(c);
  const bool gated = c.mixer == "gated_delta_net";
  const int keys = c.ngroups * c.d_state, values = c.d_inner(), heads = c.nheads();
  pieces.whole("model.embeddings.weight", "backbone.embedding.weight");
  for (int l = 0; l < c.n_layers; ++l) {
    const std::string ours = layer_name(l), mixer = ours + "mixer.",
                      theirs = "model.layers." + std::to_string(l) + ".", attn = theirs + "attn.";
    pieces.whole(theirs + "attn_norm.weight", ours + "norm.weight");
    const std::string in_proj = mixer + "in_proj.weight", conv = mixer + "conv1d.weight";
    pieces.rows(attn + "q_proj.weight", in_proj, keys);
    pieces.rows(attn + "k_proj.weight", in_proj, keys);
    pieces.rows(attn + "v_proj.weight", in_proj, values);
    if (gated) {
      pieces.rows(attn + "g_proj.weight", in_proj, values);
      pieces.rows(attn + "a_proj.weight", in_proj, heads);
    }
    pieces.rows(attn + "b_proj.weight", in_proj, heads);
    if (pieces.has(conv)) {
      pieces.rows(attn + "q_conv1d.weight", conv, keys);
      pieces.rows(attn + "k_conv1d.weight", conv, keys);
      pieces.rows(attn + "v_conv1d.weight", conv, values);
    }
    if (gated) {
      pieces.whole(attn + "A_log", mixer + "A_log");
      pieces.whole(attn + "dt_bias", mixer + "dt_bias");
    }
    pieces.whole(attn + "o_norm.weight", mixer + "norm.weight");
    pieces.whole(attn + "o_proj.weight", mixer + "out_proj.weight");
    const std::string fc1 = ours + "mlp.fc1.weight";
    if (pieces.has(fc1)) {
      const int hidden = pieces.shape(fc1)[0] / 2;
      pieces.whole(theirs + "mlp_norm.weight", ours + "norm2.weight");
      pieces.rows(theirs + "mlp.up_proj.weight", fc1, hidden);
      pieces.rows(theirs + "mlp.gate_proj.weight", fc1, hidden);
      pieces.whole(theirs + "mlp.down_proj.weight", ours + "mlp.fc2.weight");
    } else {
      const auto unused = [&](const char* name, std::vector<int> shape, float fill) {
        Piece piece{Piece::Kind::kAnything, theirs + name, std::move(shape)};
        piece.fill = fill;
        piece.any_shape = true;
        pieces.add(piece);
      };
      unused("mlp_norm.weight", {c.d_model}, 1);
      unused("mlp.gate_proj.weight", {kNoMlpWidth, c.d_model}, 0);
      unused("mlp.up_proj.weight", {kNoMlpWidth, c.d_model}, 0);
      Piece zeros{Piece::Kind::kZeros, theirs + "mlp.down_proj.weight", {c.d_model, kNoMlpWidth}};
      zeros.because = "model.mlp: none";
      zeros.any_shape = true;
      pieces.add(zeros);
    }
  }
  pieces.whole("model.norm.weight", "backbone.norm_f.weight");
  add_head(pieces, "backbone.embedding.weight");
  return pieces.take();
}

std::vector<Piece> lstm_pieces(const ModelConfig& c) {
  Pieces pieces(c);
  for (const ParameterSpec& spec : parameter_specs(c)) {
    const size_t mixer = spec.name.find("mixer.");
    const std::string before = spec.name.substr(0, mixer == std::string::npos ? 0 : mixer + 6);
    const std::string last = spec.name.substr(before.size());
    if (last == "in_proj.weight") {
      pieces.whole(before + "lstm.weight_ih_l0", spec.name);
    } else if (last == "weight_hh") {
      pieces.whole(before + "lstm.weight_hh_l0", spec.name);
    } else if (last == "bias") {
      pieces.whole(before + "lstm.bias_ih_l0", spec.name);
      pieces.add(
          {Piece::Kind::kAddend, before + "lstm.bias_hh_l0", pieces.shape(spec.name), spec.name});
    } else if (spec.name != "lm_head.weight") {
      pieces.whole(spec.name, spec.name);
    }
  }
  add_head(pieces, "backbone.embedding.weight");
  return pieces.take();
}

}  // namespace

std::vector<InterchangePiece> interchange_pieces(const ModelConfig& c, const std::string& layout) {
  if (layout == kOwnLayout) {
    Pieces pieces(c);
    for (const ParameterSpec& spec : parameter_specs(c)) pieces.whole(spec.name, spec.name);
    return pieces.take();
  }
  const std::string known = counterpart_of(c).layout;
  if (layout != known) {
    throw InterchangeError("layout must be " + known + " or " + kOwnLayout +
                           " for model.mixer: " + c.mixer + ", is " + layout);
  }
  if (c.mixer == "lstm") return lstm_pieces(c);
  return c.mixer == "mamba2" || c.mixer == "mamba3" ? mamba_pieces(c) : delta_pieces(c);
}

}  // namespace statelab
