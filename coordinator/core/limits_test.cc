// What one client can make the core spend.

#include <string>

#include "coordinator/core/admission.h"
#include "coordinator/core/clique.h"
#include "coordinator/core/core_driver.h"
#include "coordinator/core/silent_sessions.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"
#include "proto/time/proto_time.h"

namespace shardwright {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1700000000);

TEST(AdmissionTest, AdmitsABurstAndThenItsRate) {
  Admission admission(10);
  for (int i = 0; i < 40; ++i) ASSERT_THAT(admission.Admit(kStart), IsOk());
  const absl::Status refused = admission.Admit(kStart);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(refused, HasReason("OVERLOADED"));
  EXPECT_TRUE(DetailOf(refused).has_retry_delay());
  for (int i = 0; i < 10; ++i) {
    ASSERT_THAT(admission.Admit(kStart + absl::Seconds(1)), IsOk());
  }
  EXPECT_THAT(admission.Admit(kStart + absl::Seconds(1)),
              HasReason("OVERLOADED"));
  EXPECT_THAT(admission.Admit(kStart + absl::Hours(1)), IsOk());
}

TEST(AdmissionTest, AfterTheDelayThatItNamesThereIsRoom) {
  Admission admission(10);
  while (admission.Admit(kStart).ok()) {
  }
  const v1::ErrorDetail detail = DetailOf(admission.Admit(kStart));
  const absl::Duration delay = FromProto(detail.retry_delay());
  EXPECT_THAT(admission.Admit(kStart + delay), IsOk());
}

TEST(LimitsTest, TenThousandMembersMayRegisterInOneInstant) {
  constexpr int kRanks = 10000;
  CoreDriver driver;
  ASSERT_THAT(driver.Apply(CoreDriver::LanguageOnly(kRanks)), IsOk());
  for (Rank rank = 0; rank < kRanks; ++rank) driver.Join(rank);
  // A repeat writes nothing, so it is let in whatever else happens.
  TestMember member = driver.Join(0, v1::TRAINER);
  while (driver.Register(member).ok()) {
    ++member.rank;
    ++member.incarnation;
  }
  EXPECT_THAT(driver.Register(member), HasReason("OVERLOADED"));
  --member.rank;
  --member.incarnation;
  EXPECT_THAT(driver.Register(member), IsOk());
  EXPECT_THAT(driver.Apply(CoreDriver::LanguageOnly(2, 1, "other")),
              HasReason("OVERLOADED"));
  EXPECT_THAT(driver.Leave(member), IsOk());
}

TEST(LimitsTest, ASilentSessionEndsAndOneThatSpeaksDoesNot) {
  CoreDriver driver;
  ASSERT_THAT(driver.Apply(CoreDriver::LanguageOnly(2)), IsOk());
  const TestMember member = driver.Join(0);
  driver.OpenSession(1);
  driver.OpenSession(2);
  driver.OpenSession(3);
  ASSERT_THAT(driver.Session(2, member), IsOk());
  driver.CloseStream(3);
  driver.Pass(absl::Seconds(9));
  ASSERT_THAT(driver.Session(2, member), IsOk());
  EXPECT_FALSE(driver.stream(1).end.has_value());
  driver.Pass(absl::Seconds(1));
  ASSERT_TRUE(driver.stream(1).end.has_value());
  EXPECT_THAT(*driver.stream(1).end, HasReason("SESSION_SILENT"));
  EXPECT_FALSE(driver.stream(2).end.has_value());
  EXPECT_FALSE(driver.stream(3).end.has_value());
}

TEST(LimitsTest, ASessionThatSpeaksInTheInstantOfItsEndLives) {
  CoreDriver driver;
  ASSERT_THAT(driver.Apply(CoreDriver::LanguageOnly(2)), IsOk());
  driver.OpenSession(1);
  driver.Pass(kSilenceMax - absl::Milliseconds(1));
  const TestMember member = driver.Join(0);
  driver.Skip(absl::Milliseconds(1));
  ASSERT_THAT(driver.Session(1, member), IsOk());
  EXPECT_FALSE(driver.stream(1).end.has_value());
}

TEST(LimitsTest, OfTooManySilentSessionsTheOldestEnds) {
  CoreDriver driver;
  const StreamId count = kSilentSessionsMax;
  for (StreamId stream = 1; stream <= count; ++stream) {
    driver.OpenSession(stream);
    driver.Skip(absl::Microseconds(1));
  }
  EXPECT_FALSE(driver.stream(1).end.has_value());
  driver.OpenSession(count + 1);
  ASSERT_TRUE(driver.stream(1).end.has_value());
  EXPECT_FALSE(driver.stream(2).end.has_value());
}

TEST(LimitsTest, LongListsAreRefused) {
  CoreDriver driver;
  ASSERT_THAT(driver.Apply(CoreDriver::LanguageOnly(2)), IsOk());
  const TestMember member = driver.Join(0);
  Effects effects;
  v1::PublishSlotsRequest slots;
  *slots.mutable_caller() = member.Caller();
  v1::ReportCommunicatorsRequest reports;
  *reports.mutable_caller() = member.Caller();
  CoreDriver::FormOptions options;
  for (int i = 0; i < 257; ++i) {
    slots.add_slots();
    reports.add_reports();
    options.kinds.push_back("tp");
  }
  EXPECT_THAT(driver.core().PublishSlots(slots, driver.now(), effects),
              HasReason("TOO_MANY_ENTRIES"));
  EXPECT_THAT(driver.core().ReportCommunicators(reports, driver.now(), effects),
              HasReason("TOO_MANY_ENTRIES"));
  EXPECT_THAT(driver.Form(1, member, options), HasReason("TOO_MANY_ENTRIES"));
}

TEST(LimitsTest, AHugeJobFormsItsSmallCliquesAndNoHugeOne) {
  CoreDriver driver;
  ASSERT_THAT(driver.Apply(CoreDriver::LanguageOnly(2, 1 << 20)), IsOk());
  const TestMember member = driver.Join(0);
  EXPECT_THAT(driver.Form(1, member, {{"dp"}}), HasReason("CLIQUE_TOO_LARGE"));
  EXPECT_THAT(driver.Wait(2, member, 1, absl::Minutes(1), "language/dp/0"),
              HasReason("CLIQUE_TOO_LARGE"));
  EXPECT_THAT(driver.Form(3, member, {{"tp"}}), IsOk());
  EXPECT_THAT(driver.Wait(4, member, 1), IsOk());
  driver.Pass(absl::Seconds(1));
  const v1::WaitAtBarrierResponse& progress = driver.stream(4).progress.back();
  EXPECT_EQ(progress.member_count(), 1 << 21);
  EXPECT_EQ(progress.missing().ranges(), "1-2097151");
}

TEST(LimitsTest, ATimeoutAboveAnHourCountsAsAnHour) {
  CoreDriver driver;
  ASSERT_THAT(driver.Apply(CoreDriver::LanguageOnly(2)), IsOk());
  const TestMember member = driver.Join(0);
  ASSERT_THAT(driver.Form(1, member, {{"tp"}, absl::Hours(24 * 365)}), IsOk());
  for (int i = 0; i < 3599; ++i) {
    driver.Pass(absl::Seconds(1));
    ASSERT_THAT(driver.Session(2, member), IsOk());
  }
  EXPECT_FALSE(driver.stream(1).end.has_value());
  EXPECT_EQ(driver.stream(1).events[0].waiting().timeout().seconds(), 3600);
  driver.Pass(absl::Seconds(1));
  EXPECT_TRUE(driver.stream(1).end.has_value());
}

}  // namespace
}  // namespace shardwright
