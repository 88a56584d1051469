// Errors of the op set. Both can only be raised while a graph is built.
#pragma once

#include <stdexcept>
#include <string>

namespace statelab {

/// An op was given shapes or element types that its rule does not allow.
class ShapeError : public std::invalid_argument {
 public:
  ShapeError(const std::string& op, const std::string& rule)
      : std::invalid_argument("[" + op + "] " + rule) {}
};

/// The op exists, but not with these attributes, on this backend, or in this direction (no gradient).
class UnsupportedOp : public std::invalid_argument {
 public:
  UnsupportedOp(const std::string& op, const std::string& limit)
      : std::invalid_argument("[" + op + "] " + limit) {}
};

}  // namespace statelab
