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
using ::testing::ElementsAreArray;
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

// NCCL shares ranks out among ids by this rule; a member whose id is elsewhere
// would wait at a root that does not expect it.
int64_t RootOf(Rank rank, int64_t rank_count, int64_t root_count) {
  const int64_t each = rank_count / root_count;
  const int64_t larger_count = rank_count % root_count;
  const int64_t in_larger = larger_count * (each + 1);
  return rank < in_larger ? rank / (each + 1)
                          : larger_count + (rank - in_larger) / each;
}

TEST(CliqueScaleTest, EachRootMintsForItsOwnShareAndAllGetTheIdsInOrder) {
  for (const Rank rank_count : {128, 129, 255, 257, 385}) {
    CoreDriver driver;
    ASSERT_THAT(driver.Apply(CoreDriver::LanguageOnly(rank_count)), IsOk());
    std::vector<TestMember> members;
    for (Rank rank = 0; rank < rank_count; ++rank) {
      members.push_back(driver.Join(rank));
      ASSERT_THAT(driver.Form(rank + 1, members.back(),
                              {{"tp"}, absl::Minutes(1), v1::NCCL}),
                  IsOk());
    }
    const int64_t root_count = (rank_count + 127) / 128;
    const v1::Attempt attempt = driver.LastGo(1);
    std::vector<std::string> ids(root_count);
    // The last is asked first: the order is not that of coming.
    for (Rank rank = rank_count - 1; rank >= 0; --rank) {
      const v1::Go go = driver.stream(rank + 1).events.back().go();
      ASSERT_EQ(go.slot_count(), root_count);
      for (const int32_t slot : go.slot_indexes()) {
        EXPECT_EQ(RootOf(rank, rank_count, root_count), slot);
        EXPECT_TRUE(rank == 0 ||
                    RootOf(rank - 1, rank_count, root_count) == slot - 1);
        ids[slot] = "id of rank " + std::to_string(rank);
        ASSERT_THAT(driver.Publish(members[rank], attempt, slot, ids[slot]),
                    IsOk());
      }
    }
    for (const StreamId stream : {Rank{1}, rank_count / 2, rank_count}) {
      EXPECT_THAT(driver.stream(stream).events.back().slots().values(),
                  ElementsAreArray(ids))
          << rank_count;
    }
  }
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
