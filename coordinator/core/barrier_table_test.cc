// Members that wait for each other: who is released, who is told what, and how
// a wait ends that cannot succeed.

#include "coordinator/core/barrier_table.h"

#include "coordinator/core/core_driver.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"

namespace shardwright {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class BarrierTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2, 2)), IsOk());
    for (Rank rank = 0; rank < 4; ++rank) member_[rank] = driver_.Join(rank);
  }

  // Keeps the leases of all but `silent` alive while time passes.
  void PassRenewing(absl::Duration duration, Rank silent = -1) {
    for (; duration > absl::ZeroDuration(); duration -= absl::Seconds(1)) {
      for (const TestMember& member : member_) {
        if (member.rank == silent) continue;
        ASSERT_THAT(driver_.Register(member, "host-a"), IsOk());
      }
      driver_.Pass(std::min(duration, absl::Seconds(1)));
    }
  }
  const std::optional<absl::Status>& End(StreamId stream) {
    return driver_.stream(stream).end;
  }

  CoreDriver driver_;
  TestMember member_[4];
};

TEST_F(BarrierTest, ReleasesAllWhenTheLastArrives) {
  for (Rank rank = 0; rank < 3; ++rank) {
    ASSERT_THAT(driver_.Wait(rank + 1, member_[rank], 1), IsOk());
    EXPECT_FALSE(End(rank + 1).has_value());
  }
  ASSERT_THAT(driver_.Wait(4, member_[3], 1), IsOk());
  for (StreamId stream = 1; stream <= 4; ++stream) {
    ASSERT_TRUE(End(stream).has_value());
    EXPECT_THAT(*End(stream), IsOk());
  }
}

TEST_F(BarrierTest, ModulesAndCliquesAreScopes) {
  ASSERT_THAT(driver_.Wait(1, member_[2], 1, absl::Minutes(1), "language/tp/1"),
              IsOk());
  ASSERT_THAT(driver_.Wait(2, member_[3], 1, absl::Minutes(1), "language/tp/1"),
              IsOk());
  EXPECT_TRUE(End(1).has_value());
  ASSERT_THAT(driver_.Wait(3, member_[2], 2, absl::Minutes(1), "language"),
              IsOk());
  EXPECT_FALSE(End(3).has_value());
  for (const std::string scope :
       {"vision", "language/tp/2", "language/xp/0", "language/tp/1"}) {
    EXPECT_THAT(
        driver_.Wait(4, member_[0], 1, absl::Minutes(1), scope, 0, "other"),
        HasReason("SCOPE_NOT_FOUND"))
        << scope;
  }
}

TEST_F(BarrierTest, KindsDoNotWaitForEachOther) {
  const TestMember trainer = driver_.Join(0, v1::TRAINER);
  ASSERT_THAT(driver_.Wait(1, trainer, 1), IsOk());
  for (Rank rank = 0; rank < 4; ++rank) {
    ASSERT_THAT(driver_.Wait(rank + 2, member_[rank], 1), IsOk());
  }
  EXPECT_TRUE(End(5).has_value());
  EXPECT_FALSE(End(1).has_value());
}

TEST_F(BarrierTest, ARepeatOfTheReleasedSequenceIsAnsweredAtOnce) {
  for (Rank rank = 0; rank < 4; ++rank) {
    ASSERT_THAT(driver_.Wait(rank + 1, member_[rank], 7), IsOk());
  }
  ASSERT_THAT(driver_.Wait(5, member_[1], 7), IsOk());
  EXPECT_THAT(*End(5), IsOk());
  // Even when others have gone on.
  ASSERT_THAT(driver_.Wait(6, member_[0], 8), IsOk());
  ASSERT_THAT(driver_.Wait(7, member_[1], 7), IsOk());
  EXPECT_THAT(*End(7), IsOk());
  EXPECT_FALSE(End(6).has_value());
}

TEST_F(BarrierTest, ARepeatThatDiffersFailsItsCallerOnly) {
  for (Rank rank = 0; rank < 4; ++rank) {
    ASSERT_THAT(
        driver_.Wait(rank + 1, member_[rank], 7, absl::Minutes(1), "", 5),
        IsOk());
  }
  // Others have gone on, with another digest.
  ASSERT_THAT(driver_.Wait(5, member_[0], 8, absl::Minutes(1), "", 6), IsOk());
  EXPECT_THAT(driver_.Wait(6, member_[1], 7, absl::Minutes(1), "", 6),
              HasReason("BARRIER_MISMATCH"));
  EXPECT_THAT(driver_.Wait(7, member_[1], 7, absl::Minutes(1), "language", 5),
              HasReason("BARRIER_MISMATCH"));
  EXPECT_FALSE(End(5).has_value());
  ASSERT_THAT(driver_.Wait(8, member_[1], 7, absl::Minutes(1), "", 5), IsOk());
  EXPECT_THAT(*End(8), IsOk());
}

