// Finite groups as multiplication tables.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tasks/task_config.h"

namespace statelab {

/// Largest order that a word problem takes.
constexpr int kMaxGroupOrder = 1024;
/// Largest Cayley table whose associativity is checked triple by triple.
constexpr int kMaxCayleyOrder = 256;

/// Elements are 0 .. order-1. Shapes: table (order * order), row = left factor.
struct Group {
  std::string name;
  std::vector<std::string> elements;  ///< how each is written
  std::vector<uint16_t> table;
  int identity = 0;
  std::vector<int> moved;  ///< points each element moves; empty unless a permutation group

  int order() const { return static_cast<int>(elements.size()); }
  int product(int a, int b) const {
    return table[static_cast<size_t>(a) * elements.size() + static_cast<size_t>(b)];
  }
};

/// Z_n, D_m (m = order), S_n, A_n, H3, Q8 and products of them: "S5", "Z_60", "A4xZ5", "A4_x_Z5".
///   Z_n   element i is the residue i
///   S_n   one-line permutations in lexicographic order, (p * q)(i) = p(q(i));  A_n: the even ones
///   D_m   n = m / 2: k is the rotation r^k, n + k the flipped one;
///         (k, f) * (l, g) = (k + (-1)^f l mod n, f xor g)
///   H3    triples over Z_2, lexicographic: (a, b, c) * (a', b', c') = (a+a', b+b', c+c'+a b')
///   Q8    1, i, j, k, -1, -i, -j, -k
///   GxH   index = i_G * |H| + i_H
/// Throws TaskError (parameter "group"), also above kMaxGroupOrder.
Group parse_group(const TaskConfig& config);

/// config.custom_group: a Cayley table, checked for the group axioms, or the group that
/// permutations generate, its elements in lexicographic order. Throws TaskError (parameter
/// "group...") that names the offending elements.
Group build_custom_group(const TaskConfig& config);

}  // namespace statelab
