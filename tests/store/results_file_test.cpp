#include "store/results_file.h"

#include <fstream>
#include <sstream>

#include "tests/store/store_fixture.h"

namespace statelab {
namespace {

class ResultsFile : public StoreTest {
 protected:
  /// Adds run `index` to the sweep and finishes it, with validations at steps 5 and 10.
  static void finish(RunStore& store, int index, const std::string& sweep = "sweep") {
    const std::vector<NewRun> one = {run(index)};
    store.add_runs(one, SweepRecord{sweep, "runs of " + sweep, "[]", "a command line"});
    store.select_work(ids(one));
    const std::string owner = new_lease_owner();
    ASSERT_EQ(store.claim(owner, origin(), 1).size(), 1u);
    MemberCommit m = member(one[0].run_id, 10, "weights");
    m.evaluations = {evaluation("validation", 5, 40), evaluation("validation", 10, 40),
                     evaluation("test", 10, 40)};
    m.evaluations[2].curve = {{39, 100, 80, 80}};
    m.evaluations[2].tokens_correct = 70 + index;
    m.status = "finished";
    m.selected_step = 10;
    store.commit(owner, store.begin_execution(execution()), std::span(&m, 1));
  }
  static std::string text_of(Database& database, const std::string& sweep = "") {
    std::ostringstream out;
    write_results(database, sweep, out);
    return out.str();
  }
  std::filesystem::path written(const std::string& text, const std::string& name = "r.jsonl") {
    std::ofstream(file(name), std::ios::binary) << text;
    return file(name);
  }
  /// Message of the StoreError, "" when there was none.
  static std::string refusal(Database& database, const std::filesystem::path& file) {
    try {
      read_results(database, file);
    } catch (const StoreError& e) {
      EXPECT_EQ(e.code, StoreError::kMismatch);
      return e.what();
    }
    return "";
  }
};

TEST_F(ResultsFile, KeepsScoresIdentityAndOriginAndLeavesTheRest) {
  RunStore a(file("a.db")), b(file("b.db"));
  finish(a, 0);
  finish(a, 1);
  const auto path = written(text_of(a.database()));
  const ResultCounts counts = read_results(b.database(), path);
  EXPECT_EQ(counts.runs, 2);
  EXPECT_EQ(counts.sweeps, 1);
  EXPECT_EQ(counts.executions, 2);
  EXPECT_EQ(counts.evaluations, 6);
  EXPECT_EQ(b.config(run(1).run_id), run(1).config) << "else the id would not be its hash";
  EXPECT_EQ(b.evaluations(run(1).run_id, "test").at(0).tokens_correct, 71);
  EXPECT_EQ(b.evaluations(run(1).run_id, "validation").size(), 2u)
      << "steps to solve are read from all validations";
  EXPECT_EQ(count(b.database(),
                  "SELECT count(*) FROM v_runs WHERE device = 'a processor' AND "
                  "build = 'build1' AND status = 'finished'"),
            2);
  EXPECT_EQ(count(b.database(), "SELECT count(*) FROM sweep_runs"), 2);
  for (const char* table : {"metrics", "curves", "checkpoints"})
    EXPECT_EQ(count(b.database(), std::string("SELECT count(*) FROM ") + table), 0) << table;
}

TEST_F(ResultsFile, NamesNoMachineAndNoCommandLine) {
  RunStore a(file("a.db"));
  finish(a, 0);
  const std::string text = text_of(a.database());
  for (const char* gone : {"\"host\"", "\"here\"", "\"pid\"", "a command line"})
    EXPECT_EQ(text.find(gone), std::string::npos) << gone;
}

TEST_F(ResultsFile, WrittenAgainFromWhatWasReadItIsTheSameText) {
  RunStore a(file("a.db")), b(file("b.db"));
  for (int i = 0; i < 3; ++i) finish(a, i);
  const std::string text = text_of(a.database());
  read_results(b.database(), written(text));
  EXPECT_EQ(text_of(b.database()), text);
}

TEST_F(ResultsFile, ReadingTwiceChangesNothing) {
  RunStore a(file("a.db")), b(file("b.db"));
  finish(a, 0);
  const auto path = written(text_of(a.database()));
  EXPECT_EQ(read_results(b.database(), path).kept, 0);
  const ResultCounts again = read_results(b.database(), path);
  EXPECT_EQ(again.runs + again.sweeps + again.executions + again.evaluations, 0);
  EXPECT_EQ(again.kept, 1);
  EXPECT_EQ(count(b.database(), "SELECT count(*) FROM evaluations"), 3);
}

TEST_F(ResultsFile, RunsAreCountedHoweverTheirLinesAreSpaced) {
  RunStore a(file("a.db")), b(file("b.db"));
  finish(a, 0);
  std::string text = text_of(a.database());
  const std::string begin = "\n{\"run\":";
  ASSERT_NE(text.find(begin), std::string::npos);
  text.replace(text.find(begin), begin.size(), "\n{ \"run\": ");
  const auto path = written(text);
  const ResultCounts first = read_results(b.database(), path);
  EXPECT_EQ(first.runs, 1);
  EXPECT_EQ(first.kept, 0);
  EXPECT_EQ(read_results(b.database(), path).kept, 1);
}

TEST_F(ResultsFile, MayHoldOneSweepAndNoUnfinishedRun) {
  RunStore a(file("a.db")), b(file("b.db"));
  finish(a, 0, "one");
  finish(a, 1, "two");
  const std::vector<NewRun> pending = {run(2)};
  a.add_runs(pending, SweepRecord{"two", "runs of two", "[]", ""});
  EXPECT_EQ(read_results(b.database(), written(text_of(a.database(), "two"))).runs, 1);
  EXPECT_EQ(b.summaries(ids({run(0), run(1), run(2)})).at(0).run_id, run(1).run_id);
  EXPECT_THROW(text_of(a.database(), "three"), StoreError);
}

TEST_F(ResultsFile, DamageIsRefusedWithItsLineAndAddsNothing) {
  RunStore a(file("a.db")), b(file("b.db"));
  finish(a, 0);
  const std::string text = text_of(a.database());
  const size_t last = text.rfind("{\"run\"");
  EXPECT_NE(refusal(b.database(), written("{\"statelab_results\":2}\n")).find("r.jsonl:1: must"),
            std::string::npos);
  EXPECT_NE(refusal(b.database(), written(text.substr(0, text.size() / 2) + "\n")).find("r.jsonl:"),
            std::string::npos);
  EXPECT_NE(refusal(b.database(), written(text.substr(0, last) + "{\"walk\":{}}\n"))
                .find("r.jsonl:4: begins with the key \"walk\""),
            std::string::npos);
  std::string wrong = text;
  wrong.replace(wrong.find("\"tokens_correct\":"), 17, "\"tokens_corrupt\":");
  EXPECT_NE(refusal(b.database(), written(wrong)).find("r.jsonl:4: "), std::string::npos);
  EXPECT_EQ(count(b.database(), "SELECT count(*) FROM runs"), 0);
  EXPECT_EQ(count(b.database(), "SELECT count(*) FROM sweeps"), 0);
}

TEST_F(ResultsFile, IsToldFromADatabaseByItsFirstBytes) {
  RunStore a(file("a.db"));
  finish(a, 0);
  EXPECT_TRUE(is_results_file(written(text_of(a.database()))));
  EXPECT_FALSE(is_results_file(file("a.db")));
  EXPECT_FALSE(is_results_file(written("{}", "other.json")));
  EXPECT_FALSE(is_results_file(file("missing")));
}

}  // namespace
}  // namespace statelab
