#include "worker/exec/bridge.h"

#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/plan/copy_table.h"
#include "proto/plan/route_plan.h"
#include "proto/status/error.h"
#include "proto/status/status_matchers.h"
#include "worker/comm/gloo_communicator.h"
#include "worker/comm/loopback_communicator.h"
#include "worker/exec/bridge_fixture.h"

namespace shardwright {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(BridgeTest, RowsGoToTheirShardsAndCountAsReceived) {
  auto members = Members(Direction::kForward);
  RunAll(members);
  for (const auto& member : members) ASSERT_THAT(member->result, IsOk());
  EXPECT_EQ(members[2]->shard, std::string("aaaxxxddd\0\0\0", 12));
  EXPECT_EQ(members[3]->shard, "cccbbbyyyzzz");
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(members[i]->result->sent_bytes, i < 2 ? 6 : 0);
    EXPECT_EQ(members[i]->result->received_bytes, i < 2 ? 0 : 6);
  }
}

TEST(BridgeTest, GradientsGoBackAndAreWholeAtEveryRankOfTheLane) {
  auto members = Members(Direction::kAdjoint);
  RunAll(members);
  for (const auto& member : members) ASSERT_THAT(member->result, IsOk());
  EXPECT_EQ(members[0]->sources[0], "AAABBBCCCDDD");
  EXPECT_EQ(members[1]->sources[0], "AAABBBCCCDDD");
  EXPECT_EQ(members[2]->sources[0], std::string("TTT\0\0\0\0\0\0", 9));
  EXPECT_EQ(members[3]->sources[0], std::string("\0\0\0YYYZZZ", 9));
}

// What is wrong at one member, and what it and its peers are told.
struct Refusal {
  const char* name;
  int member;
  std::function<void(Member&)> spoil;
  const char* reason;
  const char* words;
  const char* peers_reason;
  const char* peers_words;
};

class BridgeRefusalTest : public ::testing::TestWithParam<Refusal> {};

TEST_P(BridgeRefusalTest, IsToldEverywhereAndNothingIsWritten) {
  for (const Direction direction : {Direction::kForward, Direction::kAdjoint}) {
    auto members = Members(direction);
    GetParam().spoil(*members[GetParam().member]);
    std::vector<std::vector<std::string>> before;
    for (const auto& member : members) {
      before.push_back(member->sources);
      before.back().push_back(member->shard);
    }
    RunAll(members);
    for (int i = 0; i < 4; ++i) {
      const bool own = i == GetParam().member;
      EXPECT_THAT(
          members[i]->result.status(),
          AllOf(HasReason(own ? GetParam().reason : GetParam().peers_reason),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr(own ? GetParam().words
                                       : GetParam().peers_words))));
      if (direction == Direction::kAdjoint && i >= 2) continue;
      std::vector<std::string> after = members[i]->sources;
      after.push_back(members[i]->shard);
      EXPECT_EQ(after, before[i]) << i;
    }
  }
}

void ChangeTransfer(Member& member,
                    const std::function<void(RouteTransfer&)>& change) {
  change(member.part.plan.edges[0].transfers[0]);
}

constexpr char kRefused[] = "PEER_REFUSED";

