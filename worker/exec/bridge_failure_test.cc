// What happens to the others when a member of a bridge fails, or is not of one
// mind with them.

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/plan/copy_table.h"
#include "proto/plan/route_plan.h"
#include "proto/status/error.h"
#include "proto/status/status_matchers.h"
#include "worker/comm/loopback_communicator.h"
#include "worker/exec/bridge.h"
#include "worker/exec/bridge_fixture.h"

namespace shardwright {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(BridgeFailureTest, APeerThatDiesEndsTheCallsOfAllOthers) {
  for (const Direction direction : {Direction::kForward, Direction::kAdjoint}) {
    for (int dies = 0; dies < 4; ++dies) {
      auto members = Members(direction);
      RunAll(members, dies);
      for (int i = 0; i < 4; ++i) {
        if (i == dies) continue;
        EXPECT_THAT(members[i]->result.status(),
                    AllOf(HasReason("PEER_LOST"),
                          StatusIs(absl::StatusCode::kAborted,
                                   HasSubstr(absl::StrCat("rank ", dies)))));
      }
    }
  }
}

// One encoder, whose rows all go to rank 3: each of `counts` is a rank's part,
// sent as it lies, and received in place.
std::vector<std::unique_ptr<Member>> InParts(const std::vector<int>& counts) {
  auto members = Members(Direction::kAdjoint);
  std::vector<RoutePart> parts;
  RouteEdge received;
  received.encoder = "images";
  for (Rank rank = 0; rank < 3; ++rank) {
    const int64_t row = received.staging_rows;
    const RowRun rows = {row, counts[rank]};
    parts.push_back({rank, rows});
    RoutePlan& plan = members[rank]->part.plan;
    plan = EncoderPlan(0);
    plan.rank = rank;
    plan.edges[0].transfers = {
        {3, {rows}, rows.count, kNone, row, {0, rows.count}}};
    received.transfers.push_back(
        {rank, {rows}, rows.count, row, row, {0, rows.count}});
    received.staging_rows += rows.count;
    members[rank]->sources = {std::string(4 * kRowBytes, '?')};
    members[rank]->shard.clear();
  }
  for (Rank rank = 0; rank < 3; ++rank) members[rank]->part.plan.parts = parts;
  members[3]->part.plan.sources = {"images"};
  members[3]->part.plan.edges = {received};
  members[3]->part.plan.placement =
      *CopyTable::Create({{0, 0, 0, 1, 4}}, {4}, 4);
  members[3]->sources = {""};
  members[3]->shard = "AAABBBCCCDDD";
  for (const auto& member : members) {
    member->part.plan.digest = 77;
    member->part.plan.generation = 4;
    member->Point();
  }
  return members;
}

void RunInParts(std::vector<std::unique_ptr<Member>>& members) {
  LoopbackFactory factory;
  OnEach([&](int i) {
    const auto bridge = Join(factory, {0, 1, 2, 3}, i, 1);
    std::shared_ptr<Communicator> lane;
    if (i < 3) lane = Join(factory, {0, 1, 2}, i, 2);
    Member& member = *members[i];
    member.result = RunBridge(*bridge, lane.get(), member.part, member.engine);
    (void)bridge->Barrier();
    if (lane != nullptr) (void)lane->Barrier();
  });
}

TEST(BridgeFailureTest, RanksOfALaneAgreeOnTheirParts) {
  auto members = InParts({2, 1, 1});
  RunInParts(members);
  for (const auto& member : members) ASSERT_THAT(member->result, IsOk());
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(members[i]->sources[0], "AAABBBCCCDDD") << i;
  }

  members = InParts({2, 1, 1});
  members[0]->part.plan.parts = {{0, {0, 2}}, {1, {2, 2}}, {2, {4, 0}}};
  RunInParts(members);
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(members[i]->result.status(),
                AllOf(HasReason("INVALID_PLAN"),
                      StatusIs(absl::StatusCode::kInvalidArgument,
                               AllOf(HasSubstr("rank 0 has"),
                                     HasSubstr("rank 1-2 has")))));
  }
}

// The sizes are the same at both ends, but not in one order.
TEST(BridgeFailureTest, MessagesInAnotherOrderMoveNothing) {
  auto members = InParts({3, 1, 0});
  std::vector<RouteTransfer>& sent = members[0]->part.plan.edges[0].transfers;
  std::vector<RouteTransfer>& received =
      members[3]->part.plan.edges[0].transfers;
  sent = {{3, {{0, 1}}, 1, kNone, 0, {0, 1}},
          {3, {{1, 2}}, 2, kNone, 1, {0, 2}}};
  received = {{0, {{0, 2}}, 2, 0, 0, {0, 2}},
              {0, {{2, 1}}, 1, 2, 2, {0, 1}},
              {1, {{3, 1}}, 1, 3, 3, {0, 1}}};
  members[2]->part.plan.edges[0].transfers.clear();
  RunInParts(members);
  for (const auto& member : members) {
    EXPECT_THAT(member->result.status(), HasReason("INVALID_PLAN"));
  }

  std::swap(received[0], received[1]);
  received[0] = {0, {{0, 1}}, 1, 0, 0, {0, 1}};
  received[1] = {0, {{1, 2}}, 2, 1, 1, {0, 2}};
  RunInParts(members);
  for (const auto& member : members) EXPECT_THAT(member->result, IsOk());
}

