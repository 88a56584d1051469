#include "store/run_store.h"

#include "tests/store/store_fixture.h"

namespace statelab {
namespace {

using RunStoreTest = StoreTest;

TEST_F(RunStoreTest, AddingTheSameSweepTwiceAddsNothing) {
  RunStore store(file());
  const SweepRecord sweep{"sweep", "name: sweep", "[\"seeds=3\"]", "statelab run"};
  EXPECT_EQ(store.add_runs(runs(3), sweep), 3);
  EXPECT_EQ(store.add_runs(runs(3), sweep), 0);
  EXPECT_EQ(store.add_runs(runs(5), sweep), 2);
  EXPECT_EQ(count(store.database(), "SELECT count(*) FROM sweeps"), 1);
  EXPECT_EQ(count(store.database(), "SELECT count(*) FROM sweep_runs"), 5);
}

TEST_F(RunStoreTest, HyperparametersAreColumns) {
  RunStore store(file());
  store.add_runs(runs(2));
  Statement query(store.database(),
                  "SELECT task, mixer, d_model, lr, seed FROM v_runs WHERE name = 'run1'");
  ASSERT_TRUE(query.step());
  EXPECT_EQ(query.text(0), "parity");
  EXPECT_EQ(query.text(1), "mamba3");
  EXPECT_EQ(query.integer(2), 8);
  EXPECT_EQ(query.real(3), 0.002);
  EXPECT_EQ(query.integer(4), 1);
}

TEST_F(RunStoreTest, FindsByIdPrefixAndByName) {
  RunStore store(file());
  store.add_runs(runs(20));
  const NewRun wanted = run(7);
  EXPECT_EQ(store.find(wanted.run_id.substr(0, 12)), std::vector{wanted.run_id});
  EXPECT_EQ(store.find("run7"), std::vector{wanted.run_id});
  EXPECT_TRUE(store.find("nothing").empty());
  EXPECT_EQ(store.config(wanted.run_id), wanted.config);
}

TEST_F(RunStoreTest, ResetForgetsResultsAndFilesButNotTheRun) {
  RunStore store(file());
  const auto all = runs(1);
  store.add_runs(all);
  store.select_work(ids(all));
  const std::string owner = new_lease_owner();
  store.claim(owner, origin(), 1);
  MemberCommit m = member(all[0].run_id, 10, "bytes");
  m.status = "finished";
  m.selected_step = 10;
  store.commit(owner, store.begin_execution(execution()), std::span(&m, 1));
  EXPECT_EQ(store.summaries(ids(all))[0].status, "finished");
  EXPECT_EQ(store.reset(ids(all)), 1);
  const RunSummary after = store.summaries(ids(all))[0];
  EXPECT_EQ(after.status, "pending");
  EXPECT_EQ(after.steps_done, 0);
  EXPECT_EQ(count(store.database(), "SELECT count(*) FROM metrics"), 0);
  EXPECT_TRUE(list_checkpoint_files(store.database().files_folder()).empty());
}

TEST_F(RunStoreTest, RemoveTakesRowsAndFilesButNoRunInTraining) {
  RunStore store(file());
  const auto all = runs(2);
  store.add_runs(all, SweepRecord{"s", "c", "[]", ""});
  store.select_work(ids(all));
  const std::string owner = new_lease_owner();
  store.claim(owner, origin(), 1);
  EXPECT_THROW(store.remove(ids(all)), StoreError);
  EXPECT_EQ(store.summaries(ids(all)).size(), 2u);  // all or nothing
  MemberCommit m = member(all[0].run_id, 5, "bytes");
  store.commit(owner, store.begin_execution(execution()), std::span(&m, 1));
  store.release(owner, ids(all));
  EXPECT_EQ(store.remove(ids(all)), 2);
  EXPECT_TRUE(store.summaries(ids(all)).empty());
  EXPECT_EQ(count(store.database(), "SELECT count(*) FROM sweep_runs"), 0);
  EXPECT_TRUE(list_checkpoint_files(store.database().files_folder()).empty());
}

TEST_F(RunStoreTest, ScoresAskedForLaterReplaceThemselves) {
  RunStore store(file());
  const auto all = runs(1);
  store.add_runs(all);
  EvaluationRecord e = evaluation("test", 10, 40);
  e.configured = false;
  e.curve = {{39, 100, 80, 80}};
  store.add_evaluations(all[0].run_id, std::span(&e, 1));
  e.tokens_correct = 90;
  e.curve = {{39, 100, 90, 90}};
  store.add_evaluations(all[0].run_id, std::span(&e, 1));
  ASSERT_EQ(store.evaluations(all[0].run_id, "test").size(), 1u);
  EXPECT_EQ(store.evaluations(all[0].run_id, "test")[0].tokens_correct, 90);
  Statement curve(store.database(),
                  "SELECT position, total, correct, prefix_correct, accuracy FROM v_curves");
  ASSERT_TRUE(curve.step());
  EXPECT_EQ(curve.integer(0), 39);
  EXPECT_EQ(curve.integer(2), 90);
  EXPECT_EQ(curve.real(4), 0.9);
  EXPECT_FALSE(curve.step());
}

TEST_F(RunStoreTest, ScaledAccuracyAndErrorsFollowTheirFormulas) {
  RunStore store(file());
  const auto all = runs(1);
  store.add_runs(all);
  EvaluationRecord e = evaluation("test", 10, 40);  // p = 0.8, n = 100, r = 0.5
  store.add_evaluations(all[0].run_id, std::span(&e, 1));
  Statement query(
      store.database(),
      "SELECT scaled_accuracy, standard_error, scaled_standard_error FROM v_evaluations");
  ASSERT_TRUE(query.step());
  EXPECT_NEAR(query.real(0), 0.6, 1e-12);
  EXPECT_NEAR(query.real(1), 0.04, 1e-12);
  EXPECT_NEAR(query.real(2), 0.08, 1e-12);
}

TEST_F(RunStoreTest, PublishedRowsAreReplacedBySourceAndNeedOne) {
  RunStore store(file());
  PublishedRecord row{
      "paper A", "Table 1", "parity", "xlstm", "256", "mamba3", "scaled_accuracy_pct",
      100.0,     "best",    ""};
  PublishedRecord other = row;
  other.source = "paper B";
  store.set_published(std::vector{row, other});
  row.value = 99.0;
  store.set_published(std::vector{row});
  EXPECT_EQ(count(store.database(), "SELECT count(*) FROM published"), 2);
  EXPECT_EQ(count(store.database(), "SELECT value FROM published WHERE source = 'paper A'"), 99);
  row.source = "";
  EXPECT_THROW(store.set_published(std::vector{row}), StoreError);
}

TEST_F(RunStoreTest, VerificationsKeepTheirProvenance) {
  RunStore store(file());
  const int64_t execution_id = store.begin_execution(execution("build7"));
  const VerificationRecord record{
      "rope", "rotation equals complex state", "{\"n\":64}", 1e-14, 1e-10, true, ""};
  store.add_verifications(execution_id, std::span(&record, 1));
  Statement query(
      store.database(),
      "SELECT v.value, e.build FROM verifications v JOIN executions e ON e.id = v.execution");
  ASSERT_TRUE(query.step());
  EXPECT_EQ(query.real(0), 1e-14);
  EXPECT_EQ(query.text(1), "build7");
}

}  // namespace
}  // namespace statelab
