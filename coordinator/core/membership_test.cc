// Leases, fencing and the news of losses, on time made by hand: who may be a
// member, who is told of whose end, and what a restart of either side keeps.

#include "coordinator/core/membership.h"

#include "coordinator/core/core_driver.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"

namespace shardwright {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class MembershipTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(4)), IsOk());
  }

  std::vector<v1::Member> Members(int page_size = 0,
                                  std::string* page_token = nullptr) {
    v1::ListMembersRequest request;
    request.set_job("job");
    request.set_page_size(page_size);
    if (page_token != nullptr) request.set_page_token(*page_token);
    Effects effects;
    const v1::ListMembersResponse response =
        driver_.core().ListMembers(request, driver_.now(), effects).value();
    if (page_token != nullptr) *page_token = response.next_page_token();
    return {response.members().begin(), response.members().end()};
  }

  CoreDriver driver_;
};

TEST_F(MembershipTest, RegistrationTellsGenerationTermAndLease) {
  const auto response = driver_.Register({2, 77});
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(response->generation(), 1);
  EXPECT_EQ(response->term(), 1);
  EXPECT_EQ(response->lease_ttl().seconds(), 10);
  EXPECT_EQ(response->renew_period().seconds(), 3);
  EXPECT_THAT(Members(), SizeIs(1));
}

TEST_F(MembershipTest, RefusesWhatIsNoMember) {
  TestMember no_job = {0, 1};
  no_job.job = "other";
  EXPECT_THAT(driver_.Register(no_job), HasReason("JOB_NOT_FOUND"));
  EXPECT_THAT(driver_.Register({4, 1}), HasReason("RANK_NOT_IN_LAYOUT"));
  EXPECT_THAT(driver_.Register({-1, 1}), HasReason("RANK_NOT_IN_LAYOUT"));
  EXPECT_THAT(driver_.Register({0, 0}), HasReason("INVALID_MEMBER"));
  EXPECT_THAT(driver_.Register({0, 1, v1::MEMBER_KIND_UNSPECIFIED}),
              HasReason("INVALID_MEMBER"));
  EXPECT_THAT(driver_.Register({0, 1}, std::string(256, 'h')),
              HasReason("INVALID_MEMBER"));
  EXPECT_THAT(Members(), IsEmpty());
}

TEST_F(MembershipTest, ALostReplyCostsNothing) {
  const auto first = driver_.Register({0, 7}, "host-a");
  driver_.Pass(absl::Seconds(9));
  const int commits = driver_.store().commit_count;
  const auto again = driver_.Register({0, 7}, "host-a");
  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(again->SerializeAsString(), first->SerializeAsString());
  EXPECT_EQ(driver_.store().commit_count, commits);
  // The repeat renewed the lease.
  driver_.Pass(absl::Seconds(9));
  EXPECT_EQ(Members()[0].state(), v1::Member::LIVE);
}

TEST_F(MembershipTest, ASecondLiveProcessIsRefusedAndToldWhoTheFirstIs) {
  ASSERT_THAT(driver_.Register({1, 7}, "host-a"), IsOk());
  driver_.Pass(absl::Seconds(4));
  const auto second = driver_.Register({1, 8}, "host-b");
  EXPECT_THAT(second, HasReason("MEMBER_ID_IN_USE"));
  EXPECT_THAT(second.status().message(), HasSubstr("host-a, pid 1007"));
  const auto metadata = DetailOf(second.status()).metadata();
  EXPECT_EQ(metadata.at("holder_host"), "host-a");
  EXPECT_EQ(metadata.at("holder_pid"), "1007");
  EXPECT_EQ(metadata.at("holder_incarnation"), "7");
  EXPECT_EQ(metadata.at("lease_remaining_ms"), "6000");
  EXPECT_EQ(metadata.at("term"), "1");
  // The first does not notice, nor do a trainer and a worker of one rank.
  EXPECT_THAT(driver_.Session(1, {1, 7}), IsOk());
  EXPECT_THAT(driver_.Register({1, 9, v1::TRAINER}), IsOk());
}

