// A Connection is what CoordinatorClient speaks through: one method an RPC,
// with the promises of CoordinatorClient. GrpcConnection is the real one; tests
// script another.

#ifndef CLIENT_CC_CONNECTION_H_
#define CLIENT_CC_CONNECTION_H_

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cc/coordinator_client.h"

namespace shardwright {

// Thread-safe, so implementations are too.
class Connection {
 public:
  virtual ~Connection() = default;

  virtual absl::StatusOr<v1::ApplyLayoutResponse> ApplyLayout(
      const v1::ApplyLayoutRequest& request) = 0;
  virtual absl::StatusOr<v1::GetLayoutResponse> GetLayout(
      const v1::GetLayoutRequest& request) = 0;
  virtual absl::StatusOr<v1::ListLayoutsResponse> ListLayouts(
      const v1::ListLayoutsRequest& request) = 0;
  virtual absl::StatusOr<v1::RankExplanation> ExplainRank(
      const v1::ExplainRankRequest& request) = 0;
  virtual absl::Status WatchLayouts(
      const v1::WatchLayoutsRequest& request,
      const std::function<bool(const v1::WatchLayoutsResponse&)>& on_event,
      CallCanceller canceller) = 0;

  virtual absl::StatusOr<v1::RegisterResponse> Register(
      const v1::RegisterRequest& request) = 0;
  virtual absl::StatusOr<v1::LeaveResponse> Leave(
      const v1::LeaveRequest& request) = 0;
  virtual absl::StatusOr<v1::ListMembersResponse> ListMembers(
      const v1::ListMembersRequest& request) = 0;
  virtual std::unique_ptr<SessionStream> OpenSession() = 0;

  virtual absl::StatusOr<v1::PublishSlotsResponse> PublishSlots(
      const v1::PublishSlotsRequest& request) = 0;
  virtual absl::StatusOr<v1::ReportCommunicatorsResponse> ReportCommunicators(
      const v1::ReportCommunicatorsRequest& request) = 0;
  virtual absl::Status FormCommunicators(
      const v1::FormCommunicatorsRequest& request,
      const std::function<bool(const v1::FormCommunicatorsResponse&)>& on_event,
      CallCanceller canceller) = 0;
  virtual absl::Status WaitAtBarrier(
      const v1::WaitAtBarrierRequest& request,
      const std::function<bool(const v1::WaitAtBarrierResponse&)>& on_event,
      CallCanceller canceller) = 0;

  virtual absl::StatusOr<v1::ShardPlan> GetShardPlan(
      const v1::GetShardPlanRequest& request) = 0;
  virtual absl::StatusOr<v1::ShardPlan> GetComposePlan(
      const v1::GetComposePlanRequest& request) = 0;
  virtual absl::StatusOr<v1::RoutePlan> GetRoutePlan(
      const v1::GetRoutePlanRequest& request) = 0;

  virtual absl::StatusOr<v1::ListMissingMembersResponse> ListMissingMembers(
      const v1::ListMissingMembersRequest& request) = 0;
  virtual absl::StatusOr<v1::ListCommunicatorsResponse> ListCommunicators(
      const v1::ListCommunicatorsRequest& request) = 0;
  virtual absl::StatusOr<v1::CliqueExplanation> ExplainClique(
      const v1::ExplainCliqueRequest& request) = 0;
  virtual absl::StatusOr<v1::ListEventsResponse> ListEvents(
      const v1::ListEventsRequest& request) = 0;

  virtual absl::Status CheckHealth() = 0;
};

}  // namespace shardwright

#endif  // CLIENT_CC_CONNECTION_H_
