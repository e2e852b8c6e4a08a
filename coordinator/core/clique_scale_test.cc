// Cliques of many members: who mints for the others, and that nothing becomes
// slow. A quadratic cost would run into the time limit of a small test.

#include <set>
#include <string>
#include <vector>

#include "coordinator/core/clique_table.h"
#include "coordinator/core/core_driver.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"

namespace shardwright {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(CliqueScaleTest, AnNcclCliqueOf300HasThreeEvenlySpreadRoots) {
  CoreDriver driver;
  ASSERT_THAT(driver.Apply(CoreDriver::LanguageOnly(300)), IsOk());
  for (Rank rank = 0; rank < 300; ++rank) {
    ASSERT_THAT(driver.Form(rank + 1, driver.Join(rank),
                            {{"tp"}, absl::Minutes(1), v1::NCCL}),
                IsOk());
  }
  std::vector<Rank> roots;
  for (Rank rank = 0; rank < 300; ++rank) {
    const v1::Go& go = driver.stream(rank + 1).events.back().go();
    EXPECT_EQ(go.slot_count(), 3);
    if (go.slot_indexes_size() > 0) roots.push_back(rank);
  }
  EXPECT_THAT(roots, ElementsAre(0, 100, 200));
}

TEST(CliqueScaleTest, TenThousandMembersAreToldOfTheOneThatIsMissing) {
  constexpr int kRanks = 10000;
  CoreDriver driver;
  ASSERT_THAT(driver.Apply(CoreDriver::LanguageOnly(8, kRanks / 8)), IsOk());
  for (Rank rank = 0; rank + 1 < kRanks; ++rank) {
    ASSERT_THAT(driver.Form(rank + 1, driver.Join(rank),
                            {{}, absl::Seconds(5), v1::NCCL}),
                IsOk());
  }
  driver.Pass(absl::Seconds(5));
  for (const StreamId stream : {1, kRanks / 2, kRanks - 1}) {
    const absl::Status& end = *driver.stream(stream).end;
    EXPECT_THAT(end, HasReason("MEMBERS_MISSING"));
    EXPECT_THAT(DetailOf(end).missing().ranges(), HasSubstr("9999"));
  }
}

TEST(CliqueScaleTest, FiveThousandMembersAreToldOfTheOtherFiveThousand) {
  constexpr int kRanks = 10000;
  CoreDriver driver;
  ASSERT_THAT(driver.Apply(CoreDriver::LanguageOnly(8, kRanks / 8)), IsOk());
  for (Rank rank = 0; rank < kRanks; rank += 2) {
    ASSERT_THAT(driver.Form(rank + 1, driver.Join(rank),
                            {{}, absl::Seconds(5), v1::NCCL}),
                IsOk());
  }
  driver.Pass(absl::Seconds(5));
  const v1::MemberSet missing =
      DetailOf(*driver.stream(kRanks - 1).end).missing();
  EXPECT_EQ(missing.rank_count(), kRanks / 2);
  EXPECT_TRUE(missing.truncated());
  EXPECT_THAT(missing.ranges(), HasSubstr("1,3,5,7,"));
}

TEST(CliqueScaleTest, AllWhoMissTheSameMembersAreToldOfOneReport) {
  constexpr int kRanks = 10000;
  CoreDriver driver;
  // Each in ten cliques of all ranks.
  ASSERT_THAT(driver.Apply(CoreDriver::LanguageOnly(1, kRanks)), IsOk());
  for (Rank rank = 0; rank < kRanks; rank += 2) {
    ASSERT_THAT(driver.Form(rank + 1, driver.Join(rank),
                            {{}, absl::Seconds(5), v1::NCCL}),
                IsOk());
  }
  driver.Pass(absl::Seconds(5));
  std::set<std::string> reports;
  for (Rank rank = 0; rank < kRanks; rank += 2) {
    reports.insert(DetailOf(*driver.stream(rank + 1).end).missing().report());
  }
  EXPECT_EQ(reports.size(), 1);
}

}  // namespace
}  // namespace shardwright
