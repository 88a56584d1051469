// Every model trains on every task: two steps and an evaluation of each pair, through the adapters that runs use.
#include <gtest/gtest.h>

#include <cmath>

#include "experiments/data_source.h"
#include "models/cohort.h"
#include "tasks/task.h"

namespace statelab {
namespace {

std::vector<std::pair<std::string, TaskConfig>> tasks() {
  std::vector<std::pair<std::string, TaskConfig>> out;
  for (const std::string& name : list_presets()) {
    if (const auto config = find_preset(name)) out.emplace_back(name, *config);
  }
  TaskConfig own;
  own.name = "automaton";
  own.automaton = {{"dark", "lit"}, {"wait", "push"}, {{0, 1}, {1, 0}}, 0, {}};
  own.supervision = "all";
  out.emplace_back("automaton", own);
  TaskConfig group;
  group.name = "word_problem";
  group.profile = "word";
  group.custom_group.generators = {{2, 1, 3}, {2, 3, 1}};
  group.supervision = "all";
  out.emplace_back("own group", group);
  return out;
}

TEST(EveryTask, TrainsAndIsEvaluatedWithEveryModel) {
  const auto all = tasks();
  ASSERT_GE(all.size(), 20u);
  for (const auto& [name, config] : all) {
    const auto task = make_task(config);
    LengthRange lengths{12, 12};
    ASSERT_NO_THROW(task->check_lengths(lengths)) << name;
    for (const char* mixer : {"mamba3", "mamba2", "gated_delta_net", "delta_net", "lstm"}) {
      CohortShape shape;
      shape.model.mixer = mixer;
      shape.model.vocab_size = task->vocab_size();
      shape.model.d_model = 8;
      shape.model.headdim = 8;
      shape.model.d_state = 4;
      shape.batch = 4;
      shape.stages = {{2, task->seqlen(lengths.max)}};
      const StageConfig stage{2, lengths};
      const TrainData data(task, {stage}, {7});
      TrainCohort cohort(shape, std::vector<MemberSettings>(1), data, 1);
      cohort.run(2);
      const TrainMetrics metrics = cohort.read_metrics(0);
      EXPECT_TRUE(std::isfinite(metrics.loss)) << name << " " << mixer;
      EXPECT_GT(metrics.loss, 0) << name << " " << mixer;
      EXPECT_EQ(metrics.diverged_at, -1) << name << " " << mixer;

      const MemberState state = cohort.snapshot(0);
      const MemberState* one[] = {&state};
      EvalShape es{shape.model, shape.stages[0].seqlen, 4, task->legal_begin(), task->legal_end()};
      const EvalData test(task, {0, Stream::kTest}, lengths);
      const EvalCounts counts = evaluate(es, one, test, test.data_step(), 8, 1)[0];
      EXPECT_EQ(counts.sequences, 8) << name;
      EXPECT_GE(counts.tokens, 8) << name << ": every sequence has a supervised position";
    }
  }
}

}  // namespace
}  // namespace statelab
