#include "store/merge.h"

#include "tests/store/store_fixture.h"

namespace statelab {
namespace {

class MergeTest : public StoreTest {
 protected:
  /// Trains run `index` in `store` up to `step`; 10 finishes it.
  static void train(RunStore& store, int index, int64_t step, const std::string& bytes) {
    const std::vector<NewRun> one = {run(index)};
    store.add_runs(one, SweepRecord{"sweep", "runs", "[]", ""});
    store.select_work(ids(one));
    const std::string owner = new_lease_owner();
    ASSERT_EQ(store.claim(owner, origin(), 1).size(), 1u);
    MemberCommit m = member(one[0].run_id, step, bytes);
    m.evaluations = {evaluation("validation", step, 40)};
    m.evaluations[0].curve = {{39, 100, 80, 80}};
    if (step == 10) {
      m.status = "finished";
      m.selected_step = 10;
    }
    store.commit(owner, store.begin_execution(execution()), std::span(&m, 1));
    store.release(owner, ids(one));
  }
  static std::string content(Database& db) {
    std::string all;
    for (
        const char* sql :
        {"SELECT run_id, status, steps_done FROM runs ORDER BY run_id",
         "SELECT r.run_id, m.step, m.loss FROM metrics m JOIN runs r ON r.id = m.run ORDER BY 1, 2",
         "SELECT run_id, split, step, length_max, tokens_correct FROM v_evaluations ORDER BY 1, 2, "
         "3, 4",
         "SELECT run_id, position, correct FROM v_curves ORDER BY 1, 2",
         "SELECT r.run_id, c.kind, c.sha256 FROM checkpoints c JOIN runs r ON r.id = c.run ORDER "
         "BY 1",
         "SELECT execution_id FROM executions ORDER BY 1", "SELECT sweep_id FROM sweeps ORDER BY 1",
         "SELECT count(*) FROM sweep_runs", "SELECT count(*) FROM run_executions"}) {
      Statement query(db, sql);
      while (query.step()) {
        for (int i = 0; i < query.columns(); ++i) all += query.text(i) + '|';
        all += '\n';
      }
    }
    return all;
  }
};

TEST_F(MergeTest, BringsMissingRunsWithTheirFiles) {
  RunStore a(file("a.db")), b(file("b.db"));
  train(a, 0, 10, "a0");
  train(b, 1, 10, "b1");
  const MergeCounts counts = merge(a.database(), file("b.db"));
  EXPECT_EQ(counts.added, 1);
  EXPECT_EQ(counts.files, 1);
  EXPECT_EQ(a.summaries(ids({run(0), run(1)})).size(), 2u);
  EXPECT_EQ(a.read_checkpoint(a.checkpoint(run(1).run_id, "last").value()), "b1");
  EXPECT_EQ(a.evaluations(run(1).run_id, "validation").size(), 1u);
}

TEST_F(MergeTest, SecondTimeChangesNothing) {
  RunStore a(file("a.db")), b(file("b.db"));
  train(a, 0, 4, "a0");
  train(b, 0, 10, "b0");
  train(b, 1, 6, "b1");
  merge(a.database(), file("b.db"));
  const std::string once = content(a.database());
  const MergeCounts counts = merge(a.database(), file("b.db"));
  EXPECT_EQ(counts.added + counts.replaced + counts.files, 0);
  EXPECT_EQ(content(a.database()), once);
}

TEST_F(MergeTest, TheRunThatGotFurtherStands) {
  RunStore a(file("a.db")), b(file("b.db"));
  train(a, 0, 4, "a0 at 4");
  train(b, 0, 10, "b0 at 10");
  train(a, 1, 10, "a1 at 10");
  train(b, 1, 6, "b1 at 6");
  EXPECT_EQ(merge(a.database(), file("b.db")).replaced, 1);
  EXPECT_EQ(a.read_checkpoint(a.checkpoint(run(0).run_id, "last").value()), "b0 at 10");
  EXPECT_EQ(a.read_checkpoint(a.checkpoint(run(1).run_id, "last").value()), "a1 at 10");
  EXPECT_EQ(list_checkpoint_files(a.database().files_folder()).size(), 2u);
  EXPECT_EQ(count(a.database(), "SELECT count(*) FROM metrics"), 2);
}

TEST_F(MergeTest, OrderDoesNotMatter) {
  RunStore a(file("a.db")), b(file("b.db")), ab(file("ab.db")), ba(file("ba.db"));
  train(a, 0, 4, "a0");
  train(b, 0, 10, "b0");
  train(a, 2, 10, "a2");
  train(b, 1, 6, "b1");
  merge(ab.database(), file("a.db"));
  merge(ab.database(), file("b.db"));
  merge(ba.database(), file("b.db"));
  merge(ba.database(), file("a.db"));
  EXPECT_EQ(content(ab.database()), content(ba.database()));
}

TEST_F(MergeTest, ScoresAskedForLaterAreUnited) {
  RunStore a(file("a.db")), b(file("b.db"));
  train(a, 0, 10, "same");
  train(b, 0, 10, "same");
  for (auto [store, length] : {std::pair{&a, 100}, std::pair{&b, 200}}) {
    EvaluationRecord e = evaluation("test", 10, length);
    e.configured = false;
    store->add_evaluations(run(0).run_id, std::span(&e, 1));
  }
  merge(a.database(), file("b.db"));
  EXPECT_EQ(a.evaluations(run(0).run_id, "test").size(), 2u);
}

TEST_F(MergeTest, FailureLeavesTheTargetAsItWas) {
  RunStore a(file("a.db")), b(file("b.db"));
  train(a, 0, 10, "a0");
  train(b, 1, 10, "b1");
  std::filesystem::remove_all(b.database().files_folder());
  const std::string before = content(a.database());
  EXPECT_THROW(merge(a.database(), file("b.db")), StoreError);
  EXPECT_EQ(content(a.database()), before);
  EXPECT_THROW(merge(a.database(), file("a.db")), StoreError);
  EXPECT_THROW(merge(a.database(), file("none.db")), StoreError);
}

}  // namespace
}  // namespace statelab
