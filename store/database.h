// One connection to a lab's SQLite file: RAII over connection, statement and transaction, with our errors.
//
//   Database db("statelab.db", Database::Access::kReadOnly);
//   Statement query(db, "SELECT name, lr FROM v_runs WHERE task = ?1");
//   query.bind(1, "parity");
//   while (query.step()) use(query.text(0), query.real(1));
//
// A connection belongs to one thread. Several processes and threads may have one each.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "store/error.h"

namespace statelab {

/// "STLB" in the file's header, so that another program's database is never touched.
inline constexpr int kApplicationId = 0x53544C42;

class Database {
 public:
  enum class Access {
    kReadOnly,   ///< must exist; of exactly this program's schema version
    kReadWrite,  ///< must exist; older schemas are migrated
    kCreate,     ///< as kReadWrite, made when missing (its folder too)
  };

  /// WAL, foreign keys, FULL synchronous, and a wait of `busy_timeout_ms` for other writers.
  /// Errors: StoreError kCannotOpen (missing, a folder, no permission), kNotADatabase (also another program's SQLite
  ///         file), kMismatch (schema of a newer program, or an older one with kReadOnly), kReadOnly, kFull.
  Database(const std::filesystem::path& path, Access access, int busy_timeout_ms = 10000);
  ~Database();
  Database(Database&&) noexcept;
  Database& operator=(Database&&) noexcept;

  const std::filesystem::path& path() const;
  /// Where the checkpoint files of this database lie: `<path>.d`.
  std::filesystem::path files_folder() const;

  /// Runs one or more statements without parameters and results.
  void execute(std::string_view sql);
  int64_t last_insert_id() const;

 private:
  friend class Statement;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A prepared statement. Parameters are numbered from 1, columns from 0. Every call may throw StoreError.
class Statement {
 public:
  Statement(Database& database, std::string_view sql);
  ~Statement();
  Statement(Statement&&) noexcept;

  Statement& bind(int parameter, int64_t value);
  Statement& bind(int parameter, int value) { return bind(parameter, static_cast<int64_t>(value)); }
  Statement& bind(int parameter, double value);  ///< NaN becomes NULL
  Statement& bind(int parameter, std::string_view value);
  Statement& bind(int parameter, const char* value) {
    return bind(parameter, std::string_view(value));
  }
  Statement& bind(int parameter, const std::string& value) {
    return bind(parameter, std::string_view(value));
  }
  Statement& bind_null(int parameter);
  template <typename T>
  Statement& bind(int parameter, const std::optional<T>& value) {
    return value ? bind(parameter, *value) : bind_null(parameter);
  }

  /// Goes to the next row; false after the last.
  bool step();
  /// Runs a statement that returns no rows, makes it ready for new values, and returns how many rows it changed.
  int64_t run();
  /// Ready to step again; bound values stay.
  void reset();

  int columns() const;
  std::string column_name(int column) const;
  bool is_null(int column) const;
  bool is_number(int column) const;    ///< of SQLite type INTEGER or REAL
  bool is_integer(int column) const;   ///< of SQLite type INTEGER
  int64_t integer(int column) const;   ///< NULL = 0
  double real(int column) const;       ///< NULL = NaN
  std::string text(int column) const;  ///< NULL = ""
  std::optional<int64_t> optional_integer(int column) const;
  std::optional<double> optional_real(int column) const;
  std::optional<std::string> optional_text(int column) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// BEGIN IMMEDIATE ... COMMIT; rolled back unless commit() was reached.
class Transaction {
 public:
  explicit Transaction(Database& database);
  ~Transaction();
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  void commit();

 private:
  Database& database_;
  bool open_ = true;
};

/// Seconds since 1970-01-01 UTC.
double unix_now();

/// True where SQLite's locks and shared memory cannot be trusted (NFS, SMB, ...). The file need not exist.
bool on_network_filesystem(const std::filesystem::path& path);

}  // namespace statelab
