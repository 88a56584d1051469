#include "experiments/runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <fstream>

#include "experiments/cohort_trainer.h"
#include "store/run_store.h"
#include "tests/experiments/runner/lab_sweep.h"

namespace statelab {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pointwise;

class Recorder final : public ProgressSink {
 public:
  void on_cohort_start(const CohortProgress& p) override { cohorts.push_back(p.members); }
  void on_progress(const CohortProgress& p) override { last = p; }
  void on_run_finished(const FinishedRun& r) override { finished.push_back(r); }
  void on_message(const std::string& text) override { messages.push_back(text); }
  std::vector<int> cohorts;
  std::vector<FinishedRun> finished;
  std::vector<std::string> messages;
  CohortProgress last;
};

class RunnerTest : public testing::Test {
 protected:
  RunnerTest()
      : folder_(std::filesystem::path(testing::TempDir()) /
                ("statelab_runner_" +
                 std::string(testing::UnitTest::GetInstance()->current_test_info()->name()) + "_" +
                 std::to_string(getpid()))) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  ~RunnerTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  RunnerResult run(const std::vector<NamedRun>& runs, const RunnerOptions& options) {
    return run_all(runs, std::nullopt, options, recorder_);
  }
  std::filesystem::path db(const std::string& name = "lab.db") const { return folder_ / name; }
  /// Runs until the first read point.
  static RunnerOptions interrupted(RunnerOptions options) {
    options.stop_signal = [calls = 0]() mutable { return ++calls > 2 ? SIGINT : 0; };
    return options;
  }
  static std::vector<NamedRun> one(const RunConfig& config, const std::string& name = "one") {
    return {{config, name}};
  }

