// Routes: who sends which rows of the encoders to whom. Pure functions of
// layout and batch, deterministic, no I/O.
//
// Rules, for a micro-batch of G samples:
//   language lane j   owns samples [j*B, (j+1)*B)
//   encoder lane i    holds the i-th of equal contiguous shares of the samples,
//                     larger ones first; or as many rows as encoder_rows says
//   encoder rank      sends the k-th of equal contiguous shares of its lane's
//                     rows, k its place in the tp_cp group of the last stage
//   language rank     receives the rows of the positions that it embeds
// (Megatron-Core's BridgeCommunicator where that accepts a layout, without its
// leaders: there one rank a lane sends and receives all.)
// Cost: a few steps a run of rows, document and sample; one look at each id.

#ifndef COORDINATOR_PLANNER_ROUTE_PLANNER_H_
#define COORDINATOR_PLANNER_ROUTE_PLANNER_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/planner/sample_runs.h"
#include "proto/plan/batch.h"
#include "proto/plan/layout.h"
#include "proto/plan/route_plan.h"

namespace shardwright {

// A batch read once, for the plans of any number of ranks. Immutable,
// thread-safe.
class RoutePlanner {
 public:
  // `layout` and `batch` must outlive the planner.
  //
  // Errors:
  //   INVALID_ARGUMENT INVALID_BATCH: all problems at once, as violations.
  static absl::StatusOr<RoutePlanner> Create(const Layout& layout,
                                             const Batch& batch);

  // Errors:
  //   NOT_FOUND RANK_NOT_FOUND: the layout has no such rank.
  absl::StatusOr<RoutePlan> PlanFor(Rank rank) const;

 private:
  struct Edge {
    const Module* encoder;
    int32_t source;  // 0: the batch has no token of it.
    // With encoder_rows: of each lane the first row, and the total.
    std::vector<int64_t> lane_starts;
  };
  struct Peer {  // Who sends a row, and up to which row he does.
    Rank rank;
    int64_t end;
    int64_t lane_start;
  };

  RoutePlanner(const Layout& layout, const Batch& batch);

  Edge MakeEdge(const Module& encoder) const;
  const Edge* FindEdge(int32_t source) const;
  // The first row of an encoder's lane, numbered over all its lanes; of the
  // lane after the last the total.
  int64_t LaneStart(const Edge& edge, int64_t lane) const;
  Peer SenderOf(const Edge& edge, int64_t row) const;

  void PlanSending(const Edge& edge, RoutePlan& plan) const;
  absl::Status PlanReceiving(RoutePlan& plan) const;
  void Receive(const Edge& edge, RowCopy& entry, RouteEdge& received) const;

  const Layout* layout_;
  const Batch* batch_;
  uint64_t digest_;
  // Rows of every source are numbered over all samples of the batch.
  std::vector<std::vector<SourceRun>> samples_;
  std::vector<std::vector<int64_t>> rows_before_;  // By sample and source.
  std::vector<Edge> edges_;
};

// One rank's plan. Errors: of both.
absl::StatusOr<RoutePlan> PlanRoute(const Layout& layout, Rank rank,
                                    const Batch& batch);

}  // namespace shardwright

#endif  // COORDINATOR_PLANNER_ROUTE_PLANNER_H_
