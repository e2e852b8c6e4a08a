#include "worker/rpc/bridge_turns.h"

#include <memory>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"
#include "worker/rpc/caller.h"

namespace shardwright {
namespace {

using ::testing::HasSubstr;
using Turn = BridgeTurns::Turn;

v1::Attempt AttemptOf(int number) {
  v1::Attempt attempt;
  attempt.set_clique("language/bridge/0");
  attempt.set_number(number);
  return attempt;
}

class BridgeTurnsTest : public ::testing::Test {
 protected:
  absl::StatusOr<Turn> Enter(uint64_t sequence,
                             absl::Duration timeout = absl::Seconds(30),
                             int attempt = 1) {
    return turns_.Enter(AttemptOf(attempt), sequence, absl::Now() + timeout,
                        caller_);
  }

  // A call from beginning to end.
  void Pass(uint64_t sequence, int attempt = 1) {
    auto turn = Enter(sequence, absl::Seconds(30), attempt);
    ASSERT_THAT(turn, IsOk());
    turn->Begin();
    turn->End();
    turn->Succeed();
  }

  Caller caller_;
  BridgeTurns turns_;
};

TEST_F(BridgeTurnsTest, ALaterSequenceWaitsForTheOneBefore) {
  Pass(7);
  std::thread later([this] { Pass(9); });
  Pass(8);
  later.join();
}

TEST_F(BridgeTurnsTest, ASequenceWhoseForerunnerNeverComesIsToldSo) {
  Pass(7);
  const auto turn = Enter(9, absl::ZeroDuration());
  EXPECT_THAT(turn, HasReason("SEQUENCE_MISSING"));
  EXPECT_THAT(turn.status().message(), HasSubstr("called for 8"));
}

TEST_F(BridgeTurnsTest, OneWhoseCallerHasGivenUpGoesAway) {
  Pass(7);
  caller_.Leave();
  EXPECT_THAT(Enter(9), HasReason("CLIENT_GONE"));
}

TEST_F(BridgeTurnsTest, TwoAreUnderWayAndEachHasASlotOfItsOwn) {
  auto first = std::make_unique<Turn>(*Enter(1));
  auto second = std::make_unique<Turn>(*Enter(2));
  EXPECT_NE(first->slot(), second->slot());
  EXPECT_THAT(Enter(3, absl::ZeroDuration()), HasReason("BRIDGE_BUSY"));
  const int slot = first->slot();
  first->Succeed();
  first.reset();
  const auto third = Enter(3);
  ASSERT_THAT(third, IsOk());
  EXPECT_EQ(third->slot(), slot);
  second.reset();  // Third waits for its transfer.
}

TEST_F(BridgeTurnsTest, TransfersFollowOneAnother) {
  auto first = Enter(1);
  auto second = Enter(2);
  bool first_has_ended = false;
  std::thread transfer([&] {
    second->Begin();
    EXPECT_TRUE(first_has_ended);
    second->End();
  });
  first->Begin();
  first_has_ended = true;
  first->End();
  transfer.join();
}

TEST_F(BridgeTurnsTest, AfterAFailureAnySequenceMayCome) {
  Pass(7);
  { const auto failed = Enter(8); }
  Pass(20);
  Pass(21);
}

TEST_F(BridgeTurnsTest, AfterANewAttemptAnySequenceMayCome) {
  Pass(7);
  Pass(20, /*attempt=*/2);
}

TEST_F(BridgeTurnsTest, ACallOfAnOlderAttemptDoesNotEnter) {
  Pass(7, /*attempt=*/2);
  EXPECT_THAT(Enter(8, absl::Seconds(30), /*attempt=*/1),
              HasReason("CLIQUE_NOT_ACTIVE"));
  Pass(8, /*attempt=*/2);
}

TEST_F(BridgeTurnsTest, AnAttemptThatIsOverEndsTheWaitOfItsCalls) {
  Pass(7);
  std::thread late(
      [this] { EXPECT_THAT(Enter(9), HasReason("CLIQUE_NOT_ACTIVE")); });
  Pass(20, /*attempt=*/2);
  late.join();
}

TEST_F(BridgeTurnsTest, AFailureInAnOlderAttemptLeavesTheOrderOfTheNewOne) {
  auto old = std::make_unique<Turn>(*Enter(7));
  auto next = Enter(20, absl::Seconds(30), /*attempt=*/2);
  ASSERT_THAT(next, IsOk());
  old.reset();  // Has failed.
  EXPECT_THAT(Enter(22, absl::ZeroDuration(), /*attempt=*/2),
              HasReason("SEQUENCE_MISSING"));
}

TEST_F(BridgeTurnsTest, ALowerSequenceIsTheMembersAffair) {
  Pass(7);
  Pass(3);
}

}  // namespace
}  // namespace shardwright
