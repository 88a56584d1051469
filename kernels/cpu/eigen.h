// The one place that includes Eigen, with the settings that the bit contract needs: no threads of its own (the build
// sets EIGEN_DONT_PARALLELIZE) and, through fix_cache_sizes(), blocking that does not depend on the machine's caches.
#pragma once

#include <Eigen/Core>
#include <cstdint>

namespace statelab::cpu {

using Eigen::Dynamic;
template <class S>
using Matrix = Eigen::Matrix<S, Dynamic, Dynamic, Eigen::RowMajor>;
template <class S>
using MatrixMap = Eigen::Map<Matrix<S>, Eigen::Unaligned, Eigen::OuterStride<>>;
template <class S>
using ConstMatrixMap = Eigen::Map<const Matrix<S>, Eigen::Unaligned, Eigen::OuterStride<>>;
template <class S>
using RowMap = Eigen::Map<Eigen::Array<S, 1, Dynamic>>;
template <class S>
using ConstRowMap = Eigen::Map<const Eigen::Array<S, 1, Dynamic>>;

/// (rows, cols) with `stride` elements from row to row.
template <class S>
MatrixMap<S> matrix(S* p, int64_t rows, int64_t cols, int64_t stride) {
  return MatrixMap<S>(p, rows, cols, Eigen::OuterStride<>(stride));
}
template <class S>
ConstMatrixMap<S> matrix(const S* p, int64_t rows, int64_t cols, int64_t stride) {
  return ConstMatrixMap<S>(p, rows, cols, Eigen::OuterStride<>(stride));
}
template <class S>
RowMap<S> row(S* p, int64_t n) {
  return RowMap<S>(p, n);
}
template <class S>
ConstRowMap<S> row(const S* p, int64_t n) {
  return ConstRowMap<S>(p, n);
}

/// Sets Eigen's idea of the caches to constants. Call before the first product.
void fix_cache_sizes();

template <class S>
S sigmoid(S x) {
  return S(1) / (S(1) + std::exp(-x));
}
template <class S>
S softplus(S x) {
  return x > S(20) ? x : std::log1p(std::exp(x));
}
/// Derivative of SiLU, x sigmoid(x).
template <class S>
S dsilu(S x) {
  const S s = sigmoid(x);
  return s * (S(1) + x * (S(1) - s));
}

}  // namespace statelab::cpu