TEST_F(BarrierTest, AReleaseIsNotForALaterProcessOfTheRank) {
  for (Rank rank = 0; rank < 4; ++rank) {
    ASSERT_THAT(driver_.Wait(rank + 1, member_[rank], 7), IsOk());
  }
  ASSERT_THAT(driver_.Leave(member_[1]), IsOk());
  member_[1] = driver_.Join(1);
  PassRenewing(absl::Seconds(10), /*silent=*/2);
  member_[2] = driver_.Join(2);
  for (const Rank restarted : {1, 2}) {
    for (const int64_t sequence : {0, 1, 7}) {
      const absl::Status status = driver_.Wait(5, member_[restarted], sequence);
      EXPECT_THAT(status, HasReason("BARRIER_SEQUENCE")) << sequence;
      EXPECT_EQ(DetailOf(status).metadata().at("expected"), "8");
    }
  }
  // Those who have stayed may still repeat.
  ASSERT_THAT(driver_.Wait(6, member_[0], 7), IsOk());
  EXPECT_THAT(*End(6), IsOk());
  // The next is for the later processes as well.
  for (Rank rank = 0; rank < 4; ++rank) {
    ASSERT_THAT(driver_.Wait(rank + 10, member_[rank], 8), IsOk());
  }
  EXPECT_THAT(*End(11), IsOk());
  ASSERT_THAT(driver_.Wait(14, member_[1], 8), IsOk());
  EXPECT_THAT(*End(14), IsOk());
}

TEST_F(BarrierTest, ARestartedJobBeginsAnywhereWhenAllReleasedAreGone) {
  for (Rank rank = 0; rank < 4; ++rank) {
    ASSERT_THAT(driver_.Wait(rank + 1, member_[rank], 7), IsOk());
  }
  for (Rank rank = 0; rank < 3; ++rank) {
    ASSERT_THAT(driver_.Leave(member_[rank]), IsOk());
    member_[rank] = driver_.Join(rank);
    EXPECT_THAT(driver_.Wait(5, member_[rank], 1),
                HasReason("BARRIER_SEQUENCE"));
  }
  PassRenewing(absl::Seconds(10), /*silent=*/3);
  member_[3] = driver_.Join(3);
  for (Rank rank = 0; rank < 4; ++rank) {
    EXPECT_FALSE(End(10).has_value());
    ASSERT_THAT(driver_.Wait(rank + 10, member_[rank], 1), IsOk());
  }
  EXPECT_THAT(*End(10), IsOk());
}

TEST_F(BarrierTest, AnotherKindOfTheRankThatLeavesForgetsNothing) {
  const TestMember trainer = driver_.Join(0, v1::TRAINER);
  for (Rank rank = 0; rank < 4; ++rank) {
    ASSERT_THAT(driver_.Wait(rank + 1, member_[rank], 7), IsOk());
  }
  ASSERT_THAT(driver_.Leave(trainer), IsOk());
  ASSERT_THAT(driver_.Wait(5, member_[0], 7), IsOk());
  EXPECT_THAT(*End(5), IsOk());
}

TEST_F(BarrierTest, AnotherSequenceIsRefusedWithBothNumbers) {
  ASSERT_THAT(driver_.Wait(1, member_[0], 7), IsOk());
  const absl::Status status = driver_.Wait(2, member_[1], 9);
  EXPECT_THAT(status, HasReason("BARRIER_SEQUENCE"));
  EXPECT_EQ(DetailOf(status).metadata().at("expected"), "7");
  EXPECT_EQ(DetailOf(status).metadata().at("got"), "9");
  EXPECT_FALSE(End(1).has_value());
  for (Rank rank = 1; rank < 4; ++rank) {
    ASSERT_THAT(driver_.Wait(rank + 2, member_[rank], 7), IsOk());
  }
  const absl::Status after = driver_.Wait(6, member_[1], 9);
  EXPECT_THAT(after, HasReason("BARRIER_SEQUENCE"));
  EXPECT_EQ(DetailOf(after).metadata().at("expected"), "8");
}

