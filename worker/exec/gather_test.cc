// Members are threads that meet over loopback communicators. What a planner
// would plan does not matter here: any tables over one set of sources do.

#include "worker/exec/gather.h"

#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/plan/copy_table.h"
#include "proto/status/status_matchers.h"
#include "worker/comm/loopback_communicator.h"

namespace shardwright {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kRowBytes = 3;

// Source 0 has 6 rows "aaa", "bbb"..., source 1 has 2 rows "yyy", "zzz".
std::string RowsOfSource(int source) {
  return source == 0 ? "aaabbbcccdddeeefff" : "yyyzzz";
}

// One member: its part, and the buffers behind it.
struct Member {
  explicit Member(std::vector<RowCopy> entries, int64_t destination_rows) {
    part.digest = 77;
    part.row_bytes = kRowBytes;
    part.table =
        *CopyTable::Create(std::move(entries), {6, 2}, destination_rows);
    shard.resize(destination_rows * kRowBytes);
    const std::string first = RowsOfSource(0), second = RowsOfSource(1);
    EXPECT_THAT(RunForward(part.table, kRowBytes, {first, second},
                           absl::MakeSpan(shard)),
                IsOk());
    Point();
  }

  void Point() {
    part.shard = shard;
    part.sources = {absl::MakeSpan(sources[0]), absl::MakeSpan(sources[1])};
  }

