#include "tasks/permutation.h"

#include <algorithm>
#include <numeric>

namespace statelab {

bool is_even(const Permutation& p) {
  int inversions = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    for (size_t j = i + 1; j < p.size(); ++j) inversions += p[i] > p[j] ? 1 : 0;
  }
  return inversions % 2 == 0;
}

std::vector<Permutation> all_permutations(int n, bool even_only) {
  Permutation p(static_cast<size_t>(n));
  std::iota(p.begin(), p.end(), 0);
  std::vector<Permutation> all;
  do {
    if (!even_only || is_even(p)) all.push_back(p);
  } while (std::next_permutation(p.begin(), p.end()));
  return all;
}

Permutation compose(const Permutation& p, const Permutation& q) {
  Permutation product(p.size());
  for (size_t i = 0; i < p.size(); ++i) product[i] = p[static_cast<size_t>(q[i])];
  return product;
}

int moved_points(const Permutation& p) {
  int moved = 0;
  for (size_t i = 0; i < p.size(); ++i) moved += p[i] != static_cast<int>(i) ? 1 : 0;
  return moved;
}

std::string cycle_notation(const Permutation& p) {
  std::string text;
  std::vector<char> seen(p.size(), 0);
  for (size_t start = 0; start < p.size(); ++start) {
    if (seen[start] != 0 || p[start] == static_cast<int>(start)) continue;
    std::string cycle;
    for (size_t i = start; seen[i] == 0; i = static_cast<size_t>(p[i])) {
      seen[i] = 1;
      if (!cycle.empty()) cycle += ' ';
      cycle += std::to_string(i + 1);
    }
    text += "(" + cycle + ")";
  }
  return text.empty() ? "e" : text;
}

}  // namespace statelab
