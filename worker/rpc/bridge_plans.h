// The routes that the tests of bridges carry out.

#ifndef WORKER_RPC_BRIDGE_PLANS_H_
#define WORKER_RPC_BRIDGE_PLANS_H_

#include "proto/plan/copy_table.h"
#include "proto/plan/route_plan.h"

namespace shardwright {

inline constexpr int kBridgeRanks = 3;

// Ranks 1 and 2 own "aABb" and "CcdD" of a lane with the text abcd and the
// image rows ABCD, which rank 0 has.
inline RoutePlan PlanOf(Rank rank) {
  RoutePlan plan;
  plan.digest = 9;
  plan.rank = rank;
  plan.edges.push_back({"images", 0, {}});
  RouteEdge& edge = plan.edges[0];
  if (rank == 0) {
    edge.transfers = {{1, {{0, 2}}, 2, RouteTransfer::kNone, 0, {0, 2}},
                      {2, {{2, 2}}, 2, RouteTransfer::kNone, 2, {0, 2}}};
    plan.pack = *CopyTable::Create({}, {4}, 0);
    plan.parts = {{0, {0, 4}}};
    return plan;
  }
  plan.sources = {"text", "images"};
  edge.staging_rows = 2;
  if (rank == 1) {
    edge.transfers = {{0, {{0, 2}}, 2, 0, 1, {0, 2}}};
    plan.placement = *CopyTable::Create(
        {{0, 0, 0, 1, 1}, {1, 0, 1, 1, 2}, {0, 1, 3, 1, 1}}, {4, 2}, 4);
  } else {
    edge.transfers = {{0, {{2, 2}}, 2, 0, RouteTransfer::kNone, {0, 2}}};
    plan.placement = *CopyTable::Create(
        {{1, 0, 0, 1, 1}, {0, 2, 1, 1, 2}, {1, 1, 3, 1, 1}}, {4, 2}, 4);
  }
  return plan;
}

}  // namespace shardwright

#endif  // WORKER_RPC_BRIDGE_PLANS_H_