// Rank 1 sends row d twice, and c never: nobody returns the gradient of c.
TEST(BridgeFailureTest, ARowThatIsNeverSentIsNotedOnTheWayBack) {
  auto members = Members(Direction::kAdjoint);
  members[1]->part.plan.edges[0].transfers[1].tensor_row = 3;
  RunAll(members);
  EXPECT_THAT(members[1]->result.status(),
              AllOf(HasReason("INVALID_PLAN"),
                    StatusIs(absl::StatusCode::kInvalidArgument,
                             HasSubstr("must each be sent"))));
  EXPECT_THAT(members[0]->result.status(), HasReason("PEER_REFUSED"));
}

// The first operation succeeds, and then a peer is lost here, not yet
// elsewhere.
class EndsAfterGather : public Communicator {
 public:
  explicit EndsAfterGather(std::shared_ptr<Communicator> communicator)
      : communicator_(std::move(communicator)) {}
  const std::vector<int64_t>& ranks() const override {
    return communicator_->ranks();
  }
  int position() const override { return communicator_->position(); }
  absl::Status AllGather(absl::Span<const char> input,
                         absl::Span<char> output) override {
    EXPECT_THAT(communicator_->AllGather(input, output), IsOk());
    status_ = PeerLost("clique", {3}, "it is gone");
    return status_;
  }
  absl::Status AllGatherV(absl::Span<const char>, absl::Span<const int64_t>,
                          absl::Span<char>) override {
    return status_;
  }
  absl::Status Exchange(absl::Span<const Outgoing>,
                        absl::Span<const Incoming>) override {
    return status_;
  }
  absl::Status Barrier() override { return status_; }
  absl::Status status() const override { return status_; }
  void Abort(const absl::Status& why) override { communicator_->Abort(why); }

 private:
  const std::shared_ptr<Communicator> communicator_;
  absl::Status status_;
};

// Others have found together that plans differ, and do not come to the lane.
TEST(BridgeFailureTest, ARankThatLosesTheBridgeAloneDoesNotWaitInItsLane) {
  auto members = Members(Direction::kAdjoint);
  members[3]->part.plan.digest = 78;
  absl::Status lane_status;
  LoopbackFactory factory;
  std::shared_ptr<Communicator> bridges[4];  // Nobody leaves.
  OnEach([&](int i) {
    bridges[i] = Join(factory, {0, 1, 2, 3}, i, 1);
    if (i == 0) bridges[i] = std::make_shared<EndsAfterGather>(bridges[i]);
    std::shared_ptr<Communicator> lane;
    if (i < 2) lane = Join(factory, {0, 1}, i, 2);
    Member& member = *members[i];
    member.result =
        RunBridge(*bridges[i], lane.get(), member.part, member.engine);
    if (i == 1) lane_status = lane->Barrier();
  });
  EXPECT_THAT(members[0]->result.status(), HasReason("PEER_LOST"));
  EXPECT_THAT(members[1]->result.status(), HasReason("DIGEST_MISMATCH"));
  EXPECT_THAT(lane_status, HasReason("PEER_LOST"));
}

// Fails to unpack: the other rank of the lane must not wait for its part.
class BrokenEngine : public HostBridgeEngine {
 public:
  absl::Status Copy(const CopyTable&, Direction, int64_t, int64_t,
                    absl::Span<const Bytes>, Bytes, ConstBytes) override {
    return Error(absl::StatusCode::kDataLoss, "DEVICE_FAILED", "it is broken");
  }
};

TEST(BridgeFailureTest, AnEngineThatFailsIsHeardOfInItsLane) {
  auto members = Members(Direction::kAdjoint);
  BrokenEngine broken;
  LoopbackFactory factory;
  OnEach([&](int i) {
    const auto bridge = Join(factory, {0, 1, 2, 3}, i, 1);
    std::shared_ptr<Communicator> lane;
    if (i < 2) lane = Join(factory, {0, 1}, i, 2);
    Member& member = *members[i];
    member.result = RunBridge(*bridge, lane.get(), member.part,
                              i == 1 ? broken : member.engine);
    (void)bridge->Barrier();
    if (lane != nullptr) (void)lane->Barrier();
  });
  EXPECT_THAT(members[1]->result.status(), HasReason("DEVICE_FAILED"));
  EXPECT_THAT(members[0]->result.status(),
              AllOf(HasReason("PEER_LOST"),
                    StatusIs(absl::StatusCode::kAborted,
                             HasSubstr("rank 1: DEVICE_FAILED"))));
}

}  // namespace
}  // namespace shardwright
