// Plans against worked cases, and against the definition of sharding: a slow
// reference that moves every token by itself. Equality with Megatron-Core's own
// answers is tests/golden.

#include "coordinator/planner/planner.h"

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
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

// For each destination row, {source, row}.
std::vector<std::pair<int32_t, int64_t>> Expand(const CopyTable& table) {
  std::vector<std::pair<int32_t, int64_t>> rows(table.destination_rows());
  for (const RowCopy& entry : table.entries()) {
    for (int64_t i = 0; i < entry.row_count; ++i) {
      rows[entry.destination_row + i * entry.destination_stride] = {
          entry.source, entry.source_row + i};
    }
  }
  return rows;
}

// The definition, token by token: positions of a cp rank, then its SP slice.
std::vector<int64_t> ReferencePositions(const std::vector<int64_t>& starts,
                                        int64_t cp, int64_t cp_rank) {
  std::vector<int64_t> mine;
  for (size_t d = 0; d + 1 < starts.size(); ++d) {
    const int64_t length = starts[d + 1] - starts[d];
    for (int64_t chunk : {cp_rank, 2 * cp - 1 - cp_rank}) {
      for (int64_t p = starts[d]; p < starts[d + 1]; ++p) {
        if (cp == 1 ? chunk == cp_rank
                    : (p - starts[d]) / (length / (2 * cp)) == chunk) {
          mine.push_back(p);
        }
      }
    }
  }
  return mine;
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

struct GridCase {
  int64_t tp, cp, micro_batch_size;
  bool sequence_parallel;
  std::vector<int64_t> cu_seqlens_padded;
};

std::vector<GridCase> Cases() {
  std::vector<GridCase> cases;
  for (int64_t tp : {1, 2, 3}) {
    for (int64_t cp : {1, 2, 4}) {
      for (bool sp : {false, true}) {
        for (int64_t b : {1, 2, 3}) cases.push_back({tp, cp, b, sp, {}});
        const int64_t unit = 2 * cp * tp;
        cases.push_back({tp, cp, 1, sp, {0, 2 * unit, 2 * unit, 5 * unit}});
        cases.push_back({tp, cp, 1, sp, {0, 2 * cp, 2 * unit}});
      }
    }
  }
  return cases;
}

TEST(PlanShardTest, EveryRankOwnsWhatTheDefinitionSays) {
  for (const GridCase& c : Cases()) {
    const Layout layout = LanguageOnly(c.tp, c.cp, c.sequence_parallel);
    const int64_t s = c.cu_seqlens_padded.empty() ? 4 * c.cp * c.tp
                                                  : c.cu_seqlens_padded.back();
    const BatchShape shape = {s, c.micro_batch_size, c.cu_seqlens_padded, {}};
    const std::vector<int64_t> starts =
        shape.thd() ? c.cu_seqlens_padded : std::vector<int64_t>{0, s};
    std::map<int64_t, int> owners;
    for (Rank rank = 0; rank < layout.world_size(); ++rank) {
      const absl::StatusOr<ShardPlan> plan = PlanShard(layout, rank, shape);
      ASSERT_THAT(plan, IsOk());
      const std::vector<int64_t> labels =
          ReferencePositions(starts, c.cp, plan->coordinates.cp);
      std::vector<int64_t> embeddings = labels;
      if (c.sequence_parallel) {
        const int64_t n = static_cast<int64_t>(labels.size()) / c.tp;
        const auto begin = labels.begin() + plan->coordinates.tp * n;
        embeddings.assign(begin, begin + n);
      }
      EXPECT_EQ(Positions(plan->label_runs), labels);
      EXPECT_EQ(Positions(plan->embedding_runs), embeddings);
      const auto rows = Expand(*plan->embeddings);
      const auto elements = Expand(plan->labels);
      const int64_t b_count = c.micro_batch_size;
      ASSERT_EQ(rows.size(), embeddings.size() * b_count);
      ASSERT_EQ(elements.size(), labels.size() * b_count);
      for (int64_t b = 0; b < b_count; ++b) {
        for (size_t l = 0; l < embeddings.size(); ++l) {
          EXPECT_EQ(rows[l * b_count + b].second, embeddings[l] * b_count + b);
        }
        for (size_t l = 0; l < labels.size(); ++l) {
          EXPECT_EQ(elements[b * labels.size() + l].second, b * s + labels[l]);
        }
      }
      for (int64_t p : embeddings) ++owners[p];
    }
    ASSERT_EQ(owners.size(), s);
    for (const auto& [position, count] : owners) {
      EXPECT_EQ(count, c.sequence_parallel ? 1 : c.tp) << position;
    }
  }
}

Batch RandomBatch(std::mt19937& random, int64_t lanes, int64_t b, int64_t s) {
  Batch batch;
  batch.micro_batch_size = b;
  batch.seq_length = s;
  batch.special_token_ids = {{"images", 501}, {"audio", 502}};
  batch.samples.resize(lanes * b);
  for (std::vector<int64_t>& sample : batch.samples) {
    while (static_cast<int64_t>(sample.size()) < s) {
      const int64_t id = std::vector<int64_t>{7, 8, 501, 502}[random() % 4];
      for (int run = random() % 4; run >= 0; --run) {
        if (static_cast<int64_t>(sample.size()) < s) sample.push_back(id);
      }
    }
  }
  return batch;
}

// Aligning, then sharding, in two steps and token by token.
TEST(PlanComposeTest, EqualsAlignThenShard) {
  std::mt19937 random(2);
  for (const GridCase& c : Cases()) {
    const int64_t dp = 2;
    const Layout layout = LanguageOnly(c.tp, c.cp, c.sequence_parallel, dp);
    const int64_t s = c.cu_seqlens_padded.empty() ? 4 * c.cp * c.tp
                                                  : c.cu_seqlens_padded.back();
    Batch batch = RandomBatch(random, dp, c.micro_batch_size, s);
    if (!c.cu_seqlens_padded.empty()) {
      batch.cu_seqlens_padded = {c.cu_seqlens_padded, c.cu_seqlens_padded};
    }
    for (Rank rank = 0; rank < layout.world_size(); ++rank) {
      const absl::StatusOr<ShardPlan> plan = PlanCompose(layout, rank, batch);
      ASSERT_THAT(plan, IsOk());
      ASSERT_THAT(plan->sources, ElementsAre("text", "audio", "images"));
      const int64_t lane = plan->coordinates.lane;
      std::vector<int64_t> next(3, 0);
      std::vector<std::vector<std::pair<int32_t, int64_t>>> aligned;
      for (int64_t b = 0; b < c.micro_batch_size; ++b) {
        auto& sample = aligned.emplace_back();
        for (int64_t id : batch.samples[lane * c.micro_batch_size + b]) {
          const int32_t source = id == 502 ? 1 : id == 501 ? 2 : 0;
          sample.emplace_back(source, next[source]++);
        }
      }
      const auto rows = Expand(*plan->embeddings);
      const std::vector<int64_t> positions = Positions(plan->embedding_runs);
      for (size_t l = 0; l < positions.size(); ++l) {
        for (int64_t b = 0; b < c.micro_batch_size; ++b) {
          EXPECT_EQ(rows[l * c.micro_batch_size + b], aligned[b][positions[l]]);
        }
      }
      EXPECT_EQ(plan->embeddings->source_rows(), next);
    }
  }
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

TEST(PlanTest, DigestsAreEqualOnAllRanksAndTellBatchesApart) {
  const Layout layout = LanguageOnly(2, 2, true);
  std::mt19937 random(3);
  const Batch batch = RandomBatch(random, 1, 1, 16);
  Batch other = batch;
  other.samples[0][3] = 9;
  EXPECT_EQ(PlanCompose(layout, 0, batch)->digest,
            PlanCompose(layout, 3, batch)->digest);
  EXPECT_NE(PlanCompose(layout, 0, batch)->digest,
            PlanCompose(layout, 0, other)->digest);
  EXPECT_NE(PlanShard(layout, 0, {16, 1, {}, {}})->digest,
            PlanShard(layout, 0, {16, 1, {0, 16}, {}})->digest);
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
