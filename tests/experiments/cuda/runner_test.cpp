// Sweeps on a CUDA device: rows, checkpoints and resumption keep the promises that they keep on the CPU.
#include "experiments/runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include "experiments/cohort_trainer.h"
#include "store/run_store.h"
#include "tests/experiments/runner/lab_sweep.h"
#include "tests/support/cuda.h"

namespace statelab {
namespace {

using testing::HasSubstr;

class CudaRunner : public testing::Test {
 protected:
  void SetUp() override {
    std::string reason;
    const auto found = testing_support::usable_cuda_device(&reason);
    if (!found) GTEST_SKIP() << reason;
    device_ = ComputeDevice::cuda(found->index);
    name_ = found->name;
    folder_ = std::filesystem::path(testing::TempDir()) /
              ("statelab_cuda_" +
               std::string(testing::UnitTest::GetInstance()->current_test_info()->name()) + "_" +
               std::to_string(getpid()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override {
    std::error_code ignored;
    if (!folder_.empty()) std::filesystem::remove_all(folder_, ignored);
  }
  std::filesystem::path db(const std::string& name = "lab.db") const { return folder_ / name; }
  RunnerOptions options(const std::string& name = "lab.db") const {
    RunnerOptions out = lab_options(db(name));
    out.devices = {device_};
    return out;
  }
  static RunnerOptions interrupted(RunnerOptions options, int reads) {
    options.stop_signal = [calls = 0, reads]() mutable { return ++calls > reads ? SIGINT : 0; };
    return options;
  }
  static RunnerResult run(const RunnerOptions& options) {
    ProgressSink silent;
    return run_all(lab_sweep(), std::nullopt, options, silent);
  }

  ComputeDevice device_;
  std::string name_;
  std::filesystem::path folder_;
};

TEST_F(CudaRunner, ResultsDoNotDependOnCohortSizeOrWorkers) {
  EXPECT_EQ(run(options("a.db")).computed, 7);
  const std::string expected = fingerprint(db("a.db"));
  for (const int members : {1, 2, 0}) {
    const std::string name = "members" + std::to_string(members) + ".db";
    RunnerOptions o = options(name);
    o.max_members = members;
    run(o);
    EXPECT_EQ(fingerprint(db(name)), expected) << members;
  }
  RunnerOptions two = options("workers.db");
  two.devices = {device_, device_};  // two workers with a stream each
  run(two);
  EXPECT_EQ(fingerprint(db("workers.db")), expected);
  EXPECT_EQ(run(options("a.db")).computed, 0);
}

TEST_F(CudaRunner, InterruptionsAnywhereLeaveNoTrace) {
  run(options("undisturbed.db"));
  for (const int reads : {2, 3, 5, 8}) {
    const std::string name = "cut" + std::to_string(reads) + ".db";
    const RunnerResult first = run(interrupted(options(name), reads));
    EXPECT_EQ(first.reason, RunnerResult::Reason::kSignal) << reads;
    run(options(name));
    EXPECT_EQ(fingerprint(db(name)), fingerprint(db("undisturbed.db"))) << reads;
  }
}

TEST_F(CudaRunner, RunsBegunOnTheDeviceAreRefusedOnTheCpuUnlessRestarted) {
  run(interrupted(options(), 2));
  RunnerOptions cpu = lab_options(db());
  try {
    run(cpu);
    FAIL() << "runs of a CUDA device were resumed on the CPU";
  } catch (const ResumeRefused& e) {
    EXPECT_THAT(e.what(), HasSubstr("begun with cuda, " + name_));
    EXPECT_THAT(e.what(), HasSubstr("--restart"));
  }
  cpu.restart = true;
  run(cpu);
  RunStore store(db());
  for (const RunSummary& r : store.summaries(std::vector{run_id(tiny_run(1, 0.003))}))
    EXPECT_EQ(r.status, "finished");
}

TEST_F(CudaRunner, ExecutionsNameDeviceLibrariesAndThePrecisionOfEachRun) {
  RunConfig fp32 = tiny_run(1, 0.01), tf32 = fp32;
  fp32.train.precision = "fp32", tf32.train.precision = "tf32";
  ASSERT_NE(shape_key(fp32), shape_key(tf32));  // one cohort has one precision
  ProgressSink silent;
  const std::vector<NamedRun> runs = {{fp32, "fp32"}, {tf32, "tf32"}};
  EXPECT_EQ(run_all(runs, std::nullopt, options(), silent).finished, 2);
  RunStore store(db());
  Statement query(store.database(),
                  "SELECT r.name, e.precision, e.backend, e.device, e.libraries, "
                  "e.peak_memory_bytes FROM run_executions x JOIN runs r ON r.id = x.run JOIN "
                  "executions e ON e.id = x.execution ORDER BY r.name");
  for (const char* name : {"fp32", "tf32"}) {
    ASSERT_TRUE(query.step());
    EXPECT_EQ(query.text(0), name);
    EXPECT_EQ(query.text(1), name);
    EXPECT_EQ(query.text(2), "cuda");
    EXPECT_EQ(query.text(3), name_);
    EXPECT_THAT(query.text(4), HasSubstr("\"cuda_runtime\""));
    EXPECT_GT(query.integer(5), 0);
  }
  EXPECT_FALSE(query.step());
}

TEST_F(CudaRunner, RowsAreThoseOfTheCpuAndValuesAgree) {
  RunConfig config = tiny_run(1, 0.003);
  ProgressSink silent;
  const std::vector<NamedRun> runs = {{config, "one"}};
  run_all(runs, std::nullopt, options("cuda.db"), silent);
  run_all(runs, std::nullopt, lab_options(db("cpu.db")), silent);
  std::vector<std::vector<double>> rows[2];
  int which = 0;
  for (const char* name : {"cuda.db", "cpu.db"}) {
    RunStore store(db(name));
    Statement query(store.database(), "SELECT step, loss, lr FROM metrics ORDER BY step");
    while (query.step()) rows[which].push_back({query.real(0), query.real(1), query.real(2)});
    ++which;
  }
  ASSERT_EQ(rows[0].size(), rows[1].size());
  for (size_t i = 0; i < rows[0].size(); ++i) {
    EXPECT_EQ(rows[0][i][0], rows[1][i][0]);
    EXPECT_NEAR(rows[0][i][1], rows[1][i][1], 1e-2 * rows[1][i][1]) << rows[1][i][0];
    EXPECT_DOUBLE_EQ(rows[0][i][2], rows[1][i][2]);
  }
}

}  // namespace
}  // namespace statelab
