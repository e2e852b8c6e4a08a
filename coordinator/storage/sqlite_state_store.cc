#include "coordinator/storage/sqlite_state_store.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

// "SHWD" in the file's header tells our files from other SQLite databases.
constexpr char kApplicationId[] = "1397249860";
constexpr char kFormatVersion[] = "1";

struct StatementDeleter {
  void operator()(sqlite3_stmt* statement) const {
    sqlite3_finalize(statement);
  }
};
using Statement = std::unique_ptr<sqlite3_stmt, StatementDeleter>;

Statement Prepare(sqlite3* database, const char* sql) {
  sqlite3_stmt* statement = nullptr;
  sqlite3_prepare_v2(database, sql, -1, &statement, nullptr);
  return Statement(statement);
}

std::string ColumnBytes(sqlite3_stmt* statement, int column) {
  const void* bytes = sqlite3_column_blob(statement, column);
  const int size_bytes = sqlite3_column_bytes(statement, column);
  return std::string(static_cast<const char*>(bytes), size_bytes);
}

absl::Status StoreInvalid(const std::string& path, absl::string_view why) {
  return Error(absl::StatusCode::kFailedPrecondition, "STORE_INVALID",
               absl::StrCat("store ", path, " ", why), {{"path", path}});
}

}  // namespace

absl::StatusOr<std::unique_ptr<SqliteStateStore>> SqliteStateStore::Open(
    const std::string& path) {
  // SQLite would make the file readable for everyone.
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0) {
    return Error(absl::StatusCode::kUnavailable, "STORE_FAILED",
                 absl::StrCat("store ", path,
                              " cannot be opened: ", std::strerror(errno)),
                 {{"path", path}});
  }
  close(file);
  sqlite3* database = nullptr;
  sqlite3_open_v2(path.c_str(), &database,
                  SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nullptr);
  std::unique_ptr<SqliteStateStore> store(new SqliteStateStore(path, database));
  RETURN_IF_ERROR(store->Initialize());
  return store;
}

SqliteStateStore::~SqliteStateStore() { sqlite3_close_v2(database_); }

absl::Status SqliteStateStore::Initialize() {
  // The lock must be asked for before WAL mode first touches the file: then
  // SQLite keeps it, and needs no shared memory beside the file.
  RETURN_IF_ERROR(Execute("PRAGMA locking_mode = EXCLUSIVE"));
  ASSIGN_OR_RETURN(const std::string journal_mode,
                   QueryText("PRAGMA journal_mode = WAL"));
  if (journal_mode != "wal") {
    return StoreInvalid(path_, "cannot be used in WAL mode");
  }
  RETURN_IF_ERROR(Execute("PRAGMA synchronous = FULL"));
  ASSIGN_OR_RETURN(const std::string check, QueryText("PRAGMA quick_check(1)"));
  if (check != "ok") {
    return StoreInvalid(path_, absl::StrCat("is damaged: ", check));
  }
  ASSIGN_OR_RETURN(const std::string tables,
                   QueryText("SELECT count(*) FROM sqlite_schema"));
  if (tables == "0") {
    return Execute(
        absl::StrCat("BEGIN IMMEDIATE; PRAGMA application_id = ",
                     kApplicationId, "; PRAGMA user_version = ", kFormatVersion,
                     "; CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB "
                     "NOT NULL) WITHOUT ROWID; COMMIT")
            .c_str());
  }
  ASSIGN_OR_RETURN(const std::string application_id,
                   QueryText("PRAGMA application_id"));
  if (application_id != kApplicationId) {
    return StoreInvalid(path_, "is a SQLite database of another program");
  }
  ASSIGN_OR_RETURN(const std::string version, QueryText("PRAGMA user_version"));
  if (version != kFormatVersion) {
    return StoreInvalid(path_, absl::StrCat("has format ", version,
                                            "; this coordinator reads format ",
                                            kFormatVersion));
  }
  // Takes the exclusive lock now, not at the first commit.
  return Execute("BEGIN EXCLUSIVE; COMMIT");
}

absl::StatusOr<StateStore::Entries> SqliteStateStore::Load() {
  const Statement select = Prepare(database_, "SELECT key, value FROM entries");
  if (select == nullptr) return Failure("read");
  Entries entries;
  int result;
  while ((result = sqlite3_step(select.get())) == SQLITE_ROW) {
    entries[ColumnBytes(select.get(), 0)] = ColumnBytes(select.get(), 1);
  }
  if (result != SQLITE_DONE) return Failure("read");
  return entries;
}

absl::Status SqliteStateStore::Commit(const Entries& entries) {
  RETURN_IF_ERROR(Execute("BEGIN IMMEDIATE"));
  absl::Status status = absl::OkStatus();
  {
    const Statement upsert =
        Prepare(database_, "INSERT OR REPLACE INTO entries VALUES (?, ?)");
    if (upsert == nullptr) status = Failure("write");
    for (const auto& [key, value] : entries) {
      if (!status.ok()) break;
      sqlite3_bind_text64(upsert.get(), 1, key.data(), key.size(),
                          SQLITE_STATIC, SQLITE_UTF8);
      sqlite3_bind_blob64(upsert.get(), 2, value.data(), value.size(),
                          SQLITE_STATIC);
      if (sqlite3_step(upsert.get()) != SQLITE_DONE) status = Failure("write");
      sqlite3_reset(upsert.get());
    }
  }
  if (status.ok()) status = Execute("COMMIT");
  // A failed COMMIT may have rolled back by itself; then this does nothing.
  if (!status.ok() && sqlite3_get_autocommit(database_) == 0) {
    sqlite3_exec(database_, "ROLLBACK", nullptr, nullptr, nullptr);
  }
  return status;
}

absl::Status SqliteStateStore::Execute(const char* sql) {
  const int result = sqlite3_exec(database_, sql, nullptr, nullptr, nullptr);
  return result == SQLITE_OK ? absl::OkStatus() : Failure("write");
}

absl::StatusOr<std::string> SqliteStateStore::QueryText(const char* sql) {
  const Statement statement = Prepare(database_, sql);
  if (statement == nullptr || sqlite3_step(statement.get()) != SQLITE_ROW) {
    return Failure("open");
  }
  return ColumnBytes(statement.get(), 0);
}

absl::Status SqliteStateStore::Failure(const char* action) const {
  const int result = sqlite3_errcode(database_);
  if (result == SQLITE_BUSY || result == SQLITE_LOCKED) {
    return Error(
        absl::StatusCode::kFailedPrecondition, "STORE_IN_USE",
        absl::StrCat("store ", path_, " is in use by another coordinator"),
        {{"path", path_}});
  }
  if (result == SQLITE_NOTADB || result == SQLITE_CORRUPT) {
    return StoreInvalid(path_, absl::StrCat("is not a sound database: ",
                                            sqlite3_errmsg(database_)));
  }
  return Error(absl::StatusCode::kUnavailable, "STORE_FAILED",
               absl::StrCat("cannot ", action, " store ", path_, ": ",
                            sqlite3_errmsg(database_)),
               {{"path", path_}});
}

}  // namespace shardwright