TEST_F(MembershipTest, TheLeaseEndsAtItsTimeAndNotBefore) {
  const TestMember member = driver_.Join(0);
  ASSERT_THAT(driver_.Session(1, member), IsOk());
  driver_.Pass(absl::Seconds(10) - absl::Nanoseconds(1));
  EXPECT_FALSE(driver_.stream(1).end.has_value());
  driver_.Pass(absl::Nanoseconds(1));
  EXPECT_THAT(*driver_.stream(1).end, HasReason("NOT_REGISTERED"));
  EXPECT_EQ(Members()[0].state(), v1::Member::LOST);
  EXPECT_THAT(driver_.Session(2, member), HasReason("NOT_REGISTERED"));
}

TEST_F(MembershipTest, EachMessageOfTheSessionRenewsTheLease) {
  const TestMember member = driver_.Join(0);
  for (int i = 0; i < 10; ++i) {
    ASSERT_THAT(driver_.Session(1, member), IsOk());
    driver_.Pass(absl::Seconds(9));
  }
  EXPECT_THAT(driver_.stream(1).news, SizeIs(10));
}

TEST_F(MembershipTest, EndingTheSessionDoesNotEndTheLease) {
  const TestMember member = driver_.Join(0);
  ASSERT_THAT(driver_.Session(1, member), IsOk());
  driver_.CloseStream(1);
  driver_.Pass(absl::Seconds(5));
  EXPECT_THAT(driver_.Session(2, member), IsOk());
}

TEST_F(MembershipTest, ANewSessionReplacesTheOldOne) {
  const TestMember member = driver_.Join(0);
  ASSERT_THAT(driver_.Session(1, member), IsOk());
  ASSERT_THAT(driver_.Session(2, member), IsOk());
  EXPECT_THAT(*driver_.stream(1).end, HasReason("REPLACED"));
  EXPECT_FALSE(driver_.stream(2).end.has_value());
}

TEST_F(MembershipTest, ASessionSpeaksForOneMember) {
  const TestMember zero = driver_.Join(0), one = driver_.Join(1);
  ASSERT_THAT(driver_.Session(1, zero), IsOk());
  EXPECT_THAT(driver_.Session(1, one), HasReason("INVALID_MEMBER"));
  // The stream is over; its member may open another.
  EXPECT_THAT(driver_.Session(2, zero), IsOk());
}

TEST_F(MembershipTest,
       ARestartedProcessTakesOverAnExpiredLeaseAndFencesTheOld) {
  const TestMember zombie = driver_.Join(0);
  driver_.Pass(absl::Seconds(10));
  const TestMember heir = driver_.Join(0);
  EXPECT_EQ(heir.generation, 1);

  EXPECT_THAT(driver_.Session(1, zombie), HasReason("FENCED"));
  EXPECT_THAT(driver_.Leave(zombie), HasReason("FENCED"));
  EXPECT_THAT(driver_.Register(zombie), HasReason("FENCED"));
  EXPECT_THAT(driver_.Form(2, zombie), HasReason("FENCED"));
  EXPECT_THAT(driver_.Wait(3, zombie, 1), HasReason("FENCED"));
  EXPECT_THAT(driver_.Publish(zombie, {}, 0, "x"), HasReason("FENCED"));
  EXPECT_THAT(driver_.Report(zombie, {}, true), HasReason("FENCED"));
  EXPECT_THAT(driver_.Session(4, heir), IsOk());

  // Nor may it come back when its heir is gone, or the coordinator restarted.
  driver_.Pass(absl::Seconds(20));
  EXPECT_THAT(driver_.Register(zombie), HasReason("FENCED"));
  driver_.Restart();
  EXPECT_THAT(driver_.Register(zombie), HasReason("FENCED"));
}

