// `statelab inspect`: the learned transitions of a run by input symbol, and what they say about the length at which parity
// breaks.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "experiments/run_config.h"
#include "experiments/transition.h"
#include "models/checkpoint.h"
#include "reports/table.h"
#include "store/records.h"

namespace statelab {

struct InspectOptions {
  int length = 0;    ///< reported length of the sampled sequences; 0 = the longest trained
  int samples = 64;  ///< of the test stream
  std::vector<std::string> symbols;  ///< names of input tokens; empty = all that occur
  bool all_pairs =
      false;  ///< every rotated pair, not only the one with the largest weight of each head
  int threads = 1;
};

/// Of a quantity over the positions of one symbol. Quartiles interpolate between order statistics. Angles are taken on the
/// branch around their circular mean, so that values about a half turn are not torn apart: they may exceed 1.
struct Distribution {
  int64_t count = 0;
  double mean = 0, sd = 0, min = 0, q1 = 0, median = 0, q3 = 0, max = 0;
};
Distribution distribution_of(std::vector<double> values, bool angle);

/// A rotated pair that could hold the parity: it turns by about pi at a one and by about nothing at a zero. With
/// e_t = phi_t - pi [token t is a one], wrapped to (-pi, pi], the pair's phase is off by E = sum of e_t over the bits behind the
/// first token (which turns nothing, as the state is empty before it). Its mean grows by `drift` a bit:
///   drift = mean of e_t = (delta_1 + delta_0) / 2 for random bits, delta_1 a one's distance from pi, delta_0 a zero's from 0,
/// since L bits hold L / 2 flips on average. The head that reads the state was trained at the phase of the trained lengths,
/// drift * L0 with L0 the mean number of bits behind the supervised positions of the last stage, and takes that for no error.
/// The sign of what it reads, which is the parity, is lost where the rest reaches a quarter turn, |E - drift L0| = pi / 2:
///   break length = L0 + (pi / 2) / |drift|.
/// Candidates are pairs with |e_t| < pi / 4 on average that keep the sign over the trained lengths. Where a head has several,
/// their cosines add up, each with its weight: see joint_break(). Not in the estimate: the decay of the state.
struct PhaseClock {
  int layer = 0, head = 0, pair = 0;
  double weight = 0;  ///< as in TransitionSeries
  double flip_angle = 0,
         keep_angle = 0;    ///< circular means at one and zero, in units of pi; flip in [0, 2)
  double drift = 0;         ///< mean of e_t, in units of pi
  double memory = 0;        ///< bits after which the head's state has decayed to 1 / e, on average
  double break_length = 0;  ///< infinite without drift
};

/// Where sum_j weight_j cos(drift_j (L - L0)) of one head's clocks first vanishes; the break length of a single one. Infinite
/// where it does not within two full turns of the slowest.
double joint_break(const std::vector<PhaseClock>& clocks, double trained_at);

/// At one length: what the sampled sequences' phases predict beside what was measured.
struct PhaseAtLength {
  int length = 0;
  double error = 0,
         error_sd =
             0;  ///< E - drift L0 of the first clock over the sampled sequences, in units of pi
  double predicted = 0;  ///< share of them for which the head's clocks together have the right sign
  double measured = 0, standard_error = 0;  ///< test accuracy of these weights
};

struct Inspection {
  Table transitions;
  double trained_at = 0;  ///< L0 of PhaseClock
  std::vector<PhaseClock>
      clocks;               ///< longest memory first, then heaviest; empty where no pair qualifies
  double break_length = 0;  ///< joint_break() of the clocks in the first one's head
  std::vector<PhaseAtLength> lengths;  ///< of that head
  bool has_flip = false;               ///< the task has a flipping symbol and the mixer rotates
};

/// `measured`: test scores of these weights.
/// Errors: std::invalid_argument naming a symbol that the task does not have; TaskError for an impossible length.
Inspection inspect(const RunConfig& run, const MemberState& weights, const InspectOptions& options,
                   const std::vector<EvaluationRecord>& measured);

/// The length at which a falling accuracy crosses `level`, linear between the measured lengths; nothing when it does not.
std::optional<double> crossing(const std::vector<PhaseAtLength>& lengths, double level);

/// "clocks" and "break", for print; none without a flipping symbol.
std::vector<Table> phase_tables(const Inspection& inspection);

}  // namespace statelab
