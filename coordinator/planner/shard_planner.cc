#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/planner/planner.h"
#include "coordinator/planner/position_runs.h"
#include "proto/plan/fingerprint.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

// [S, B, H] -> [local, B, H]. All samples of a position lie together on both
// sides, so a run of positions is one run of rows.
absl::StatusOr<CopyTable> EmbeddingTable(const ShardPlan& plan) {
  const int64_t b = plan.micro_batch_size;
  if (b == 1 && plan.embedding_runs == plan.label_runs) return plan.labels;
  std::vector<RowCopy> entries;
  entries.reserve(plan.embedding_runs.size());
  int64_t local = 0;
  for (const PositionRun& run : plan.embedding_runs) {
    RowCopy& entry = entries.emplace_back();
    entry.source_row = run.position * b;
    entry.destination_row = local * b;
    entry.row_count = run.count * b;
    local += run.count;
  }
  return CopyTable::Create(std::move(entries), {plan.seq_length * b},
                           local * b);
}

uint64_t DigestOf(const Layout& layout, const BatchShape& shape) {
  Fingerprint fingerprint;
  fingerprint.Add(layout.digest());
  fingerprint.Add(shape.seq_length);
  fingerprint.Add(shape.micro_batch_size);
  fingerprint.Add(shape.cu_seqlens_padded.size());
  for (int64_t start : shape.cu_seqlens_padded) fingerprint.Add(start);
  return fingerprint.digest();
}

}  // namespace

absl::StatusOr<ShardPlan> PlanShard(const Layout& layout, Rank rank,
                                    const BatchShape& shape) {
  ASSIGN_OR_RETURN(const Placement at, FindLanguageRank(layout, rank));
  RETURN_IF_ERROR(
      ProblemsToStatus("INVALID_BATCH", CheckShape(*at.module, shape)));
  ShardPlan plan = PlanRuns(*at.module, at.index, rank, shape);
  plan.digest = DigestOf(layout, shape);
  plan.sources = {"sequence"};
  if (plan.coordinates.pp == 0) {
    ASSIGN_OR_RETURN(plan.embeddings, EmbeddingTable(plan));
  }
  return plan;
}

}  // namespace shardwright