INSTANTIATE_TEST_SUITE_P(
    All, BridgeRefusalTest,
    ::testing::Values(
        Refusal{"Digest", 3, [](Member& m) { m.part.plan.digest = 78; },
                "DIGEST_MISMATCH", "rank 0-2 has 000000000000004d, rank 3 has",
                "DIGEST_MISMATCH", "rank 3 has 000000000000004e"},
        Refusal{"Generation", 0, [](Member& m) { m.part.plan.generation = 5; },
                "GENERATION_MISMATCH", "rank 0 has 5", "GENERATION_MISMATCH",
                "rank 1-3 has 4"},
        Refusal{"Sequence", 2, [](Member& m) { m.part.sequence = 10; },
                "SEQUENCE_MISMATCH", "rank 2 has 10", "SEQUENCE_MISMATCH",
                "rank 0-1,3 has 9"},
        Refusal{"Shard", 2,
                [](Member& m) {
                  m.shard.pop_back();
                  m.Point();
                },
                "INVALID_TENSOR", "the shard has 11 bytes", kRefused,
                "rank 2: INVALID_TENSOR: the shard has 11 bytes"},
        Refusal{"Output", 1,
                [](Member& m) {
                  m.sources[0].pop_back();
                  m.Point();
                },
                "INVALID_TENSOR", "needs 4 rows of 3 bytes", kRefused,
                "rank 1: INVALID_TENSOR"},
        Refusal{"SourceOfAnEdge", 3,
                [](Member& m) {
                  m.sources[1] = "aaa";
                  m.Point();
                },
                "INVALID_TENSOR", "an edge brings its rows", kRefused,
                "rank 3"},
        Refusal{"RowBytes", 0, [](Member& m) { m.part.row_bytes = 0; },
                "INVALID_TENSOR", "row_bytes is 0", kRefused, "rank 0"},
        Refusal{"PlanOfAnotherRank", 3, [](Member& m) { m.part.plan.rank = 2; },
                "INVALID_PLAN", "the plan is of rank 2, but this is rank 3",
                kRefused, "rank 3"},
        Refusal{"Stranger", 0,
                [](Member& m) {
                  ChangeTransfer(m, [](RouteTransfer& t) { t.peer = 8; });
                },
                "INVALID_PLAN", "transfer with rank 8", kRefused, "rank 0"},
        Refusal{"OutsideTheOutput", 0,
                [](Member& m) {
                  ChangeTransfer(m, [](RouteTransfer& t) { t.tensor_row = 4; });
                },
                "INVALID_PLAN", "outside", kRefused, "rank 0"},
        Refusal{"ElsewhereInTheShard", 2,
                [](Member& m) {
                  ChangeTransfer(m, [](RouteTransfer& t) { t.tensor_row = 1; });
                },
                "INVALID_PLAN", "but at row 0", kRefused, "rank 2"},
        Refusal{"StagingNotFilled", 3,
                [](Member& m) {
                  ChangeTransfer(m, [](RouteTransfer& t) { t.row_count = 2; });
                },
                "INVALID_PLAN", "bring 2 of 2 rows", kRefused, "rank 3"},
        Refusal{"TwoEdgesOfOneSource", 3,
                [](Member& m) {
                  m.part.plan.edges.push_back(m.part.plan.edges[0]);
                },
                "INVALID_PLAN", "not one source", kRefused, "rank 3"},
        Refusal{"PartsWithAHole", 1,
                [](Member& m) {
                  m.part.plan.parts[1].rows = {3, 1};
                },
                "INVALID_PLAN", "parts are 2 of the output's 4", kRefused,
                "rank 1"},
        Refusal{"FillInPack", 1,
                [](Member& m) {
                  m.part.plan.pack = *CopyTable::Create(
                      {{RowCopy::kFill, 0, 0, 1, 1000000}}, {4}, 1000000);
                },
                "INVALID_PLAN", "pack is not of rows", kRefused, "rank 1"},
        Refusal{"OfTheCaller", 2,
                [](Member& m) {
                  m.part = BridgePart();
                  m.refusal = Error(absl::StatusCode::kInvalidArgument,
                                    "INVALID_SEGMENT", "no such segment");
                },
                "INVALID_SEGMENT", "no such segment", kRefused,
                "rank 2: INVALID_SEGMENT: no such segment"}),
    [](const auto& info) { return info.param.name; });

TEST(BridgeTest, MembersThatGoDifferentWaysAreTold) {
  auto members = Members(Direction::kForward);
  members[1] = std::make_unique<Member>(1, Direction::kAdjoint);
  RunAll(members);
  for (const auto& member : members) {
    EXPECT_THAT(member->result.status(), HasReason("OPERATION_MISMATCH"));
  }
}

