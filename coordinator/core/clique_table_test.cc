// Every transition of a clique and every cause of an abort, on time made by
// hand. Two members form "language/tp/0" unless a test says otherwise.

#include "coordinator/core/clique_table.h"

#include "coordinator/core/core_driver.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"

namespace shardwright {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class CliqueTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2)), IsOk());
    zero_ = driver_.Join(0);
    one_ = driver_.Join(1);
  }

  // Both call; streams 1 and 2. Returns the attempt of the GO.
  v1::Attempt Gather() {
    EXPECT_THAT(driver_.Form(1, zero_), IsOk());
    EXPECT_THAT(driver_.Form(2, one_), IsOk());
    return driver_.LastGo(1);
  }
  // Both publish.
  void Exchange(const v1::Attempt& attempt) {
    EXPECT_THAT(driver_.Publish(zero_, attempt, 0, "slot-0"), IsOk());
    EXPECT_THAT(driver_.Publish(one_, attempt, 1, "slot-1"), IsOk());
  }
  // All the way to ACTIVE.
  v1::Attempt Activate() {
    const v1::Attempt attempt = Gather();
    Exchange(attempt);
    EXPECT_THAT(driver_.Report(zero_, attempt, true), IsOk());
    EXPECT_THAT(driver_.Report(one_, attempt, true), IsOk());
    return attempt;
  }
  void PassRenewing(absl::Duration duration,
                    const std::vector<TestMember>& renewing) {
    for (; duration > absl::ZeroDuration(); duration -= absl::Seconds(1)) {
      for (const TestMember& member : renewing) {
        ASSERT_THAT(driver_.Register(member, "host-a"), IsOk());
      }
      driver_.Pass(std::min(duration, absl::Seconds(1)));
    }
  }
  const std::vector<v1::FormCommunicatorsResponse>& Events(StreamId stream) {
    return driver_.stream(stream).events;
  }

  CoreDriver driver_;
  TestMember zero_, one_;
};

TEST_F(CliqueTest, GoesFromGatheringToActiveAndEndsTheCallsWithOk) {
  ASSERT_THAT(driver_.Form(1, zero_), IsOk());
  EXPECT_THAT(Events(1), IsEmpty());
  ASSERT_THAT(driver_.Form(2, one_), IsOk());
  const v1::Go& go = Events(1).back().go();
  EXPECT_EQ(go.attempt().clique(), "language/tp/0");
  EXPECT_EQ(go.attempt().number(), 1);
  EXPECT_EQ(go.attempt().term(), 1);
  EXPECT_THAT(go.ranks(), ElementsAre(0, 1));
  EXPECT_THAT(go.slot_indexes(), ElementsAre(0));
  EXPECT_EQ(go.slot_count(), 2);
  EXPECT_THAT(Events(2).back().go().slot_indexes(), ElementsAre(1));

  Exchange(go.attempt());
  EXPECT_THAT(Events(1).back().slots().values(),
              ElementsAre("slot-0", "slot-1"));
  EXPECT_THAT(Events(2).back().slots().values(),
              ElementsAre("slot-0", "slot-1"));

  const v1::Attempt attempt = Events(1).front().go().attempt();
  ASSERT_THAT(driver_.Report(zero_, attempt, true), IsOk());
  EXPECT_FALSE(driver_.stream(1).end.has_value());
  ASSERT_THAT(driver_.Report(one_, attempt, true), IsOk());
  EXPECT_EQ(driver_.LastActive(1).number(), 1);
  EXPECT_EQ(driver_.LastActive(2).number(), 1);
  EXPECT_THAT(*driver_.stream(1).end, IsOk());
  EXPECT_THAT(*driver_.stream(2).end, IsOk());
}

