// The arithmetic of context and sequence parallelism on runs of positions.
// Internal to the planner.

#ifndef COORDINATOR_PLANNER_POSITION_RUNS_H_
#define COORDINATOR_PLANNER_POSITION_RUNS_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/plan/batch.h"
#include "proto/plan/layout.h"
#include "proto/plan/shard_plan.h"

namespace shardwright {

// Starts of the documents and the total: of the pack, or of the one document
// that a dense sample is.
std::vector<int64_t> DocumentStarts(const BatchShape& shape);

// What `cp_rank` of `cp` owns: chunks cp_rank and 2*cp-1-cp_rank of the 2*cp
// equal chunks of each document. Neighbouring runs are joined.
std::vector<PositionRun> ZigzagRuns(const std::vector<int64_t>& starts,
                                    int64_t cp, int64_t cp_rank);

// Local positions [begin, end) of what `runs` own.
std::vector<PositionRun> SliceRuns(const std::vector<PositionRun>& runs,
                                   int64_t begin, int64_t end);

// What of `label_runs`, the positions of its cp rank, a rank embeds: all, or
// with sequence parallelism its tp rank's slice.
std::vector<PositionRun> EmbeddingRuns(
    const Module& module, const Coordinates& at,
    const std::vector<PositionRun>& label_runs);

// Who embeds a position: the inverse of the two above, a division a question.
class PositionOwners {
 public:
  // REQUIRES: CheckShape() found nothing; the shape has a document.
  PositionOwners(const Module& module, const BatchShape& shape);

  // Its coordinates, and where the positions that go with it end. Without
  // sequence parallelism all tp ranks of `cp` own it, and `tp` is 0.
  struct Owner {
    int64_t cp = 0, tp = 0;
    int64_t end = 0;
  };
  // REQUIRES: 0 <= position < seq_length.
  Owner At(int64_t position) const;

 private:
  std::vector<int64_t> starts_;
  int64_t cp_;
  int64_t slice_;  // Positions of a cp rank that one owner has.
};

// The place of a rank that has a sequence to shard.
// Errors: RANK_NOT_FOUND, RANK_NOT_LANGUAGE as in planner.h.
absl::StatusOr<Placement> FindLanguageRank(const Layout& layout, Rank rank);

// A shape's plan for one rank but for the embedding table: coordinates, runs,
// label table, load. REQUIRES: CheckShape() found nothing.
ShardPlan PlanRuns(const Module& module, int64_t index, Rank rank,
                   const BatchShape& shape);

}  // namespace shardwright

#endif  // COORDINATOR_PLANNER_POSITION_RUNS_H_
