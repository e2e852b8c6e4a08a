// What people are told who ask why a job waits: who is missing, what each
// clique and member does, and what has happened.

#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/core/core_driver.h"
#include "coordinator/core/event_log.h"
#include "coordinator/core/missing_reports.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"

namespace shardwright {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::StartsWith;

class DiagnosticsTest : public ::testing::Test {
 protected:
  absl::StatusOr<v1::ListMissingMembersResponse> Missing(
      const std::string& report, int page_size = 0,
      const std::string& page_token = "") {
    v1::ListMissingMembersRequest request;
    request.set_report(report);
    request.set_page_size(page_size);
    request.set_page_token(page_token);
    Effects effects;
    return driver_.core().ListMissingMembers(request, driver_.now(), effects);
  }
  absl::StatusOr<v1::ListCommunicatorsResponse> Communicators(
      bool only_inactive = false, int page_size = 0,
      const std::string& page_token = "") {
    v1::ListCommunicatorsRequest request;
    request.set_job("job");
    request.set_only_inactive(only_inactive);
    request.set_page_size(page_size);
    request.set_page_token(page_token);
    Effects effects;
    return driver_.core().ListCommunicators(request, driver_.now(), effects);
  }
  absl::StatusOr<v1::CliqueExplanation> Explain(const std::string& clique,
                                                bool only_blocking = false,
                                                int page_size = 0,
                                                const std::string& token = "") {
    v1::ExplainCliqueRequest request;
    request.set_job("job");
    request.set_clique(clique);
    request.set_only_blocking(only_blocking);
    request.set_page_size(page_size);
    request.set_page_token(token);
    Effects effects;
    return driver_.core().ExplainClique(request, driver_.now(), effects);
  }
  std::vector<v1::CliqueMember::State> States(const std::string& clique) {
    std::vector<v1::CliqueMember::State> states;
    const auto explanation = Explain(clique);
    EXPECT_THAT(explanation, IsOk());
    for (const v1::CliqueMember& member : explanation->members()) {
      states.push_back(member.state());
    }
    return states;
  }
  absl::StatusOr<v1::ListEventsResponse> Events(
      int64_t after = 0, int page_size = 0, const std::string& job = "job") {
    v1::ListEventsRequest request;
    request.set_job(job);
    request.set_after(after);
    request.set_page_size(page_size);
    Effects effects;
    return driver_.core().ListEvents(request, driver_.now(), effects);
  }

  CoreDriver driver_;
};

TEST_F(DiagnosticsTest, AReportNamesEveryRankThatAnErrorCutOff) {
  constexpr int kRanks = 10000;
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(kRanks)), IsOk());
  for (Rank rank = 0; rank < kRanks; rank += 2) {
    ASSERT_THAT(driver_.Wait(rank + 1, driver_.Join(rank), 1, absl::Seconds(2)),
                IsOk());
  }
  driver_.Pass(absl::Seconds(3));
  std::set<std::string> reports;
  for (Rank rank = 0; rank < kRanks; rank += 2) {
    const absl::Status& end = *driver_.stream(rank + 1).end;
    ASSERT_THAT(end, HasReason("MEMBERS_MISSING"));
    ASSERT_TRUE(DetailOf(end).missing().truncated());
    ASSERT_LE(DetailOf(end).ByteSizeLong(), kErrorDetailBytesMax);
    reports.insert(DetailOf(end).missing().report());
  }
  ASSERT_THAT(reports, SizeIs(1));
  Rank expected = 1;
  std::string token;
  do {
    const auto page = Missing(*reports.begin(), 1500, token);
    ASSERT_THAT(page, IsOk());
    EXPECT_EQ(page->total_count(), kRanks / 2);
    for (const v1::Member& member : page->members()) {
      ASSERT_EQ(member.member().rank(), expected);
      ASSERT_EQ(member.state(), v1::Member::UNREGISTERED);
      expected += 2;
    }
    token = page->next_page_token();
  } while (!token.empty());
  EXPECT_EQ(expected, kRanks + 1);
}