TEST_F(CliqueTest, FormsEveryKindOfGroupOfMoreThanOneInOneOrderForAll) {
  ASSERT_THAT(driver_.Form(1, zero_, {{}}), IsOk());
  ASSERT_THAT(driver_.Form(2, one_, {{}}), IsOk());
  std::vector<std::string> names[2];
  for (int i = 0; i < 2; ++i) {
    for (const auto& event : Events(i + 1)) {
      names[i].push_back(event.go().attempt().clique());
    }
  }
  EXPECT_THAT(names[0],
              ElementsAre("language/tp/0", "language/tp_cp/0", "language/mp/0",
                          "language/tp_dp/0", "language/tp_dp_cp/0",
                          "language/intra_dist_opt/0", "language/expert_dp/0",
                          "language/expert_gtp_remat_dp/0"));
  EXPECT_EQ(names[0], names[1]);
}

TEST_F(CliqueTest, AMemberWithNothingToFormIsDoneAtOnce) {
  ASSERT_THAT(driver_.Form(1, zero_, {{"cp"}}), IsOk());
  EXPECT_THAT(*driver_.stream(1).end, IsOk());
}

TEST_F(CliqueTest, TrainersAndWorkersFormApart) {
  const TestMember trainer = driver_.Join(1, v1::TRAINER);
  ASSERT_THAT(driver_.Form(1, zero_), IsOk());
  ASSERT_THAT(driver_.Form(2, trainer), IsOk());
  EXPECT_THAT(Events(1), IsEmpty());
}

TEST_F(CliqueTest, RefusesBadRequests) {
  EXPECT_THAT(driver_.Form(1, zero_, {{"tpp"}}),
              HasReason("UNKNOWN_GROUP_KIND"));
  EXPECT_THAT(driver_.Form(1, zero_, {{"tp"}, absl::ZeroDuration()}),
              HasReason("INVALID_TIMEOUT"));
  EXPECT_THAT(
      driver_.Form(1, zero_,
                   {{"tp"}, absl::Minutes(1), v1::COMM_BACKEND_UNSPECIFIED}),
      HasReason("INVALID_BACKEND"));
  v1::FormCommunicatorsRequest request;
  *request.mutable_caller() = zero_.Caller();
  request.set_backend(v1::GLOO);
  request.set_layout_digest(123);
  request.mutable_timeout()->set_seconds(1);
  Effects effects;
  const absl::Status mismatch =
      driver_.core().FormCommunicators(1, request, driver_.now(), effects);
  EXPECT_THAT(mismatch, HasReason("LAYOUT_MISMATCH"));
  EXPECT_EQ(DetailOf(mismatch).metadata().at("got_layout_digest"),
            "000000000000007b");
}

TEST_F(CliqueTest, MembersMustBringOneBackend) {
  ASSERT_THAT(driver_.Form(1, zero_), IsOk());
  EXPECT_THAT(driver_.Form(2, one_, {{"tp"}, absl::Minutes(1), v1::NCCL}),
              HasReason("LAYOUT_MISMATCH"));
  EXPECT_FALSE(driver_.stream(1).end.has_value());
  EXPECT_THAT(driver_.Form(3, one_), IsOk());
  EXPECT_THAT(Events(1), SizeIs(1));
}

TEST_F(CliqueTest, AnNcclCliqueHasOneSlotThatTheFirstMemberOwns) {
  ASSERT_THAT(driver_.Form(1, zero_, {{"tp"}, absl::Minutes(1), v1::NCCL}),
              IsOk());
  ASSERT_THAT(driver_.Form(2, one_, {{"tp"}, absl::Minutes(1), v1::NCCL}),
              IsOk());
  EXPECT_EQ(Events(1).back().go().slot_count(), 1);
  EXPECT_THAT(Events(1).back().go().slot_indexes(), ElementsAre(0));
  EXPECT_THAT(Events(2).back().go().slot_indexes(), IsEmpty());
  const v1::Attempt attempt = driver_.LastGo(1);
  EXPECT_THAT(driver_.Publish(one_, attempt, 0, "id"),
              HasReason("NOT_YOUR_SLOT"));
  ASSERT_THAT(driver_.Publish(zero_, attempt, 0, "id"), IsOk());
  EXPECT_THAT(Events(2).back().slots().values(), ElementsAre("id"));
}