TEST_F(BarrierTest, ACallThatIsRefusedLeavesTheEarlierOneWaiting) {
  ASSERT_THAT(driver_.Wait(1, member_[0], 1), IsOk());
  EXPECT_THAT(driver_.Wait(2, member_[0], 1, absl::Minutes(1), "vision"),
              HasReason("SCOPE_NOT_FOUND"));
  ASSERT_THAT(driver_.Wait(3, member_[1], 1), IsOk());
  EXPECT_THAT(driver_.Wait(4, member_[0], 5), HasReason("BARRIER_SEQUENCE"));
  EXPECT_FALSE(End(1).has_value());
  ASSERT_THAT(driver_.Wait(5, member_[2], 1), IsOk());
  ASSERT_THAT(driver_.Wait(6, member_[3], 1), IsOk());
  EXPECT_THAT(*End(1), IsOk());
}

TEST_F(BarrierTest, AMemberThatCallsAgainReplacesItsOwnWait) {
  ASSERT_THAT(driver_.Wait(1, member_[0], 1), IsOk());
  ASSERT_THAT(driver_.Wait(2, member_[0], 1), IsOk());
  EXPECT_THAT(*End(1), HasReason("REPLACED"));
  for (Rank rank = 1; rank < 4; ++rank) {
    EXPECT_FALSE(End(2).has_value());
    ASSERT_THAT(driver_.Wait(rank + 2, member_[rank], 1), IsOk());
  }
  EXPECT_THAT(*End(2), IsOk());
}

TEST_F(BarrierTest, ADifferenceInDigestFailsAllWhoWait) {
  ASSERT_THAT(driver_.Wait(1, member_[0], 1, absl::Minutes(1), "", 5), IsOk());
  ASSERT_THAT(driver_.Wait(2, member_[1], 1, absl::Minutes(1), "", 5), IsOk());
  const absl::Status status =
      driver_.Wait(3, member_[2], 1, absl::Minutes(1), "", 0xab);
  EXPECT_THAT(status, HasReason("BARRIER_MISMATCH"));
  EXPECT_EQ(DetailOf(status).metadata().at("digest"), "0000000000000005");
  EXPECT_EQ(DetailOf(status).metadata().at("got_digest"), "00000000000000ab");
  EXPECT_THAT(status.message(), HasSubstr("digest 00000000000000ab"));
  EXPECT_THAT(*End(1), HasReason("BARRIER_MISMATCH"));
  EXPECT_THAT(*End(2), HasReason("BARRIER_MISMATCH"));
  // The barrier can be used again.
  EXPECT_THAT(driver_.Wait(4, member_[0], 1, absl::Minutes(1), "", 6), IsOk());
}

TEST_F(BarrierTest, ALostMemberFailsAllWhoWaitWithIt) {
  ASSERT_THAT(driver_.Wait(1, member_[0], 1), IsOk());
  ASSERT_THAT(driver_.Wait(2, member_[1], 1), IsOk());
  PassRenewing(absl::Seconds(10), /*silent=*/1);
  EXPECT_THAT(*End(1), HasReason("PEER_LOST"));
  EXPECT_EQ(DetailOf(*End(1)).missing().ranges(), "1");
  EXPECT_THAT(End(1)->message(), HasSubstr("lease expired"));
  EXPECT_THAT(*End(2), HasReason("NOT_REGISTERED"));
}

TEST_F(BarrierTest, AMemberThatIsLostBeforeItArrivesIsOnlyMissing) {
  ASSERT_THAT(driver_.Wait(1, member_[0], 1), IsOk());
  ASSERT_THAT(driver_.Leave(member_[1]), IsOk());
  EXPECT_FALSE(End(1).has_value());
}

TEST_F(BarrierTest, WhoseCallBreaksOffIsMissingAgain) {
  ASSERT_THAT(driver_.Wait(1, member_[0], 1), IsOk());
  ASSERT_THAT(driver_.Wait(2, member_[1], 1), IsOk());
  driver_.CloseStream(1);
  ASSERT_THAT(driver_.Wait(3, member_[2], 1), IsOk());
  ASSERT_THAT(driver_.Wait(4, member_[3], 1), IsOk());
  EXPECT_FALSE(End(2).has_value());
  ASSERT_THAT(driver_.Wait(5, member_[0], 1), IsOk());
  EXPECT_THAT(*End(2), IsOk());
}

