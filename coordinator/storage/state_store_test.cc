// What state_store.h obliges every store to, asked of each; then what only the
// file can get wrong: being shared, foreign, damaged, full.

#include "coordinator/storage/state_store.h"

#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <cstdio>
#include <fstream>
#include <functional>
#include <memory>
#include <string>

#include "coordinator/storage/memory_state_store.h"
#include "coordinator/storage/sqlite_state_store.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"

namespace shardwright {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

std::string FreshPath(const std::string& name) {
  const std::string path = ::testing::TempDir() + "/" + name;
  std::remove(path.c_str());
  std::remove((path + "-wal").c_str());
  return path;
}

std::unique_ptr<StateStore> OpenSqlite(const std::string& path) {
  absl::StatusOr<std::unique_ptr<SqliteStateStore>> store =
      SqliteStateStore::Open(path);
  EXPECT_THAT(store, IsOk());
  return store.ok() ? *std::move(store) : nullptr;
}

struct Kind {
  std::string name;
  std::function<std::unique_ptr<StateStore>()> make;
};

class StateStoreTest : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    store_ = GetParam().make();
    ASSERT_NE(store_, nullptr);
  }

  StateStore::Entries Loaded() { return store_->Load().value(); }

  std::unique_ptr<StateStore> store_;
};

INSTANTIATE_TEST_SUITE_P(
    AllStores, StateStoreTest,
    ::testing::Values(
        Kind{"Memory", [] { return std::make_unique<MemoryStateStore>(); }},
        Kind{"Sqlite", [] { return OpenSqlite(FreshPath("conformance.db")); }}),
    [](const auto& info) { return info.param.name; });

TEST_P(StateStoreTest, BeginsEmpty) { EXPECT_THAT(Loaded(), IsEmpty()); }

TEST_P(StateStoreTest, LoadsWhatWasCommitted) {
  ASSERT_THAT(store_->Commit({{"a", "1"}, {"b", "2"}}), IsOk());
  EXPECT_THAT(Loaded(), UnorderedElementsAre(Pair("a", "1"), Pair("b", "2")));
}

TEST_P(StateStoreTest, CommitReplacesItsKeysAndKeepsTheOthers) {
  ASSERT_THAT(store_->Commit({{"a", "1"}, {"b", "2"}}), IsOk());
  ASSERT_THAT(store_->Commit({{"b", "3"}, {"c", "4"}}), IsOk());
  EXPECT_THAT(Loaded(), UnorderedElementsAre(Pair("a", "1"), Pair("b", "3"),
                                             Pair("c", "4")));
}

TEST_P(StateStoreTest, KeepsEveryByteOfValues) {
  std::string all_bytes;
  for (int byte = 0; byte < 256; ++byte) all_bytes.push_back(byte);
  ASSERT_THAT(store_->Commit({{"bytes", all_bytes}, {"empty", ""}}), IsOk());
  EXPECT_THAT(Loaded(), UnorderedElementsAre(Pair("bytes", all_bytes),
                                             Pair("empty", "")));
}

TEST_P(StateStoreTest, KeepsLargeValues) {
  const std::string large(8 << 20, 'x');
  ASSERT_THAT(store_->Commit({{"large", large}}), IsOk());
  EXPECT_EQ(Loaded().at("large"), large);
}

TEST_P(StateStoreTest, CommitOfNothingSucceeds) {
  EXPECT_THAT(store_->Commit({}), IsOk());
}

TEST(SqliteStateStoreTest, ReopenedFileHasWhatWasCommitted) {
  const std::string path = FreshPath("reopened.db");
  ASSERT_THAT(OpenSqlite(path)->Commit({{"term", "7"}}), IsOk());
  EXPECT_THAT(OpenSqlite(path)->Load().value(),
              UnorderedElementsAre(Pair("term", "7")));
}

TEST(SqliteStateStoreTest, FileOfACrashedOwnerHasWhatWasCommitted) {
  const std::string path = FreshPath("crashed.db");
  EXPECT_EXIT(
      {
        if (OpenSqlite(path)->Commit({{"term", "7"}}).ok()) {
          std::unique_ptr<StateStore> store = OpenSqlite(path);
          if (store->Commit({{"term", "8"}}).ok()) raise(SIGKILL);
        }
      },
      ::testing::KilledBySignal(SIGKILL), "");
  EXPECT_THAT(OpenSqlite(path)->Load().value(),
              UnorderedElementsAre(Pair("term", "8")));
}

TEST(SqliteStateStoreTest, RefusesASecondOwner) {
  const std::string path = FreshPath("shared.db");
  const std::unique_ptr<StateStore> first = OpenSqlite(path);
  const auto second = SqliteStateStore::Open(path);
  EXPECT_THAT(second, HasReason("STORE_IN_USE"));
  EXPECT_THAT(second.status().message(), HasSubstr(path));
  EXPECT_THAT(first->Commit({{"a", "1"}}), IsOk());
}

TEST(SqliteStateStoreTest, IsReadableByItsOwnerOnly) {
  const std::string path = FreshPath("private.db");
  OpenSqlite(path);
  struct stat file;
  ASSERT_EQ(stat(path.c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0077, 0);
}

TEST(SqliteStateStoreTest, RefusesAFileThatIsNoDatabase) {
  const std::string path = FreshPath("text.db");
  std::ofstream(path) << std::string(4096, 'x');
  EXPECT_THAT(SqliteStateStore::Open(path), HasReason("STORE_INVALID"));
}

TEST(SqliteStateStoreTest, RefusesADatabaseOfAnotherProgram) {
  const std::string path = FreshPath("foreign.db");
  sqlite3* database = nullptr;
  ASSERT_EQ(sqlite3_open(path.c_str(), &database), SQLITE_OK);
  sqlite3_exec(database, "CREATE TABLE t (x)", nullptr, nullptr, nullptr);
  sqlite3_close(database);
  EXPECT_THAT(SqliteStateStore::Open(path), HasReason("STORE_INVALID"));
}

TEST(SqliteStateStoreTest, RefusesANewerFormat) {
  const std::string path = FreshPath("newer.db");
  OpenSqlite(path);
  sqlite3* database = nullptr;
  ASSERT_EQ(sqlite3_open(path.c_str(), &database), SQLITE_OK);
  sqlite3_exec(database, "PRAGMA user_version = 2", nullptr, nullptr, nullptr);
  sqlite3_close(database);
  const auto store = SqliteStateStore::Open(path);
  EXPECT_THAT(store, HasReason("STORE_INVALID"));
  EXPECT_THAT(store.status().message(), HasSubstr("format 2"));
}

TEST(SqliteStateStoreTest, RefusesAPlaceThatCannotBeWritten) {
  EXPECT_THAT(SqliteStateStore::Open("/nonexistent/state.db"),
              HasReason("STORE_FAILED"));
}

// A limit on file size stands in for a full disk: the write fails the same way.
TEST(SqliteStateStoreTest, CommitToAFullDiskFailsAndChangesNothing) {
  const std::string path = FreshPath("full.db");
  const std::unique_ptr<StateStore> store = OpenSqlite(path);
  ASSERT_THAT(store->Commit({{"a", "1"}}), IsOk());
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {rlim_t{64} << 10, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status failed =
      store->Commit({{"a", "2"}, {"b", std::string(1 << 20, 'x')}});
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);

  EXPECT_THAT(failed, HasReason("STORE_FAILED"));
  EXPECT_THAT(store->Load().value(), UnorderedElementsAre(Pair("a", "1")));
  EXPECT_THAT(store->Commit({{"a", "3"}}), IsOk());
}

}  // namespace
}  // namespace shardwright
