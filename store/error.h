// Why the store refused. After a StoreError nothing half-written is in the database: the transaction was rolled back.
#pragma once

#include <stdexcept>
#include <string>

namespace statelab {

/// SQLite or the file system refused. The caller should stop: an unrecorded run is worth nothing.
class StoreError : public std::runtime_error {
 public:
  StoreError(const std::string& message, int result_code, int extended_result_code,
             std::string statement)
      : std::runtime_error(message),
        code(result_code),
        extended_code(extended_result_code),
        sql(std::move(statement)) {}

  int code;           ///< SQLite's primary result code; file errors use kFull or kIoError
  int extended_code;  ///< SQLite's extended result code; for file errors the errno
  std::string sql;    ///< statement that failed, or the file operation, e.g. "write <path>"

  static constexpr int kReadOnly = 8;  ///< SQLITE_READONLY
  static constexpr int kIoError = 10;  ///< SQLITE_IOERR
  static constexpr int kFull =
      13;  ///< SQLITE_FULL: no space left, quota or file size limit reached
  static constexpr int kCannotOpen = 14;  ///< SQLITE_CANTOPEN
  static constexpr int kMismatch =
      20;  ///< SQLITE_MISMATCH: another schema, or stored bytes that changed
  static constexpr int kNotADatabase = 26;  ///< SQLITE_NOTADB
};

/// Somebody else holds a run that this process believed to hold: its lease ran out while the process was stopped. Nothing
/// was written; the other process' results stand.
class LeaseLost : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace statelab
