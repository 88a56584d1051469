// Private to the interchange: which tensors a layout has, and where their numbers come from.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "models/model.h"

namespace statelab {

/// One tensor of a file, and where its numbers come from.
struct InterchangePiece {
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

/// Every tensor of the layout, in order; every row of every parameter belongs to one. Errors: InterchangeError for a layout that
/// the mixer does not have.
std::vector<InterchangePiece> interchange_pieces(const ModelConfig& config,
                                                 const std::string& layout);

}  // namespace statelab
