// Plans against worked cases. Random ones against the definition of sharding,
// and digests, are tests/property; equality with Megatron-Core's own answers is
// tests/golden.

#include "coordinator/planner/planner.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"

namespace shardwright {
namespace {

using ::testing::ElementsAre;

Layout LanguageOnly(int64_t tp, int64_t cp, bool sequence_parallel,
                    int64_t dp = 1, int64_t pp = 1) {
  LayoutSpec spec;
  spec.name = "test";
  spec.world_size = tp * cp * dp * pp;
  ModuleSpec& language = spec.modules.emplace_back();
  language.name = "language";
  language.role = Role::kLanguage;
  language.first_rank = 0;
  language.rank_count = spec.world_size;
  language.tp = tp;
  language.cp = cp;
  language.pp = pp;
  language.sequence_parallel = sequence_parallel;
  return *Layout::Create(spec);
}

std::vector<int64_t> Positions(const std::vector<PositionRun>& runs) {
  std::vector<int64_t> positions;
  for (const PositionRun& run : runs) {
    for (int64_t i = 0; i < run.count; ++i) {
      positions.push_back(run.position + i);
    }
  }
  return positions;
}

TEST(PlanShardTest, DenseZigzagWithSequenceParallel) {
  const Layout layout = LanguageOnly(2, 2, true);
  const absl::StatusOr<ShardPlan> plan = PlanShard(layout, 1, {16, 2, {}, {}});
  ASSERT_THAT(plan, IsOk());
  EXPECT_THAT(plan->embedding_runs, ElementsAre(PositionRun{12, 4}));
  EXPECT_THAT(plan->label_runs,
              ElementsAre(PositionRun{0, 4}, PositionRun{12, 4}));
  EXPECT_TRUE(plan->embeddings->IsView());
  EXPECT_THAT(plan->labels.entries(),
              ElementsAre(RowCopy{0, 0, 0, 1, 4}, RowCopy{0, 12, 4, 1, 8},
                          RowCopy{0, 28, 12, 1, 4}));
  EXPECT_THAT(plan->sources, ElementsAre("sequence"));
}

TEST(PlanShardTest, NeighbouringChunksOfTheLastCpRankAreOneRun) {
  const Layout layout = LanguageOnly(1, 2, false);
  const absl::StatusOr<ShardPlan> plan = PlanShard(layout, 1, {8, 1, {}, {}});
  ASSERT_THAT(plan, IsOk());
  EXPECT_THAT(plan->embedding_runs, ElementsAre(PositionRun{2, 4}));
}

TEST(PlanShardTest, ThdShardsEachDocument) {
  const Layout layout = LanguageOnly(2, 2, true);
  const absl::StatusOr<ShardPlan> plan =
      PlanShard(layout, 1, {24, 1, {0, 8, 24}, {}});
  ASSERT_THAT(plan, IsOk());
  EXPECT_THAT(Positions(plan->embedding_runs),
              ElementsAre(10, 11, 20, 21, 22, 23));
  EXPECT_THAT(Positions(plan->label_runs),
              ElementsAre(0, 1, 6, 7, 8, 9, 10, 11, 20, 21, 22, 23));
}

TEST(PlanShardTest, LaterStagesHaveLabelsOnly) {
  const Layout layout = LanguageOnly(1, 2, false, 1, 2);
  const absl::StatusOr<ShardPlan> plan = PlanShard(layout, 2, {8, 1, {}, {}});
  ASSERT_THAT(plan, IsOk());
  EXPECT_EQ(plan->coordinates.pp, 1);
  EXPECT_FALSE(plan->embeddings.has_value());
  EXPECT_TRUE(plan->embedding_runs.empty());
  EXPECT_THAT(Positions(plan->label_runs), ElementsAre(0, 1, 6, 7));
}

TEST(PlanShardTest, CountsCausalWorkAndPadding) {
  const Layout layout = LanguageOnly(1, 2, false);
  const absl::StatusOr<ShardPlan> plan =
      PlanShard(layout, 0, {16, 1, {0, 8, 16}, {0, 5, 13}});
  ASSERT_THAT(plan, IsOk());
  // Of each document positions 0, 1, 6, 7: 1 + 2 + 7 + 8 pairs.
  EXPECT_EQ(plan->load.causal_work, 2 * 18);
  EXPECT_EQ(plan->load.token_count, 8);
  EXPECT_EQ(plan->load.padding_token_count, 2);  // 6 and 7 of the first.
}

TEST(PlanShardTest, CausalWorkStopsAtTheLargestNumber) {
  const Layout layout = LanguageOnly(1, 1, false);
  const absl::StatusOr<ShardPlan> plan =
      PlanShard(layout, 0, {kSeqLengthMax, 1, {}, {}});
  ASSERT_THAT(plan, IsOk());
  EXPECT_EQ(plan->load.causal_work, std::numeric_limits<int64_t>::max());
  EXPECT_EQ(PlanShard(layout, 0, {kSeqLengthMax / 2, 2, {}, {}})
                ->load.causal_work,
            (kSeqLengthMax / 2) * (kSeqLengthMax / 2 + 1));
}

TEST(PlanShardTest, RefusesByName) {
  LayoutSpec spec;
  spec.name = "two";
  spec.world_size = 2;
  spec.modules.resize(2);
  spec.modules[0].name = "images";
  spec.modules[0].role = Role::kEncoder;
  spec.modules[0].ranks = {0};
  spec.modules[1].name = "language";
  spec.modules[1].role = Role::kLanguage;
  spec.modules[1].ranks = {1};
  const Layout layout = *Layout::Create(spec);
  EXPECT_THAT(PlanShard(layout, 0, {8, 1, {}, {}}),
              HasReason("RANK_NOT_LANGUAGE"));
  EXPECT_THAT(PlanShard(layout, 2, {8, 1, {}, {}}),
              HasReason("RANK_NOT_FOUND"));
  EXPECT_THAT(PlanShard(layout, 1, {0, 1, {}, {}}), HasReason("INVALID_BATCH"));
}

TEST(PlanComposeTest, CostsEntriesByRunsNotByTokens) {
  const Layout layout = LanguageOnly(2, 2, true);
  Batch batch;
  batch.micro_batch_size = 1;
  batch.seq_length = 1 << 16;
  batch.special_token_ids = {{"images", 501}};
  batch.samples.emplace_back(1 << 16, 7);
  std::fill_n(batch.samples[0].begin() + 100, 1 << 15, 501);
  const absl::StatusOr<ShardPlan> plan = PlanCompose(layout, 0, batch);
  ASSERT_THAT(plan, IsOk());
  EXPECT_LE(plan->embeddings->entries().size(), 3);
}

// Digests cross hosts and releases: these values may never change.
TEST(PlanTest, DigestsArePinned) {
  const Layout layout = LanguageOnly(2, 2, true);
  EXPECT_EQ(PlanShard(layout, 0, {16, 1, {}, {}})->digest,
            15821903845646720738u);
  Batch batch;
  batch.micro_batch_size = 1;
  batch.seq_length = 8;
  batch.special_token_ids = {{"images", 501}};
  batch.samples = {{1, 501, 501, 2, 3, 4, 5, 6}};
  EXPECT_EQ(PlanCompose(layout, 0, batch)->digest, 13967434539591622497u);
}

}  // namespace
}  // namespace shardwright
