// Permutations of 0 .. n-1 in one-line form: p[i] is the image of i.
#pragma once

#include <string>
#include <vector>

namespace statelab {

using Permutation = std::vector<int>;

/// All permutations of n points, lexicographic; only the even ones on request.
std::vector<Permutation> all_permutations(int n, bool even_only);

/// (p * q)(i) = p(q(i)): q acts first.
Permutation compose(const Permutation& p, const Permutation& q);

bool is_even(const Permutation& p);

/// Points not mapped to themselves.
int moved_points(const Permutation& p);

/// Cycle notation with points from 1: "(1 2 3)(4 5)"; the identity is "e".
std::string cycle_notation(const Permutation& p);

}  // namespace statelab