TEST_F(CliqueTest, SlotsArePutOnce) {
  const v1::Attempt attempt = Gather();
  ASSERT_THAT(driver_.Publish(zero_, attempt, 0, "a"), IsOk());
  EXPECT_THAT(driver_.Publish(zero_, attempt, 0, "a"), IsOk());
  EXPECT_THAT(driver_.Publish(zero_, attempt, 0, "b"), HasReason("SLOT_TAKEN"));
  EXPECT_THAT(driver_.Publish(zero_, attempt, 1, "b"),
              HasReason("NOT_YOUR_SLOT"));
  EXPECT_THAT(driver_.Publish(one_, attempt, 1, ""), HasReason("INVALID_SLOT"));
  EXPECT_THAT(driver_.Publish(one_, attempt, 2, "b"),
              HasReason("INVALID_SLOT"));
  EXPECT_THAT(
      driver_.Publish(one_, attempt, 1, std::string(kSlotBytesMax + 1, 'x')),
      HasReason("INVALID_SLOT"));
  ASSERT_THAT(driver_.Publish(one_, attempt, 1, "b"), IsOk());
  EXPECT_THAT(Events(2).back().slots().values(), ElementsAre("a", "b"));
  // A repeat that comes late does no harm.
  EXPECT_THAT(driver_.Publish(one_, attempt, 1, "b"), IsOk());
}

TEST_F(CliqueTest, APublicationIsTakenWholeOrNotAtAll) {
  ASSERT_THAT(driver_.Form(1, zero_, {{"tp", "mp"}}), IsOk());
  ASSERT_THAT(driver_.Form(2, one_, {{"tp", "mp"}}), IsOk());
  v1::PublishSlotsRequest request;
  *request.mutable_caller() = zero_.Caller();
  for (const auto& event : Events(1)) {
    v1::Slot& slot = *request.add_slots();
    *slot.mutable_attempt() = event.go().attempt();
    slot.set_value("good");
  }
  request.mutable_slots(1)->set_index(1);
  Effects effects;
  EXPECT_THAT(driver_.core().PublishSlots(request, driver_.now(), effects),
              HasReason("NOT_YOUR_SLOT"));
  EXPECT_THAT(driver_.Publish(zero_, request.slots(0).attempt(), 0, "other"),
              IsOk());
}

TEST_F(CliqueTest, TwoValuesForOneSlotInOnePublicationAreRefused) {
  const v1::Attempt attempt = Gather();
  v1::PublishSlotsRequest request;
  *request.mutable_caller() = zero_.Caller();
  for (const char* value : {"a", "b"}) {
    v1::Slot& slot = *request.add_slots();
    *slot.mutable_attempt() = attempt;
    slot.set_value(value);
  }
  Effects effects;
  EXPECT_THAT(driver_.core().PublishSlots(request, driver_.now(), effects),
              HasReason("SLOT_TAKEN"));
}

TEST_F(CliqueTest, ABrokenCallEndsTheAttemptForTheOthers) {
  const v1::Attempt first = Gather();
  ASSERT_THAT(driver_.Publish(zero_, first, 0, "old"), IsOk());
  driver_.CloseStream(1);
  const v1::AttemptAborted aborted = driver_.LastAborted(2);
  EXPECT_EQ(aborted.attempt().number(), 1);
  EXPECT_EQ(aborted.reason(), "PEER_LOST");
  EXPECT_THAT(aborted.message(), HasSubstr("rank 0"));

  // The zombie's slot is of an attempt that is over, and nothing is left of it.
  EXPECT_THAT(driver_.Publish(zero_, first, 0, "old"),
              HasReason("STALE_ATTEMPT"));
  ASSERT_THAT(driver_.Form(3, zero_), IsOk());
  const v1::Attempt second = driver_.LastGo(2);
  EXPECT_EQ(second.number(), 2);
  const absl::Status stale = driver_.Publish(zero_, first, 0, "old");
  EXPECT_THAT(stale, HasReason("STALE_ATTEMPT"));
  EXPECT_EQ(DetailOf(stale).metadata().at("current_attempt"), "2");
  Exchange(second);
  EXPECT_THAT(Events(2).back().slots().values(),
              ElementsAre("slot-0", "slot-1"));
}

