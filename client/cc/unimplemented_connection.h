// A Connection that can do nothing: every RPC is UNIMPLEMENTED, and there is no
// session to open. Tests derive from it and override what they script.

#ifndef CLIENT_CC_UNIMPLEMENTED_CONNECTION_H_
#define CLIENT_CC_UNIMPLEMENTED_CONNECTION_H_

#include <functional>
#include <memory>

#include "client/cc/connection.h"

namespace shardwright {

class UnimplementedConnection : public Connection {
 public:
  absl::StatusOr<v1::ApplyLayoutResponse> ApplyLayout(
      const v1::ApplyLayoutRequest&) override {
    return Unimplemented();
  }
  absl::StatusOr<v1::GetLayoutResponse> GetLayout(
      const v1::GetLayoutRequest&) override {
    return Unimplemented();
  }
  absl::StatusOr<v1::ListLayoutsResponse> ListLayouts(
      const v1::ListLayoutsRequest&) override {
    return Unimplemented();
  }
  absl::StatusOr<v1::RankExplanation> ExplainRank(
      const v1::ExplainRankRequest&) override {
    return Unimplemented();
  }
  absl::Status WatchLayouts(
      const v1::WatchLayoutsRequest&,
      const std::function<bool(const v1::WatchLayoutsResponse&)>&,
      CallCanceller) override {
    return Unimplemented();
  }
  absl::StatusOr<v1::RegisterResponse> Register(
      const v1::RegisterRequest&) override {
    return Unimplemented();
  }
  absl::StatusOr<v1::LeaveResponse> Leave(const v1::LeaveRequest&) override {
    return Unimplemented();
  }
  absl::StatusOr<v1::ListMembersResponse> ListMembers(
      const v1::ListMembersRequest&) override {
    return Unimplemented();
  }
  std::unique_ptr<SessionStream> OpenSession() override { return nullptr; }
  absl::StatusOr<v1::PublishSlotsResponse> PublishSlots(
      const v1::PublishSlotsRequest&) override {
    return Unimplemented();
  }
  absl::StatusOr<v1::ReportCommunicatorsResponse> ReportCommunicators(
      const v1::ReportCommunicatorsRequest&) override {
    return Unimplemented();
  }
  absl::Status FormCommunicators(
      const v1::FormCommunicatorsRequest&,
      const std::function<bool(const v1::FormCommunicatorsResponse&)>&,
      CallCanceller) override {
    return Unimplemented();
  }
  absl::Status WaitAtBarrier(
      const v1::WaitAtBarrierRequest&,
      const std::function<bool(const v1::WaitAtBarrierResponse&)>&,
      CallCanceller) override {
    return Unimplemented();
  }
  absl::StatusOr<v1::ShardPlan> GetShardPlan(
      const v1::GetShardPlanRequest&) override {
    return Unimplemented();
  }
  absl::StatusOr<v1::ShardPlan> GetComposePlan(
      const v1::GetComposePlanRequest&) override {
    return Unimplemented();
  }
  absl::StatusOr<v1::RoutePlan> GetRoutePlan(
      const v1::GetRoutePlanRequest&) override {
    return Unimplemented();
  }
  absl::StatusOr<v1::ListMissingMembersResponse> ListMissingMembers(
      const v1::ListMissingMembersRequest&) override {
    return Unimplemented();
  }
  absl::StatusOr<v1::ListCommunicatorsResponse> ListCommunicators(
      const v1::ListCommunicatorsRequest&) override {
    return Unimplemented();
  }
  absl::StatusOr<v1::CliqueExplanation> ExplainClique(
      const v1::ExplainCliqueRequest&) override {
    return Unimplemented();
  }
  absl::StatusOr<v1::ListEventsResponse> ListEvents(
      const v1::ListEventsRequest&) override {
    return Unimplemented();
  }
  absl::Status CheckHealth() override { return Unimplemented(); }

 protected:
  static absl::Status Unimplemented() {
    return absl::UnimplementedError("no test has scripted this");
  }
};

}  // namespace shardwright

#endif  // CLIENT_CC_UNIMPLEMENTED_CONNECTION_H_
