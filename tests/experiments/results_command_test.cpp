// The commands that reduce, choose, project and compare results, as a user calls them.
#include <set>
#include <string>

#include "tests/experiments/command_fixture.h"

namespace statelab::testing {
namespace {

TEST_F(Command, BenchColumnAddsUpWhatASweepWouldTake) {
  write("tiny.yaml", kTiny);
  const Outcome o = statelab("bench column tiny.yaml seeds=3 --device cpu --seconds 1 --json");
  if (o.code != 0 && o.err.find("benchmarks need a Release build") != std::string::npos)
    GTEST_SKIP() << o.err;
  ASSERT_EQ(o.code, 0) << o.err;
  const Json json = Json::parse(o.out);
  ASSERT_EQ(json.size(), 2u);
  double seconds = 0;
  for (const Json& row : json[0]["rows"]) {
    EXPECT_NEAR(
        row["seconds"].get<double>(),
        row["cohorts"].get<double>() * row["count"].get<double>() / row["per_second"].get<double>(),
        1e-6 * row["seconds"].get<double>());
    seconds += row["seconds"].get<double>();
  }
  const Json& totals = json[1]["rows"];
  ASSERT_EQ(totals.size(), 3u) << "two models and all";
  EXPECT_EQ(totals[2]["model"], "all");
  EXPECT_EQ(totals[2]["runs"], 6);
  EXPECT_NEAR(totals[2]["seconds"].get<double>(), seconds, 1e-6 * seconds);
  EXPECT_NE(statelab("bench column tiny.yaml --device cpu").out.find("cohorts x times / (per"),
            std::string::npos);
  EXPECT_FALSE(fs::exists(folder_ / "statelab.db"));
}

TEST_F(Command, ResultsTravelAsTextAndCompareAlike) {
  write("tiny.yaml", kTiny);
  ASSERT_EQ(statelab("run tiny.yaml").code, 0);
  const Outcome exported = statelab("export-results --sweep tiny --output tiny.jsonl");
  ASSERT_EQ(exported.code, 0) << exported.err;
  EXPECT_NE(exported.out.find("tiny.jsonl: 4 runs with 24 evaluations of 1 sweeps"),
            std::string::npos)
      << exported.out;
  const std::string before = text_of(folder_ / "tiny.jsonl");
  for (const char* command : {"compare --json", "compare --by swept --json", "ls --full-ids --json",
                              "compare --published --other-models --json"}) {
    const Outcome ours = statelab(command);
    const Outcome text = statelab(std::string(command) + " --db tiny.jsonl");
    EXPECT_EQ(text.code, 0) << text.err;
    EXPECT_EQ(text.out, ours.out) << command;
  }
  EXPECT_EQ(text_of(folder_ / "tiny.jsonl"), before) << "reading must not change the file";
  const Outcome merged = statelab("merge fresh.db tiny.jsonl --json");
  EXPECT_EQ(Json::parse(merged.out)["added"], 4) << merged.err;
  EXPECT_EQ(Json::parse(statelab("merge fresh.db tiny.jsonl --json").out)["kept"], 4);
  EXPECT_EQ(statelab("rm tiny --db tiny.jsonl --yes").code, 1) << "a results file is only read";
  write("broken.jsonl", "{\"statelab_results\":1}\n{\"run\":{}}\n");
  const Outcome broken = statelab("ls --db broken.jsonl");
  EXPECT_EQ(broken.code, 1);
  EXPECT_NE(broken.err.find("broken.jsonl:2: "), std::string::npos) << broken.err;
}

TEST_F(Command, TheFiveModelsOfTable5bJoinWithThePapersRows) {
  write("five.yaml", R"(name: five
base:
  task: { name: parity }
  model: { d_model: 8, headdim: 8, d_state: 4, chunk_size: 8 }
  train: { batch: 4, curriculum: [ { steps: 3, length: [3, 8] } ] }
  eval: { lengths: [256], samples: 16, every: 0 }
zip:
  model:
    model.mixer: [mamba3, mamba3, mamba3, mamba2, gated_delta_net]
    model.rotation: [data_dependent, standard, none, none, none]
    model.eigenvalue_range: [[0, 1], [0, 1], [0, 1], [0, 1], [-1, 1]]
)");
  ASSERT_EQ(statelab("run five.yaml").code, 0);
  const Json table =
      Json::parse(statelab("compare --published --source 2603.15569 --json").out)["rows"];
  std::set<std::string> models;
  for (const Json& row : table) {
    models.insert(row["model"]);
    for (const char* key : {"ours", "ours_best", "ours_median", "ours_success", "ours_success_low",
                            "ours_standard_error", "chance", "best_useless", "published"})
      EXPECT_TRUE(row[key].is_number()) << key << row.dump();
    EXPECT_NE(row["differs_in"].get<std::string>().find("curriculum"), std::string::npos);
  }
  EXPECT_EQ(models, (std::set<std::string>{"mamba3", "mamba3_standard_rope", "mamba3_no_rope",
                                           "mamba2", "gated_delta_net[-1,1]"}));
  EXPECT_NE(statelab("report --published --source 2603.15569 --format tex")
                .out.find("gated\\_delta\\_net"),
            std::string::npos);
}

TEST_F(Command, ConfirmWritesASweepOfTheBestSettingsWithFreshSeeds) {
  write("tiny.yaml", kTiny);
  ASSERT_EQ(statelab("run tiny.yaml train.optimizer.lr=0.001,0.002,0.003").code, 0);
  const Outcome o = statelab("confirm tiny --top 2 --seeds 7,8,9");
  ASSERT_EQ(o.code, 0) << o.err;
  EXPECT_NE(o.out.find("by validation at length 16"), std::string::npos) << o.out;
  write("again.yaml", o.out);
  const Outcome dry = statelab("run again.yaml --dry-run --json");
  ASSERT_EQ(dry.code, 0) << dry.err;
  EXPECT_EQ(Json::parse(dry.out)["rows"].size(), 12u) << "two models, two settings, three seeds";
  for (const Json& row : Json::parse(dry.out)["rows"]) EXPECT_EQ(row["state"], "new");
  const Outcome used = statelab("confirm tiny --seeds 1,7");
  EXPECT_EQ(used.code, 2);
  EXPECT_NE(used.err.find("1 was used in sweep tiny"), std::string::npos) << used.err;
  EXPECT_EQ(statelab("confirm other").code, 2);
  EXPECT_EQ(statelab("confirm tiny --seeds many").code, 2);
  EXPECT_EQ(statelab("confirm tiny --length 8,16").code, 2);
}

TEST_F(Command, CompareByShowsEachValueOfEachSetting) {
  write("tiny.yaml", kTiny);
  ASSERT_EQ(statelab("run tiny.yaml train.optimizer.lr=0.001,0.002").code, 0);
  const Json json = Json::parse(statelab("compare --by swept --threshold 0.01 --json").out);
  ASSERT_EQ(json["rows"].size(), 5u) << json.dump();
  EXPECT_EQ(json["rows"][4]["runs"], 8);
  EXPECT_EQ(json["rows"][4]["longest_best"], 16);
  EXPECT_EQ(Json::parse(statelab("compare --by model --json").out)["rows"].size(), 3u);
  EXPECT_EQ(statelab("compare --by swept --group model").code, 2);
  EXPECT_EQ(statelab("compare --by swept --published").code, 2);
}

TEST_F(Command, UnknownSettingsAreRefusedBesideThoseThatRunsHave) {
  write("tiny.yaml", kTiny);
  ASSERT_EQ(statelab("run tiny.yaml").code, 0);
  const std::string before = text_of(folder_ / "statelab.db");
  for (const std::string command : {"compare --by", "compare --group", "report --group",
                                    "report --output page --group", "confirm tiny --group"}) {
    for (const std::string key : {"nonsense", "model.d_stat", "seed", "swept,model"}) {
      const Outcome o = statelab(command + " model," + key);
      EXPECT_EQ(o.code, 2) << command << " " << key << o.err;
      EXPECT_EQ(o.out, "") << command << " " << key;
      const std::string unknown = key.substr(0, key.find(','));
      EXPECT_NE(o.err.find("no run has a setting \"" + unknown + "\""), std::string::npos) << o.err;
      EXPECT_NE(o.err.find(" are model, task.name, "), std::string::npos) << o.err;
      EXPECT_NE(o.err.find(", model.rotation, "), std::string::npos)
          << "one mixer has it: " << o.err;
    }
    EXPECT_FALSE(fs::exists(folder_ / "page"));
    EXPECT_EQ(statelab(command + " model.rotation").code, 0) << command;
    fs::remove_all(folder_ / "page");
  }
  EXPECT_EQ(text_of(folder_ / "statelab.db"), before) << "reading must not change the database";
}

}  // namespace
}  // namespace statelab::testing