TEST_F(CliqueTest, AMemberThatLeavesBeforeGoAbortsNothing) {
  ASSERT_THAT(driver_.Form(1, zero_), IsOk());
  driver_.CloseStream(1);
  ASSERT_THAT(driver_.Form(2, one_), IsOk());
  ASSERT_THAT(driver_.Form(3, zero_), IsOk());
  EXPECT_EQ(driver_.LastGo(2).number(), 1);
  EXPECT_THAT(Events(1), IsEmpty());
}

TEST_F(CliqueTest, AnExpiredLeaseEndsTheAttemptWithinTheLease) {
  const v1::Attempt attempt = Gather();
  Exchange(attempt);
  PassRenewing(absl::Seconds(10), {one_});
  EXPECT_THAT(*driver_.stream(1).end, HasReason("NOT_REGISTERED"));
  EXPECT_EQ(driver_.LastAborted(2).reason(), "PEER_LOST");
  EXPECT_THAT(driver_.LastAborted(2).message(),
              HasSubstr("rank 0 (WORKER) on host-a"));
  // Its restart forms the next attempt.
  zero_ = driver_.Join(0);
  ASSERT_THAT(driver_.Form(3, zero_), IsOk());
  EXPECT_EQ(driver_.LastGo(2).number(), 2);
  EXPECT_EQ(driver_.LastGo(3).number(), 2);
}

TEST_F(CliqueTest, LeavingEndsTheAttempt) {
  Gather();
  ASSERT_THAT(driver_.Leave(zero_), IsOk());
  EXPECT_THAT(driver_.LastAborted(2).message(), HasSubstr("left"));
  EXPECT_THAT(*driver_.stream(1).end, HasReason("NOT_REGISTERED"));
}

TEST_F(CliqueTest, ASecondCallReplacesTheFirstAndEndsTheAttempt) {
  Gather();
  ASSERT_THAT(driver_.Form(3, zero_), IsOk());
  EXPECT_THAT(*driver_.stream(1).end, HasReason("REPLACED"));
  ASSERT_THAT(Events(2), SizeIs(3));
  EXPECT_EQ(Events(2)[1].aborted().attempt().number(), 1);
  EXPECT_EQ(driver_.LastGo(2).number(), 2);
  EXPECT_EQ(driver_.LastGo(3).number(), 2);
}

TEST_F(CliqueTest, AFailedReportEndsTheAttemptAndTheNextIsHeldBack) {
  const v1::Attempt first = Gather();
  Exchange(first);
  ASSERT_THAT(driver_.Report(zero_, first, true), IsOk());
  ASSERT_THAT(driver_.Report(one_, first, false, "connection refused"), IsOk());
  EXPECT_EQ(driver_.LastAborted(1).reason(), "PEER_FAILED");
  EXPECT_THAT(driver_.LastAborted(1).message(),
              HasSubstr("rank 1 (WORKER): connection refused"));
  EXPECT_THAT(driver_.Report(zero_, first, true), HasReason("STALE_ATTEMPT"));
  driver_.Pass(absl::Milliseconds(99));
  EXPECT_TRUE(Events(1).back().has_aborted());
  driver_.Pass(absl::Milliseconds(1));
  EXPECT_EQ(driver_.LastGo(1).number(), 2);
  // Each failure in a row doubles the wait.
  ASSERT_THAT(driver_.Report(one_, driver_.LastGo(2), false), IsOk());
  driver_.Pass(absl::Milliseconds(199));
  EXPECT_TRUE(Events(1).back().has_aborted());
  driver_.Pass(absl::Milliseconds(1));
  EXPECT_EQ(driver_.LastGo(1).number(), 3);
}

