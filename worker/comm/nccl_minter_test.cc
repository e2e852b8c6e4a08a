// Ids are real ones of the machine's NCCL; they need no GPU. Without NCCL there
// is nothing to ask.

#include "worker/comm/nccl_minter.h"

#include <dirent.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"
#include "worker/comm/nccl_communicator.h"
#include "worker/comm/nccl_library.h"

namespace shardwright {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr absl::Duration kPatience = absl::Seconds(60);

int CountEntries(const char* directory) {
  int count = 0;
  DIR* const open = opendir(directory);
  while (readdir(open) != nullptr) ++count;
  closedir(open);
  return count;
}

std::string Children() {
  std::ifstream file(absl::StrCat("/proc/self/task/", getpid(), "/children"));
  std::string children;
  std::getline(file, children);
  return children;
}

// Gone, or a corpse that nobody has collected.
bool HasEnded(int pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  std::string stat;
  std::getline(file, stat);
  return stat.empty() || absl::StrContains(stat, ") Z ");
}

class NcclMinterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto nccl = LoadNccl();
    if (!nccl.ok()) GTEST_SKIP() << "SKIPPED: " << nccl.status().message();
  }
};

TEST_F(NcclMinterTest, EachIdIsAnother) {
  std::set<std::string> ids;
  std::vector<std::unique_ptr<NcclMinter>> minters;
  for (int i = 0; i < 3; ++i) {
    minters.push_back(NcclMinter::Start().value());
    const auto id = minters.back()->Id(kPatience);
    ASSERT_THAT(id, IsOk());
    EXPECT_EQ(id->size(), 128);
    ids.insert(*id);
  }
  EXPECT_THAT(ids, SizeIs(3));
}

