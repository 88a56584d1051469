#include "store/database.h"

#include <SQLiteCpp/SQLiteCpp.h>
#include <sqlite3.h>
#include <sys/vfs.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <limits>
#include <thread>
#include <vector>

#include "store/failpoint.h"
#include "store/migrations.h"

namespace statelab {
namespace {

namespace fs = std::filesystem;

// The errno of the last failed call on the database file or its log. sqlite3_system_errno() comes too late: the rollback
// after a failed write makes calls of its own.
std::vector<int> last_errnos(sqlite3* handle) {
  std::vector<int> found;
  if (handle == nullptr) return found;
  for (const int which : {SQLITE_FCNTL_FILE_POINTER, SQLITE_FCNTL_JOURNAL_POINTER}) {
    sqlite3_file* file = nullptr;
    int error = 0;
    if (sqlite3_file_control(handle, "main", which, &file) != SQLITE_OK) continue;
    if (file == nullptr || file->pMethods == nullptr) continue;
    if (file->pMethods->xFileControl(file, SQLITE_FCNTL_LAST_ERRNO, &error) == SQLITE_OK)
      found.push_back(error);
  }
  return found;
}

bool out_of_space(int code, sqlite3* handle) {
  if (code == SQLITE_FULL) return true;
  if (code != SQLITE_IOERR) return false;
  for (const int error : last_errnos(handle)) {
    if (error == ENOSPC || error == EDQUOT || error == EFBIG) return true;
  }
  return false;
}

// Details must be read at the failing call: the next one overwrites them.
[[noreturn]] void raise(sqlite3* handle, const fs::path& path, const SQLite::Exception& e,
                        std::string_view sql) {
  const int code = e.getErrorCode() & 0xff;
  const int extended = e.getExtendedErrorCode() > 0 ? e.getExtendedErrorCode() : e.getErrorCode();
  const int system_errno = handle != nullptr ? sqlite3_system_errno(handle) : 0;
  const std::string subject = "[" + path.string() + "] ";
  if (out_of_space(code, handle)) {
    throw StoreError(
        subject + "no space left for the database (" + e.what() +
            "); what was recorded before is safe: make room and run the same command again",
        StoreError::kFull, extended, std::string(sql));
  }
  switch (code) {
    case SQLITE_NOTADB:
      throw StoreError(subject + "is not a database: the file has another format", code, extended,
                       std::string(sql));
    case SQLITE_READONLY:
      throw StoreError(subject + "cannot be written: it is read-only", code, extended,
                       std::string(sql));
    case SQLITE_CANTOPEN:
      throw StoreError(subject + "cannot be opened: " +
                           (fs::is_directory(path) ? "it is a folder"
                            : system_errno != 0    ? std::strerror(system_errno)
                                                   : e.what()),
                       code, extended, std::string(sql));
    case SQLITE_BUSY:
      throw StoreError(
          subject + "stayed locked by another process for longer than the busy timeout", code,
          extended, std::string(sql));
    default:
      throw StoreError(subject + e.what(), code, extended, std::string(sql));
  }
}

// Changing the journal mode does not wait for other processes, so that two that create a database at once must retry.
void use_wal(Database& database, int patience_ms) {
  for (int waited_ms = 0;; waited_ms += 20) {
    try {
      database.execute("PRAGMA journal_mode = WAL");
      return;
    } catch (const StoreError& e) {
      if (e.code != SQLITE_BUSY || waited_ms >= patience_ms) throw;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
}

}  // namespace

struct Database::Impl {
  fs::path path;
  std::unique_ptr<SQLite::Database> connection;
};

Database::Database(const fs::path& path, Access access, int busy_timeout_ms)
    : impl_(std::make_unique<Impl>()) {
  impl_->path = path;
  std::error_code ignored;
  const bool exists = fs::exists(path, ignored);
  if (!exists && access != Access::kCreate) {
    throw StoreError("[" + path.string() + "] cannot be opened: there is no such file",
                     StoreError::kCannotOpen, StoreError::kCannotOpen, "open");
  }
  if (!exists && path.has_parent_path()) fs::create_directories(path.parent_path(), ignored);
  const bool writable = access != Access::kReadOnly;
  const int flags =
      writable ? SQLite::OPEN_READWRITE | (access == Access::kCreate ? SQLite::OPEN_CREATE : 0)
               : SQLite::OPEN_READONLY;
  try {
    impl_->connection = std::make_unique<SQLite::Database>(path.string(), flags, busy_timeout_ms);
    sqlite3_extended_result_codes(impl_->connection->getHandle(), 1);
  } catch (const SQLite::Exception& e) {
    raise(nullptr, path, e, "open");
  }
  if (!exists) failpoint("database.created");
  // The first read of the file: here a file of another format shows.
  int application = 0;
  bool empty = false;
  {
    Statement tables(*this, "SELECT count(*) FROM sqlite_master");
    tables.step();
    empty = tables.integer(0) == 0;
    Statement id(*this, "PRAGMA application_id");
    id.step();
    application = static_cast<int>(id.integer(0));
  }
  if (application != kApplicationId && !empty) {
    throw StoreError(
        "[" + path.string() + "] is not a statelab database: it belongs to another program",
        StoreError::kNotADatabase, StoreError::kNotADatabase, "PRAGMA application_id");
  }
  if (writable) {
    if (sqlite3_db_readonly(impl_->connection->getHandle(), "main") == 1) {
      throw StoreError("[" + path.string() + "] cannot be written: it is read-only",
                       StoreError::kReadOnly, StoreError::kReadOnly, "open");
    }
    use_wal(*this, busy_timeout_ms);
    execute("PRAGMA synchronous = FULL");
  }
  execute("PRAGMA foreign_keys = ON");
  if (writable) {
    migrate(*this, migration_steps(), kViewsSql);
    return;
  }
  const int version = schema_version(*this), known = static_cast<int>(migration_steps().size());
  if (version != known) {
    throw StoreError(
        "[" + path.string() + "] has schema version " + std::to_string(version) +
            ", this program reads version " + std::to_string(known) +
            (version < known ? "; `statelab run` migrates it" : "; a newer statelab wrote it"),
        StoreError::kMismatch, StoreError::kMismatch, "PRAGMA user_version");
  }
}

Database::~Database() = default;
Database::Database(Database&&) noexcept = default;
Database& Database::operator=(Database&&) noexcept = default;

const fs::path& Database::path() const { return impl_->path; }

fs::path Database::files_folder() const {
  fs::path folder = impl_->path;
  folder += ".d";
  return folder;
}

void Database::execute(std::string_view sql) {
  try {
    impl_->connection->exec(std::string(sql));
  } catch (const SQLite::Exception& e) {
    raise(impl_->connection->getHandle(), impl_->path, e, sql);
  }
}

int64_t Database::last_insert_id() const { return impl_->connection->getLastInsertRowid(); }

struct Statement::Impl {
  sqlite3* handle;
  const fs::path& path;
  std::string sql;
  std::unique_ptr<SQLite::Statement> statement;

  template <typename F>
  auto guard(F&& call) -> decltype(call()) {
    try {
      return call();
    } catch (const SQLite::Exception& e) {
      raise(handle, path, e, sql);
    }
  }
};

Statement::Statement(Database& database, std::string_view sql)
    : impl_(std::make_unique<Impl>(Impl{database.impl_->connection->getHandle(),
                                        database.impl_->path, std::string(sql), nullptr})) {
  impl_->guard([&] {
    impl_->statement = std::make_unique<SQLite::Statement>(*database.impl_->connection, impl_->sql);
  });
}
Statement::~Statement() = default;
Statement::Statement(Statement&&) noexcept = default;

Statement& Statement::bind(int parameter, int64_t value) {
  impl_->guard([&] { impl_->statement->bind(parameter, value); });
  return *this;
}
Statement& Statement::bind(int parameter, double value) {
  impl_->guard([&] { impl_->statement->bind(parameter, value); });
  return *this;
}
Statement& Statement::bind(int parameter, std::string_view value) {
  impl_->guard([&] { impl_->statement->bind(parameter, std::string(value)); });
  return *this;
}
Statement& Statement::bind_null(int parameter) {
  impl_->guard([&] { impl_->statement->bind(parameter); });
  return *this;
}

bool Statement::step() {
  return impl_->guard([&] { return impl_->statement->executeStep(); });
}
int64_t Statement::run() {
  return impl_->guard([&] {
    const int64_t changed = impl_->statement->exec();
    impl_->statement->reset();
    return changed;
  });
}
void Statement::reset() {
  impl_->guard([&] { impl_->statement->reset(); });
}

int Statement::columns() const { return impl_->statement->getColumnCount(); }
std::string Statement::column_name(int column) const {
  return impl_->guard([&] { return std::string(impl_->statement->getColumnName(column)); });
}
bool Statement::is_null(int column) const {
  return impl_->guard([&] { return impl_->statement->isColumnNull(column); });
}
bool Statement::is_number(int column) const {
  return impl_->guard([&] {
    const SQLite::Column value = impl_->statement->getColumn(column);
    return value.isInteger() || value.isFloat();
  });
}
bool Statement::is_integer(int column) const {
  return impl_->guard([&] { return impl_->statement->getColumn(column).isInteger(); });
}
int64_t Statement::integer(int column) const {
  return impl_->guard([&] { return impl_->statement->getColumn(column).getInt64(); });
}
double Statement::real(int column) const {
  if (is_null(column)) return std::numeric_limits<double>::quiet_NaN();
  return impl_->guard([&] { return impl_->statement->getColumn(column).getDouble(); });
}
std::string Statement::text(int column) const {
  return impl_->guard([&] { return impl_->statement->getColumn(column).getString(); });
}
std::optional<int64_t> Statement::optional_integer(int column) const {
  return is_null(column) ? std::nullopt : std::optional(integer(column));
}
std::optional<double> Statement::optional_real(int column) const {
  return is_null(column) ? std::nullopt : std::optional(real(column));
}
std::optional<std::string> Statement::optional_text(int column) const {
  return is_null(column) ? std::nullopt : std::optional(text(column));
}

Transaction::Transaction(Database& database) : database_(database) {
  database_.execute("BEGIN IMMEDIATE");
}

Transaction::~Transaction() {
  if (!open_) return;
  try {
    database_.execute("ROLLBACK");
  } catch (const StoreError&) {
    // SQLite has rolled back by itself, as it does when a write failed.
  }
}

void Transaction::commit() {
  database_.execute("COMMIT");
  open_ = false;
}

double unix_now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

bool on_network_filesystem(const fs::path& path) {
  std::error_code ignored;
  fs::path existing = fs::absolute(path, ignored);
  while (!fs::exists(existing, ignored) && existing.has_relative_path())
    existing = existing.parent_path();
  struct statfs info {};
  if (statfs(existing.c_str(), &info) != 0) return false;
  constexpr uint32_t kNfs = 0x6969, kSmb = 0x517B, kCifs = 0xFF534D42, kSmb2 = 0xFE534D42,
                     kAfs = 0x5346414F;
  const auto type = static_cast<uint32_t>(info.f_type);
  return type == kNfs || type == kSmb || type == kCifs || type == kSmb2 || type == kAfs;
}

}  // namespace statelab