  GatherPart part;
  std::string shard;
  std::vector<std::string> sources = {std::string(18, '?'),
                                      std::string(6, '?')};
  absl::Status refusal;
  absl::StatusOr<std::vector<int64_t>> result = absl::UnknownError("not run");
};

// Rows c, y and padding; rows a, b, c and z. Nobody holds d, e, f.
std::vector<std::unique_ptr<Member>> TwoMembers() {
  std::vector<std::unique_ptr<Member>> members;
  members.push_back(std::make_unique<Member>(
      std::vector<RowCopy>{
          {0, 2, 0, 1, 1}, {1, 0, 1, 1, 1}, {RowCopy::kFill, 0, 2, 1, 1}},
      3));
  members.push_back(std::make_unique<Member>(
      std::vector<RowCopy>{{0, 0, 0, 1, 3}, {1, 1, 3, 1, 1}}, 4));
  return members;
}

// Ranks are 4, 5...
void GatherAll(const std::vector<std::unique_ptr<Member>>& members) {
  LoopbackFactory factory;
  std::vector<std::thread> threads;
  for (size_t i = 0; i < members.size(); ++i) {
    threads.emplace_back([&, i] {
      CliqueAttempt attempt;
      attempt.clique = "language/tp_cp/0";
      attempt.ranks.resize(members.size());
      std::iota(attempt.ranks.begin(), attempt.ranks.end(), 4);
      attempt.position = static_cast<int>(i);
      auto connected = (*factory.Begin(attempt))->Connect({});
      ASSERT_THAT(connected, IsOk());
      Member& member = *members[i];
      member.result = GatherShards(**connected, member.part, member.refusal);
      // Nobody leaves before all have an answer.
      (void)(*connected)->Barrier();
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(GatherTest, EveryMemberGetsEveryRowThatAnyHolds) {
  const auto members = TwoMembers();
  GatherAll(members);
  for (const auto& member : members) {
    ASSERT_THAT(member->result, IsOk());
    EXPECT_THAT(*member->result, ElementsAre(3, 2));
    EXPECT_EQ(member->sources[0], "aaabbbccc?????????");
    EXPECT_EQ(member->sources[1], "yyyzzz");
  }
}

TEST(GatherTest, AMemberAloneGetsItsOwnRows) {
  auto members = TwoMembers();
  members.pop_back();
  GatherAll(members);
  ASSERT_THAT(members[0]->result, IsOk());
  EXPECT_THAT(*members[0]->result, ElementsAre(1, 1));
}

TEST(GatherTest, DifferentDigestsAreNamedByRankAndNothingMoves) {
  const auto members = TwoMembers();
  members[1]->part.digest = 78;
  GatherAll(members);
  for (const auto& member : members) {
    EXPECT_THAT(
        member->result,
        AllOf(HasReason("DIGEST_MISMATCH"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("rank 4 has 000000000000004d, rank 5 has "
                                 "000000000000004e"))));
    EXPECT_EQ(member->sources[0], std::string(18, '?'));
  }
}

TEST(GatherTest, RowsThatDifferAreNamedAndNothingIsWritten) {
  const auto members = TwoMembers();
  members[1]->shard[7] = 'X';  // In row c.
  GatherAll(members);
  for (const auto& member : members) {
    EXPECT_THAT(member->result,
                AllOf(HasReason("ROWS_DIFFER"),
                      StatusIs(absl::StatusCode::kDataLoss,
                               HasSubstr("rank 4 and rank 5 hold different "
                                         "bytes for row 2 of source 0"))));
    EXPECT_EQ(member->sources[1], std::string(6, '?'));
  }
}

TEST(GatherTest, SourcesOfOtherSizesAreRefused) {
  const auto members = TwoMembers();
  members[1]->part.table =
      *CopyTable::Create({{0, 0, 0, 1, 3}, {1, 1, 3, 1, 1}}, {7, 2}, 4);
  members[1]->sources[0].resize(21);
  members[1]->Point();
  GatherAll(members);
  EXPECT_THAT(members[0]->result,
              AllOf(HasReason("SOURCES_DIFFER"),
                    StatusIs(absl::StatusCode::kInvalidArgument,
                             HasSubstr("rank 5 has sources of 7,2 rows"))));
}

TEST(GatherTest, ABadPartIsRefusedAtOnceEverywhere) {
  const auto members = TwoMembers();
  members[0]->part.shard.remove_suffix(1);
  GatherAll(members);
  EXPECT_THAT(members[0]->result,
              AllOf(HasReason("INVALID_TENSOR"),
                    StatusIs(absl::StatusCode::kInvalidArgument,
                             HasSubstr("the destination has 8 bytes"))));
  EXPECT_THAT(
      members[1]->result,
      AllOf(HasReason("PEER_REFUSED"),
            StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rank 4"))));
}

// Members whose threads come in other orders are told; nothing mixes.
TEST(GatherTest, CallsAtOnceDoNotMix) {
  LoopbackFactory factory;
  const auto call = [](Communicator& communicator, int position, char letter) {
    // Of 3 rows and of 300, so that no message of one fits the other.
    const int64_t rows = letter == 'x' ? 3 : 300;
    const std::string shard(rows, letter);
    std::string source(2 * rows, '?');
    GatherPart part;
    part.digest = letter;
    part.row_bytes = 1;
    part.table = *CopyTable::Create({{0, position * rows, 0, 1, rows}},
                                    {2 * rows}, rows);
    part.shard = shard;
    part.sources = {absl::MakeSpan(source)};
    const auto restored = GatherShards(communicator, part);
    if (!restored.ok()) {
      EXPECT_THAT(restored, HasReason("DIGEST_MISMATCH"));
    }
    EXPECT_EQ(source, std::string(2 * rows, restored.ok() ? letter : '?'));
  };
  std::vector<std::thread> members;
  for (int i = 0; i < 2; ++i) {
    members.emplace_back([&, i] {
      CliqueAttempt attempt;
      attempt.clique = "language/tp_cp/0";
      attempt.ranks = {4, 5};
      attempt.position = i;
      auto connected = (*factory.Begin(attempt))->Connect({});
      ASSERT_THAT(connected, IsOk());
      for (int round = 0; round < 200; ++round) {
        std::thread other([&] { call(**connected, i, 'y'); });
        call(**connected, i, 'x');
        other.join();
      }
      EXPECT_THAT((*connected)->Barrier(), IsOk());
    });
  }
  for (std::thread& member : members) member.join();
}

TEST(GatherTest, ARefusalReachesTheOthers) {
  const auto members = TwoMembers();
  members[1]->refusal = absl::NotFoundError("no such session");
  GatherAll(members);
  EXPECT_THAT(members[1]->result,
              StatusIs(absl::StatusCode::kNotFound, "no such session"));
  EXPECT_THAT(members[0]->result, HasReason("PEER_REFUSED"));
}

}  // namespace
}  // namespace shardwright
