// `statelab bench train`: tokens and floating-point operations per second of whole training steps, beside the rate of a
// plain matrix product measured in the same run.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "models/backend.h"
#include "models/model_config.h"

namespace statelab {

/// The build or the machine cannot give numbers worth quoting, or the result that was to be timed is wrong.
class BenchRefused : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Throws BenchRefused unless this build is optimised.
void refuse_slow_builds();

struct BenchTrainOptions {
  int threads = 1;
  double seconds = 2;  ///< of measurement per row, after warming up
  int repeats = 7;     ///< medians and spreads are over this many slices
};

/// One measured shape: draw, forward, loss, backward, clipping and AdamW.
struct BenchTrainRow {
  std::string work;  ///< e.g. "mamba3 1 layer, 40 tokens"
  ModelConfig model;
  int batch = 0, seqlen = 0, members = 1;
  int64_t parameters = 0;     ///< of one member
  double step_ms = 0;         ///< median, all members
  double spread_pct = 0;      ///< (largest - smallest) / median over the slices
  double tokens_per_s = 0;    ///< batch * seqlen * members / step
  double flop_per_token = 0;  ///< see train_flop_per_token()
  double flop_per_s = 0;
  double share_of_product_pct = 0;  ///< flop_per_s / product rate
};

struct BenchTrainReport {
  std::string processor, compiler, build_type, commit;
  int threads = 1;
  double product_flop_per_s =
      0;  ///< float matrix product (2048, 512) x (512, 512) on the same threads
  std::vector<BenchTrainRow> rows;
};

/// One measured shape on a CUDA device, the draw included.
struct BenchCudaRow {
  std::string work;
  ModelConfig model;
  int batch = 0, seqlen = 0, members = 1;
  int64_t parameters = 0;   ///< of one member
  int launches = 0;         ///< kernels and copies of a step
  double step_ms = 0;       ///< median, all members
  double member_ms = 0;     ///< step_ms / members
  double spread_pct = 0;    ///< as in BenchTrainRow
  double tokens_per_s = 0;  ///< of all members
  double flop_per_s = 0;
};

struct BenchCudaReport {
  std::string device, driver, toolkit, precision, build_type, commit;
  std::vector<BenchCudaRow> rows;
};

/// Floating-point operations of one training step per token: three times the forward matrix products with weights
/// (2 per weight) and the products inside the scan with L = min(chunk_size, seqlen) tokens a chunk,
///   per head, forward (L + 1)(N + P) and backward (L + 1)(3 N + 2 P), both over the lower triangle only,
///   and per chunk border 4 N P forward and 10 N P backward.
///   The delta rule's: (L + 1)(2 N + 2 P) and (L + 1)(6 N + 5 P), its square's inverse not counted; 6 N P and 14 N P.
/// Elementwise work is not counted.
double train_flop_per_token(const ModelConfig& model, int seqlen);

/// Checks one step of each shape against double precision, then times it. Throws BenchRefused in a debug build and when
/// the check fails.
BenchTrainReport bench_train(const BenchTrainOptions& options);

/// The same on a CUDA device, in its precision: steps are enqueued without waiting and timed until the last is done.
BenchCudaReport bench_train_cuda(const BenchTrainOptions& options, const ComputeDevice& device);

}  // namespace statelab
