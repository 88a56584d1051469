// A cohort: M runs of one shape that train as one program. One run is a cohort of one.
//
// Nothing a member computes depends on who its neighbours are, on how many threads work, or on where training was
// interrupted: the same settings give the same bits on the same kind of device.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/cuda/kernel.h"
#include "models/backend.h"
#include "models/checkpoint.h"
#include "models/model_config.h"

namespace statelab {

/// Where tokens come from: pure and thread safe. The model never learns which task it is.
class DataSource {
 public:
  virtual ~DataSource() = default;
  /// Fills tokens[0, seqlen) and targets[0, seqlen); target -1 = position is not supervised. Unused tail: token 0, target -1.
  /// `step` and `sample` are the Philox counter words of the data stream.
  virtual void draw(int member, uint32_t step, uint32_t sample, std::span<int32_t> tokens,
                    std::span<int32_t> targets) const = 0;
  /// The same rows drawn by a CUDA device for all members, or null where only draw() can: training and evaluation then wait
  /// for this machine in every step. It reads the step from the device's memory: without `data_step` that is draw()'s `step`
  /// and the row its `sample`; with it, the state counts passes of `batch` rows, `data_step` is draw()'s `step` and
  /// pass * batch + row its `sample`.
  virtual std::unique_ptr<CudaDraw> cuda_draw(int /*device*/,
                                              std::optional<uint32_t> /*data_step*/) const {
    return nullptr;
  }
};

struct ScheduleConfig {
  std::string name =
      "cosine";  ///< cosine | linear | constant, after the warm-up; cosine and linear end at 0
  double warmup = 0.1;    ///< share of the stage's (or of all) steps that rise linearly from 0
  bool per_stage = true;  ///< restart in each curriculum stage
  bool reset_optimizer = false;  ///< zero AdamW's moments (and its bias correction) at each stage
};

struct StageShape {
  int64_t steps = 0;
  int seqlen = 0;  ///< padded length of the stage's batches (the bucket), positions
};

/// What all members share: decides the program's shape.
struct CohortShape {
  ModelConfig model;
  int batch = 256;
  std::vector<StageShape> stages;
  ScheduleConfig schedule;
  bool one_target =
      false;  ///< no sequence has more than one target; a CUDA device then saves most of the last layer
};

/// What members may differ in.
struct MemberSettings {
  uint32_t init_seed = 0;
  double lr = 1e-3;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double weight_decay = 0.1;
  double clip_norm = 1.0;  ///< global gradient norm; 0 = no clipping
};

/// Running means since the last read, of one member.
struct TrainMetrics {
  int64_t step = 0;  ///< steps done when read
  double loss =
      0;  ///< mean over the steps since the last read, of the batch's mean over supervised positions
  double accuracy =
      0;  ///< likewise, share of supervised positions whose argmax over the whole vocabulary is right
  double grad_norm = 0;  ///< mean global norm before clipping
  double lr = 0;         ///< of the last step
  int64_t diverged_at = -1;
};

/// Trains the members of one cohort in float.
/// Errors: while it is built std::invalid_argument, UnsupportedOp for a shape that the device cannot compute, and
///         std::bad_alloc (CudaOutOfMemory). Later only CudaError, by the first call that waits for the device.
class TrainCohort {
 public:
  /// Weights are drawn from each member's init_seed. `data` must outlive the cohort.
  TrainCohort(const CohortShape& shape, std::span<const MemberSettings> members,
              const DataSource& data, const ComputeDevice& device);
  ~TrainCohort();
  TrainCohort(TrainCohort&&) noexcept;

  int members() const;
  int64_t step() const;             ///< steps done or under way; the same for all members
  int64_t total_steps() const;      ///< over all stages
  int64_t parameter_count() const;  ///< of one member

  /// Goes on from saved states, all at the same step. Throws std::invalid_argument when names, shapes or steps disagree.
  void restore(std::span<const MemberState> states);
  MemberState snapshot(int member) const;

  /// Advances by at most `steps` and never past total_steps(). A member whose loss or gradient is not finite is frozen
  /// at its last finite weights; the others go on with unchanged bits. On a CUDA device that draws its own data this
  /// returns before the steps are done; what reads waits for them.
  void run(int64_t steps);
  /// Waits for all steps so far.
  void synchronize();

  /// Metrics since the last call (or since construction / restore) for one member, and starts a new window.
  TrainMetrics read_metrics(int member);
  /// The same of all members at once.
  std::vector<TrainMetrics> read_metrics();

  int64_t arena_bytes() const;
  /// Kernels and copies of a step on a CUDA device, once one has run; 0 on the CPU.
  int launches() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Memory that such a cohort takes on the device, at its largest stage; nothing is allocated.
/// Errors: std::invalid_argument and UnsupportedOp, as when it is built.
int64_t cohort_bytes(const CohortShape& shape, int members, const ComputeDevice& device);

/// Integer counts, so that merging and comparing are exact.
struct EvalCounts {
  int64_t sequences = 0, sequences_correct = 0;  ///< correct: every supervised position right
  int64_t tokens = 0, tokens_correct = 0;        ///< supervised positions
  double loss_sum = 0;  ///< over supervised positions, accumulated in sample order
  std::vector<int64_t> position_total, position_correct;  ///< per position, length seqlen
  std::vector<int64_t>
      prefix_correct;  ///< per position: sequences that supervise it and are right at every supervised position up to it
};

struct EvalShape {
  ModelConfig model;
  int seqlen = 0;   ///< padded length
  int batch = 256;  ///< sequences per pass on the CPU, at most; does not change any result
  int legal_begin = 0,
      legal_end = 0;  ///< argmax over token ids [begin, end); 0, 0 = whole (unpadded) vocabulary
};

/// Without a draw of its own a CUDA device waits for this machine in every pass; with one, only for the counts.
/// Evaluates samples 0..samples-1 (Philox step word `data_step`) for each set of weights. Members of `data.draw` count as in `weights`.
std::vector<EvalCounts> evaluate(const EvalShape& shape,
                                 std::span<const MemberState* const> weights,
                                 const DataSource& data, uint32_t data_step, int64_t samples,
                                 const ComputeDevice& device);

/// Throws UnsupportedOp when evaluate() cannot compute this shape on the device; nothing is allocated.
void check_evaluation(const EvalShape& shape, const ComputeDevice& device);

/// Logits (seqlen, padded vocabulary) of one sequence, float; for inspection and tests.
std::vector<float> logits(const ModelConfig& model, const MemberState& weights,
                          std::span<const int32_t> tokens, const ComputeDevice& device = 1);

}  // namespace statelab
