// Products of many rows with one small weight on tensor cores, each row read once, operands split into two bf16: what linear.cu uses
// where it can.
#pragma once

#include <cstdint>

struct CUstream_st;  // cudaStream_t

namespace statelab::cuda {

/// y (rows, n) = x (rows, k) B^T [+ addend], B's element (n, k) at weight[n * weight_n + k * weight_k]. Strides in elements.
struct RowProduct {
  const float *x, *weight, *addend;  ///< addend (rows, n) or null
  float* y;
  int64_t x_member, weight_member, addend_member, y_member;
  int64_t rows;
  int k, n, weight_n, weight_k;
  const float* norm;  ///< (k) or null: x stands for rms_norm(x, norm); launch_wide_product() only
  int64_t norm_member;
  float eps;  ///< of the norm
};

/// False, with nothing enqueued, for shapes that it does not take: odd or narrow ones.
bool launch_row_product(const RowProduct& p, int members, CUstream_st* stream);

/// Whether launch_wide_product() takes a layer from k to n columns, with a norm or without.
bool takes_wide_product(int n, int k);
/// The same by warpgroups. False, with nothing enqueued, for layers that it does not take, with an addend or a transposed weight.
bool launch_wide_product(const RowProduct& p, int members, CUstream_st* stream);

/// parts[part] (n, k) = the share of dy^T x, dy (rows, n), x (rows, k), that belongs to one part of the rows.
struct RowReduction {
  const float *dy, *x;
  float* parts;
  int64_t dy_member, x_member, parts_member;
  int64_t rows;
  int n, k;
};

/// Parts of the rows that launch_row_reduction() writes; shapes alone decide. 0: it does not take this shape.
int row_reduction_parts(int64_t rows, int n, int k);
/// False, with nothing enqueued, where row_reduction_parts() is 0.
bool launch_row_reduction(const RowReduction& p, int members, CUstream_st* stream);

/// dx (rows, k) = dy W, dy (rows, n), W (n, k), and parts of dy^T x as RowReduction has them; dy is read once. With a norm, x stands for
/// rms_norm(x, norm), whose gradient dx is.
struct RowGradients {
  const float *dy, *weight, *x;
  float *dx, *parts;
  int64_t dy_member, weight_member, x_member, dx_member, parts_member;
  int64_t part_stride;  ///< floats from part to part
  int64_t rows;
  int n, k;
  const int32_t* targets;  ///< (rows / seqlen, seqlen), see linear_bwd in kernels/op.h; or null
  int64_t targets_member;
  int seqlen;
  const float* norm;  ///< (k) or null
  int64_t norm_member;
  float eps;  ///< of the norm
};

/// As row_reduction_parts(), of launch_row_gradients().
int row_gradient_parts(int64_t rows, int n, int k);
/// Whether launch_row_gradients() takes a norm where it takes the shape.
bool takes_norm(int n, int k);
/// False, with nothing enqueued, where row_gradient_parts() is 0, or for a norm that takes_norm() denies.
bool launch_row_gradients(const RowGradients& p, int members, CUstream_st* stream);

}  // namespace statelab::cuda
