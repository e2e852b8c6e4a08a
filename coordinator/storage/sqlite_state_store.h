// A StateStore in one SQLite file, in WAL mode and synced at every commit. The
// file is locked for as long as the object lives; the lock goes with the
// process, however that ends.

#ifndef COORDINATOR_STORAGE_SQLITE_STATE_STORE_H_
#define COORDINATOR_STORAGE_SQLITE_STATE_STORE_H_

#include <memory>
#include <string>
#include <utility>

#include "coordinator/storage/state_store.h"

struct sqlite3;

namespace shardwright {

class SqliteStateStore final : public StateStore {
 public:
  // Opens the file, or makes it, with mode 0600 less the umask. Checks that it
  // is whole and was made by this class.
  //
  // Errors:
  //   FAILED_PRECONDITION STORE_IN_USE: another process, or object, has it
  //   open. FAILED_PRECONDITION STORE_INVALID: not a file of ours, of a newer
  //   format,
  //       or damaged.
  //   UNAVAILABLE         STORE_FAILED: it cannot be opened or written.
  static absl::StatusOr<std::unique_ptr<SqliteStateStore>> Open(
      const std::string& path);

  ~SqliteStateStore() override;
  SqliteStateStore(const SqliteStateStore&) = delete;
  SqliteStateStore& operator=(const SqliteStateStore&) = delete;

  absl::StatusOr<Entries> Load() override;
  absl::Status Commit(const Entries& entries) override;

 private:
  SqliteStateStore(std::string path, sqlite3* database)
      : path_(std::move(path)), database_(database) {}

  absl::Status Initialize();
  absl::Status Execute(const char* sql);
  absl::StatusOr<std::string> QueryText(const char* sql);
  absl::Status Failure(const char* action) const;

  const std::string path_;
  sqlite3* const database_;
};

}  // namespace shardwright

#endif  // COORDINATOR_STORAGE_SQLITE_STATE_STORE_H_
