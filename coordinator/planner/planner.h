// Plans: pure functions of layout and batch. Thread-safe, deterministic, no
// I/O.
//
// Rules (W = cp, T = tp, r = cp rank, t = tp rank; Megatron-Core's
// get_batch_on_this_cp_rank, TransformerEngine's thd_get_partitioned_indices):
//   dense  a sample is 2W equal chunks; rank r owns chunk r, then 2W-1-r
//   THD    the same for each document by itself, documents in order
//   SP     of those positions, tp rank t keeps the t-th of T equal slices, for
//          embeddings only: labels and loss mask stay cp-local
// Cost: a few entries a document, image and sample; never one a token.

#ifndef COORDINATOR_PLANNER_PLANNER_H_
#define COORDINATOR_PLANNER_PLANNER_H_

#include "absl/status/statusor.h"
#include "proto/plan/batch.h"
#include "proto/plan/layout.h"
#include "proto/plan/shard_plan.h"

namespace shardwright {

// What `rank`, of the language module, owns of a micro-batch of this shape.
//
// Errors:
//   NOT_FOUND        RANK_NOT_FOUND: the layout has no such rank.
//   INVALID_ARGUMENT RANK_NOT_LANGUAGE: it is an encoder rank.
//   INVALID_ARGUMENT INVALID_BATCH: all problems at once, as violations.
absl::StatusOr<ShardPlan> PlanShard(const Layout& layout, Rank rank,
                                    const BatchShape& shape);

// The same from tokens: the table takes rows of "text" and of each modality
// straight to the shard. Row k of a source is its k-th token in (sample,
// position) order over the lane's own samples; text is every id that is not
// special (align_embeddings_by_token_positions, fused with the shard).
absl::StatusOr<ShardPlan> PlanCompose(const Layout& layout, Rank rank,
                                      const Batch& batch);

}  // namespace shardwright

#endif  // COORDINATOR_PLANNER_PLANNER_H_
