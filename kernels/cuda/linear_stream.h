// Products of many rows with one small weight on tensor cores, each row read once: what linear.cu uses where it can.
#pragma once

#include <cstdint>

#include "kernels/call.h"

struct CUstream_st;  // cudaStream_t

namespace statelab::cuda {

/// y (rows, n) = x (rows, k) B^T [+ addend], B's element (n, k) at weight[n * weight_n + k * weight_k]. Strides in elements.
struct RowProduct {
  const float *x, *weight, *addend;  ///< addend (rows, n) or null
  float* y;
  int64_t x_member, weight_member, addend_member, y_member;
  int64_t rows;
  int k, n, weight_n, weight_k;
};

/// False, with nothing enqueued, for shapes that it does not take: odd or narrow ones, and fp32.
bool launch_row_product(const RowProduct& p, int members, Precision precision, CUstream_st* stream);

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
/// False, with nothing enqueued, where row_reduction_parts() is 0, and in fp32.
bool launch_row_reduction(const RowReduction& p, int members, Precision precision,
                          CUstream_st* stream);

}  // namespace statelab::cuda