TEST_F(CliqueTest, ReportsBesideAStaleOneAreTaken) {
  ASSERT_THAT(driver_.Form(1, zero_, {{"tp", "mp"}}), IsOk());
  ASSERT_THAT(driver_.Form(2, one_, {{"tp", "mp"}}), IsOk());
  const v1::Attempt tp = Events(1)[0].go().attempt();
  const v1::Attempt mp = Events(1)[1].go().attempt();
  Exchange(tp);
  Exchange(mp);
  ASSERT_THAT(driver_.Report(one_, mp, true), IsOk());
  v1::ReportCommunicatorsRequest request;
  *request.mutable_caller() = zero_.Caller();
  for (v1::Attempt attempt : {tp, mp}) {
    if (attempt.clique() == tp.clique()) attempt.set_number(7);
    v1::CommunicatorReport& report = *request.add_reports();
    *report.mutable_attempt() = attempt;
    report.set_ok(true);
  }
  Effects effects;
  EXPECT_THAT(
      driver_.core().ReportCommunicators(request, driver_.now(), effects),
      HasReason("STALE_ATTEMPT"));
  ASSERT_THAT(effects.streams, SizeIs(2));  // mp is ACTIVE at both.
}

TEST_F(CliqueTest, AReportBeforeTheSlotsCountsForNothing) {
  const v1::Attempt attempt = Gather();
  EXPECT_THAT(driver_.Report(zero_, attempt, true), IsOk());
  Exchange(attempt);
  EXPECT_THAT(driver_.Report(one_, attempt, true), IsOk());
  EXPECT_FALSE(driver_.stream(1).end.has_value());
}

TEST_F(CliqueTest, AnActiveCliqueIsToldAtOnceToAMemberThatCallsAgain) {
  Activate();
  ASSERT_THAT(driver_.Form(3, zero_), IsOk());
  EXPECT_EQ(driver_.LastActive(3).number(), 1);
  EXPECT_THAT(*driver_.stream(3).end, IsOk());
}

TEST_F(CliqueTest, AnActiveCliqueSurvivesTheEndOfCalls) {
  ASSERT_THAT(driver_.Form(1, zero_, {{"tp", "mp"}}), IsOk());
  ASSERT_THAT(driver_.Form(2, one_, {{"tp", "mp"}}), IsOk());
  const v1::Attempt tp = Events(1)[0].go().attempt();
  Exchange(tp);
  ASSERT_THAT(driver_.Report(zero_, tp, true), IsOk());
  ASSERT_THAT(driver_.Report(one_, tp, true), IsOk());
  driver_.CloseStream(1);
  EXPECT_EQ(driver_.LastAborted(2).attempt().clique(), "language/mp/0");
  ASSERT_THAT(driver_.Form(3, zero_, {{"tp", "mp"}}), IsOk());
  EXPECT_EQ(Events(3)[0].active().attempt().clique(), "language/tp/0");
  EXPECT_EQ(driver_.LastGo(3).clique(), "language/mp/0");
}

TEST_F(CliqueTest, ALostMemberEndsAnActiveClique) {
  const v1::Attempt attempt = Activate();
  ASSERT_THAT(driver_.Leave(zero_), IsOk());
  EXPECT_THAT(driver_.Report(one_, attempt, true), HasReason("STALE_ATTEMPT"));
  ASSERT_THAT(driver_.Form(3, one_), IsOk());
  EXPECT_THAT(Events(3), IsEmpty());
  ASSERT_THAT(driver_.Form(4, driver_.Join(0)), IsOk());
  EXPECT_EQ(driver_.LastGo(3).number(), 2);
}

