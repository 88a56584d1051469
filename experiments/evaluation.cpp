#include "experiments/evaluation.h"

#include <algorithm>
#include <string>

#include "experiments/cohort_member.h"
#include "experiments/data_source.h"
#include "experiments/run_check.h"
#include "models/cohort.h"

namespace statelab {
namespace {

constexpr int kTokensPerPass = 16384;  // bounds the memory of a pass; no result depends on it

EvalShape shape_of(const RunConfig& run, const Task& task, LengthRange lengths) {
  EvalShape shape;
  shape.model = run.model;
  shape.seqlen = task.seqlen(lengths.max);
  shape.batch = std::clamp(kTokensPerPass / shape.seqlen, 1, 256);
  shape.legal_begin = task.legal_begin();
  shape.legal_end = task.legal_end();
  return shape;
}

EvaluationRecord record_of(const EvalCounts& counts, const RunConfig& run, const Task& task,
                           Stream stream, LengthRange lengths, int64_t step) {
  EvaluationRecord row;
  row.split = stream == Stream::kTest ? "test" : "validation";
  row.step = step;
  row.length_min = lengths.min;
  row.length_max = lengths.max;
  row.data_seed = run.eval.seed;
  row.samples = run.eval.samples;
  row.sequences = counts.sequences;
  row.sequences_correct = counts.sequences_correct;
  row.tokens = counts.tokens;
  row.tokens_correct = counts.tokens_correct;
  row.loss = counts.loss_sum / static_cast<double>(counts.tokens);
  row.chance = task.chance();
  row.constant_answer = task.constant_answer(lengths);
  if (stream != Stream::kTest) return row;
  for (size_t t = 0; t < counts.position_total.size(); ++t) {
    if (counts.position_total[t] == 0) continue;
    row.curve.push_back({static_cast<int64_t>(t), counts.position_total[t],
                         counts.position_correct[t], counts.prefix_correct[t]});
  }
  return row;
}

}  // namespace

std::vector<LengthRange> evaluated_lengths(const EvalConfig& eval) {
  std::vector<LengthRange> all;
  for (const int length : eval.lengths) all.push_back({length, length});
  all.insert(all.end(), eval.ranges.begin(), eval.ranges.end());
  return all;
}

LengthRange selecting_length(const EvalConfig& eval) {
  if (!eval.lengths.empty()) {
    const int longest = *std::max_element(eval.lengths.begin(), eval.lengths.end());
    return {longest, longest};
  }
  return *std::max_element(
      eval.ranges.begin(), eval.ranges.end(),
      [](const LengthRange& a, const LengthRange& b) { return a.max < b.max; });
}

std::vector<std::vector<EvaluationRecord>> evaluate_members(
    const RunConfig& run, std::span<const MemberState* const> weights, Stream stream,
    std::span<const LengthRange> lengths, const ComputeDevice& device) {
  const std::shared_ptr<const Task> task = task_of(run);
  std::vector<std::vector<EvaluationRecord>> rows(weights.size());
  for (const LengthRange range : lengths) {
    const EvalData data(task, {run.eval.seed, stream}, range);
    const std::vector<EvalCounts> counts =
        evaluate(shape_of(run, *task, range), weights, data, data.data_step(), run.eval.samples,
                 computing(run, device));
    for (size_t m = 0; m < weights.size(); ++m) {
      rows[m].push_back(record_of(counts[m], run, *task, stream, range, weights[m]->step));
    }
  }
  return rows;
}

void check_computable(const RunConfig& run, const ComputeDevice& device) {
  cohort_bytes(shape_of(run), 1, device);
  const std::shared_ptr<const Task> task = task_of(run);
  for (const LengthRange range : evaluated_lengths(run.eval))
    check_evaluation(shape_of(run, *task, range), device);
}

}  // namespace statelab