TEST_F(DiagnosticsTest, AReportTellsHostPhaseAndLastSeenOfEachMissingMember) {
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(3)), IsOk());
  const TestMember lost = driver_.Join(1);
  ASSERT_THAT(driver_.Session(50, lost, 0, "step 12"), IsOk());
  const absl::Time seen = driver_.now();
  driver_.Pass(absl::Seconds(11));
  ASSERT_THAT(driver_.Form(1, driver_.Join(0), {{"tp"}, absl::Seconds(2)}),
              IsOk());
  driver_.Pass(absl::Seconds(2));
  const v1::MemberSet missing = DetailOf(*driver_.stream(1).end).missing();
  EXPECT_FALSE(missing.truncated());
  const auto members = Missing(missing.report());
  ASSERT_THAT(members, IsOk());
  ASSERT_THAT(members->members(), SizeIs(2));
  EXPECT_EQ(members->members(0).state(), v1::Member::LOST);
  EXPECT_EQ(members->members(0).facts().host(), "host-a");
  EXPECT_EQ(members->members(0).phase(), "step 12");
  EXPECT_EQ(members->members(0).last_seen_time().seconds(),
            absl::ToUnixSeconds(seen));
  EXPECT_EQ(members->members(1).state(), v1::Member::UNREGISTERED);
  EXPECT_EQ(members->members(1).member().rank(), 2);
  EXPECT_FALSE(members->members(1).has_last_seen_time());
}

TEST_F(DiagnosticsTest, ARestartedCoordinatorHasSeenNobodyYet) {
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2)), IsOk());
  driver_.Join(1);
  driver_.Restart();
  ASSERT_THAT(driver_.Form(1, driver_.Join(0), {{"tp"}, absl::Seconds(2)}),
              IsOk());
  driver_.Pass(absl::Seconds(2));
  ASSERT_THAT(driver_.stream(1).events, Not(IsEmpty()));
  EXPECT_THAT(driver_.stream(1).events[0].waiting().last_seen(0),
              HasSubstr("not seen since the coordinator started"));
  const auto members =
      Missing(DetailOf(*driver_.stream(1).end).missing().report());
  ASSERT_THAT(members, IsOk());
  EXPECT_EQ(members->members(0).state(), v1::Member::LIVE);
  EXPECT_FALSE(members->members(0).has_last_seen_time());
}

TEST_F(DiagnosticsTest, ProgressNamesAReportWhereItIsCutShort) {
  constexpr int kRanks = 2000;
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(kRanks)), IsOk());
  for (Rank rank = 0; rank < kRanks; rank += 2) {
    const TestMember member = driver_.Join(rank);
    ASSERT_THAT(driver_.Form(rank + 1, member), IsOk());
    ASSERT_THAT(driver_.Wait(kRanks + rank + 1, member, 1), IsOk());
  }
  driver_.Pass(absl::Seconds(1));
  const v1::Waiting& waiting = driver_.stream(1).events.back().waiting();
  const v1::WaitAtBarrierResponse& progress =
      driver_.stream(kRanks + 1).progress.back();
  EXPECT_TRUE(waiting.missing().truncated());
  EXPECT_THAT(Missing(waiting.missing().report()), IsOk());
  // The same ranks of the same job are one report.
  EXPECT_EQ(progress.missing().report(), waiting.missing().report());
}

TEST_F(DiagnosticsTest, BarrierProgressSaysWhereTheMissingWereLastSeen) {
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(6)), IsOk());
  ASSERT_THAT(driver_.Session(50, driver_.Join(1), 0, "step 12"), IsOk());
  ASSERT_THAT(driver_.Wait(1, driver_.Join(0), 1, absl::Hours(2)), IsOk());
  driver_.Pass(absl::Seconds(4));
  const v1::WaitAtBarrierResponse& progress =
      driver_.stream(1).progress.front();
  EXPECT_THAT(
      progress.last_seen(),
      ElementsAre(StartsWith("rank 1: step 12 on host-a"),
                  "rank 2: never registered", "rank 3: never registered"));
  // What a call may ask for at most is what it gets.
  EXPECT_EQ(progress.timeout().seconds(), 3600);
}