TEST_F(CliqueTest, AFailedReportEndsAnActiveClique) {
  const v1::Attempt attempt = Activate();
  ASSERT_THAT(driver_.Report(zero_, attempt, false, "lost it"), IsOk());
  driver_.Pass(absl::Seconds(1));
  ASSERT_THAT(driver_.Form(3, zero_), IsOk());
  EXPECT_THAT(Events(3), IsEmpty());
  ASSERT_THAT(driver_.Form(4, one_), IsOk());
  EXPECT_EQ(driver_.LastGo(4).number(), 2);
}

TEST_F(CliqueTest, AnotherBackendEndsAnActiveClique) {
  Activate();
  const CoreDriver::FormOptions nccl = {{"tp"}, absl::Minutes(1), v1::NCCL};
  ASSERT_THAT(driver_.Form(3, zero_, nccl), IsOk());
  ASSERT_THAT(driver_.Form(4, one_, nccl), IsOk());
  EXPECT_EQ(driver_.LastGo(3).number(), 2);
  EXPECT_EQ(Events(3).back().go().slot_count(), 1);
}

TEST_F(CliqueTest, ARestartedCoordinatorRefusesSlotsOfItsFormerTerm) {
  const v1::Attempt before = Gather();
  driver_.Restart();
  EXPECT_THAT(driver_.Publish(zero_, before, 0, "x"),
              HasReason("STALE_ATTEMPT"));
  const v1::Attempt after = Gather();
  EXPECT_EQ(after.number(), before.number());
  EXPECT_EQ(after.term(), 2);
  const absl::Status stale = driver_.Publish(zero_, before, 0, "x");
  EXPECT_THAT(stale, HasReason("STALE_ATTEMPT"));
  EXPECT_EQ(DetailOf(stale).metadata().at("current_term"), "2");
}

TEST_F(CliqueTest, ANewLayoutNeverReusesAnAttempt) {
  const v1::Attempt before = Gather();
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2, 2)), IsOk());
  EXPECT_THAT(*driver_.stream(1).end, HasReason("STALE_GENERATION"));
  zero_.generation = one_.generation = 2;
  ASSERT_THAT(driver_.Form(3, zero_), IsOk());
  ASSERT_THAT(driver_.Form(4, one_), IsOk());
  EXPECT_EQ(driver_.LastGo(3).number(), before.number() + 1);
  EXPECT_THAT(driver_.Publish(zero_, before, 0, "x"),
              HasReason("STALE_ATTEMPT"));
}

TEST_F(CliqueTest, ANewLayoutForgetsCliquesButNotTheirNumbers) {
  const v1::Attempt before = Gather();
  // The next attempt is put off when its clique is forgotten.
  ASSERT_THAT(driver_.Report(one_, before, false), IsOk());
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(1, 2)), IsOk());
  zero_.generation = one_.generation = 2;
  const absl::Status unknown = driver_.Publish(zero_, before, 0, "x");
  EXPECT_THAT(unknown, HasReason("STALE_ATTEMPT"));
  EXPECT_EQ(DetailOf(unknown).metadata().at("current_attempt"), "0");
  driver_.Pass(absl::Seconds(1));
  EXPECT_FALSE(Events(1).back().has_go());
  // Two layouts later the name is back.
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2)), IsOk());
  zero_.generation = one_.generation = 3;
  ASSERT_THAT(driver_.Form(3, zero_), IsOk());
  ASSERT_THAT(driver_.Form(4, one_), IsOk());
  EXPECT_GT(driver_.LastGo(3).number(), before.number());
}

TEST_F(CliqueTest, OnlyMembersPublishAndReport) {
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2, 2)), IsOk());
  zero_.generation = one_.generation = 2;
  const TestMember two = driver_.Join(2);
  const v1::Attempt attempt = Gather();
  EXPECT_THAT(driver_.Publish(two, attempt, 0, "x"),
              HasReason("NOT_IN_CLIQUE"));
  EXPECT_THAT(driver_.Report(two, attempt, false), HasReason("NOT_IN_CLIQUE"));
}

