// 10,000 runs in one database: what a person waits for stays far below a second.
#include <ctime>
#include <functional>

#include "tests/store/store_fixture.h"

namespace statelab {
namespace {

using ScaleTest = StoreTest;

TEST_F(ScaleTest, TenThousandRunsAreListedScoredAndClaimedInUnderASecondEach) {
  constexpr int kRuns = 10000;
  RunStore store(file());
  std::vector<NewRun> all;
  for (int i = 0; i < kRuns; ++i) {
    NewRun r = run(i % 9, "shape" + std::to_string(i % 50));
    r.run_id = sha256_hex(std::to_string(i));
    r.group_id = sha256_hex("group" + std::to_string(i / 5));
    all.push_back(r);
  }
  const SweepRecord sweep{"large", "large", "[]", ""};
  ASSERT_EQ(store.add_runs(all, sweep), kRuns);
  {
    Transaction fill(store.database());
    store.database().execute(
        "WITH RECURSIVE s (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 20) "
        "INSERT INTO metrics SELECT r.id, i * 100, 0.5, 0.9, 1, 0.001 FROM runs r, s;"
        "INSERT INTO executions (execution_id, backend, device, build, host, pid, precision, "
        "threads, started_at) "
        "VALUES ('e', 'cpu', 'd', 'b', 'h', 1, 'fp32', 1, 0);"
        "INSERT INTO run_executions SELECT id, 1, 0, 0, 60, 8 FROM runs;"
        "INSERT INTO evaluations (run, split, step, length_min, length_max, data_seed, samples, "
        "configured, sequences, "
        "sequences_correct, tokens, tokens_correct, loss, chance, constant_answer, standard_error) "
        "SELECT r.id, split, 2000, length, length, 0, 8192, 1, 8192, 8000, 8192, 8000, 0.1, 0.5, "
        "0.5, 0.002 FROM runs r, "
        "(SELECT 'validation' AS split UNION SELECT 'test'), "
        "(SELECT 40 AS length UNION SELECT 80 UNION SELECT 160 UNION SELECT 256);");
    fill.commit();
  }
  // Processor time, so that a busy machine does not matter.
  const auto seconds = [](const std::function<void()>& action) {
    const std::clock_t start = std::clock();
    action();
    return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  };
  const auto rows = [&](const std::string& sql) {
    int64_t n = 0;
    Statement query(store.database(), sql);
    while (query.step()) ++n;
    return n;
  };
  EXPECT_LT(seconds([&] { EXPECT_EQ(rows("SELECT * FROM v_runs"), kRuns); }), 1);
  EXPECT_LT(
      seconds([&] { EXPECT_EQ(rows("SELECT status, count(*) FROM runs GROUP BY status"), 1); }), 1);
  EXPECT_LT(seconds([&] {
              EXPECT_EQ(rows("SELECT group_id, length_max, max(accuracy), count(*) FROM "
                             "v_evaluations WHERE split = 'test' "
                             "GROUP BY group_id, length_max"),
                        kRuns / 5 * 4);
            }),
            1);
  EXPECT_LT(seconds([&] { EXPECT_EQ(store.add_runs(all, sweep), 0); }), 1);
  const auto wanted = ids(all);
  EXPECT_LT(seconds([&] { store.select_work(wanted); }), 1);
  EXPECT_LT(seconds([&] { EXPECT_EQ(store.claim(new_lease_owner(), origin(), 64).size(), 64u); }),
            1);
}

}  // namespace
}  // namespace statelab
