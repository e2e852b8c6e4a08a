// Routes against worked cases. Random ones, carried out, are tests/property;
// lanes and ranks that Megatron-Core chooses are tests/golden.

#include "coordinator/planner/route_planner.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "coordinator/planner/planner.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"

namespace shardwright {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int64_t kImage = 501;

struct Sizes {
  int64_t tp = 1, cp = 1, dp = 1, pp = 1;
};

ModuleSpec ModuleOf(const char* name, Role role, Rank first_rank,
                    const Sizes& sizes) {
  ModuleSpec module;
  module.name = name;
  module.role = role;
  module.first_rank = first_rank;
  module.rank_count = sizes.tp * sizes.cp * sizes.dp * sizes.pp;
  module.tp = sizes.tp;
  module.cp = sizes.cp;
  module.pp = sizes.pp;
  return module;
}

// Encoder ranks come first.
Layout Job(const Sizes& images, const Sizes& language, bool sequence_parallel,
           bool edge = true) {
  LayoutSpec spec;
  spec.name = "test";
  spec.modules = {ModuleOf("images", Role::kEncoder, 0, images)};
  const int64_t first = *spec.modules[0].rank_count;
  spec.modules.push_back(
      ModuleOf("language", Role::kLanguage, first, language));
  spec.modules[1].sequence_parallel = sequence_parallel;
  spec.world_size = first + *spec.modules[1].rank_count;
  if (edge) spec.edges = {{"images", "language"}};
  return *Layout::Create(spec);
}

// Samples of text but for images at [first, first + count).
Batch Tokens(int64_t seq_length, int64_t micro_batch_size,
             const std::vector<std::pair<int64_t, int64_t>>& images) {
  Batch batch;
  batch.micro_batch_size = micro_batch_size;
  batch.seq_length = seq_length;
  batch.special_token_ids = {{"images", kImage}};
  for (const auto& [first, count] : images) {
    std::vector<int64_t>& ids = batch.samples.emplace_back(seq_length, 7);
    std::fill_n(ids.begin() + first, count, kImage);
  }
  return batch;
}

std::vector<Rank> PeersOf(const RoutePlan& plan) {
  std::vector<Rank> peers;
  for (const RouteEdge& edge : plan.edges) {
    for (const RouteTransfer& transfer : edge.transfers) {
      peers.push_back(transfer.peer);
    }
  }
  return peers;
}

// S 16, B 2, cp 2, tp 2: combined b0 T0 T1 V0-3 T2..., b1 T12-15 V4-9 T16...
TEST(PlanRouteTest, EachRankReceivesOnlyTheRowsOfItsShard) {
  const Layout layout = Job({}, {2, 2}, true);
  const Batch batch = Tokens(16, 2, {{2, 4}, {4, 6}});
  const RoutePlan first = *PlanRoute(layout, 1, batch);
  ASSERT_THAT(PeersOf(first), ElementsAre(0));
  EXPECT_THAT(first.edges[0].transfers[0].rows, ElementsAre(RowRun{0, 2}));
  EXPECT_THAT(first.placement->entries(),
              ElementsAre(RowCopy{0, 0, 0, 2, 2}, RowCopy{0, 12, 1, 2, 4},
                          RowCopy{1, 0, 4, 2, 2}));
  EXPECT_THAT(PeersOf(*PlanRoute(layout, 2, batch)), IsEmpty());
  const RoutePlan third = *PlanRoute(layout, 3, batch);
  EXPECT_THAT(third.edges[0].transfers[0].rows, ElementsAre(RowRun{2, 6}));
  EXPECT_THAT(third.sources, ElementsAre("text", "images"));
  EXPECT_THAT(third.placement->source_rows(), ElementsAre(22, 6));
  const RoutePlan sent = *PlanRoute(layout, 0, batch);
  EXPECT_THAT(PeersOf(sent), ElementsAre(1, 3, 4));
  EXPECT_EQ(sent.edges[0].staging_rows, 0);  // All lie in one run.
  EXPECT_EQ(sent.edges[0].transfers[2].tensor_row, 8);
}

TEST(PlanRouteTest, TheRanksOfALaneSendEqualParts) {
  const Layout layout = Job({4, 1, 1, 2}, {}, false);
  const Batch batch = Tokens(16, 1, {{3, 10}});
  for (Rank rank : {0, 1, 2, 3}) {  // Not of the last stage.
    const RoutePlan plan = *PlanRoute(layout, rank, batch);
    EXPECT_THAT(plan.edges, IsEmpty());
    EXPECT_FALSE(plan.pack.has_value());
  }
  const RoutePlan plan = *PlanRoute(layout, 5, batch);
  std::vector<RowRun> parts;
  for (const RoutePart& part : plan.parts) parts.push_back(part.rows);
  EXPECT_THAT(parts, ElementsAre(RowRun{0, 3}, RowRun{3, 3}, RowRun{6, 2},
                                 RowRun{8, 2}));
  EXPECT_THAT(plan.edges[0].transfers[0].rows, ElementsAre(RowRun{3, 3}));
  EXPECT_THAT(PeersOf(*PlanRoute(layout, 8, batch)), ElementsAre(4, 5, 6, 7));
}

TEST(PlanRouteTest, AMessageThatIsOneRunOfTheShardNeedsNoStaging) {
  const Layout layout = Job({2}, {1, 2}, false);
  // Image rows 0-3 are positions 2-5, which cp rank 1 owns; the others are at
  // both ends of cp rank 0's.
  const RoutePlan whole = *PlanRoute(layout, 3, Tokens(8, 1, {{2, 4}}));
  ASSERT_THAT(PeersOf(whole), ElementsAre(0, 1));
  EXPECT_EQ(whole.edges[0].transfers[0].tensor_row, 0);
  EXPECT_EQ(whole.edges[0].transfers[1].tensor_row, 2);
  EXPECT_EQ(whole.edges[0].transfers[1].staging_row, 2);
  Batch ends = Tokens(8, 1, {{0, 1}});
  ends.samples[0][7] = kImage;
  const Layout one_sender = Job({}, {1, 2}, false);
  const RoutePlan apart = *PlanRoute(one_sender, 1, ends);
  ASSERT_THAT(PeersOf(apart), ElementsAre(0));
  EXPECT_THAT(apart.edges[0].transfers[0].rows, ElementsAre(RowRun{0, 2}));
  EXPECT_EQ(apart.edges[0].transfers[0].tensor_row, RouteTransfer::kNone);
}

TEST(PlanRouteTest, TpRanksThatHoldTheSameShareThePackAndTheReturn) {
  const Layout layout = Job({}, {2, 2}, false);
  const Batch batch = Tokens(16, 1, {{0, 16}});  // cp rank 0: 0-3 and 12-15.
  const RoutePlan sent = *PlanRoute(layout, 0, batch);
  ASSERT_THAT(PeersOf(sent), ElementsAre(1, 2, 3, 4));
  const std::vector<RouteTransfer>& transfers = sent.edges[0].transfers;
  EXPECT_EQ(sent.edges[0].staging_rows, 8);  // And not 16.
  EXPECT_EQ(transfers[0].staging_row, 0);
  EXPECT_EQ(transfers[1].staging_row, 0);
  EXPECT_THAT(transfers[1].rows, ElementsAre(RowRun{0, 4}, RowRun{12, 4}));
  EXPECT_EQ(transfers[0].returned, (RowRun{0, 4}));
  EXPECT_EQ(transfers[1].returned, (RowRun{4, 4}));
  EXPECT_EQ(transfers[2].tensor_row, 4);
  EXPECT_EQ(transfers[2].staging_row, RouteTransfer::kNone);
  EXPECT_THAT(sent.pack->entries(),
              ElementsAre(RowCopy{0, 0, 0, 1, 4}, RowCopy{0, 12, 4, 1, 4}));
}

TEST(PlanRouteTest, LanesThatShareASampleEachSendTheirRows) {
  const Layout layout = Job({1, 1, 2}, {2}, true);
  Batch batch = Tokens(8, 1, {{0, 8}});
  batch.encoder_rows["images"] = {3, 5};
  const RoutePlan low = *PlanRoute(layout, 2, batch);
  ASSERT_THAT(PeersOf(low), ElementsAre(0, 1));
  EXPECT_THAT(low.edges[0].transfers[1].rows, ElementsAre(RowRun{0, 1}));
  EXPECT_THAT(PeersOf(*PlanRoute(layout, 3, batch)), ElementsAre(1));
}

TEST(PlanRouteTest, AModalityThatNoEdgeBringsIsLocal) {
  const Layout layout = Job({}, {1, 1, 2}, false, /*edge=*/false);
  const RoutePlan plan = *PlanRoute(layout, 2, Tokens(8, 1, {{0, 8}, {1, 3}}));
  EXPECT_THAT(plan.edges, IsEmpty());
  EXPECT_THAT(plan.placement->source_rows(), ElementsAre(5, 3));
  EXPECT_THAT(PlanRoute(layout, 0, Tokens(8, 1, {{0, 8}, {1, 3}}))->edges,
              IsEmpty());
}

TEST(PlanRouteTest, LaterStagesReceiveNothing) {
  const Layout layout = Job({}, {1, 1, 1, 2}, false);
  const RoutePlan plan = *PlanRoute(layout, 2, Tokens(8, 1, {{0, 8}}));
  EXPECT_EQ(plan.coordinates.pp, 1);
  EXPECT_THAT(plan.edges, IsEmpty());
  EXPECT_FALSE(plan.placement.has_value());
}

TEST(PlanRouteTest, DigestsAreThoseOfComposedPlans) {
  const Layout layout = Job({}, {2}, true);
  const Batch batch = Tokens(8, 1, {{1, 3}});
  EXPECT_EQ(PlanRoute(layout, 0, batch)->digest,
            PlanCompose(layout, 1, batch)->digest);
}

TEST(PlanRouteTest, RefusesByName) {
  const Layout layout = Job({1, 1, 2}, {2}, true);
  Batch batch = Tokens(8, 1, {{1, 3}});
  EXPECT_THAT(PlanRoute(layout, 4, batch), HasReason("RANK_NOT_FOUND"));
  batch.counts["images"] = 4;
  EXPECT_THAT(PlanRoute(layout, 0, batch), HasReason("INVALID_BATCH"));
  batch.counts.clear();
  batch.encoder_rows["images"] = {1, 1};
  EXPECT_THAT(PlanRoute(layout, 2, batch), HasReason("INVALID_BATCH"));
  batch.encoder_rows["images"] = {3};
  EXPECT_THAT(PlanRoute(layout, 2, batch), HasReason("INVALID_BATCH"));
}

TEST(PlanRouteTest, CostsByRunsNotByTokens) {
  const Layout layout = Job({2}, {2, 2}, true);
  const Batch batch = Tokens(1 << 16, 1, {{100, 1 << 15}});
  for (Rank rank = 0; rank < 6; ++rank) {
    const RoutePlan plan = *PlanRoute(layout, rank, batch);
    for (const RouteTransfer& transfer : plan.edges[0].transfers) {
      EXPECT_EQ(transfer.rows.size(), 1);
    }
    if (plan.placement.has_value()) {
      EXPECT_LE(plan.placement->entries().size(), 3);
    }
  }
}

}  // namespace
}  // namespace shardwright
