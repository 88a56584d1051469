#include "models/interchange.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>

#include "models/model.h"

namespace statelab {
namespace {

constexpr int kNoMlpWidth =
    8;  // hidden width of an MLP that is written only because the module has one
const std::string kUnread = "unread.";

/// One tensor of a file, and where its numbers come from.
struct Piece {
  enum class Kind {
    kRows,      ///< rows [row, row + shape[0]) of `parameter`
    kZeros,     ///< zeros, which the configuration stands for
    kAnything,  ///< without effect; written as `fill`
    kTied,      ///< the same as `parameter`
    kAddend,    ///< zeros; added to `parameter` when read
  };
  Kind kind = Kind::kRows;
  std::string name;
  std::vector<int> shape;
  std::string parameter = {};
  int row = 0;
  std::vector<std::pair<int, int>> blank =
      {};                    ///< rows [begin, end) that are zero in the file, ours are never read
  std::string because = {};  ///< the switch behind zeros and blank rows
  float fill = 0;
  bool any_shape = false;  ///< without effect, so its size is the file's choice
  bool optional() const { return kind != Kind::kRows; }
};

int64_t elements(const std::vector<int>& shape) {
  int64_t n = 1;
  for (const int e : shape) n *= e;
  return n;
}

std::vector<int> shape_of(const ParameterSpec& spec) {
  return {spec.shape.extents().begin(), spec.shape.extents().end()};
}

std::string text_of(const std::vector<int>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

/// Pieces in the order in which they are added; every row of every parameter belongs to one.
class Pieces {
 public:
  explicit Pieces(const ModelConfig& config) {
    for (const ParameterSpec& spec : parameter_specs(config)) shapes_[spec.name] = shape_of(spec);
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

std::vector<Piece> pieces_of(const ModelConfig& c, const std::string& layout) {
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

std::string to_hex(const float* data, size_t count) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, data + i, sizeof bits);
    for (int shift = 28; shift >= 0; shift -= 4) out += kDigits[bits >> shift & 15];
  }
  return out;
}

std::optional<std::vector<float>> from_hex(const std::string& text, size_t count) {
  if (text.size() != 8 * count || text.find_first_not_of("0123456789abcdef") != std::string::npos)
    return std::nullopt;
  std::vector<float> out(count);
  for (size_t i = 0; i < count; ++i) {
    const auto bits = static_cast<uint32_t>(std::stoul(text.substr(8 * i, 8), nullptr, 16));
    std::memcpy(&out[i], &bits, sizeof bits);
  }
  return out;
}

/// Elements [begin, end) of a tensor whose rows [begin, end) are meant.
std::pair<size_t, size_t> span_of(const Piece& piece, std::pair<int, int> rows) {
  const auto row = static_cast<size_t>(elements(piece.shape) / piece.shape[0]);
  return {static_cast<size_t>(rows.first) * row, static_cast<size_t>(rows.second) * row};
}

/// Gathers the reasons why tensors do not fit.
class Reasons {
 public:
  void add(const std::string& text) {
    if (++count_ <= kShown) text_ += (text_.empty() ? "" : "\n") + text;
  }
  void raise() const {
    if (count_ == 0) return;
    throw InterchangeError(
        count_ <= kShown ? text_ : text_ + "\nand " + std::to_string(count_ - kShown) + " more");
  }

 private:
  static constexpr int kShown = 12;
  int count_ = 0;
  std::string text_;
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// First element in [begin, end) that is not zero; end = none.
size_t first_not_zero(const std::vector<float>& data, size_t begin, size_t end) {
  while (begin < end && data[begin] == 0) ++begin;
  return begin;
}

std::string value_text(float value) { return std::to_string(value); }

void expect_zeros(const Piece& piece, const std::vector<float>& data, size_t begin, size_t end,
                  Reasons& reasons) {
  const size_t at = first_not_zero(data, begin, end);
  if (at != end) {
    reasons.add(piece.name + ": element " + std::to_string(at) + " must be 0 with " +
                piece.because + ", is " + value_text(data[at]));
  }
}

/// What one tensor of the file says about our parameters.
void read_piece(const Piece& piece, const NamedTensor& t, const Metadata& unread,
                std::map<std::string, NamedTensor>& weights, Reasons& reasons) {
  for (size_t i = 0; i < t.data.size(); ++i) {
    if (!std::isfinite(t.data[i])) {
      reasons.add(piece.name + ": element " + std::to_string(i) + " is not finite");
      return;
    }
  }
  if (t.shape != piece.shape && !piece.any_shape) {
    reasons.add(piece.name + ": shape must be " + text_of(piece.shape) + ", is " +
                text_of(t.shape));
    return;
  }
  switch (piece.kind) {
    case Piece::Kind::kAnything:
      return;
    case Piece::Kind::kZeros:
      return expect_zeros(piece, t.data, 0, t.data.size(), reasons);
    case Piece::Kind::kTied:
      if (!same_bits(t.data, weights.at(piece.parameter).data)) {
        reasons.add(piece.name + " must equal the embedding with model.tie_embeddings: true");
      }
      return;
    case Piece::Kind::kAddend: {
      std::vector<float>& sum = weights.at(piece.parameter).data;
      for (size_t i = 0; i < sum.size(); ++i) {
        if (t.data[i] != 0) sum[i] += t.data[i];
      }
      return;
    }
    case Piece::Kind::kRows: {
      std::vector<float> data = t.data;
      size_t blanks = 0;
      for (const auto& rows : piece.blank) {
        const auto [begin, end] = span_of(piece, rows);
        expect_zeros(piece, data, begin, end, reasons);
        blanks += end - begin;
      }
      if (const auto it = unread.find(kUnread + piece.name); it != unread.end()) {
        const auto kept = from_hex(it->second, blanks);
        if (!kept) {
          reasons.add("__metadata__: " + it->first + " must be " + std::to_string(8 * blanks) +
                      " hexadecimal digits");
          return;
        }
        size_t at = 0;
        for (const auto& rows : piece.blank) {
          const auto [begin, end] = span_of(piece, rows);
          std::copy_n(kept->begin() + static_cast<ptrdiff_t>(at), end - begin,
                      data.begin() + static_cast<ptrdiff_t>(begin));
          at += end - begin;
        }
      }
      NamedTensor& to = weights.at(piece.parameter);
      const auto row = static_cast<size_t>(elements(to.shape) / to.shape[0]);
      std::copy(data.begin(), data.end(),
                to.data.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(piece.row) * row));
      return;
    }
  }
}

}  // namespace

std::vector<NamedTensor> interchange_tensors(const ModelConfig& config, const std::string& layout) {
  std::vector<NamedTensor> out;
  for (const Piece& piece : pieces_of(config, layout)) out.push_back({piece.name, piece.shape, {}});
  return out;
}

std::vector<NamedTensor> to_interchange(const ModelConfig& config, const std::string& layout,
                                        const std::vector<NamedTensor>& weights, Metadata& unread) {
  if (layout != kOwnLayout) {
    for (const ModelProblem& p : counterpart_of(config).missing)
      throw std::invalid_argument("model." + p.field + ": " + p.message);
  }
  std::map<std::string, const NamedTensor*> ours;
  for (const NamedTensor& t : weights) ours[t.name] = &t;
  for (const ParameterSpec& spec : parameter_specs(config)) {
    const auto it = ours.find(spec.name);
    if (it == ours.end() || it->second->shape != shape_of(spec)) {
      throw std::invalid_argument("the weights have no " + spec.name + " of shape " +
                                  text_of(shape_of(spec)));
    }
  }
  std::vector<NamedTensor> out;
  for (const Piece& piece : pieces_of(config, layout)) {
    NamedTensor t{piece.name, piece.shape, {}};
    const auto n = static_cast<size_t>(elements(piece.shape));
    if (piece.kind == Piece::Kind::kRows || piece.kind == Piece::Kind::kTied) {
      const NamedTensor& from = *ours.at(piece.parameter);
      const auto row = static_cast<size_t>(elements(from.shape) / from.shape[0]);
      const auto begin =
          from.data.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(piece.row) * row);
      t.data.assign(begin, begin + static_cast<ptrdiff_t>(n));
    } else {
      t.data.assign(n, piece.fill);
    }
    std::string kept;
    for (const auto& rows : piece.blank) {
      const auto [begin, end] = span_of(piece, rows);
      kept += to_hex(t.data.data() + begin, end - begin);
      std::fill(t.data.begin() + static_cast<ptrdiff_t>(begin),
                t.data.begin() + static_cast<ptrdiff_t>(end), 0.f);
    }
    if (!kept.empty()) unread[kUnread + piece.name] = kept;
    out.push_back(std::move(t));
  }
  return out;
}

std::vector<NamedTensor> from_interchange(const ModelConfig& config, const std::string& layout,
                                          const std::vector<NamedTensor>& tensors,
                                          const Metadata& unread) {
  const std::vector<Piece> pieces = pieces_of(config, layout);
  std::map<std::string, const NamedTensor*> theirs;
  for (const NamedTensor& t : tensors) theirs[t.name] = &t;
  std::map<std::string, NamedTensor> weights;
  const std::vector<ParameterSpec> specs = parameter_specs(config);
  for (const ParameterSpec& spec : specs) {
    weights[spec.name] = {spec.name, shape_of(spec),
                          std::vector<float>(static_cast<size_t>(spec.shape.size()))};
  }
  Reasons reasons;
  if (layout != kOwnLayout) {
    for (const ModelProblem& p : counterpart_of(config).missing)
      reasons.add("model." + p.field + ": " + p.message);
  }
  for (const Piece& piece : pieces) {
    const auto it = theirs.find(piece.name);
    if (it == theirs.end()) {
      if (!piece.optional()) reasons.add(piece.name + " " + text_of(piece.shape) + " is missing");
      continue;
    }
    read_piece(piece, *it->second, unread, weights, reasons);
    theirs.erase(it);
  }
  for (const auto& [name, t] : theirs)
    reasons.add(name + " " + text_of(t->shape) + " belongs to no parameter of this configuration");
  reasons.raise();
  std::vector<NamedTensor> out;
  for (const ParameterSpec& spec : specs) out.push_back(std::move(weights.at(spec.name)));
  return out;
}

}  // namespace statelab