TEST_F(DiagnosticsTest, UnknownReportsAndTokensAreRefused) {
  EXPECT_THAT(Missing("nonsense"), HasReason("REPORT_NOT_FOUND"));
  EXPECT_THAT(Communicators(), HasReason("JOB_NOT_FOUND"));
  EXPECT_THAT(Explain("language/tp/0"), HasReason("JOB_NOT_FOUND"));
  EXPECT_THAT(Events(), HasReason("JOB_NOT_FOUND"));
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2)), IsOk());
  EXPECT_THAT(Communicators(false, 0, "nonsense"),
              HasReason("INVALID_PAGE_TOKEN"));
  EXPECT_THAT(Explain("language/tp/0", false, 0, "-1"),
              HasReason("INVALID_PAGE_TOKEN"));
}

TEST(MissingReportsTest, TheOldestGoesWhenThereAreTooMany) {
  MissingReports reports;
  std::vector<std::string> names;
  for (size_t i = 0; i <= kReportsMax; ++i) {
    const int64_t rank = static_cast<int64_t>(i);
    names.push_back(reports.Keep("job", v1::WORKER, {{rank, rank}}));
    reports.Keep("job", v1::WORKER, {{0, 0}});  // Again: it stays the latest.
  }
  CoreDriver driver;
  LayoutTable layouts;
  Admission admission(1);
  const Membership nobody(driver.store(), layouts, admission, 1,
                          absl::Seconds(10));
  v1::ListMissingMembersRequest request;
  request.set_report(names[1]);
  EXPECT_THAT(reports.List(request, nobody), HasReason("REPORT_NOT_FOUND"));
  request.set_report(names[0]);
  EXPECT_THAT(reports.List(request, nobody), IsOk());
  request.set_report(names[2]);
  EXPECT_THAT(reports.List(request, nobody), IsOk());
}

TEST(MissingReportsTest, ASetThatIsTooLargeIsNotKept) {
  MissingReports reports;
  std::vector<RankRange> ranges(kReportRangesMax);
  for (size_t i = 0; i < ranges.size(); ++i) {
    ranges[i] = {static_cast<int64_t>(2 * i), static_cast<int64_t>(2 * i)};
  }
  EXPECT_EQ(reports.Keep("job", v1::WORKER, ranges), "");
}

TEST_F(DiagnosticsTest, ACliqueIsExplainedThroughItsWholeLife) {
  using State = v1::CliqueMember;
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(3)), IsOk());
  EXPECT_EQ(Explain("language/tp/0")->clique().state(),
            v1::CliqueSummary::IDLE);
  const TestMember a = driver_.Join(0), b = driver_.Join(1),
                   c = driver_.Join(2);
  ASSERT_THAT(driver_.Form(1, a, {{"tp"}, absl::Seconds(5)}), IsOk());
  ASSERT_THAT(driver_.Form(2, b), IsOk());
  EXPECT_EQ(Explain("language/tp/0")->clique().state(),
            v1::CliqueSummary::GATHERING);
  EXPECT_THAT(States("language/tp/0"),
              ElementsAre(State::PRESENT, State::PRESENT, State::ABSENT));
  driver_.Pass(absl::Seconds(5));
  EXPECT_THAT(States("language/tp/0"),
              ElementsAre(State::GAVE_UP, State::PRESENT, State::ABSENT));
  const auto blocking = Explain("language/tp/0", /*only_blocking=*/true);
  ASSERT_THAT(blocking->members(), SizeIs(2));
  EXPECT_EQ(blocking->members(1).position(), 2);
  EXPECT_EQ(blocking->members(1).member().facts().host(), "host-a");
  EXPECT_EQ(blocking->clique().done_count(), 1);
  EXPECT_EQ(blocking->clique().missing().ranges(), "0,2");

  ASSERT_THAT(driver_.Form(3, a), IsOk());
  ASSERT_THAT(driver_.Form(4, c), IsOk());
  const v1::Attempt attempt = driver_.LastGo(3);
  ASSERT_THAT(driver_.Publish(a, attempt, 0, "x"), IsOk());
  EXPECT_EQ(Explain("language/tp/0")->clique().state(),
            v1::CliqueSummary::EXCHANGING);
  EXPECT_THAT(States("language/tp/0"),
              ElementsAre(State::PRESENT, State::OWES_SLOT, State::OWES_SLOT));
  ASSERT_THAT(driver_.Publish(b, attempt, 1, "y"), IsOk());
  ASSERT_THAT(driver_.Publish(c, attempt, 2, "z"), IsOk());
  ASSERT_THAT(driver_.Report(b, attempt, true), IsOk());
  EXPECT_EQ(Explain("language/tp/0")->clique().state(),
            v1::CliqueSummary::CONNECTING);
  EXPECT_THAT(
      States("language/tp/0"),
      ElementsAre(State::OWES_REPORT, State::CONNECTED, State::OWES_REPORT));
  ASSERT_THAT(driver_.Report(a, attempt, true), IsOk());
  ASSERT_THAT(driver_.Report(c, attempt, true), IsOk());
  const auto active = Explain("language/tp/0");
  EXPECT_EQ(active->clique().state(), v1::CliqueSummary::ACTIVE);
  EXPECT_EQ(active->clique().done_count(), 3);
  EXPECT_EQ(active->clique().backend(), v1::GLOO);
  EXPECT_THAT(
      States("language/tp/0"),
      ElementsAre(State::CONNECTED, State::CONNECTED, State::CONNECTED));
}