  std::filesystem::path folder_;
  Recorder recorder_;
};

TEST_F(RunnerTest, SecondRunDoesNothing) {
  EXPECT_EQ(run(lab_sweep(), lab_options(db())).computed, 7);
  const std::string once = fingerprint(db());
  const RunnerResult again = run(lab_sweep(), lab_options(db()));
  EXPECT_EQ(again.computed, 0);
  EXPECT_EQ(again.finished + again.diverged, 7);
  EXPECT_EQ(exit_code(again), 0);
  EXPECT_EQ(fingerprint(db()), once);
  RunStore store(db());
  Statement executions(store.database(), "SELECT count(*) FROM executions");
  executions.step();
  EXPECT_EQ(executions.integer(0), 1);
}

TEST_F(RunnerTest, ResultsDoNotDependOnCohortSizeThreadsOrCheckpointTimes) {
  run(lab_sweep(), lab_options(db("a.db")));
  RunnerOptions options = lab_options(db("b.db"));
  options.max_members = 1;
  options.threads = 2;
  options.checkpoint_seconds = 3600;
  run(lab_sweep(), options);
  EXPECT_EQ(fingerprint(db("a.db")), fingerprint(db("b.db")));
}

TEST_F(RunnerTest, RunsOfOneShapeTrainTogether) {
  run(lab_sweep(), lab_options(db()));
  EXPECT_THAT(recorder_.cohorts, ElementsAre(3, 4));
}

TEST_F(RunnerTest, MetricsHaveRowsAtConfiguredStepsOnly) {
  RunConfig config = tiny_run(1, 0.01);
  run(one(config), lab_options(db()));
  RunStore store(db());
  std::vector<int64_t> steps;
  Statement query(store.database(), "SELECT step FROM metrics ORDER BY step");
  while (query.step()) steps.push_back(query.integer(0));
  EXPECT_THAT(steps, ElementsAre(10, 20, 30, 40, 50, 55));
  EXPECT_EQ(row_interval(55), 10);
  EXPECT_EQ(row_interval(20000), 100);
}

TEST_F(RunnerTest, ValidationAndTestUseDisjointStreamsAndAllLengths) {
  run(one(tiny_run(1, 0.01)), lab_options(db()));
  RunStore store(db());
  const std::string id = run_id(tiny_run(1, 0.01));
  EXPECT_EQ(store.evaluations(id, "validation").size(),
            4u * 3);  // steps 15, 30, 45, 55; lengths 6, 12, 3..8
  const auto test = store.evaluations(id, "test");
  ASSERT_EQ(test.size(), 3u);
  for (const EvaluationRecord& row : test) {
    EXPECT_EQ(row.sequences, 32);
    EXPECT_EQ(row.chance, 0.5);
  }
}

TEST_F(RunnerTest, BestIsTheFirstHighestValidationAtTheLongestLength) {
  run(lab_sweep(), lab_options(db()));
  RunStore store(db());
  for (const NamedRun& r : lab_sweep()) {
    if (r.config.eval.select != "best" || r.config.train.optimizer.lr > 1) continue;
    const std::string id = run_id(r.config);
    int64_t best_step = -1;
    double best = -1;
    for (const EvaluationRecord& row : store.evaluations(id, "validation")) {
      if (row.length_min == 12 && row.accuracy() > best) {
        best = row.accuracy();
        best_step = row.step;
      }
    }
    EXPECT_EQ(store.checkpoint(id, "best")->step, best_step);
    EXPECT_EQ(store.evaluations(id, "test")[0].step, best_step);
  }
}

TEST_F(RunnerTest, DivergedMemberIsRecordedAndTheOthersKeepTheirBits) {
  run(lab_sweep(), lab_options(db("together.db")));
  std::vector<NamedRun> healthy = lab_sweep();
  healthy.erase(healthy.begin() + 1);
  run(healthy, lab_options(db("alone.db")));
  std::string together = fingerprint(db("together.db")), alone = fingerprint(db("alone.db"));
  EXPECT_THAT(together, HasSubstr("best-1 diverged"));
  std::string without;
  for (size_t at = 0; at < together.size();) {
    const size_t end = together.find('\n', at) + 1;
    const std::string line = together.substr(at, end - at);
    if (line.compare(0, 6, "best-1") != 0) without += line;
    at = end;
  }
  EXPECT_EQ(without, alone);
}

TEST_F(RunnerTest, TimeLimitLeavesACheckpointExitCodeZeroAndAMessage) {
  RunnerOptions options = lab_options(db());
  options.time_limit = 0.0;
  const RunnerResult result = run(lab_sweep(), options);
  EXPECT_EQ(result.reason, RunnerResult::Reason::kTimeLimit);
  EXPECT_EQ(exit_code(result), 0);
  EXPECT_EQ(result.unfinished, 7);
  EXPECT_THAT(recorder_.messages,
              ElementsAre(HasSubstr("time limit reached with 7 of 7 runs unfinished")));
}

TEST_F(RunnerTest, InterruptedRunGoesOnFromItsCheckpoint) {
  const RunnerResult first = run(lab_sweep(), interrupted(lab_options(db())));
  EXPECT_EQ(first.reason, RunnerResult::Reason::kSignal);
  EXPECT_EQ(exit_code(first), 130);
  EXPECT_EQ(RunStore(db()).summaries(std::vector{run_id(tiny_run(1, 0.003))})[0].steps_done,
            kReadInterval);
  run(lab_sweep(), lab_options(db()));
  run(lab_sweep(), lab_options(db("undisturbed.db")));
  EXPECT_EQ(fingerprint(db()), fingerprint(db("undisturbed.db")));
}

TEST_F(RunnerTest, SeveralDevicesShareTheListAndChangeNoNumber) {
  run(lab_sweep(), lab_options(db("one.db")));
  recorder_ = Recorder();
  RunnerOptions options = lab_options(db("two.db"));
  options.devices = {1, 1};
  const RunnerResult result = run(lab_sweep(), options);
  EXPECT_EQ(result.computed, 7);
  EXPECT_EQ(result.unfinished, 0);
  EXPECT_THAT(recorder_.messages, testing::IsEmpty());
  EXPECT_EQ(fingerprint(db("one.db")), fingerprint(db("two.db")));
  RunStore store(db("two.db"));
  Statement executions(store.database(),
                       "SELECT count(*) FROM executions WHERE exit_reason IS NOT 'complete'");
  executions.step();
  EXPECT_EQ(executions.integer(0), 0);
}

TEST_F(RunnerTest, SeveralDevicesEachGetAPartOfOneShape) {
  std::vector<NamedRun> runs;
  for (uint32_t seed = 0; seed < 6; ++seed)
    runs.push_back({tiny_run(seed, 0.01), "run-" + std::to_string(seed)});
  RunnerOptions options = lab_options(db());
  options.devices = {1, 1, 1};
  options.max_members = 0;
  EXPECT_EQ(run(runs, options).finished, 6);
  EXPECT_THAT(recorder_.cohorts, testing::Each(testing::Le(2)));
}

TEST_F(RunnerTest, ASignalStopsAllDevicesAndTheRunsGoOn) {
  RunnerOptions options = interrupted(lab_options(db()));
  options.devices = {1, 1};
  const RunnerResult first = run(lab_sweep(), options);
  EXPECT_EQ(first.reason, RunnerResult::Reason::kSignal);
  EXPECT_GT(first.unfinished, 0);
  EXPECT_EQ(std::count(recorder_.messages.begin(), recorder_.messages.end(),
                       "stopping after checkpoints, again to kill"),
            1);
  run(lab_sweep(), lab_options(db()));
  run(lab_sweep(), lab_options(db("undisturbed.db")));
  EXPECT_EQ(fingerprint(db()), fingerprint(db("undisturbed.db")));
}

TEST_F(RunnerTest, ResumingOnAnotherBuildIsRefusedUnlessRestarted) {
  run(lab_sweep(), interrupted(lab_options(db())));
  RunStore(db()).database().execute("UPDATE executions SET build = 'another'");
  try {
    run(lab_sweep(), lab_options(db()));
    FAIL() << "runs of another build were resumed";
  } catch (const ResumeRefused& e) {
    EXPECT_THAT(e.what(), HasSubstr("build another"));
    EXPECT_THAT(e.what(), HasSubstr("--restart"));
  }
  RunnerOptions options = lab_options(db());
  options.restart = true;
  EXPECT_EQ(run(lab_sweep(), options).computed,
            6);  // the diverged one is final, wherever it was computed
  run(lab_sweep(), lab_options(db("undisturbed.db")));
  EXPECT_EQ(fingerprint(db()), fingerprint(db("undisturbed.db")));
}

TEST_F(RunnerTest, ResumingOnAnotherDeviceModelIsRefused) {
  run(lab_sweep(), interrupted(lab_options(db())));
  RunStore(db()).database().execute("UPDATE executions SET device = 'another model'");
  EXPECT_THROW(run(lab_sweep(), lab_options(db())), ResumeRefused);
}

TEST_F(RunnerTest, ACopyOfTheDatabaseGoesOnOnAnotherMachineOfTheSameModelAndBuild) {
  run(lab_sweep(), interrupted(lab_options(db())));
  const std::filesystem::path there = db("there"), copy = there / "copy.db";
  std::filesystem::create_directories(there);
  std::filesystem::copy_file(db(), copy);
  std::filesystem::copy(db("lab.db.d"), there / "copy.db.d",
                        std::filesystem::copy_options::recursive);
  {
    // As a machine that was cut off leaves it: its workers' leases run on, and nobody here knows its processes.
    RunStore store(copy);
    store.database().execute("UPDATE executions SET host = 'cut-off', ended_at = NULL");
    const int64_t held = Statement(store.database(),
                                   "UPDATE runs SET status = 'running', lease_owner = "
                                   "'cut-off/01234567:1:1:89abcdef', lease_until = ?1 "
                                   "WHERE status = 'pending' AND steps_done > 0")
                             .bind(1, unix_now() + 1)
                             .run();
    EXPECT_GT(held, 0);
  }
  const RunnerResult result = run(lab_sweep(), lab_options(copy));
  EXPECT_EQ(result.unfinished, 0);
  EXPECT_EQ(result.failed, 0);
  run(lab_sweep(), lab_options(db("undisturbed.db")));
  EXPECT_EQ(fingerprint(copy), fingerprint(db("undisturbed.db")));
  RunStore store(copy);
  Statement resumed(store.database(), "SELECT count(*) FROM run_executions WHERE from_step > 0");
  resumed.step();
  EXPECT_GT(resumed.integer(0), 0) << "everything was computed from step 0";
}

TEST_F(RunnerTest, RerunComputesFinishedRunsAgain) {
  run(one(tiny_run(1, 0.01)), lab_options(db()));
  const std::string once = fingerprint(db());
  RunnerOptions options = lab_options(db());
  options.rerun = true;
  EXPECT_EQ(run(one(tiny_run(1, 0.01)), options).computed, 1);
  EXPECT_EQ(fingerprint(db()), once);
}

std::vector<NamedRun> with_a_failing_one() {
  RunConfig broken = tiny_run(1, 0.01);
  broken.train.init_from = std::string(64, '0');
  return {{broken, "broken"}, {tiny_run(2, 0.01), "sound"}};
}

TEST_F(RunnerTest, FailedCohortKeepsItsErrorAndTheSweepMovesOn) {
  const RunnerResult result = run(with_a_failing_one(), lab_options(db()));
  EXPECT_EQ(result.failed, 1);
  EXPECT_EQ(result.finished, 1);
  EXPECT_EQ(exit_code(result), 3);
  ASSERT_EQ(recorder_.finished.size(), 2u);
  EXPECT_EQ(recorder_.finished[0].status, "failed");
  EXPECT_THAT(recorder_.finished[0].error, HasSubstr("train.init_from: no run 0000"));
  const RunnerResult again =
      run(with_a_failing_one(), lab_options(db()));  // tried again, sound one left alone
  EXPECT_EQ(again.failed, 1);
  EXPECT_EQ(again.computed, 0);
}

TEST_F(RunnerTest, FailFastStopsAtTheFirstFailure) {
  RunnerOptions options = lab_options(db());
  options.fail_fast = true;
  const RunnerResult result = run(with_a_failing_one(), options);
  EXPECT_EQ(result.reason, RunnerResult::Reason::kFailFast);
  EXPECT_EQ(result.unfinished, 1);
  EXPECT_EQ(exit_code(result), 3);
}

TEST_F(RunnerTest, DamagedCheckpointFailsItsCohortOnly) {
  run(lab_sweep(), interrupted(lab_options(db())));
  const std::string id = run_id(tiny_run(1, 0.003));
  {
    RunStore store(db());
    std::ofstream(store.database().files_folder() / store.checkpoint(id, "last")->file.path)
        << "damaged";
  }
  const RunnerResult result = run(lab_sweep(), lab_options(db()));
  EXPECT_EQ(result.failed, 2);  // the third had diverged before
  EXPECT_EQ(result.finished, 4);
  EXPECT_THAT(RunStore(db()).summaries(std::vector{id})[0].error,
              HasSubstr("was changed after it was written"));
}

TEST_F(RunnerTest, InitialWeightsAreTheSelectedOnesOfAnotherRun) {
  const RunConfig source = tiny_run(1, 0.01);
  RunConfig next =
      tiny_run(2, 1e-30);  // no visible step and no decay: the weights stay as they came
  next.train.optimizer.weight_decay = 0;
  next.train.init_from = run_id(source);
  const std::vector<NamedRun> runs = {{next, "next"}, {source, "source"}};
  const RunnerResult result = run(runs, lab_options(db()));
  ASSERT_EQ(result.finished, 2);
  RunStore store(db());
  const auto weights = [&](const RunConfig& config) {
    return from_safetensors(store.read_checkpoint(store.checkpoint(run_id(config), "best").value()))
        .weights;
  };
  const auto a = weights(source), b = weights(next);
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_THAT(b[i].data, Pointwise(testing::FloatNear(1e-20f), a[i].data)) << a[i].name;
  }
}

TEST_F(RunnerTest, ProgressTellsStepsSpeedAndAccuracies) {
  run(lab_sweep(), lab_options(db()));
  EXPECT_GT(recorder_.last.steps_per_second, 0);
  EXPECT_GE(recorder_.last.best_accuracy, recorder_.last.median_accuracy);
  EXPECT_EQ(recorder_.finished.back().done, 7);
  EXPECT_EQ(recorder_.finished.back().total, 7);
}

}  // namespace
}  // namespace statelab
