#include <sys/wait.h>

#include <chrono>
#include <set>
#include <thread>

#include "tests/store/store_fixture.h"

namespace statelab {
namespace {

using ClaimTest = StoreTest;

std::vector<std::string> claimed_ids(const std::vector<ClaimedRun>& claimed) {
  std::vector<std::string> all;
  for (const ClaimedRun& r : claimed) all.push_back(r.run_id);
  return all;
}

TEST_F(ClaimTest, TakesOneShapeInOrderUpToTheLimit) {
  RunStore store(file());
  std::vector<NewRun> all = {run(0, "x"), run(1, "y"), run(2, "x"), run(3, "x")};
  store.add_runs(all);
  store.select_work(ids(all));
  const std::string owner = new_lease_owner();
  EXPECT_EQ(claimed_ids(store.claim(owner, origin(), 2)),
            (std::vector{all[0].run_id, all[2].run_id}));
  EXPECT_EQ(claimed_ids(store.claim(owner, origin(), 2)), (std::vector{all[1].run_id}));
  EXPECT_EQ(claimed_ids(store.claim(owner, origin(), 2)), (std::vector{all[3].run_id}));
  EXPECT_TRUE(store.claim(owner, origin(), 2).empty());
  EXPECT_EQ(store.work_by_status(), (std::map<std::string, int64_t>{{"running", 4}}));
}

TEST_F(ClaimTest, RunsAtDifferentCheckpointsAreNotMixed) {
  RunStore store(file());
  const auto all = runs(3);
  store.add_runs(all);
  store.select_work(ids(all));
  const std::string owner = new_lease_owner();
  store.claim(owner, origin(), 1);
  MemberCommit m = member(all[0].run_id, 5, "state");
  store.commit(owner, store.begin_execution(execution()), std::span(&m, 1));
  store.release(owner, ids(all));
  const auto first = store.claim(owner, origin(), 9);
  ASSERT_EQ(claimed_ids(first), std::vector{all[0].run_id});
  EXPECT_EQ(first[0].steps_done, 5);
  ASSERT_TRUE(first[0].last.has_value());
  EXPECT_EQ(store.read_checkpoint(*first[0].last), "state");
  EXPECT_EQ(store.claim(owner, origin(), 9).size(), 2u);
}

TEST_F(ClaimTest, RunsThatStartFromAnotherRunWaitForIt) {
  RunStore store(file());
  const NewRun source = run(0);
  const std::vector<NewRun> all = {run(1, "shape", source.run_id), source};
  store.add_runs(all);
  store.select_work(ids(all));
  const std::string owner = new_lease_owner();
  EXPECT_EQ(claimed_ids(store.claim(owner, origin(), 9)), std::vector{source.run_id});
  EXPECT_TRUE(store.claim(owner, origin(), 9).empty());
  MemberCommit m = member(source.run_id, 10, "state");
  m.status = "finished";
  store.commit(owner, store.begin_execution(execution()), std::span(&m, 1));
  EXPECT_EQ(claimed_ids(store.claim(owner, origin(), 9)), std::vector{all[0].run_id});
}

TEST_F(ClaimTest, LiveLeaseIsRespectedAndLateOneIsNot) {
  RunStore store(file());
  const auto all = runs(1);
  store.add_runs(all);
  store.select_work(ids(all));
  const std::string a = new_lease_owner(), b = new_lease_owner();
  ASSERT_EQ(store.claim(a, origin(), 1, 0.2).size(), 1u);
  EXPECT_TRUE(store.claim(b, origin(), 1).empty());
  std::this_thread::sleep_for(std::chrono::milliseconds(250));
  EXPECT_EQ(store.claim(b, origin(), 1).size(), 1u);
}

TEST_F(ClaimTest, KeeperHoldsALeasePastItsTime) {
  RunStore store(file());
  const auto all = runs(1);
  store.add_runs(all);
  store.select_work(ids(all));
  const std::string a = new_lease_owner(), b = new_lease_owner();
  ASSERT_EQ(store.claim(a, origin(), 1, 0.6).size(), 1u);
  const LeaseKeeper keeper(file(), a, 0.6);
  std::this_thread::sleep_for(std::chrono::milliseconds(1200));
  EXPECT_TRUE(store.claim(b, origin(), 1).empty());
}

TEST_F(ClaimTest, DeadProcessLosesItsRunsAtOnce) {
  RunStore store(file());
  const auto all = runs(2);
  store.add_runs(all);
  store.select_work(ids(all));
  const pid_t child = fork();
  if (child == 0) {
    RunStore mine(file());
    mine.select_work(ids(all));
    mine.claim(new_lease_owner(), origin(), 2, 3600);
    kill(getpid(), SIGKILL);
  }
  siginfo_t info;
  waitid(P_PID, static_cast<id_t>(child), &info,
         WEXITED | WNOWAIT);  // a zombie still: dead, not collected
  EXPECT_EQ(store.claim(new_lease_owner(), origin(), 2).size(), 2u);
  waitpid(child, nullptr, 0);
}

TEST_F(ClaimTest, OwnerWithAReusedPidIsDead) {
  const std::string owner = new_lease_owner();
  EXPECT_FALSE(is_dead_on_this_machine(owner));
  const size_t last = owner.rfind(':'), start = owner.rfind(':', last - 1);
  EXPECT_TRUE(is_dead_on_this_machine(owner.substr(0, start) + ":1" + owner.substr(last)));
  EXPECT_FALSE(is_dead_on_this_machine("elsewhere/00000000:1:1:abcdef01"));
}

TEST_F(ClaimTest, TwoWorkersShareWithoutOverlap) {
  const auto all = runs(9);
  { RunStore(file()).add_runs(all); }
  std::vector<std::string> taken[2];
  std::vector<std::thread> workers;
  for (auto& mine : taken) {
    workers.emplace_back([&] {
      RunStore store(file());
      store.select_work(ids(all));
      const std::string owner = new_lease_owner();
      while (true) {
        const auto claimed = store.claim(owner, origin(), 2);
        if (claimed.empty()) break;
        for (const ClaimedRun& r : claimed) mine.push_back(r.run_id);
      }
    });
  }
  for (std::thread& t : workers) t.join();
  std::set<std::string> distinct(taken[0].begin(), taken[0].end());
  distinct.insert(taken[1].begin(), taken[1].end());
  EXPECT_EQ(distinct.size(), 9u);
  EXPECT_EQ(taken[0].size() + taken[1].size(), 9u);
}

TEST_F(ClaimTest, RunsWithStepsFromAnotherBuildAreLeftAloneAndReported) {
  RunStore store(file());
  const auto all = runs(2);
  store.add_runs(all);
  store.select_work(ids(all));
  const std::string owner = new_lease_owner();
  store.claim(owner, origin(), 1);
  MemberCommit m = member(all[0].run_id, 5, "state");
  store.commit(owner, store.begin_execution(execution("other build")), std::span(&m, 1));
  store.release(owner, ids(all));
  const auto foreign = store.computed_elsewhere(ids(all), origin());
  ASSERT_EQ(foreign.size(), 1u);
  EXPECT_EQ(foreign.at(all[0].run_id).build, "other build");
  EXPECT_EQ(claimed_ids(store.claim(owner, origin(), 9)), std::vector{all[1].run_id});
  store.release(owner, ids(all));
  store.reset(std::vector{all[0].run_id});
  EXPECT_TRUE(store.computed_elsewhere(ids(all), origin()).empty());
  EXPECT_EQ(store.claim(owner, origin(), 9).size(), 2u);
}

}  // namespace
}  // namespace statelab