TEST_F(DiagnosticsTest, ACliqueThatTheLayoutLacksIsNotFound) {
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2)), IsOk());
  for (const char* name : {"", "x", "images/tp/0", "language/foo/0",
                           "language/tp/1", "language/tp/-1"}) {
    EXPECT_THAT(Explain(name), HasReason("CLIQUE_NOT_FOUND")) << name;
  }
  EXPECT_THAT(std::string(Explain("language/tp/1").status().message()),
              HasSubstr("language/tp has indexes 0 to 0"));
}

TEST_F(DiagnosticsTest, MembersOfACliqueComeInPages) {
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(5)), IsOk());
  ASSERT_THAT(driver_.Form(1, driver_.Join(1)), IsOk());
  std::vector<Rank> ranks;
  std::string token;
  do {
    const auto page =
        Explain("language/tp/0", /*only_blocking=*/true, 3, token);
    ASSERT_THAT(page, IsOk());
    for (const v1::CliqueMember& member : page->members()) {
      ranks.push_back(member.member().member().rank());
    }
    token = page->next_page_token();
  } while (!token.empty());
  EXPECT_THAT(ranks, ElementsAre(0, 2, 3, 4));
}

TEST_F(DiagnosticsTest, CommunicatorsAreListedWithWhyTheLastAttemptEnded) {
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2, 2)), IsOk());
  const TestMember a = driver_.Join(0), b = driver_.Join(1);
  ASSERT_THAT(driver_.Form(1, a), IsOk());
  ASSERT_THAT(driver_.Form(2, b), IsOk());
  ASSERT_THAT(driver_.Form(3, driver_.Join(3)), IsOk());
  ASSERT_THAT(driver_.Report(b, driver_.LastGo(2), false, "no route"), IsOk());
  const auto first = Communicators(false, 1);
  ASSERT_THAT(first->cliques(), SizeIs(1));
  EXPECT_EQ(first->cliques(0).name(), "language/tp/0");
  EXPECT_EQ(first->cliques(0).attempt().number(), 2);
  EXPECT_EQ(first->cliques(0).last_abort_reason(), "PEER_FAILED");
  EXPECT_THAT(first->cliques(0).last_abort_message(), HasSubstr("no route"));
  const auto second = Communicators(false, 1, first->next_page_token());
  ASSERT_THAT(second->cliques(), SizeIs(1));
  EXPECT_EQ(second->cliques(0).name(), "language/tp/1");
  EXPECT_EQ(second->cliques(0).missing().ranges(), "2");
  EXPECT_EQ(second->next_page_token(), "");
}