TEST_F(CliqueTest, TellsWhoIsMissingWithinASecondOnChangeAndAsAReminder) {
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(4)), IsOk());
  zero_.generation = one_.generation = 2;
  ASSERT_THAT(driver_.Session(9, one_, 0, "step 12"), IsOk());
  ASSERT_THAT(driver_.Form(1, zero_), IsOk());
  PassRenewing(absl::Seconds(1), {zero_, one_});
  ASSERT_THAT(Events(1), SizeIs(1));
  const v1::Waiting waiting = Events(1).back().waiting();
  EXPECT_EQ(waiting.attempt().clique(), "language/tp/0");
  EXPECT_EQ(waiting.present_count(), 1);
  EXPECT_EQ(waiting.member_count(), 4);
  EXPECT_EQ(waiting.missing().ranges(), "1-3");
  EXPECT_EQ(waiting.clique_count(), 1);
  EXPECT_THAT(
      waiting.last_seen(),
      ElementsAre(HasSubstr("rank 1: step 12 on host-a"),
                  "rank 2: never registered", "rank 3: never registered"));
  ASSERT_THAT(driver_.Form(2, one_), IsOk());
  PassRenewing(absl::Seconds(1), {zero_, one_});
  ASSERT_THAT(Events(1), SizeIs(2));
  EXPECT_EQ(Events(1).back().waiting().missing().ranges(), "2-3");
  PassRenewing(absl::Seconds(4), {zero_, one_});
  EXPECT_THAT(Events(1), SizeIs(2));
  PassRenewing(absl::Seconds(1), {zero_, one_});
  EXPECT_THAT(Events(1), SizeIs(3));
}

TEST_F(CliqueTest, TheDeadlineNamesThoseWhoNeverCame) {
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(4)), IsOk());
  zero_.generation = one_.generation = 2;
  const TestMember two = driver_.Join(2);
  ASSERT_THAT(driver_.Form(1, zero_, {{"tp", "mp"}, absl::Seconds(3)}), IsOk());
  ASSERT_THAT(driver_.Form(2, one_, {{"tp", "mp"}, absl::Seconds(3)}), IsOk());
  ASSERT_THAT(driver_.Form(3, two, {{"tp", "mp"}, absl::Seconds(4)}), IsOk());
  PassRenewing(absl::Seconds(4), {zero_, one_, two});
  for (StreamId stream = 1; stream <= 3; ++stream) {
    const absl::Status& end = *driver_.stream(stream).end;
    EXPECT_THAT(end, HasReason("MEMBERS_MISSING"));
    EXPECT_EQ(end.code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_EQ(DetailOf(end).missing().ranges(), "3") << stream;
    EXPECT_EQ(DetailOf(end).metadata().at("clique"), "language/tp/0");
    EXPECT_EQ(DetailOf(end).metadata().at("attempt"), "1");
  }
}

TEST_F(CliqueTest, TheDeadlineNamesThoseWhoCameButOweSomething) {
  const CoreDriver::FormOptions short_wait = {{"tp"}, absl::Seconds(3)};
  ASSERT_THAT(driver_.Form(1, zero_, short_wait), IsOk());
  ASSERT_THAT(driver_.Form(2, one_, {{"tp"}, absl::Seconds(5)}), IsOk());
  const v1::Attempt attempt = driver_.LastGo(1);
  ASSERT_THAT(driver_.Publish(zero_, attempt, 0, "x"), IsOk());
  driver_.Pass(absl::Seconds(3));
  EXPECT_EQ(DetailOf(*driver_.stream(1).end).missing().ranges(), "1");
  EXPECT_EQ(driver_.LastAborted(2).reason(), "PEER_LOST");
}

}  // namespace
}  // namespace shardwright