// Both have the same digest, but one sends what the other does not wait for.
TEST(BridgeTest, PlansThatDifferInWhatIsSentMoveNothing) {
  auto members = Members(Direction::kForward);
  members[0]->part.plan.edges[0].transfers[0].row_count = 2;
  RunAll(members);
  for (const auto& member : members) {
    EXPECT_THAT(member->result.status(), HasReason("INVALID_PLAN"));
  }
  EXPECT_EQ(members[2]->shard, std::string(12, '?'));
}

// Says that its call has packed, and waits for its turn.
class PromisedTurn : public BridgeTurn {
 public:
  PromisedTurn(std::promise<void>& packed, std::promise<void>& turn,
               std::promise<void>& done)
      : packed_(packed), turn_(turn), done_(done) {}
  void Begin() override {
    packed_.set_value();
    turn_.get_future().wait();
  }
  void End() override { done_.set_value(); }

 private:
  std::promise<void>& packed_;
  std::promise<void>& turn_;
  std::promise<void>& done_;
};

TEST(BridgeTest, TwoMicroBatchesAreUnderWayAndDoNotMix) {
  auto first = Members(Direction::kForward);
  auto second = Members(Direction::kForward);
  LoopbackFactory factory;
  OnEach([&](int i) {
    const auto bridge = Join(factory, {0, 1, 2, 3}, i, 1);
    // The first may go when the second has packed, and that when it is done.
    std::promise<void> packed, second_packed, first_done, second_done;
    PromisedTurn first_turn(packed, second_packed, first_done);
    PromisedTurn second_turn(second_packed, first_done, second_done);
    if (i < 2) second[i]->sources[0] = "eeefffggghhh";
    second[i]->part.sequence = 10;
    const auto run = [&](Member& member, BridgeTurn& turn) {
      member.result =
          RunBridge(*bridge, nullptr, member.part, member.engine, &turn);
    };
    std::thread other([&] { run(*second[i], second_turn); });
    run(*first[i], first_turn);
    other.join();
  });
  EXPECT_EQ(first[3]->shard, "cccbbbyyyzzz");
  EXPECT_EQ(second[3]->shard, "gggfffyyyzzz");
  EXPECT_EQ(second[2]->shard, std::string("eeexxxhhh\0\0\0", 12));
}

// The same over TCP.
TEST(BridgeTest, WorksOverGloo) {
  GlooOptions options;
  options.host = "127.0.0.1";
  const auto factory = *CreateGlooFactory(options);
  std::vector<std::unique_ptr<CommunicatorAttempt>> attempts;
  std::vector<std::string> slots;
  for (int i = 0; i < 4; ++i) {
    CliqueAttempt attempt;
    attempt.clique = "language/bridge/0";
    attempt.ranks = {0, 1, 2, 3};
    attempt.position = i;
    attempt.slot_indexes = {i};
    attempt.slot_count = 4;
    attempts.push_back(*factory->Begin(attempt));
    slots.push_back(attempts[i]->Slots()->begin()->second);
  }
  auto members = Members(Direction::kForward);
  OnEach([&](int i) {
    const auto bridge = attempts[i]->Connect(slots);
    ASSERT_THAT(bridge, IsOk());
    Member& member = *members[i];
    for (int round = 0; round < 3; ++round) {
      member.shard.assign(member.shard.size(), '?');
      member.result = RunBridge(**bridge, nullptr, member.part, member.engine);
      ASSERT_THAT(member.result, IsOk());
    }
    (void)(*bridge)->Barrier();
  });
  EXPECT_EQ(members[2]->shard, std::string("aaaxxxddd\0\0\0", 12));
  EXPECT_EQ(members[3]->shard, "cccbbbyyyzzz");
}

}  // namespace
}  // namespace shardwright
