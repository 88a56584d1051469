#include "experiments/phase_clock.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <set>
#include <tuple>

#include "experiments/run_check.h"

namespace statelab {
namespace {

using Quantity = TransitionSeries::Quantity;

constexpr double kCandidate = 0.25;  // largest mean |e_t| of a clock, in units of pi
constexpr int kPhaseTokens = 65536;  // sampled at each length of the phase table
constexpr int kLongestPhase = 4096;  // lengths beyond it are left out
constexpr size_t kShownClocks = 4;
constexpr int kTrainedSamples = 1024;

/// The tokens that keep and that flip the state that the task asks for.
struct Bits {
  int32_t keep = -1, flip = -1;
  bool has(int32_t token) const { return token == keep || token == flip; }
};

/// Whether the token at this place is a bit that turns a state.
bool turns(const TaskSample& sample, size_t i, const Bits& bits) {
  const bool first = i % static_cast<size_t>(sample.seqlen) == 0;
  return !first && sample.used[i] && bits.has(sample.tokens[i]);
}

/// e_t of a pair, in units of pi, per position; 0 where nothing turns.
std::vector<double> phase_errors(const TransitionSeries& angle, const TaskSample& sample,
                                 const Bits& bits) {
  std::vector<double> out(angle.values.size());
  for (size_t i = 0; i < out.size(); ++i) {
    if (turns(sample, i, bits))
      out[i] = wrapped_turns(angle.values[i] - (sample.tokens[i] == bits.flip ? 1 : 0));
  }
  return out;
}

/// L0: bits behind the supervised positions of the last stage's lengths, on average.
double trained_bits(const RunConfig& run, const Bits& bits, int samples) {
  const TaskSample sample = draw_test_sample(run, run.train.curriculum.back().length, samples);
  double sum = 0, count = 0, behind = 0;
  for (size_t i = 0; i < sample.tokens.size(); ++i) {
    if (i % static_cast<size_t>(sample.seqlen) == 0) behind = 0;
    behind += turns(sample, i, bits);
    if (sample.targets[i] < 0) continue;
    sum += behind;
    ++count;
  }
  return count > 0 ? sum / count : 0;
}

std::vector<PhaseClock> find_clocks(const std::vector<TransitionSeries>& all,
                                    const TaskSample& sample, const Bits& bits,
                                    double trained_length, int longest) {
  std::vector<PhaseClock> out;
  double memory = 0;
  for (const TransitionSeries& s : all) {
    std::vector<double> flips, keeps, logs;
    double sum = 0, magnitude = 0;
    if (s.quantity == Quantity::kDecay) {  // a head's decay stands before its angles
      for (size_t i = 0; i < s.values.size(); ++i) {
        if (turns(sample, i, bits)) logs.push_back(-std::log(s.values[i]));
      }
      memory = 1 / arithmetic_mean(logs);
      continue;
    }
    if (s.quantity != Quantity::kAngle) continue;
    const std::vector<double> errors = phase_errors(s, sample, bits);
    for (size_t i = 0; i < errors.size(); ++i) {
      if (!turns(sample, i, bits)) continue;
      (sample.tokens[i] == bits.flip ? flips : keeps).push_back(s.values[i]);
      sum += errors[i];
      magnitude += std::abs(errors[i]);
    }
    const auto count = static_cast<double>(flips.size() + keeps.size());
    if (flips.empty() || keeps.empty() || !(magnitude / count < kCandidate)) continue;
    PhaseClock clock{
        s.layer,     s.head, s.pair, s.weight, circular_mean(flips), circular_mean(keeps),
        sum / count, memory, 0};
    if (clock.flip_angle < 0) clock.flip_angle += 2;
    clock.break_length = clock.drift == 0 ? std::numeric_limits<double>::infinity()
                                          : trained_length + 0.5 / std::abs(clock.drift);
    if (clock.break_length >= longest) out.push_back(clock);
  }
  std::stable_sort(out.begin(), out.end(), [](const PhaseClock& a, const PhaseClock& b) {
    return std::tie(a.memory, a.weight) > std::tie(b.memory, b.weight);
  });
  return out;
}

/// Those in the head of the first.
std::vector<PhaseClock> first_head(const std::vector<PhaseClock>& clocks) {
  std::vector<PhaseClock> out;
  for (const PhaseClock& c : clocks) {
    if (c.layer == clocks[0].layer && c.head == clocks[0].head) out.push_back(c);
  }
  return out;
}

PhaseAtLength phase_at(const RunConfig& run, const MemberState& weights, const Task& task,
                       const std::vector<PhaseClock>& clocks, const Bits& bits, double bits_trained,
                       const EvaluationRecord& score, int most, int threads) {
  const int samples = std::clamp(kPhaseTokens / task.seqlen(score.length_max), 1, most);
  const TaskSample sample = draw_test_sample(run, {score.length_max, score.length_max}, samples);
  PhaseAtLength out;
  out.length = score.length_max;
  out.measured = score.accuracy();
  out.standard_error = score.standard_error();
  const auto all = transitions(run.model, weights, sample.tokens, sample.targets, sample.samples,
                               sample.seqlen, threads);
  std::vector<double> scores(static_cast<size_t>(samples)), phases(scores.size());
  for (const PhaseClock& clock : clocks) {
    const auto angle = std::find_if(all.begin(), all.end(), [&](const TransitionSeries& s) {
      return s.quantity == Quantity::kAngle && s.layer == clock.layer && s.head == clock.head &&
             s.pair == clock.pair;
    });
    const std::vector<double> errors = phase_errors(*angle, sample, bits);
    const auto row = static_cast<size_t>(sample.seqlen);
    for (size_t i = 0; i < scores.size(); ++i) {
      double phase = -clock.drift * bits_trained;
      for (size_t t = 0; t < row; ++t) phase += errors[i * row + t];
      scores[i] += clock.weight * std::cos(std::numbers::pi * phase);
      if (&clock == &clocks[0]) phases[i] = phase;
    }
  }
  double squares = 0, right = 0;
  out.error = arithmetic_mean(phases);
  for (const double e : phases) squares += (e - out.error) * (e - out.error);
  for (const double s : scores) right += s > 0;
  out.error_sd = std::sqrt(squares / static_cast<double>(samples));
  out.predicted = right / static_cast<double>(samples);
  return out;
}

/// Nothing where no single token flips the state.
std::optional<Bits> bits_of(const Task& task) {
  if (task.config().name != "parity") return std::nullopt;
  Bits bits;
  for (int32_t token = 0; token < task.vocab_size(); ++token) {
    if (task.token_name(token) == "0") bits.keep = token;
    if (task.token_name(token) == "1") bits.flip = token;
  }
  return bits;
}

}  // namespace

std::optional<Phase> find_phase(const RunConfig& run, const MemberState& weights,
                                const std::vector<TransitionSeries>& all, const TaskSample& sample,
                                const std::vector<EvaluationRecord>& measured, int samples,
                                int threads) {
  const std::shared_ptr<const Task> task = task_of(run);
  const std::optional<Bits> bits = bits_of(*task);
  if (!bits || run.model.mixer != "mamba3" || run.model.rotation == "none") return std::nullopt;
  Phase out;
  out.trained_bits = trained_bits(run, *bits, kTrainedSamples);
  double turning = 0;
  for (size_t i = 0; i < sample.tokens.size(); ++i) turning += turns(sample, i, *bits);
  out.trained_length = out.trained_bits + sample.lengths.max - turning / sample.samples;
  out.clocks = find_clocks(all, sample, *bits, out.trained_length, longest_trained(run));
  if (out.clocks.empty()) return out;
  const std::vector<PhaseClock> head = first_head(out.clocks);
  out.break_length = joint_break(head, out.trained_length);
  std::set<int> done;
  for (const EvaluationRecord& score : measured) {
    if (score.length_min != score.length_max || score.length_max > kLongestPhase ||
        !done.insert(score.length_max).second)
      continue;
    out.lengths.push_back(
        phase_at(run, weights, *task, head, *bits, out.trained_bits, score, samples, threads));
  }
  std::sort(out.lengths.begin(), out.lengths.end(),
            [](const PhaseAtLength& a, const PhaseAtLength& b) { return a.length < b.length; });
  return out;
}

double joint_break(const std::vector<PhaseClock>& clocks, double trained_length) {
  if (clocks.size() == 1) return clocks[0].break_length;
  double slowest = std::numeric_limits<double>::infinity(), fastest = 0;
  for (const PhaseClock& c : clocks) {
    slowest = std::min(slowest, std::abs(c.drift));
    fastest = std::max(fastest, std::abs(c.drift));
  }
  if (!(slowest > 0)) return std::numeric_limits<double>::infinity();
  constexpr double kStep = 0.002, kEnd = 4;  // of the fastest and of the slowest, in units of pi
  for (double bits = 0; bits < kEnd / slowest; bits += kStep / fastest) {
    double score = 0;
    for (const PhaseClock& c : clocks)
      score += c.weight * std::cos(std::numbers::pi * c.drift * bits);
    if (score <= 0) return trained_length + bits;
  }
  return std::numeric_limits<double>::infinity();
}

std::optional<double> crossing(const std::vector<PhaseAtLength>& lengths, double level) {
  for (size_t i = 1; i < lengths.size(); ++i) {
    const PhaseAtLength &a = lengths[i - 1], &b = lengths[i];
    if (a.measured >= level && b.measured < level) {
      return a.length + (b.length - a.length) * (a.measured - level) / (a.measured - b.measured);
    }
  }
  return std::nullopt;
}

std::vector<Table> phase_tables(const Phase& phase) {
  const auto number = [](const char* key, const char* title, int digits, const char* unit = "") {
    Column c;
    c.key = key;
    c.title = title;
    c.type = ColumnType::kNumber;
    c.digits = digits;
    c.unit = unit;
    return c;
  };
  const auto typed = [](const char* key, const char* title, ColumnType type) {
    Column c;
    c.key = key;
    c.title = title;
    c.type = type;
    return c;
  };
  Table clocks;
  clocks.key = "clocks";
  clocks.title = "pairs that turn by about pi at a one and by about nothing at a zero";
  clocks.columns = {typed("layer", "layer", ColumnType::kInteger),
                    typed("head", "head", ColumnType::kInteger),
                    typed("pair", "pair", ColumnType::kInteger),
                    typed("weight", "weight", ColumnType::kPercent),
                    number("flip_angle", "angle at 1", 4, "pi"),
                    number("keep_angle", "at 0", 4, "pi"),
                    number("drift", "drift per bit", 5, "pi"),
                    number("memory", "memory", 1, "bits"),
                    number("break_length", "breaks at length", 1)};
  clocks.columns[3].digits = 1;
  for (size_t i = 0; i < std::min(phase.clocks.size(), kShownClocks); ++i) {
    const PhaseClock& c = phase.clocks[i];
    clocks.rows.push_back(
        {{int64_t{c.layer}},
         {int64_t{c.head}},
         {int64_t{c.pair}},
         {c.weight},
         {c.flip_angle},
         {c.keep_angle},
         {c.drift},
         {c.memory},
         {std::isfinite(c.break_length) ? CellValue(c.break_length) : CellValue()}});
  }
  if (phase.clocks.empty()) {
    clocks.notes.push_back({"",
                            "no pair does so within pi/4 over the trained lengths: this model does "
                            "not hold the parity in one angle"});
    return {clocks};
  }
  clocks.notes.push_back(
      {"",
       fmt::format("breaks at length: {:.1f}, the mean trained, and (pi/2) / |drift|, a quarter "
                   "turn further",
                   phase.trained_length)});
  Table lengths;
  lengths.key = "break";
  lengths.title = "phase in the head of the first of them, and measured accuracy";
  lengths.columns = {typed("length", "length", ColumnType::kInteger),
                     number("error", "phase error", 3, "pi"),
                     number("error_sd", "sd", 3, "pi"),
                     typed("predicted", "phase has the right sign", ColumnType::kPercent),
                     typed("measured", "accuracy", ColumnType::kPercent),
                     typed("standard_error", "SE", ColumnType::kPercent)};
  for (const PhaseAtLength& l : phase.lengths) {
    lengths.rows.push_back({{int64_t{l.length}},
                            {l.error},
                            {l.error_sd},
                            {l.predicted},
                            {l.measured},
                            {l.standard_error}});
  }
  lengths.notes.push_back(
      {"",
       "not predicted: the state's decay; a few times the memory further the answer is a guess"});
  const auto crossed = crossing(phase.lengths, 0.75);
  lengths.notes.push_back(
      {"",
       crossed
           ? fmt::format("accuracy falls below 75 % at length {:.0f}, predicted break at {:.0f}",
                         *crossed, phase.break_length)
           : fmt::format("accuracy does not fall from above to below 75 % between these "
                         "lengths, predicted break at {:.0f}; `statelab eval --lengths` adds some",
                         phase.break_length)});
  return {clocks, lengths};
}

}  // namespace statelab
