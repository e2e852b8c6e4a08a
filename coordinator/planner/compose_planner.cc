#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/planner/planner.h"
#include "coordinator/planner/position_runs.h"
#include "coordinator/planner/sample_runs.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

absl::StatusOr<CopyTable> EmbeddingTable(const ShardPlan& plan,
                                         const Batch& batch) {
  const SourceOf source_of(batch.special_token_ids);
  const int64_t first_sample = plan.coordinates.lane * batch.micro_batch_size;
  std::vector<int64_t> rows(source_of.source_count(), 0);
  std::vector<RowCopy> entries;
  for (int64_t b = 0; b < batch.micro_batch_size; ++b) {
    AppendEntries(
        RunsOfSample(batch.samples[first_sample + b], source_of, rows),
        plan.embedding_runs, b, batch.micro_batch_size, entries);
  }
  int64_t local = 0;
  for (const PositionRun& run : plan.embedding_runs) local += run.count;
  return CopyTable::Create(std::move(entries), std::move(rows),
                           local * batch.micro_batch_size);
}

}  // namespace

absl::StatusOr<ShardPlan> PlanCompose(const Layout& layout, Rank rank,
                                      const Batch& batch) {
  ASSIGN_OR_RETURN(const Placement at, FindLanguageRank(layout, rank));
  RETURN_IF_ERROR(ProblemsToStatus("INVALID_BATCH", CheckBatch(layout, batch)));
  const int64_t lane = at.module->CoordinatesAt(at.index).lane;
  ShardPlan plan = PlanRuns(*at.module, at.index, rank, batch.ShapeOf(lane));
  plan.digest = DigestOf(layout, batch);
  plan.sources = SourceNames(batch);
  if (plan.coordinates.pp == 0) {
    ASSIGN_OR_RETURN(plan.embeddings, EmbeddingTable(plan, batch));
  }
  return plan;
}

}  // namespace shardwright
