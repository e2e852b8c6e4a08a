// Members of a bridge, for tests: threads over loopback. Encoder ranks 0 and 1
// are one lane of four rows, and language ranks 2 and 3 one lane that splits
// the sequence; each has two of the rows, out of order, so that rank 0 packs
// and rank 1 need not. What planners plan, tests/property carries out.

#ifndef WORKER_EXEC_BRIDGE_FIXTURE_H_
#define WORKER_EXEC_BRIDGE_FIXTURE_H_

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "proto/plan/copy_table.h"
#include "proto/plan/route_plan.h"
#include "proto/status/status_matchers.h"
#include "worker/comm/loopback_communicator.h"
#include "worker/exec/bridge.h"

namespace shardwright {

inline constexpr int64_t kRowBytes = 3;
inline constexpr int64_t kNone = RouteTransfer::kNone;

// The lane's rows are a, b, c, d; rank 0 sends a and b, rank 1 c and d.
inline RoutePlan EncoderPlan(Rank rank) {
  RoutePlan plan;
  plan.rank = rank;
  RouteEdge edge;
  edge.encoder = "images";
  if (rank == 0) {
    edge.transfers = {{2, {{0, 1}}, 1, kNone, 0, {0, 1}},
                      {3, {{1, 1}}, 1, kNone, 1, {0, 1}}};
    plan.pack = *CopyTable::Create({}, {4}, 0);
  } else {
    // As if its rows were not one run.
    edge.transfers = {{2, {{3, 1}}, 1, 0, kNone, {0, 1}},
                      {3, {{2, 1}}, 1, kNone, 2, {0, 1}}};
    edge.staging_rows = 1;
    plan.pack = *CopyTable::Create({{0, 3, 0, 1, 1}}, {4}, 1);
  }
  plan.edges = {edge};
  plan.parts = {{0, {0, 2}}, {1, {2, 2}}};
  return plan;
}

// Shards "a x d _" and "c b x x", where x is text and _ padding. Row a goes
// straight into its place, the others through staging.
inline RoutePlan LanguagePlan(Rank rank) {
  RoutePlan plan;
  plan.rank = rank;
  plan.sources = {"text", "images"};
  RouteEdge edge;
  edge.encoder = "images";
  edge.staging_rows = 2;
  if (rank == 2) {
    edge.transfers = {{0, {{0, 1}}, 1, 0, 0, {0, 1}},
                      {1, {{3, 1}}, 1, 1, kNone, {0, 1}}};
    plan.placement = *CopyTable::Create({{1, 0, 0, 1, 1},
                                         {0, 0, 1, 1, 1},
                                         {1, 1, 2, 1, 1},
                                         {RowCopy::kFill, 0, 3, 1, 1}},
                                        {3, 2}, 4);
  } else {
    edge.transfers = {{0, {{1, 1}}, 1, 0, kNone, {0, 1}},
                      {1, {{2, 1}}, 1, 1, kNone, {0, 1}}};
    plan.placement = *CopyTable::Create(
        {{1, 1, 0, 1, 1}, {1, 0, 1, 1, 1}, {0, 1, 2, 1, 2}}, {3, 2}, 4);
  }
  plan.edges = {edge};
  return plan;
}

struct Member {
  Member(Rank rank, Direction direction) {
    part.plan = rank < 2 ? EncoderPlan(rank) : LanguagePlan(rank);
    part.plan.digest = 77;
    part.plan.generation = 4;
    part.direction = direction;
    part.row_bytes = kRowBytes;
    part.sequence = 9;
    const bool forward = direction == Direction::kForward;
    if (rank < 2) {
      sources = {forward ? "aaabbbcccddd" : std::string(12, '?')};
    } else {
      sources = {forward ? "xxxyyyzzz" : std::string(9, '?'), ""};
      shard = forward     ? std::string(12, '?')
              : rank == 2 ? "AAATTTDDD---"
                          : "CCCBBBYYYZZZ";
    }
    Point();
  }

  void Point() {
    part.sources.clear();
    for (std::string& source : sources) {
      part.sources.push_back(absl::MakeSpan(source));
    }
    part.shard = absl::MakeSpan(shard);
  }

  BridgePart part;
  std::vector<std::string> sources;
  std::string shard;
  HostBridgeEngine engine;
  absl::Status refusal;
  absl::StatusOr<BridgeResult> result = absl::UnknownError("not run");
};

inline std::vector<std::unique_ptr<Member>> Members(Direction direction) {
  std::vector<std::unique_ptr<Member>> members;
  for (Rank rank = 0; rank < 4; ++rank) {
    members.push_back(std::make_unique<Member>(rank, direction));
  }
  return members;
}

inline std::shared_ptr<Communicator> Join(CommunicatorFactory& factory,
                                          std::vector<int64_t> ranks,
                                          int position, uint64_t identity) {
  CliqueAttempt attempt;
  attempt.clique = absl::StrCat("clique ", identity);
  attempt.ranks = std::move(ranks);
  attempt.position = position;
  attempt.identity = identity;
  auto connected = (*factory.Begin(attempt))->Connect({});
  EXPECT_THAT(connected, IsOk());
  return *std::move(connected);
}

inline void OnEach(const std::function<void(int)>& run) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back(run, i);
  for (std::thread& thread : threads) thread.join();
}

// A member that dies does so in place of its call.
inline void RunAll(std::vector<std::unique_ptr<Member>>& members,
                   int dies = -1) {
  LoopbackFactory factory;
  OnEach([&](int i) {
    auto bridge = Join(factory, {0, 1, 2, 3}, i, 1);
    std::shared_ptr<Communicator> lane;
    if (i < 2) lane = Join(factory, {0, 1}, i, 2);
    if (i == dies) return;
    Member& member = *members[i];
    member.result = RunBridge(*bridge, lane.get(), member.part, member.engine,
                              /*turn=*/nullptr, member.refusal);
    (void)bridge->Barrier();  // Nobody leaves before all have an answer.
    if (lane != nullptr) (void)lane->Barrier();
  });
}

}  // namespace shardwright

#endif  // WORKER_EXEC_BRIDGE_FIXTURE_H_
