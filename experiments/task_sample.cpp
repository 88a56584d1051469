#include "experiments/task_sample.h"

#include <algorithm>

#include "experiments/data_source.h"
#include "experiments/run_check.h"

namespace statelab {

TaskSample draw_test_sample(const RunConfig& run, LengthRange lengths, int samples) {
  const std::shared_ptr<const Task> task = task_of(run);
  task->check_lengths(lengths);
  const uint32_t step = EvalData(task, {run.eval.seed, Stream::kTest}, lengths).data_step();
  TaskSample out;
  out.lengths = lengths;
  out.samples = samples;
  out.seqlen = task->seqlen(lengths.max);
  const auto row = static_cast<size_t>(out.seqlen), total = row * static_cast<size_t>(samples);
  out.tokens.resize(total);
  out.targets.resize(total);
  out.used.resize(total);
  for (int i = 0; i < samples; ++i) {
    const size_t at = static_cast<size_t>(i) * row;
    const SampleInfo info =
        task->draw({run.eval.seed, Stream::kTest}, step, static_cast<uint32_t>(i), lengths,
                   std::span(out.tokens).subspan(at, row), std::span(out.targets).subspan(at, row));
    std::fill_n(out.used.begin() + static_cast<ptrdiff_t>(at), info.tokens, char{1});
  }
  return out;
}

}  // namespace statelab
