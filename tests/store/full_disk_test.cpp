// A file size limit stands in for a full disk: it needs no privilege and hits database, log and checkpoints alike.
#include <signal.h>
#include <sys/resource.h>

#include "tests/store/store_fixture.h"

namespace statelab {
namespace {

class SizeLimit {
 public:
  explicit SizeLimit(rlim_t bytes) {
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit{bytes, old_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~SizeLimit() { setrlimit(RLIMIT_FSIZE, &old_); }

 private:
  rlimit old_;
};

using FullDiskTest = StoreTest;

TEST_F(FullDiskTest, CheckpointThatDoesNotFitIsReportedAndNothingIsLost) {
  RunStore store(file());
  const auto all = runs(1);
  store.add_runs(all);
  store.select_work(ids(all));
  const std::string owner = new_lease_owner();
  store.claim(owner, origin(), 1);
  const int64_t execution_id = store.begin_execution(execution());
  MemberCommit m = member(all[0].run_id, 2, "two");
  store.commit(owner, execution_id, std::span(&m, 1));
  m = member(all[0].run_id, 4, std::string(9 << 20, 'x'));
  {
    const SizeLimit limit(8 << 20);
    try {
      store.commit(owner, execution_id, std::span(&m, 1));
      FAIL() << "9 MiB were written to a full disk";
    } catch (const StoreError& e) {
      EXPECT_EQ(e.code, StoreError::kFull);
      EXPECT_EQ(e.extended_code, EFBIG);
      EXPECT_NE(std::string(e.what()).find("make room and run the same command again"),
                std::string::npos)
          << e.what();
    }
  }
  EXPECT_EQ(store.read_checkpoint(store.checkpoint(all[0].run_id, "last").value()), "two");
  EXPECT_EQ(list_checkpoint_files(store.database().files_folder()).size(), 1u);
  store.commit(owner, execution_id, std::span(&m, 1));  // there is room again
  EXPECT_EQ(store.checkpoint(all[0].run_id, "last")->step, 4);
}

TEST_F(FullDiskTest, DatabaseThatCannotGrowIsReportedAndNothingIsLost) {
  RunStore store(file());
  store.add_runs(runs(1));
  std::vector<NewRun> many;
  for (int i = 0; i < 2000; ++i) {
    NewRun r = run(i % 9);
    r.run_id = sha256_hex(std::to_string(i));
    many.push_back(r);
  }
  {
    const SizeLimit limit(256 << 10);
    try {
      store.add_runs(many);
      FAIL() << "2,000 runs were written to a full disk";
    } catch (const StoreError& e) {
      EXPECT_EQ(e.code, StoreError::kFull) << e.what();
      EXPECT_NE(std::string(e.what()).find("no space left for the database"), std::string::npos)
          << e.what();
    }
  }
  EXPECT_EQ(count(store.database(), "SELECT count(*) FROM runs"), 1);
  EXPECT_EQ(store.add_runs(many), 2000);
}

}  // namespace
}  // namespace statelab
