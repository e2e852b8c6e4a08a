#include "worker/rpc/plan_tables.h"

#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"

namespace shardwright {
namespace {

v1::PlanTable Name(uint64_t digest) {
  v1::PlanTable name;
  name.set_digest(digest);
  name.set_rank(4);
  return name;
}

CopyTable OneRow(int64_t source_rows) {
  return *CopyTable::Create({{0, 0, 0, 1, 1}}, {source_rows}, 1);
}

TEST(PlanTablesTest, KeepsTheSameEntriesForTheSameTable) {
  PlanTables tables;
  const auto kept = tables.Keep(Name(1), OneRow(3));
  ASSERT_THAT(kept, IsOk());
  const auto again = tables.Keep(Name(1), OneRow(3));
  ASSERT_THAT(again, IsOk());
  // A GPU's cache knows a table by where its entries are.
  EXPECT_EQ(again->entries().data(), kept->entries().data());
  EXPECT_EQ(tables.Find(Name(1))->entries().data(), kept->entries().data());
}

TEST(PlanTablesTest, ForgetsWhatWasUsedLongestAgo) {
  PlanTables tables;
  for (int64_t i = 0; i < PlanTables::kTablesMax; ++i) {
    ASSERT_THAT(tables.Keep(Name(i), OneRow(1)), IsOk());
  }
  ASSERT_THAT(tables.Find(Name(0)), IsOk());
  ASSERT_THAT(tables.Keep(Name(1000), OneRow(1)), IsOk());
  EXPECT_EQ(tables.count(), PlanTables::kTablesMax);
  EXPECT_THAT(tables.Find(Name(0)), IsOk());
  EXPECT_THAT(tables.Find(Name(1)), HasReason("PLAN_UNKNOWN"));
}

TEST(PlanTablesTest, BoundsTheEntriesOfAllTables) {
  // Every other row, so that no two entries are one.
  const auto rows = [](int64_t count) {
    std::vector<RowCopy> entries;
    for (int64_t i = 0; i < count; ++i) {
      entries.push_back({0, 2 * i, i, 1, 1});
    }
    return *CopyTable::Create(std::move(entries), {2 * count}, count);
  };
  PlanTables tables;
  ASSERT_THAT(tables.Keep(Name(1), rows(PlanTables::kEntriesMax / 2)), IsOk());
  ASSERT_THAT(tables.Keep(Name(2), rows(PlanTables::kEntriesMax / 2)), IsOk());
  EXPECT_EQ(tables.count(), 2);
  ASSERT_THAT(tables.Keep(Name(3), rows(1)), IsOk());
  EXPECT_THAT(tables.Find(Name(1)), HasReason("PLAN_UNKNOWN"));
  // Used once, but not kept.
  EXPECT_THAT(tables.Keep(Name(4), rows(PlanTables::kEntriesMax + 1)), IsOk());
  EXPECT_THAT(tables.Find(Name(4)), HasReason("PLAN_UNKNOWN"));
  EXPECT_EQ(tables.count(), 2);
}

}  // namespace
}  // namespace shardwright