TEST_F(MembershipTest, AnExpiredProcessMayRegisterAgainIfNobodyTookItsRank) {
  const TestMember member = driver_.Join(0);
  driver_.Pass(absl::Seconds(11));
  EXPECT_THAT(driver_.Session(1, member), HasReason("NOT_REGISTERED"));
  EXPECT_THAT(driver_.Register(member), IsOk());
  EXPECT_THAT(driver_.Session(2, member), IsOk());
}

TEST_F(MembershipTest, LeavingFreesTheRankAtOnceAndIsIdempotent) {
  const TestMember member = driver_.Join(0);
  ASSERT_THAT(driver_.Session(1, member), IsOk());
  EXPECT_THAT(driver_.Leave(member), IsOk());
  EXPECT_THAT(driver_.Leave(member), IsOk());
  EXPECT_THAT(*driver_.stream(1).end, HasReason("NOT_REGISTERED"));
  EXPECT_EQ(Members()[0].state(), v1::Member::LEFT);
  driver_.Join(0);
  EXPECT_THAT(driver_.Leave(member), HasReason("FENCED"));
}

TEST_F(MembershipTest, OpenSessionsAreToldOfALossAtOnce) {
  const TestMember zero = driver_.Join(0), one = driver_.Join(1);
  driver_.Join(2);
  ASSERT_THAT(driver_.Session(1, zero), IsOk());
  driver_.Pass(absl::Seconds(9));
  ASSERT_THAT(driver_.Session(1, zero), IsOk());
  ASSERT_THAT(driver_.Register(one), IsOk());
  driver_.Pass(absl::Seconds(1));

  const v1::SessionResponse& news = driver_.stream(1).news.back();
  ASSERT_THAT(news.lost_members(), SizeIs(1));
  EXPECT_EQ(news.lost_members(0).member().rank(), 2);
  EXPECT_EQ(news.lost_members(0).why(), "lease expired");
  EXPECT_EQ(news.revision(), 1);
  // Once is enough.
  ASSERT_THAT(driver_.Session(1, zero), IsOk());
  EXPECT_THAT(driver_.stream(1).news.back().lost_members(), IsEmpty());
}

TEST_F(MembershipTest, AReturningSessionIsToldWhatItMissedAcrossARestart) {
  const TestMember zero = driver_.Join(0), one = driver_.Join(1);
  const TestMember two = driver_.Join(2);
  ASSERT_THAT(driver_.Session(1, zero), IsOk());
  const int64_t seen = driver_.stream(1).news.back().revision();
  driver_.CloseStream(1);
  ASSERT_THAT(driver_.Leave(one), IsOk());
  driver_.Restart();
  ASSERT_THAT(driver_.Leave(two), IsOk());

  ASSERT_THAT(driver_.Session(1, zero, seen), IsOk());
  const v1::SessionResponse& news = driver_.stream(1).news.back();
  ASSERT_THAT(news.lost_members(), SizeIs(2));
  EXPECT_EQ(news.lost_members(0).member().rank(), 1);
  EXPECT_EQ(news.lost_members(1).member().rank(), 2);
  EXPECT_EQ(news.revision(), 2);
  EXPECT_EQ(news.term(), 2);
  // And only that.
  ASSERT_THAT(driver_.Session(2, zero, 1), IsOk());
  ASSERT_THAT(driver_.stream(2).news.back().lost_members(), SizeIs(1));
}

TEST_F(MembershipTest, ALossOfAnotherJobIsNoNews) {
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2, 1, "other")), IsOk());
  TestMember stranger = {0, 50};
  stranger.job = "other";
  ASSERT_THAT(driver_.Register(stranger), IsOk());
  const TestMember zero = driver_.Join(0);
  ASSERT_THAT(driver_.Session(1, zero), IsOk());
  ASSERT_THAT(driver_.Leave(stranger), IsOk());
  EXPECT_THAT(driver_.stream(1).news, SizeIs(1));
  ASSERT_THAT(driver_.Session(2, zero, 0), IsOk());
  EXPECT_THAT(driver_.stream(2).news.back().lost_members(), IsEmpty());
}

