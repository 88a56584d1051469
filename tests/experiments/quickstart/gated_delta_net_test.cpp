// What experiments/configs/gated_delta_net promises, with one of its seeds: the delta rules with eigenvalues in [-1, 1] and
// the LSTM know the parity at twice the longest trained length, Gated DeltaNet with [0, 1] does not. Accuracies are asserted,
// never the time.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <map>
#include <string>

#include "tests/experiments/quickstart/lab_query.h"

namespace {

namespace fs = std::filesystem;
using statelab::testing_support::query;
using statelab::testing_support::Rows;

TEST(GatedDeltaNetConfig, SolvesParityAtTwiceTheLengthOnlyWithNegativeEigenvalues) {
  const fs::path folder = fs::temp_directory_path() / "statelab_gated_delta_net_test";
  fs::remove_all(folder);
  fs::create_directories(folder);
  const fs::path database = folder / "lab.db";
  const std::string command =
      std::string(STATELAB_PROGRAM) +
      " run " STATELAB_SOURCE_DIR
      "/experiments/configs/gated_delta_net/sweep.yaml 'seeds=[101]' --device "
      "cpu --progress none --db " +
      database.string() + " > " + (folder / "table").string();
  ASSERT_EQ(system(command.c_str()), 0);

  const Rows longest = query(database,
                             "SELECT max(json_extract(s.value, '$.length[1]')) FROM runs r, "
                             "json_each(r.config, '$.train.curriculum') s");
  ASSERT_EQ(longest.size(), 1u);
  std::map<std::string, double> accuracy;
  for (const auto& row :
       query(database,
             "SELECT r.mixer || coalesce(json_extract(c.config, '$.model.eigenvalue_range'), ''), "
             "e.accuracy FROM v_evaluations e JOIN v_runs r USING (run_id) JOIN runs c USING "
             "(run_id) WHERE e.split = 'test' AND e.length_min = e.length_max AND e.length_max = "
             "2 * " +
                 longest[0][0])) {
    accuracy[row[0]] = std::stod(row[1]);
  }
  ASSERT_EQ(accuracy.size(), 4u);
  for (const char* solves : {"gated_delta_net[-1,1]", "delta_net[-1,1]", "lstm"}) {
    ASSERT_TRUE(accuracy.count(solves)) << solves;
    EXPECT_GE(accuracy[solves], 0.95) << solves;
  }
  ASSERT_TRUE(accuracy.count("gated_delta_net[0,1]"));
  EXPECT_NEAR(accuracy["gated_delta_net[0,1]"], 0.5, 0.05);
  fs::remove_all(folder);
}

}  // namespace