TEST_F(BarrierTest, TellsWhoIsMissingWithinASecondOnChangeAndAsAReminder) {
  ASSERT_THAT(driver_.Wait(1, member_[1], 1), IsOk());
  PassRenewing(absl::Seconds(1));
  ASSERT_THAT(driver_.stream(1).progress, SizeIs(1));
  EXPECT_EQ(driver_.stream(1).progress[0].present_count(), 1);
  EXPECT_EQ(driver_.stream(1).progress[0].member_count(), 4);
  EXPECT_EQ(driver_.stream(1).progress[0].missing().ranges(), "0,2-3");
  ASSERT_THAT(driver_.Wait(2, member_[2], 1), IsOk());
  PassRenewing(absl::Seconds(1));
  ASSERT_THAT(driver_.stream(1).progress, SizeIs(2));
  EXPECT_EQ(driver_.stream(1).progress[1].missing().ranges(), "0,3");
  PassRenewing(absl::Seconds(4));
  EXPECT_THAT(driver_.stream(1).progress, SizeIs(2));
  PassRenewing(absl::Seconds(1));
  EXPECT_THAT(driver_.stream(1).progress, SizeIs(3));
}

TEST_F(BarrierTest, TheDeadlineNamesThoseWhoNeverCame) {
  ASSERT_THAT(driver_.Wait(1, member_[0], 1, absl::Seconds(3)), IsOk());
  ASSERT_THAT(driver_.Wait(2, member_[1], 1, absl::Seconds(3)), IsOk());
  ASSERT_THAT(driver_.Wait(3, member_[2], 1, absl::Seconds(4)), IsOk());
  PassRenewing(absl::Seconds(3));
  EXPECT_THAT(*End(1), HasReason("MEMBERS_MISSING"));
  EXPECT_EQ(DetailOf(*End(1)).missing().ranges(), "3");
  EXPECT_EQ(DetailOf(*End(2)).missing().ranges(), "3");
  EXPECT_FALSE(End(3).has_value());
  PassRenewing(absl::Seconds(1));
  // Not those who came and could wait no longer.
  EXPECT_EQ(DetailOf(*End(3)).missing().ranges(), "3");
}

TEST_F(BarrierTest, WhoGaveUpIsNamedWhenNobodyElseIsMissing) {
  ASSERT_THAT(driver_.Wait(1, member_[0], 1, absl::Seconds(1)), IsOk());
  ASSERT_THAT(driver_.Wait(2, member_[1], 1, absl::Seconds(2)), IsOk());
  PassRenewing(absl::Seconds(1));
  ASSERT_THAT(driver_.Wait(3, member_[2], 1, absl::Seconds(2)), IsOk());
  ASSERT_THAT(driver_.Wait(4, member_[3], 1, absl::Seconds(2)), IsOk());
  PassRenewing(absl::Seconds(1));
  EXPECT_EQ(DetailOf(*End(2)).missing().ranges(), "0");
}

TEST_F(BarrierTest, RefusesBadNamesAndTimeouts) {
  EXPECT_THAT(driver_.Wait(1, member_[0], 1, absl::ZeroDuration()),
              HasReason("INVALID_TIMEOUT"));
  EXPECT_THAT(driver_.Wait(1, member_[0], 1, -absl::Seconds(1)),
              HasReason("INVALID_TIMEOUT"));
  EXPECT_THAT(driver_.Wait(1, member_[0], 1, absl::Minutes(1), "", 0, ""),
              HasReason("INVALID_BARRIER_NAME"));
  EXPECT_THAT(driver_.Wait(1, member_[0], 1, absl::Minutes(1), "", 0,
                           std::string(64, 'n')),
              HasReason("INVALID_BARRIER_NAME"));
}

TEST_F(BarrierTest, ForgetsTheOldestReleaseForANewName) {
  for (int i = 0; i <= kBarriersPerJobMax; ++i) {
    const std::string name = "barrier-" + std::to_string(i);
    for (Rank rank = 0; rank < 2; ++rank) {
      ASSERT_THAT(driver_.Wait(2 * i + rank + 1, member_[rank], 5,
                               absl::Minutes(1), "language/tp/0", 0, name),
                  IsOk());
    }
    driver_.Pass(absl::Milliseconds(1));
  }
  // The first name is new again, the second still knows its sequence.
  EXPECT_THAT(driver_.Wait(9001, member_[0], 1, absl::Minutes(1),
                           "language/tp/0", 0, "barrier-2"),
              HasReason("BARRIER_SEQUENCE"));
  EXPECT_THAT(driver_.Wait(9002, member_[0], 1, absl::Minutes(1),
                           "language/tp/0", 0, "barrier-0"),
              IsOk());
}

}  // namespace
}  // namespace shardwright
