// `statelab bench eval`: how long whole evaluations take, over lengths and over members.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "experiments/bench_train.h"
#include "models/backend.h"

namespace statelab {

/// One evaluation of `members` runs on the same samples.
struct EvalWork {
  int length = 0, members = 1;
  int64_t samples = 0;
};

struct BenchEvalOptions {
  int threads = 1;  ///< of the host, for checks, and of the CPU when it is the device
  int repeats = 5;  ///< medians and spreads are over these
  std::vector<EvalWork> works = {};  ///< empty: eval_works()
};

/// What is timed: equal numbers of tokens over lengths, equal samples over members; fewer and shorter on the CPU.
std::vector<EvalWork> eval_works(const ComputeDevice& device);

struct BenchEvalRow {
  int length = 0, members = 1;
  int64_t samples = 0;
  double seconds = 0;       ///< median of whole evaluations, all members
  double spread_pct = 0;    ///< (largest - smallest) / median
  double tokens_per_s = 0;  ///< of all members
  double ns_per_token = 0;  ///< per token and member
};

struct BenchEvalReport {
  std::string device, precision, build_type, commit;
  std::vector<BenchEvalRow> rows;
};

/// Mamba-3, 1 layer, d_model 64 as initialised, parity (profile xlstm) with the answer at the last position. On a
/// CUDA device each length is first evaluated on a few samples and compared with the CPU: equal numbers of tokens, and the loss to
/// within 1e-4 of it, or where the products are tf32 or bf16, 2e-3 or 2e-2.
/// Errors: BenchRefused in a debug build and when the check fails.
BenchEvalReport bench_eval(const BenchEvalOptions& options, const ComputeDevice& device);

}  // namespace statelab
