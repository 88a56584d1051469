// How long the rotated pairs of a trained model keep the parity: their drift, and the length at which it shows.
#pragma once

#include <optional>
#include <vector>

#include "experiments/run_config.h"
#include "experiments/task_sample.h"
#include "experiments/transition.h"
#include "models/checkpoint.h"
#include "reports/table.h"
#include "store/records.h"

namespace statelab {

/// A rotated pair that could hold the parity: it turns by about pi at a one and by about nothing at a zero. With
/// e_t = phi_t - pi [token t is a one], wrapped to (-pi, pi], the pair's phase is off by E = sum of e_t over the bits behind the
/// first token (which turns nothing, as the state is empty before it). Its mean grows by `drift` a bit:
///   drift = mean of e_t = (delta_1 + delta_0) / 2 for random bits, delta_1 a one's distance from pi, delta_0 a zero's from 0,
/// since L bits hold L / 2 flips on average. The head that reads the state was trained at the phase of the trained lengths,
/// drift * L0 with L0 the mean number of bits behind the supervised positions of the last stage, and takes that for no error.
/// The sign of what it reads, which is the parity, is lost where the rest reaches a quarter turn, |E - drift L0| = pi / 2:
///   break length = L0 + (pi / 2) / |drift|,
/// plus the positions that are in every length but no bits behind the first token.
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

/// Where sum_j weight_j cos(drift_j (length - trained_length)) of one head's clocks first vanishes; the break length of a
/// single one. Infinite where it does not within two full turns of the slowest.
double joint_break(const std::vector<PhaseClock>& clocks, double trained_length);

/// At one length: what the sampled sequences' phases predict beside what was measured.
struct PhaseAtLength {
  int length = 0;
  double error = 0,
         error_sd =
             0;  ///< E - drift L0 of the first clock over the sampled sequences, in units of pi
  double predicted = 0;  ///< share of them for which the head's clocks together have the right sign
  double measured = 0, standard_error = 0;  ///< test accuracy of these weights
};

struct Phase {
  double trained_bits = 0;    ///< L0 of PhaseClock
  double trained_length = 0;  ///< as the task counts lengths
  std::vector<PhaseClock>
      clocks;               ///< longest memory first, then heaviest; empty where no pair qualifies
  double break_length = 0;  ///< joint_break() of the clocks in the first one's head
  std::vector<PhaseAtLength> lengths;  ///< of that head
};

/// Nothing where the task has no token that flips a state (it is not parity) or the mixer does not rotate. `all` are the
/// transitions on `sample`; `measured` are test scores of these weights; at most `samples` sequences are drawn at each of
/// their lengths.
std::optional<Phase> find_phase(const RunConfig& run, const MemberState& weights,
                                const std::vector<TransitionSeries>& all, const TaskSample& sample,
                                const std::vector<EvaluationRecord>& measured, int samples,
                                int threads);

/// The length at which a falling accuracy crosses `level`, linear between the measured lengths; nothing when it does not.
std::optional<double> crossing(const std::vector<PhaseAtLength>& lengths, double level);

/// "clocks", and "break" where there is one.
std::vector<Table> phase_tables(const Phase& phase);

}  // namespace statelab