TEST_F(DiagnosticsTest, OnlyThoseThatAreNotActiveIfAskedFor) {
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2, 2)), IsOk());
  const TestMember a = driver_.Join(0), b = driver_.Join(1);
  ASSERT_THAT(driver_.Form(1, a), IsOk());
  ASSERT_THAT(driver_.Form(2, b), IsOk());
  ASSERT_THAT(driver_.Form(3, driver_.Join(3)), IsOk());
  const v1::Attempt attempt = driver_.LastGo(1);
  ASSERT_THAT(driver_.Publish(a, attempt, 0, "x"), IsOk());
  ASSERT_THAT(driver_.Publish(b, attempt, 1, "y"), IsOk());
  ASSERT_THAT(driver_.Report(a, attempt, true), IsOk());
  ASSERT_THAT(driver_.Report(b, attempt, true), IsOk());
  EXPECT_THAT(Communicators()->cliques(), SizeIs(2));
  const auto inactive = Communicators(/*only_inactive=*/true);
  ASSERT_THAT(inactive->cliques(), SizeIs(1));
  EXPECT_EQ(inactive->cliques(0).name(), "language/tp/1");
}

TEST_F(DiagnosticsTest, EventsTellWhatHappenedInOrder) {
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2)), IsOk());
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2, 1, "other")), IsOk());
  const TestMember one = driver_.Join(1);
  driver_.Pass(absl::Seconds(11));
  const auto events = Events();
  ASSERT_THAT(events, IsOk());
  ASSERT_THAT(events->events(), SizeIs(3));
  EXPECT_EQ(events->events(0).type(), "layout_applied");
  EXPECT_EQ(events->events(1).type(), "member_registered");
  EXPECT_EQ(events->events(2).type(), "member_lost");
  EXPECT_THAT(events->events(2).text(), HasSubstr("job=job rank=1"));
  // As `get members` has it.
  const std::string incarnation =
      absl::StrCat("incarnation=", absl::Hex(one.incarnation, absl::kZeroPad16),
                   " ");
  EXPECT_THAT(events->events(1).text(), HasSubstr(incarnation));
  EXPECT_THAT(events->events(2).text(), HasSubstr(incarnation));
  EXPECT_GT(events->events(2).time().seconds(),
            events->events(1).time().seconds());
  EXPECT_EQ(events->term(), driver_.core().term());

  const auto first = Events(0, 2);
  EXPECT_THAT(first->events(), SizeIs(2));
  const auto rest = Events(first->last());
  ASSERT_THAT(rest->events(), SizeIs(1));
  EXPECT_EQ(rest->events(0).type(), "member_lost");
  EXPECT_THAT(Events(rest->last())->events(), IsEmpty());
}

TEST_F(DiagnosticsTest, AFollowerOfEventsNoticesARestart) {
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2)), IsOk());
  driver_.Join(1);
  const auto before = Events();
  driver_.Restart();
  driver_.Join(0);
  const auto after = Events(before->last());
  EXPECT_NE(after->term(), before->term());
  ASSERT_THAT(after->events(), SizeIs(1));
  EXPECT_EQ(after->events(0).type(), "member_registered");
}

TEST_F(DiagnosticsTest, OnlyTheLatestEventsOfAJobAreKept) {
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2)), IsOk());
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2, 1, "other")), IsOk());
  for (size_t i = 0; i < kEventsPerJobMax; ++i) {
    const TestMember member = driver_.Join(1);
    ASSERT_THAT(driver_.Leave(member), IsOk());
  }
  const auto events = Events(0, 1000);
  EXPECT_THAT(events->events(), SizeIs(1000));
  EXPECT_GT(events->events(0).number(), static_cast<int64_t>(kEventsPerJobMax));
  // One layout, and two events for each process.
  EXPECT_EQ(events->dropped_count(),
            static_cast<int64_t>(kEventsPerJobMax) + 1);
  EXPECT_EQ(Events(events->events(0).number())->dropped_count(), 0);
  EXPECT_THAT(Events(0, 0, "other")->events(), SizeIs(1));
  EXPECT_EQ(Events(0, 0, "other")->dropped_count(), 0);
}

