#include "models/interchange.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>

#include "models/interchange_layout.h"

namespace statelab {
namespace {

using Piece = InterchangePiece;

const std::string kUnread = "unread.";

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
  const auto row = static_cast<size_t>(Shape(piece.shape).size() / piece.shape[0]);
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

void expect_zeros(const Piece& piece, const std::vector<float>& data, size_t begin, size_t end,
                  Reasons& reasons) {
  const size_t at = first_not_zero(data, begin, end);
  if (at != end) {
    reasons.add(piece.name + ": element " + std::to_string(at) + " must be 0 with " +
                piece.because + ", is " + std::to_string(data[at]));
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
    reasons.add(piece.name + ": shape must be " + Shape(piece.shape).text() + ", is " +
                Shape(t.shape).text());
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
      const auto row = static_cast<size_t>(Shape(to.shape).size() / to.shape[0]);
      std::copy(data.begin(), data.end(),
                to.data.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(piece.row) * row));
      return;
    }
  }
}

}  // namespace

std::vector<NamedTensor> interchange_tensors(const ModelConfig& config, const std::string& layout) {
  std::vector<NamedTensor> out;
  for (const Piece& piece : interchange_pieces(config, layout))
    out.push_back({piece.name, piece.shape, {}});
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
    if (it == ours.end() || it->second->shape != spec.shape.extents()) {
      throw std::invalid_argument("the weights have no " + spec.name + " of shape " +
                                  spec.shape.text());
    }
  }
  std::vector<NamedTensor> out;
  for (const Piece& piece : interchange_pieces(config, layout)) {
    NamedTensor t{piece.name, piece.shape, {}};
    const auto n = static_cast<size_t>(Shape(piece.shape).size());
    if (piece.kind == Piece::Kind::kRows || piece.kind == Piece::Kind::kTied) {
      const NamedTensor& from = *ours.at(piece.parameter);
      const auto row = static_cast<size_t>(Shape(from.shape).size() / from.shape[0]);
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
  const std::vector<Piece> pieces = interchange_pieces(config, layout);
  std::map<std::string, const NamedTensor*> theirs;
  for (const NamedTensor& t : tensors) theirs[t.name] = &t;
  std::map<std::string, NamedTensor> weights;
  const std::vector<ParameterSpec> specs = parameter_specs(config);
  for (const ParameterSpec& spec : specs) {
    weights[spec.name] = {spec.name, spec.shape.extents(),
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
      if (!piece.optional())
        reasons.add(piece.name + " " + Shape(piece.shape).text() + " is missing");
      continue;
    }
    read_piece(piece, *it->second, unread, weights, reasons);
    theirs.erase(it);
  }
  for (const auto& [name, t] : theirs)
    reasons.add(name + " " + Shape(t->shape).text() +
                " belongs to no parameter of this configuration");
  reasons.raise();
  std::vector<NamedTensor> out;
  for (const ParameterSpec& spec : specs) out.push_back(std::move(weights.at(spec.name)));
  return out;
}

}  // namespace statelab
