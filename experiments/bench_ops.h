// `statelab bench ops`: how long each op of training takes alone on a CUDA device, beside the rates of a copy and of a large
// product that the same run measured.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "experiments/bench_train.h"
#include "kernels/op_array.h"
#include "models/backend.h"

namespace statelab {

struct BenchOpsOptions {
  int threads = 1;  ///< of the host, for operands and checks
  int batch = 256;
};

/// An op with the attributes and shapes that training gives it.
struct BenchWork {
  Op op{};
  std::string work;  ///< what its operands are, e.g. "in_proj 64 -> 406"
  Attributes attributes = {};
  int batch = 0, seqlen = 0;       ///< 0: the op does not see tokens
  std::vector<int> members = {1};  ///< one row each
  double flop = 0;                 ///< of one member, in products; 0: the op has none
  /// Random operands for this many sequences, exact in float. Those of a scan's backward op come from its forward op.
  std::function<std::vector<OpArray>(int batch, int threads)> operands = {};
};

/// All that is timed, the large product first. Scans have the chunks that `device` computes; their operations are counted as
/// in train_flop_per_token().
std::vector<BenchWork> bench_works(const ComputeDevice& device, int batch);

/// Throws BenchRefused, with the op's name, unless `actual` is `expected` (the op in double) to within 1e-4 of each array's
/// largest element, or where the products are tf32 or bf16, 1e-2 or 5e-2.
void check_op_result(const BenchWork& work, const std::vector<OpArray>& operands,
                     const OpRun& actual, const OpRun& expected, Precision precision);

struct BenchOpsRow {
  std::string op, work, precision;                 ///< fp32 whenever the op has no products
  int batch = 0, seqlen = 0, members = 1;          ///< 0: the op does not see tokens
  double cold_us = 0, hot_us = 0, spread_pct = 0;  ///< see CudaTiming
  double member_us = 0;                            ///< hot_us / members
  double bytes_per_s = 0;                          ///< CudaTiming::bytes / hot_us
  double share_of_copy_pct = 0;  ///< above 100 where operands stay in the L2 cache
  double flop_per_s = 0, share_of_product_pct = 0;  ///< at hot_us; 0: no products
};

struct BenchOpsReport {
  std::string device, driver, toolkit, precision, build_type, commit;
  double copy_bytes_per_s = 0;    ///< read and written by a copy of 1 GiB
  double product_flop_per_s = 0;  ///< of our own linear op on the first row's shape
  std::vector<BenchOpsRow> rows;
};

/// Checks each op on three sequences, every member against the CPU in double, then times it. Throws BenchRefused in a debug
/// build and when a check fails.
BenchOpsReport bench_ops(const BenchOpsOptions& options, const ComputeDevice& device);

}  // namespace statelab
