// Draws of modular arithmetic, flat and with brackets.
#pragma once

#include <cstdint>

#include "tasks/draw/layout.h"

namespace statelab {

/// Token ids of digits, operators (+, -, * in this order), brackets; `operators` is 2 without `*`.
struct ExpressionParams {
  int32_t modulus = 5;
  int32_t operators = 3;
  int32_t first_digit = 0;
  int32_t first_operator = 0;
  int32_t open = 0, close = 0;
  int32_t first_answer = 0;  ///< label id of value v is first_answer + v
};

constexpr int kPlus = 0, kMinus = 1, kTimes = 2;

STATELAB_HOST_DEVICE inline int positive_mod(int64_t value, int modulus) {
  const int rest = static_cast<int>(value % modulus);
  return rest < 0 ? rest + modulus : rest;
}

/// digit (operator digit)*, `ntokens` odd. The value keeps (sum, term) mod m: `*d` makes term * d,
/// `+d` and `-d` close the term. An operator's running label is the value of what stands before it.
STATELAB_HOST_DEVICE inline void draw_flat_expression(const ExpressionParams& p, RngKey key,
                                                      uint32_t step, uint32_t sample, int ntokens,
                                                      int32_t* tokens, int32_t* targets) {
  int sum = 0, term = 0, op = kPlus;
  for (int t = 0; t < ntokens; ++t) {
    const uint32_t bits = philox(key, {static_cast<uint32_t>(t), sample, step, 0}).v[0];
    if (t % 2 == 1) {
      op = static_cast<int>(bounded(bits, static_cast<uint32_t>(p.operators)));
      tokens[t] = p.first_operator + op;
    } else {
      const int digit = static_cast<int>(bounded(bits, static_cast<uint32_t>(p.modulus)));
      tokens[t] = p.first_digit + digit;
      if (op == kTimes) {
        term = positive_mod(static_cast<int64_t>(term) * digit, p.modulus);
      } else {
        sum = positive_mod(sum + term, p.modulus);
        term = op == kMinus ? positive_mod(-digit, p.modulus) : digit;
      }
    }
    targets[t] = p.first_answer + positive_mod(sum + term, p.modulus);
  }
}

/// A node of the expression tree is the token range [start, start + size); so is its random number.
struct ExpressionNode {
  int start, size;
  int left, op;  ///< size of the left operand and operator, for size >= 5
  int digit;     ///< for size < 5
};

STATELAB_HOST_DEVICE inline ExpressionNode draw_node(const ExpressionParams& p, RngKey key,
                                                     uint32_t step, uint32_t sample, int start,
                                                     int size) {
  const uint32_t name = static_cast<uint32_t>(start) << 16 | static_cast<uint32_t>(size);
  const RngBlock bits = philox(key, {name, sample, step, 0});
  ExpressionNode node{start, size, 0, 0, 0};
  if (size < 5) {
    node.digit = static_cast<int>(bounded(bits.v[0], static_cast<uint32_t>(p.modulus)));
  } else {
    node.left = 1 + static_cast<int>(bounded(bits.v[0], static_cast<uint32_t>(size - 4)));
    node.op = static_cast<int>(bounded(bits.v[1], static_cast<uint32_t>(p.operators)));
  }
  return node;
}

/// d, -d, (d), (-d) for sizes 1 to 4; returns the value.
STATELAB_HOST_DEVICE inline int write_leaf(const ExpressionParams& p, const ExpressionNode& node,
                                           int32_t* tokens) {
  int t = node.start;
  const bool negative = node.size % 2 == 0;
  if (node.size >= 3) tokens[t++] = p.open;
  if (negative) tokens[t++] = p.first_operator + kMinus;
  tokens[t++] = p.first_digit + node.digit;
  if (node.size >= 3) tokens[t] = p.close;
  return positive_mod(negative ? -node.digit : node.digit, p.modulus);
}

/// An expression of exactly `ntokens` tokens: a leaf below 5 tokens, else ( left op right ) with
/// the left size uniform on 1 .. ntokens - 4. Returns its value; writes no targets.
///
/// The smaller operand is finished first and then folded into scale * x + shift, where x is the
/// value of the larger one that the loop goes on with. Hence at most log2(ntokens) frames wait.
STATELAB_HOST_DEVICE inline int draw_bracketed_expression(const ExpressionParams& p, RngKey key,
                                                          uint32_t step, uint32_t sample,
                                                          int ntokens, int32_t* tokens) {
  struct Frame {
    int start, size;  // the larger operand, still to be drawn
    int op;
    bool small_first;  // the smaller operand stands on the left
    int scale, shift;  // from the value of the whole node to that of the frame's caller
  };
  constexpr int kFrames = 16;  // sizes halve from frame to frame and are below 2^16
  Frame stack[kFrames];
  int depth = 0;
  const int m = p.modulus;
  int start = 0, size = ntokens;
  int64_t scale = 1, shift = 0;
  while (true) {
    const ExpressionNode node = draw_node(p, key, step, sample, start, size);
    if (size >= 5) {
      const int right = size - 3 - node.left;
      tokens[start] = p.open;
      tokens[start + 1 + node.left] = p.first_operator + node.op;
      tokens[start + size - 1] = p.close;
      const int left_start = start + 1, right_start = start + 2 + node.left;
      const bool small_first = node.left <= right;
      stack[depth++] = {small_first ? right_start : left_start,
                        small_first ? right : node.left,
                        node.op,
                        small_first,
                        static_cast<int>(scale),
                        static_cast<int>(shift)};
      start = small_first ? left_start : right_start;
      size = small_first ? node.left : right;
      scale = 1;
      shift = 0;
      continue;
    }
    const int64_t value = positive_mod(scale * write_leaf(p, node, tokens) + shift, m);
    if (depth == 0) return static_cast<int>(value);
    const Frame frame = stack[--depth];
    start = frame.start;
    size = frame.size;
    if (frame.op == kTimes) {  // scale * (value * x) + shift
      scale = positive_mod(frame.scale * value, m);
      shift = frame.shift;
    } else if (frame.op == kPlus) {
      scale = frame.scale;
      shift = positive_mod(frame.scale * value + frame.shift, m);
    } else if (frame.small_first) {  // value - x
      scale = positive_mod(-frame.scale, m);
      shift = positive_mod(frame.scale * value + frame.shift, m);
    } else {  // x - value
      scale = frame.scale;
      shift = positive_mod(frame.shift - frame.scale * value, m);
    }
  }
}

}  // namespace statelab
