// What the quickstart promises: at the last position and twice the longest trained length, Mamba-3 knows the parity, and
// Mamba-2 and Mamba-3 without rotation do not. Accuracies are asserted, never the time.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "tests/experiments/quickstart/lab_query.h"

namespace {

namespace fs = std::filesystem;
using statelab::testing_support::query;
using statelab::testing_support::Rows;

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  const size_t n = v.size();
  return n == 0 ? std::nan("") : 0.5 * (v[(n - 1) / 2] + v[n / 2]);
}

TEST(Quickstart, Mamba3GeneralisesToTwiceTheLengthAndTheRealValuedModelsStayAtChance) {
  const fs::path folder = fs::temp_directory_path() / "statelab_quickstart_test";
  fs::remove_all(folder);
  fs::create_directories(folder);
  const fs::path database = folder / "q.db";
  setenv("STATELAB_HOME", STATELAB_SOURCE_DIR, 1);
  const std::string command = std::string(STATELAB_PROGRAM) + " quickstart --progress none --db " +
                              database.string() + " > " + (folder / "table").string();
  ASSERT_EQ(system(command.c_str()), 0);

  const Rows longest = query(database,
                             "SELECT max(json_extract(s.value, '$.length[1]')) FROM runs r, "
                             "json_each(r.config, '$.train.curriculum') s");
  ASSERT_EQ(longest.size(), 1u);
  const int trained = std::stoi(longest[0][0]);
  std::map<std::string, std::map<int, std::vector<double>>> accuracy;
  for (const auto& row :
       query(database,
             "SELECT r.mixer || '/' || r.rotation, e.length_max, e.accuracy, e.sequences, e.tokens "
             "FROM v_evaluations e JOIN v_runs r USING (run_id) WHERE e.split = 'test' AND "
             "e.length_min = e.length_max")) {
    EXPECT_GE(std::stoi(row[3]), 2048);
    EXPECT_EQ(row[3], row[4]);  // one answer a sequence: the last position
    accuracy[row[0]][std::stoi(row[1])].push_back(std::stod(row[2]));
  }
  ASSERT_EQ(accuracy.size(), 3u);
  for (auto& [model, by_length] : accuracy) {
    ASSERT_TRUE(by_length.count(trained) && by_length.count(2 * trained)) << model;
    EXPECT_GE(by_length[2 * trained].size(), 3u) << model;
    if (model == "mamba3/data_dependent") {
      EXPECT_GE(median(by_length[trained]), 0.99);
      EXPECT_GE(median(by_length[2 * trained]), 0.95);
    } else {
      EXPECT_NEAR(median(by_length[2 * trained]), 0.5, 0.05) << model;
      for (const double a : by_length[2 * trained]) EXPECT_NEAR(a, 0.5, 0.05) << model;
    }
  }
  // The three differ in nothing but mixer and rotation: outside `model` they are equal, and of the model's keys that two of
  // them share only those two differ. (Keys that a mixer does not read are not part of its identity.)
  const Rows outside =
      query(database, "SELECT DISTINCT json_remove(config, '$.model', '$.seed') FROM runs");
  EXPECT_EQ(outside.size(), 1u);
  const Rows differing = query(database,
                               "SELECT m.key FROM runs r, json_each(r.config, '$.model') m "
                               "GROUP BY m.key HAVING count(DISTINCT m.value) > 1 ORDER BY m.key");
  ASSERT_FALSE(differing.empty());
  for (const auto& row : differing)
    EXPECT_TRUE(row[0] == "mixer" || row[0] == "rotation") << row[0];
  fs::remove_all(folder);
}

}  // namespace
