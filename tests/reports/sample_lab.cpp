#include "tests/reports/sample_lab.h"

#include <fmt/format.h>
#include <stdlib.h>

#include <stdexcept>

#include "store/sha256.h"

namespace statelab {
namespace {

// A process that exists: the lease of a dead one would not count.
std::string owner() { return fmt::format("test:{}:0:0", 1); }

EvaluationRecord evaluation(const SampleRun& run, const std::string& split, int64_t step, int low,
                            int high, int64_t right) {
  EvaluationRecord e;
  e.split = split;
  e.step = step;
  e.length_min = low;
  e.length_max = high;
  e.samples = e.sequences = e.tokens = kSampleAnswers;
  e.sequences_correct = e.tokens_correct = right;
  e.chance = run.chance;
  e.constant_answer = run.constant_answer;
  return e;
}

}  // namespace

std::string sample_config(const SampleRun& run, bool group) {
  const std::string rotation =
      run.mixer == "mamba3"            ? fmt::format(R"("rotation":"{}")", run.rotation)
      : run.mixer == "gated_delta_net" ? std::string(R"("eigenvalue_range":[-1,1])")
                                       : std::string(R"("eigenvalue_range":[0,1])");
  return fmt::format(
      R"({{"eval":{{"lengths":[40,80],"select":"last","stop_at":null}},"model":{{"d_model":64,"mixer":"{}","n_layers":1,{}}},)"
      R"({}"task":{{"bos":false,"name":"{}","profile":"{}","supervision":"{}"}},)"
      R"("train":{{"curriculum":{},"optimizer":{{"lr":{}}},"precision":"fp32"}}}})",
      run.mixer, rotation, group ? "" : fmt::format(R"("seed":{},)", run.seed), run.task,
      run.profile, run.supervision, run.curriculum, run.lr);
}

SampleLab::SampleLab() {
  std::string pattern =
      (std::filesystem::temp_directory_path() / "statelab-reports-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr)
    throw std::runtime_error("no temporary folder at " + pattern);
  folder_ = pattern;
  store_.emplace(folder_ / "lab.db");
  ExecutionRecord execution;
  execution.origin = {"cpu", "sample processor", "build-1"};
  execution.code_commit = "0123abc";
  execution.host = "test";
  execution.pid = 1;
  execution_ = store_->begin_execution(execution);
}

SampleLab::~SampleLab() {
  store_.reset();
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

std::vector<std::string> SampleLab::add(const std::string& sweep,
                                        const std::vector<SampleRun>& runs) {
  std::vector<NewRun> rows;
  std::vector<std::string> ids;
  std::map<std::string, const SampleRun*> to_compute;
  for (const SampleRun& run : runs) {
    NewRun& row = rows.emplace_back();
    row.config = sample_config(run);
    row.run_id = sha256_hex(row.config);
    row.group_id = sha256_hex(sample_config(run, true));
    row.shape_key = "one shape";
    row.name = fmt::format("{}-{}-lr{}-s{}", run.task, run.mixer, run.lr, run.seed);
    row.total_steps = 1000;
    ids.push_back(row.run_id);
    if (run.status != "pending") to_compute[row.run_id] = &run;
  }
  store_->add_runs(rows, SweepRecord{sweep, "sweep " + sweep, "[]", "statelab run"});
  std::vector<std::string> work;
  for (const auto& [id, run] : to_compute) work.push_back(id);
  if (work.empty()) return ids;
  store_->select_work(work);
  const auto claimed = store_->claim(owner(), {"cpu", "sample processor", "build-1"},
                                     static_cast<int>(work.size()), 1e6);
  if (claimed.size() != work.size())
    throw std::runtime_error("the sample runs could not all be claimed");
  std::vector<MemberCommit> commits;
  std::vector<std::string> failed;
  for (const auto& [id, run] : to_compute) {
    if (run->status == "failed") {
      failed.push_back(id);
      continue;
    }
    if (run->status == "running") continue;
    MemberCommit& commit = commits.emplace_back();
    commit.run_id = id;
    commit.status = run->status;
    commit.steps_done = 1000;
    commit.parameters = run->mixer == "mamba3" ? 36740 : 30000;
    commit.wall_seconds = run->wall_seconds;
    commit.members = 1;
    if (run->status == "finished") {
      commit.selected_step = 1000;
    } else {
      commit.diverged_at = 700;
    }
    commit.metrics.push_back({1000, 0.25, 0.9, 0.1, run->lr});
    for (const auto& [length, right] : run->test)
      commit.evaluations.push_back(evaluation(*run, "test", 1000, length, length, right));
    for (const auto& [length, right] : run->test_from_40)
      commit.evaluations.push_back(evaluation(*run, "test", 1000, 40, length, right));
    for (const auto& [step, scores] : run->validations) {
      for (const auto& [length, right] : scores) {
        commit.evaluations.push_back(evaluation(*run, "validation", step, length, length, right));
      }
    }
  }
  store_->commit(owner(), execution_, commits, 1e6);
  if (!failed.empty()) store_->fail(owner(), failed, "out of memory: 3 GiB asked, 2 GiB there");
  return ids;
}

}  // namespace statelab
