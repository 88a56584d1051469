#include <fstream>

#include "tests/store/store_fixture.h"

namespace statelab {
namespace {

class CommitTest : public StoreTest {
 protected:
  CommitTest() : store_(file()), all_(runs(2)), owner_(new_lease_owner()) {
    store_.add_runs(all_);
    store_.select_work(ids(all_));
    store_.claim(owner_, origin(), 2);
    execution_ = store_.begin_execution(execution());
  }
  void commit(std::vector<MemberCommit> members) { store_.commit(owner_, execution_, members); }
  std::vector<std::string> files() {
    return list_checkpoint_files(store_.database().files_folder());
  }

  RunStore store_;
  std::vector<NewRun> all_;
  std::string owner_;
  int64_t execution_ = 0;
};

TEST_F(CommitTest, SupersededFilesAreDeletedAndTheNewOneCanBeRead) {
  commit({member(all_[0].run_id, 2, "two"), member(all_[1].run_id, 2, "zwei")});
  commit({member(all_[0].run_id, 4, "four"), member(all_[1].run_id, 4, "vier")});
  EXPECT_EQ(files().size(), 2u);
  EXPECT_EQ(store_.read_checkpoint(store_.checkpoint(all_[0].run_id, "last").value()), "four");
  EXPECT_EQ(store_.checkpoint(all_[0].run_id, "last")->file.sha256, sha256_hex("four"));
  EXPECT_EQ(count(store_.database(), "SELECT count(*) FROM metrics"), 4);
  EXPECT_EQ(count(store_.database(), "SELECT max(to_step) FROM run_executions"), 4);
}

TEST_F(CommitTest, BestAndLastShareAFileUntilTheyDiffer) {
  MemberCommit m = member(all_[0].run_id, 2, "two");
  m.best = "two";
  m.best_step = 2;
  commit({m});
  EXPECT_EQ(files().size(), 1u);
  commit({member(all_[0].run_id, 4, "four")});
  EXPECT_EQ(files().size(), 2u);
  EXPECT_EQ(store_.read_checkpoint(store_.checkpoint(all_[0].run_id, "best").value()), "two");
  EXPECT_EQ(store_.checkpoint(all_[0].run_id, "best")->step, 2);
}

TEST_F(CommitTest, BestAndLastOfOneStepMayHaveDifferentBytes) {
  MemberCommit m = member(all_[0].run_id, 2, "two with a window");
  m.best = "two";
  m.best_step = 2;
  commit({m});
  EXPECT_EQ(store_.read_checkpoint(store_.checkpoint(all_[0].run_id, "last").value()),
            "two with a window");
  EXPECT_EQ(store_.read_checkpoint(store_.checkpoint(all_[0].run_id, "best").value()), "two");
}

TEST_F(CommitTest, WorkerWithoutItsLeaseChangesNothing) {
  commit({member(all_[0].run_id, 2, "two")});
  const std::string thief = new_lease_owner();
  store_.release(owner_, ids(all_));
  ASSERT_EQ(store_.claim(thief, origin(), 1).size(), 1u);
  EXPECT_THROW(commit({member(all_[0].run_id, 4, "four"), member(all_[1].run_id, 4, "vier")}),
               LeaseLost);
  EXPECT_EQ(store_.summaries(ids(all_))[0].steps_done, 2);
  EXPECT_EQ(count(store_.database(), "SELECT max(step) FROM metrics"), 2);
  EXPECT_EQ(files().size(), 1u) << "files of the refused commit must go";
}

TEST_F(CommitTest, FailureOfOneMemberTakesAllBack) {
  MemberCommit bad = member(all_[1].run_id, 2, "zwei");
  bad.metrics.push_back(bad.metrics[0]);  // the same step twice
  EXPECT_THROW(commit({member(all_[0].run_id, 2, "two"), bad}), StoreError);
  EXPECT_EQ(count(store_.database(), "SELECT count(*) FROM metrics"), 0);
  EXPECT_EQ(count(store_.database(), "SELECT count(*) FROM checkpoints"), 0);
  EXPECT_TRUE(files().empty());
}

TEST_F(CommitTest, FinalRunsGiveTheirLeaseBack) {
  MemberCommit m = member(all_[0].run_id, 10, "ten");
  m.status = "diverged";
  m.diverged_at = 9;
  commit({m});
  EXPECT_EQ(count(store_.database(),
                  "SELECT count(*) FROM runs WHERE lease_owner IS NULL AND status = 'diverged' "
                  "AND diverged_at = 9 AND finished_at IS NOT NULL"),
            1);
  EXPECT_EQ(store_.work_by_status()["running"], 1);
}

TEST_F(CommitTest, FailedRunsKeepTheirErrorAndCanBeRetried) {
  store_.fail(owner_, ids(all_), "the reason");
  EXPECT_EQ(store_.summaries(ids(all_))[1].error, "the reason");
  EXPECT_EQ(store_.work_by_status()["failed"], 2);
  EXPECT_EQ(store_.retry_failed(ids(all_)), 2);
  EXPECT_EQ(store_.claim(owner_, origin(), 2).size(), 2u);
}

TEST_F(CommitTest, ChangedCheckpointFileIsRefused) {
  commit({member(all_[0].run_id, 2, "two")});
  const CheckpointRecord record = store_.checkpoint(all_[0].run_id, "last").value();
  std::ofstream(store_.database().files_folder() / record.file.path) << "two!";
  try {
    store_.read_checkpoint(record);
    FAIL() << "a changed file was read";
  } catch (const StoreError& e) {
    EXPECT_EQ(e.code, StoreError::kMismatch);
    EXPECT_NE(std::string(e.what()).find("was changed after it was written: 4 bytes"),
              std::string::npos)
        << e.what();
  }
}

TEST_F(CommitTest, OrphansAreDeletedOnlyWhereNobodyWorks) {
  commit({member(all_[0].run_id, 2, "two"), member(all_[1].run_id, 2, "zwei")});
  const auto folder = store_.database().files_folder();
  const std::string held =
      write_checkpoint_file(folder, all_[0].run_id, 3, "00000000", "held").path;
  const std::string orphan =
      write_checkpoint_file(folder, run(5).run_id, 3, "00000000", "orphan").path;
  const std::string temporary = orphan + ".tmp";
  std::ofstream(folder / temporary) << "half";
  std::ofstream(folder / "checkpoints/notes.txt") << "somebody's";
  EXPECT_EQ(store_.sweep_orphans(), 2);
  EXPECT_TRUE(std::filesystem::exists(folder / held));
  EXPECT_FALSE(std::filesystem::exists(folder / orphan));
  EXPECT_FALSE(std::filesystem::exists(folder / temporary));
  EXPECT_TRUE(std::filesystem::exists(folder / "checkpoints/notes.txt"));
  store_.release(owner_, ids(all_));
  EXPECT_EQ(store_.sweep_orphans(), 1);
  EXPECT_EQ(files().size(), 3u);  // two referenced, one of somebody else
}

}  // namespace
}  // namespace statelab