TEST_F(MembershipTest, AfterARestartEveryLiveMemberHasOneFreshLease) {
  const TestMember zero = driver_.Join(0);
  const TestMember one = driver_.Join(1);
  driver_.Pass(absl::Seconds(9));
  driver_.Restart();
  const auto in_use = driver_.Register({0, 99});
  EXPECT_THAT(in_use, HasReason("MEMBER_ID_IN_USE"));
  EXPECT_EQ(DetailOf(in_use.status()).metadata().at("term"), "2");
  driver_.Pass(absl::Seconds(9));
  EXPECT_THAT(driver_.Session(1, zero), IsOk());
  driver_.Pass(absl::Seconds(1));
  EXPECT_THAT(driver_.Session(2, one), HasReason("NOT_REGISTERED"));
  EXPECT_FALSE(driver_.stream(1).end.has_value());
}

TEST_F(MembershipTest, AFailedWriteRegistersNobody) {
  driver_.store().full = true;
  EXPECT_THAT(driver_.Register({0, 1}), HasReason("STORE_FAILED"));
  EXPECT_THAT(Members(), IsEmpty());
  EXPECT_THAT(driver_.Session(1, {0, 1}), HasReason("NOT_REGISTERED"));
  driver_.store().full = false;
  EXPECT_THAT(driver_.Register({0, 2}), IsOk());
}

TEST_F(MembershipTest, ALossThatCannotBeStoredIsToldOnceItCan) {
  const TestMember zero = driver_.Join(0);
  driver_.Join(1);
  driver_.Pass(absl::Seconds(5));
  ASSERT_THAT(driver_.Session(1, zero), IsOk());
  driver_.store().full = true;
  driver_.Pass(absl::Seconds(7));
  ASSERT_THAT(driver_.Session(1, zero), IsOk());
  EXPECT_THAT(driver_.stream(1).news.back().lost_members(), IsEmpty());
  EXPECT_THAT(driver_.Leave(zero), HasReason("STORE_FAILED"));
  driver_.store().full = false;
  driver_.Pass(absl::Seconds(1));
  EXPECT_THAT(driver_.stream(1).news.back().lost_members(), SizeIs(1));
}

TEST_F(MembershipTest, RefusesAPhaseThatIsTooLong) {
  const TestMember member = driver_.Join(0);
  EXPECT_THAT(driver_.Session(1, member, 0, std::string(65, 'p')),
              HasReason("INVALID_MEMBER"));
  EXPECT_THAT(driver_.Session(2, member, 0, std::string(64, 'p')), IsOk());
}

TEST_F(MembershipTest, ListsByRankThenKindInPages) {
  driver_.Join(2, v1::WORKER);
  driver_.Join(2, v1::TRAINER);
  driver_.Join(0, v1::WORKER);
  std::string page_token;
  const std::vector<v1::Member> first = Members(2, &page_token);
  ASSERT_THAT(first, SizeIs(2));
  EXPECT_EQ(first[0].member().rank(), 0);
  EXPECT_EQ(first[1].member().kind(), v1::TRAINER);
  EXPECT_NE(page_token, "");
  const std::vector<v1::Member> second = Members(2, &page_token);
  ASSERT_THAT(second, SizeIs(1));
  EXPECT_EQ(second[0].member().kind(), v1::WORKER);
  EXPECT_EQ(page_token, "");

  v1::ListMembersRequest request;
  request.set_job("job");
  request.set_page_token("nonsense");
  Effects effects;
  EXPECT_THAT(driver_.core().ListMembers(request, driver_.now(), effects),
              HasReason("INVALID_PAGE_TOKEN"));
}

}  // namespace
}  // namespace shardwright