TEST_F(NcclMinterTest, AHundredIdsLeaveNothingBehind) {
  const int threads = CountEntries("/proc/self/task");
  const int fds = CountEntries("/proc/self/fd");
  for (int i = 0; i < 100; ++i) {
    const auto minter = NcclMinter::Start();
    ASSERT_THAT(minter, IsOk());
    // Every third is given up before its id is there.
    if (i % 3 != 0) {
      ASSERT_THAT((*minter)->Id(kPatience), IsOk());
    }
    EXPECT_NE(Children(), "");
  }
  EXPECT_EQ(CountEntries("/proc/self/task"), threads);
  EXPECT_EQ(CountEntries("/proc/self/fd"), fds);
  EXPECT_EQ(Children(), "");
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST_F(NcclMinterTest, WhoWaitsForAnIdThatIsGivenUpIsTold) {
  const auto minter = NcclMinter::Start();
  ASSERT_THAT(minter, IsOk());
  (*minter)->End();
  (*minter)->End();
  // It may have been faster.
  const auto id = (*minter)->Id(kPatience);
  if (!id.ok()) {
    EXPECT_THAT(id, HasReason("COMM_BACKEND_FAILED"));
  }
}

TEST_F(NcclMinterTest, AMinterEndsWithTheProcessThatStartedIt) {
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  const pid_t parent = fork();
  if (parent == 0) {
    const auto minter = NcclMinter::Start();
    const int minter_pid = minter.ok() && (*minter)->Id(kPatience).ok()
                               ? atoi(Children().c_str())
                               : 0;
    const ssize_t written = write(pipe_fds[1], &minter_pid, sizeof(int));
    _exit(written == sizeof(int) ? 0 : 1);  // As if killed: no destructor.
  }
  int minter_pid = 0;
  ASSERT_EQ(read(pipe_fds[0], &minter_pid, sizeof(int)), sizeof(int));
  ASSERT_GT(minter_pid, 0);
  EXPECT_EQ(waitpid(parent, nullptr, 0), parent);
  const absl::Time deadline = absl::Now() + kPatience;
  while (!HasEnded(minter_pid) && absl::Now() < deadline) sched_yield();
  EXPECT_TRUE(HasEnded(minter_pid));
  close(pipe_fds[0]);
  close(pipe_fds[1]);
}

TEST_F(NcclMinterTest, AFixedIdIsRefused) {
  setenv("NCCL_COMM_ID", "10.255.255.1:12345", 1);
  const auto facts = ProbeNccl();
  unsetenv("NCCL_COMM_ID");
  EXPECT_THAT(facts, HasReason("NCCL_COMM_ID_SET"));
  EXPECT_THAT(facts.status().message(), HasSubstr("NCCL_COMM_ID is set"));
}

// The environment is not the only place.
TEST_F(NcclMinterTest, AFixedIdInAConfigurationFileIsRefused) {
  const std::string path =
      absl::StrCat(::testing::TempDir(), "/nccl.", getpid(), ".conf");
  std::ofstream(path) << "NCCL_COMM_ID=127.0.0.1:12345\n";
  setenv("NCCL_CONF_FILE", path.c_str(), 1);
  const auto facts = ProbeNccl();
  unsetenv("NCCL_CONF_FILE");
  EXPECT_THAT(facts, HasReason("NCCL_COMM_ID_SET"));
}

TEST_F(NcclMinterTest, WhatNcclSaysWhenItRefusesIsPassedOn) {
  setenv("NCCL_SOCKET_IFNAME", "=no-such-interface", 1);
  const auto minter = NcclMinter::Start();
  unsetenv("NCCL_SOCKET_IFNAME");
  ASSERT_THAT(minter, IsOk());
  const auto id = (*minter)->Id(kPatience);
  EXPECT_THAT(id, HasReason("COMM_BACKEND_FAILED"));
  EXPECT_THAT(id.status().message(), HasSubstr("minting an NCCL id: "));
}

TEST_F(NcclMinterTest, ProbingTellsVersionAndAddress) {
  setenv("NCCL_SOCKET_IFNAME", "lo", 1);
  const auto facts = ProbeNccl();
  unsetenv("NCCL_SOCKET_IFNAME");
  ASSERT_THAT(facts, IsOk());
  EXPECT_EQ(facts->version, (*LoadNccl())->version);
  EXPECT_THAT(facts->version, ::testing::MatchesRegex("2\\.[0-9]+\\.[0-9]+"));
  EXPECT_EQ(facts->address, "127.0.0.1");
}

TEST_F(NcclMinterTest, OnlyTheMembersThatAreAskedMint) {
  const auto factory = CreateNcclFactory({});
  ASSERT_THAT(factory, IsOk());
  CliqueAttempt attempt;
  attempt.clique = "language/tp/0";
  attempt.ranks = {10, 11};
  attempt.slot_count = 1;
  attempt.slot_indexes = {0};
  const auto root = (*factory)->Begin(attempt);
  ASSERT_THAT(root, IsOk());
  const auto slots = (*root)->Slots();
  ASSERT_THAT(slots, IsOk());
  EXPECT_THAT(*slots, SizeIs(1));
  EXPECT_EQ(slots->at(0).size(), 128);
  attempt.position = 1;
  attempt.slot_indexes = {};
  const auto other = (*factory)->Begin(attempt);
  ASSERT_THAT(other, IsOk());
  EXPECT_THAT(*(*other)->Slots(), SizeIs(0));
  EXPECT_THAT((*other)->Connect({"x"}), HasReason("INVALID_SLOT"));
}

TEST_F(NcclMinterTest, AnAttemptThatIsAbortedStopsMinting) {
  const auto factory = CreateNcclFactory({});
  ASSERT_THAT(factory, IsOk());
  CliqueAttempt attempt;
  attempt.ranks = {10, 11};
  attempt.slot_count = 1;
  attempt.slot_indexes = {0};
  const auto root = (*factory)->Begin(attempt);
  ASSERT_THAT(root, IsOk());
  (*root)->Abort(PeerLost("language/tp/0", {11}, "lease expired"));
  EXPECT_THAT((*root)->Slots(), HasReason("PEER_LOST"));
  EXPECT_EQ(Children(), "");
}

}  // namespace
}  // namespace shardwright

int main(int argc, char** argv) {
  if (const auto exit_code = shardwright::RunNcclMinter(argc, argv)) {
    return *exit_code;
  }
  ::testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
