// Exact distributions of the values of random expressions, by dynamic programming over their size.
#pragma once

#include <vector>

namespace statelab {

/// Distribution of values mod m, index = value.
using ValueDistribution = std::vector<double>;

/// [t]: value after the first t + 1 tokens of a flat expression of uniform digits and operators.
std::vector<ValueDistribution> flat_values(int modulus, int operators, int max_tokens);

/// [n - 1]: value of a random bracketed expression of n tokens.
std::vector<ValueDistribution> bracketed_values(int modulus, int operators, int max_tokens);

}  // namespace statelab
