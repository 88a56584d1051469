#include "store/database.h"

#include <cmath>
#include <fstream>
#include <thread>

#include "store/migrations.h"
#include "tests/store/store_fixture.h"

namespace statelab {
namespace {

using DatabaseTest = StoreTest;

StoreError error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const StoreError& e) {
    return e;
  }
  ADD_FAILURE() << "no StoreError";
  return StoreError("", 0, 0, "");
}

TEST_F(DatabaseTest, IsWriteAheadWithForeignKeysAndFullSync) {
  Database db(file("below/a/folder.db"), Database::Access::kCreate);
  Statement journal(db, "PRAGMA journal_mode"), keys(db, "PRAGMA foreign_keys"),
      sync(db, "PRAGMA synchronous");
  journal.step();
  keys.step();
  sync.step();
  EXPECT_EQ(journal.text(0), "wal");
  EXPECT_EQ(keys.integer(0), 1);
  EXPECT_EQ(sync.integer(0), 2);  // FULL
}

TEST_F(DatabaseTest, AllTablesAreStrict) {
  Database db(file(), Database::Access::kCreate);
  EXPECT_EQ(count(db,
                  "SELECT count(*) FROM pragma_table_list WHERE schema = 'main' AND type = 'table' "
                  "AND name NOT LIKE 'sqlite_%' AND strict = 0"),
            0);
  EXPECT_GE(count(db, "SELECT count(*) FROM pragma_table_list WHERE strict = 1"), 11);
}

TEST_F(DatabaseTest, MissingFileIsNamed) {
  const StoreError e = error_of([&] { Database(file("none.db"), Database::Access::kReadOnly); });
  EXPECT_EQ(e.code, StoreError::kCannotOpen);
  EXPECT_NE(std::string(e.what()).find("none.db] cannot be opened: there is no such file"),
            std::string::npos);
}

TEST_F(DatabaseTest, FolderIsNotADatabase) {
  const StoreError e = error_of([&] { Database(folder_, Database::Access::kCreate); });
  EXPECT_EQ(e.code, StoreError::kCannotOpen);
  EXPECT_NE(std::string(e.what()).find("it is a folder"), std::string::npos) << e.what();
}

TEST_F(DatabaseTest, TextFileIsRefusedAndUntouched) {
  std::ofstream(file()) << std::string(4096, 'x');
  const StoreError e = error_of([&] { Database(file(), Database::Access::kCreate); });
  EXPECT_EQ(e.code, StoreError::kNotADatabase);
  EXPECT_NE(std::string(e.what()).find("is not a database"), std::string::npos);
  EXPECT_EQ(std::filesystem::file_size(file()), 4096u);
}

TEST_F(DatabaseTest, DatabaseOfAnotherProgramIsRefused) {
  {
    Database db(file(), Database::Access::kCreate);
    db.execute("PRAGMA application_id = 1");
  }
  const StoreError e = error_of([&] { Database(file(), Database::Access::kReadWrite); });
  EXPECT_EQ(e.code, StoreError::kNotADatabase);
  EXPECT_NE(std::string(e.what()).find("belongs to another program"), std::string::npos);
}

TEST_F(DatabaseTest, NewerSchemaIsRefusedWithBothVersions) {
  { Database(file(), Database::Access::kCreate).execute("PRAGMA user_version = 99"); }
  for (const auto access : {Database::Access::kReadWrite, Database::Access::kReadOnly}) {
    const StoreError e = error_of([&] { Database(file(), access); });
    EXPECT_EQ(e.code, StoreError::kMismatch);
    EXPECT_NE(std::string(e.what()).find("99"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("newer statelab"), std::string::npos) << e.what();
  }
}

TEST_F(DatabaseTest, ReadOnlyConnectionCannotWrite) {
  { Database(file(), Database::Access::kCreate); }
  Database db(file(), Database::Access::kReadOnly);
  const StoreError e = error_of([&] { db.execute("DELETE FROM runs"); });
  EXPECT_EQ(e.code, StoreError::kReadOnly);
  EXPECT_EQ(e.sql, "DELETE FROM runs");
}

TEST_F(DatabaseTest, ErrorKeepsCodeExtendedCodeAndStatement) {
  Database db(file(), Database::Access::kCreate);
  const std::string sql = "INSERT INTO curves (evaluation, points) VALUES (1, '[]')";
  const StoreError e = error_of([&] { db.execute(sql); });
  EXPECT_EQ(e.code, 19);            // SQLITE_CONSTRAINT
  EXPECT_EQ(e.extended_code, 787);  // SQLITE_CONSTRAINT_FOREIGNKEY
  EXPECT_EQ(e.sql, sql);
}

TEST_F(DatabaseTest, NanIsStoredAsNullAndReadAsNan) {
  Database db(file(), Database::Access::kCreate);
  Statement query(db, "SELECT ?1, ?2");
  query.bind(1, std::nan("")).bind(2, std::optional<int64_t>());
  ASSERT_TRUE(query.step());
  EXPECT_TRUE(query.is_null(0));
  EXPECT_TRUE(std::isnan(query.real(0)));
  EXPECT_EQ(query.optional_integer(1), std::nullopt);
}

TEST_F(DatabaseTest, TransactionWithoutCommitLeavesNothing) {
  Database db(file(), Database::Access::kCreate);
  const std::string insert =
      "INSERT INTO sweeps (sweep_id, name, config, created_at) VALUES ('a', 'a', 'a', 0)";
  {
    Transaction transaction(db);
    db.execute(insert);
  }
  EXPECT_EQ(count(db, "SELECT count(*) FROM sweeps"), 0);
}

TEST_F(DatabaseTest, MigrationsRunOnceInOrderAndRecreateViews) {
  Database db(file(), Database::Access::kCreate);
  const std::string_view steps[] = {kSchemaSql, "ALTER TABLE sweeps ADD COLUMN colour TEXT",
                                    "UPDATE sweeps SET colour = 'red'"};
  RunStore(file()).add_runs(runs(1), SweepRecord{"s", "c", "[]", ""});
  const std::string views =
      std::string(kViewsSql) + "CREATE VIEW v_colours AS SELECT colour FROM sweeps;";
  migrate(db, steps, views);
  EXPECT_EQ(schema_version(db), 3);
  Statement colour(db, "SELECT colour FROM v_colours");
  ASSERT_TRUE(colour.step());
  EXPECT_EQ(colour.text(0), "red");
  migrate(db, steps, "this is no SQL: it must not run again");
}

TEST_F(DatabaseTest, FailedMigrationChangesNothing) {
  Database db(file(), Database::Access::kCreate);
  const std::string_view steps[] = {kSchemaSql, "ALTER TABLE sweeps ADD COLUMN colour TEXT",
                                    "nonsense"};
  EXPECT_THROW(migrate(db, steps, kViewsSql), StoreError);
  EXPECT_EQ(schema_version(db), 1);
  EXPECT_EQ(count(db, "SELECT count(*) FROM pragma_table_info('sweeps') WHERE name = 'colour'"), 0);
}

TEST_F(DatabaseTest, ManyThreadsMayCreateOneDatabaseAtOnce) {
  std::vector<std::thread> threads;
  std::atomic<int> failures = 0;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      try {
        RunStore store(file());
        const NewRun one = run(i);
        store.add_runs(std::span(&one, 1));
      } catch (const std::exception&) {
        ++failures;
      }
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(failures, 0);
  Database db(file(), Database::Access::kReadOnly);
  EXPECT_EQ(count(db, "SELECT count(*) FROM runs"), 8);
}

}  // namespace
}  // namespace statelab