TEST_F(DiagnosticsTest, WhatHappensToManyAtOnceIsOneEvent) {
  constexpr int kRanks = 10000;
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(kRanks)), IsOk());
  for (Rank rank = 0; rank < kRanks; rank += 2) driver_.Join(rank + 1);
  driver_.Join(0);
  driver_.Pass(absl::Seconds(11));
  const auto events = Events(0, 1000);
  std::vector<std::string> types;
  for (const v1::Event& event : events->events()) types.push_back(event.type());
  ASSERT_LE(types.size(), 45u);
  EXPECT_EQ(types.front(), "layout_applied");
  EXPECT_THAT(events->events(1).text(), StartsWith("job=job ranks=1,3,5,7,"));
  EXPECT_THAT(events->events(1).text(), HasSubstr(" members=256 kind=WORKER"));
  EXPECT_EQ(types.back(), "member_lost");
  EXPECT_THAT(events->events(events->events_size() - 1).text(),
              HasSubstr("kind=WORKER why=\"lease expired\""));
  EXPECT_EQ(events->dropped_count(), 0);
}

TEST_F(DiagnosticsTest, AnEventThatWasToldStaysAsItIs) {
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(4)), IsOk());
  driver_.Join(1);
  driver_.Join(0);
  const auto first = Events();
  ASSERT_THAT(first->events(), SizeIs(2));
  EXPECT_THAT(first->events(1).text(),
              StartsWith("job=job ranks=0-1 members=2 kind=WORKER"));
  driver_.Join(2);
  driver_.Join(3);
  const auto rest = Events(first->last());
  ASSERT_THAT(rest->events(), SizeIs(1));
  EXPECT_THAT(rest->events(0).text(), HasSubstr("ranks=2-3"));
  EXPECT_EQ(Events()->events(1).text(), first->events(1).text());
}

TEST_F(DiagnosticsTest, WhatHappensTwiceToAMemberOrLaterIsAnotherEvent) {
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(4)), IsOk());
  driver_.Join(0);
  driver_.Join(1, v1::TRAINER);
  driver_.Pass(kEventBurst);
  driver_.Join(2, v1::TRAINER);
  const TestMember member = driver_.Join(3, v1::TRAINER);
  ASSERT_THAT(driver_.Leave(member), IsOk());
  driver_.Join(3, v1::TRAINER);
  const auto events = Events();
  ASSERT_THAT(events->events(), SizeIs(6));
  EXPECT_THAT(events->events(1).text(), HasSubstr("rank=0 kind=WORKER"));
  EXPECT_THAT(events->events(2).text(), HasSubstr("rank=1 kind=TRAINER"));
  EXPECT_THAT(events->events(3).text(), HasSubstr("ranks=2-3 members=2"));
  EXPECT_EQ(events->events(4).type(), "member_lost");
  EXPECT_THAT(events->events(5).text(), HasSubstr("rank=3 kind=TRAINER"));
}

TEST_F(DiagnosticsTest, WhatAMemberReportsCannotBreakTheStreamsOfOthers) {
  ASSERT_THAT(driver_.Apply(CoreDriver::LanguageOnly(2)), IsOk());
  const TestMember a = driver_.Join(0), b = driver_.Join(1);
  ASSERT_THAT(driver_.Form(1, a), IsOk());
  ASSERT_THAT(driver_.Form(2, b), IsOk());
  std::string text = "x";
  while (text.size() < 2000) text += "\u00e9";
  ASSERT_THAT(driver_.Report(b, driver_.LastGo(2), false, text), IsOk());
  // The wire carries UTF-8 only: half a character would end the call.
  v1::AttemptAborted parsed;
  v1::FormCommunicatorsResponse event;
  *event.mutable_aborted() = [&] {
    for (const auto& told : driver_.stream(1).events) {
      if (told.has_aborted()) return told.aborted();
    }
    return v1::AttemptAborted();
  }();
  ASSERT_NE(event.aborted().message(), "");
  EXPECT_TRUE(parsed.ParseFromString(event.aborted().SerializeAsString()));
}

}  // namespace
}  // namespace shardwright
