#include "experiments/bench_eval.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>

#include "experiments/build_info.h"
#include "experiments/data_source.h"
#include "experiments/execution.h"
#include "models/cohort.h"
#include "models/model.h"
#include "tasks/task.h"

namespace statelab {
namespace {

MemberState initial_member(const ModelConfig& model, uint32_t seed) {
  MemberState state;
  for (const ParameterSpec& spec : parameter_specs(model)) {
    const std::vector<double> values = initial_values(spec, model, seed);
    state.weights.push_back(
        {spec.name, spec.shape.extents(), std::vector<float>(values.begin(), values.end())});
  }
  return state;
}

/// Members as initialised, and the samples of one length.
struct EvalLoad {
  EvalLoad(std::shared_ptr<const Task> of_task, const EvalWork& work)
      : task(std::move(of_task)), data(task, {0, Stream::kTest}, {work.length, work.length}) {
    shape.model.vocab_size = task->vocab_size();
    shape.model.pad_vocab_multiple = 16;  // as bench train
    shape.seqlen = task->seqlen(work.length);
    shape.legal_begin = task->legal_begin(), shape.legal_end = task->legal_end();
    for (int m = 0; m < work.members; ++m)
      states.push_back(initial_member(shape.model, static_cast<uint32_t>(m)));
    for (const MemberState& s : states) members.push_back(&s);
  }
  std::vector<EvalCounts> run(int64_t samples, const ComputeDevice& device) const {
    return evaluate(shape, members, data, data.data_step(), samples, device);
  }
  std::shared_ptr<const Task> task;
  EvalData data;
  EvalShape shape;
  std::vector<MemberState> states;
  std::vector<const MemberState*> members;
};

void check_against_cpu(const EvalLoad& load, int length, const ComputeDevice& device, int threads) {
  const int64_t samples = std::clamp<int64_t>(4096 / length, 1, 8);
  const EvalCounts expected = load.run(samples, threads)[0], actual = load.run(samples, device)[0];
  const double tolerance = device.precision == Precision::kFp32   ? 1e-4
                           : device.precision == Precision::kTf32 ? 2e-3
                                                                  : 2e-2;
  const std::string where = "evaluation at " + std::to_string(length) + " tokens: ";
  if (actual.sequences != samples || actual.tokens != expected.tokens) {
    throw BenchRefused(where + std::to_string(actual.tokens) + " answers of " +
                       std::to_string(actual.sequences) + " samples, on the CPU " +
                       std::to_string(expected.tokens) + " of " + std::to_string(samples));
  }
  if (!(std::abs(actual.loss_sum - expected.loss_sum) <= tolerance * std::abs(expected.loss_sum))) {
    throw BenchRefused(where + "the loss is " + std::to_string(actual.loss_sum) + ", on the CPU " +
                       std::to_string(expected.loss_sum));
  }
}

double seconds_of_run(const EvalLoad& load, int64_t samples, const ComputeDevice& device) {
  const auto start = std::chrono::steady_clock::now();
  const std::vector<EvalCounts> counts = load.run(samples, device);
  if (counts[0].sequences != samples) throw BenchRefused("an evaluation left samples out");
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

std::vector<EvalWork> eval_works(const ComputeDevice& device) {
  const bool cuda = device.is_cuda();
  const int64_t tokens = cuda ? 1 << 24 : 1 << 17, member_samples = cuda ? 8192 : 64;
  std::vector<EvalWork> works;
  for (const int length : {160, 640, 2560, 4096, 16384, 65536}) {
    if (cuda || length <= 4096) works.push_back({length, 1, tokens / length});
  }
  for (const int members : {1, 4, 16, 64}) {
    if (cuda || members <= 4) works.push_back({160, members, member_samples});
  }
  return works;
}

BenchEvalReport bench_eval(const BenchEvalOptions& options, const ComputeDevice& device) {
  refuse_slow_builds();
  BenchEvalReport report;
  report.device = device_title(device);
  report.precision = precision_name(device.precision);
  report.build_type = build_info().build_type;
  report.commit = build_info().commit;
  const std::shared_ptr<const Task> task = make_task(TaskConfig{});
  const std::vector<EvalWork> works = options.works.empty() ? eval_works(device) : options.works;
  int checked = 0;
  for (const EvalWork& work : works) {
    const EvalLoad load(task, work);
    if (device.is_cuda() && work.length != checked)
      check_against_cpu(load, work.length, device, options.threads);
    checked = work.length;
    seconds_of_run(load, std::min<int64_t>(work.samples, 64), device);  // clocks rise
    std::vector<double> seconds;
    for (int r = 0; r < options.repeats; ++r)
      seconds.push_back(seconds_of_run(load, work.samples, device));
    std::sort(seconds.begin(), seconds.end());
    BenchEvalRow& row = report.rows.emplace_back();
    row.length = work.length;
    row.members = work.members;
    row.samples = work.samples;
    row.seconds = seconds[seconds.size() / 2];
    row.spread_pct = 100 * (seconds.back() - seconds.front()) / row.seconds;
    const double tokens = static_cast<double>(work.samples) * load.shape.seqlen;
    row.tokens_per_s = tokens * work.members / row.seconds;
    row.ns_per_token = 1e9 * row.seconds / (tokens * work.members);
  }
  return report;
}

}  // namespace statelab
