// A database of its own for each test, and runs to put into it.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "store/lease.h"
#include "store/run_store.h"
#include "store/sha256.h"

namespace statelab {

class StoreTest : public testing::Test {
 protected:
  StoreTest() {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::path(testing::TempDir()) /
              ("statelab_" + std::string(info->test_suite_name()) + "_" + info->name() + "_" +
               std::to_string(getpid()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  ~StoreTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  std::filesystem::path file(const std::string& name = "lab.db") const { return folder_ / name; }

  /// Run `index`: ten steps, learning rate 0.001 * (index + 1).
  static NewRun run(int index, const std::string& shape = "shape",
                    const std::string& init_from = "none") {
    const std::string config =
        R"({"eval":{"select":"last"},"model":{"d_model":8,"mixer":"mamba3"},"seed":)" +
        std::to_string(index) + R"(,"task":{"name":"parity"},"train":{"init_from":")" + init_from +
        R"(","optimizer":{"lr":0.00)" + std::to_string(index + 1) + "}}}";
    return {sha256_hex(config), "group", shape, "run" + std::to_string(index), config, 10};
  }
  static std::vector<NewRun> runs(int count) {
    std::vector<NewRun> all;
    for (int i = 0; i < count; ++i) all.push_back(run(i));
    return all;
  }
  static std::vector<std::string> ids(const std::vector<NewRun>& runs) {
    std::vector<std::string> all;
    for (const NewRun& r : runs) all.push_back(r.run_id);
    return all;
  }
  static ExecutionRecord execution(const std::string& build = "build1") {
    ExecutionRecord record;
    record.origin = {"cpu", "a processor", build};
    record.host = "here";
    record.pid = 1;
    return record;
  }
  static Origin origin() { return execution().origin; }

  static EvaluationRecord evaluation(const std::string& split, int64_t step, int length) {
    EvaluationRecord e;
    e.split = split;
    e.step = step;
    e.length_min = e.length_max = length;
    e.samples = e.sequences = e.tokens = 100;
    e.sequences_correct = e.tokens_correct = 80;
    e.chance = 0.5;
    e.constant_answer = 0.5;
    e.loss = 0.25;
    return e;
  }
  static MemberCommit member(const std::string& run_id, int64_t step, const std::string& bytes) {
    MemberCommit m;
    m.run_id = run_id;
    m.steps_done = step;
    m.parameters = 7;
    m.metrics = {{step, 0.5, 0.75, 1.25, 0.001}};
    m.last = bytes;
    return m;
  }
  static int64_t count(Database& database, const std::string& sql) {
    Statement query(database, sql);
    query.step();
    return query.integer(0);
  }

  std::filesystem::path folder_;
};

}  // namespace statelab
