#include "client/cc/coordinator_client.h"

#include <utility>

#include "client/cc/connection.h"
#include "client/cc/grpc_connection.h"
#include "proto/sync/mutex.h"

namespace shardwright {

struct CallCanceller::State {
  Mutex mutex;
  bool cancelled ABSL_GUARDED_BY(mutex) = false;
  std::function<void()> cancel ABSL_GUARDED_BY(mutex);
};

CallCanceller::CallCanceller() : state_(std::make_shared<State>()) {}

void CallCanceller::Cancel() {
  const MutexLock lock(state_->mutex);
  state_->cancelled = true;
  // With the lock, on which CallEnded() waits.
  if (state_->cancel) state_->cancel();
  state_->cancel = nullptr;
}

bool CallCanceller::cancelled() const {
  const MutexLock lock(state_->mutex);
  return state_->cancelled;
}

void CallCanceller::OnCancel(std::function<void()> cancel) {
  const MutexLock lock(state_->mutex);
  if (state_->cancelled) {
    cancel();
  } else {
    state_->cancel = std::move(cancel);
  }
}

void CallCanceller::CallEnded() {
  const MutexLock lock(state_->mutex);
  state_->cancel = nullptr;
}

CoordinatorClient CoordinatorClient::Create(const std::string& target,
                                            Options options) {
  return CoordinatorClient(MakeGrpcConnection(target, options));
}

CoordinatorClient CoordinatorClient::Create(const std::string& target) {
  return Create(target, Options());
}

CoordinatorClient::CoordinatorClient(std::shared_ptr<Connection> connection)
    : connection_(std::move(connection)) {}

absl::StatusOr<v1::ApplyLayoutResponse> CoordinatorClient::ApplyLayout(
    const v1::ApplyLayoutRequest& request) const {
  return connection_->ApplyLayout(request);
}

absl::StatusOr<v1::GetLayoutResponse> CoordinatorClient::GetLayout(
    const v1::GetLayoutRequest& request) const {
  return connection_->GetLayout(request);
}

absl::StatusOr<v1::ListLayoutsResponse> CoordinatorClient::ListLayouts(
    const v1::ListLayoutsRequest& request) const {
  return connection_->ListLayouts(request);
}

absl::StatusOr<v1::RankExplanation> CoordinatorClient::ExplainRank(
    const v1::ExplainRankRequest& request) const {
  return connection_->ExplainRank(request);
}

absl::Status CoordinatorClient::WatchLayouts(
    const v1::WatchLayoutsRequest& request,
    const std::function<bool(const v1::WatchLayoutsResponse&)>& on_event,
    CallCanceller canceller) const {
  return connection_->WatchLayouts(request, on_event, std::move(canceller));
}

absl::StatusOr<v1::RegisterResponse> CoordinatorClient::Register(
    const v1::RegisterRequest& request) const {
  return connection_->Register(request);
}

absl::StatusOr<v1::LeaveResponse> CoordinatorClient::Leave(
    const v1::LeaveRequest& request) const {
  return connection_->Leave(request);
}

absl::StatusOr<v1::ListMembersResponse> CoordinatorClient::ListMembers(
    const v1::ListMembersRequest& request) const {
  return connection_->ListMembers(request);
}

std::unique_ptr<SessionStream> CoordinatorClient::OpenSession() const {
  return connection_->OpenSession();
}

absl::StatusOr<v1::PublishSlotsResponse> CoordinatorClient::PublishSlots(
    const v1::PublishSlotsRequest& request) const {
  return connection_->PublishSlots(request);
}

absl::StatusOr<v1::ReportCommunicatorsResponse>
CoordinatorClient::ReportCommunicators(
    const v1::ReportCommunicatorsRequest& request) const {
  return connection_->ReportCommunicators(request);
}

absl::Status CoordinatorClient::FormCommunicators(
    const v1::FormCommunicatorsRequest& request,
    const std::function<bool(const v1::FormCommunicatorsResponse&)>& on_event,
    CallCanceller canceller) const {
  return connection_->FormCommunicators(request, on_event,
                                        std::move(canceller));
}

absl::Status CoordinatorClient::WaitAtBarrier(
    const v1::WaitAtBarrierRequest& request,
    const std::function<bool(const v1::WaitAtBarrierResponse&)>& on_event,
    CallCanceller canceller) const {
  return connection_->WaitAtBarrier(request, on_event, std::move(canceller));
}

absl::StatusOr<v1::ShardPlan> CoordinatorClient::GetShardPlan(
    const v1::GetShardPlanRequest& request) const {
  return connection_->GetShardPlan(request);
}

absl::StatusOr<v1::ShardPlan> CoordinatorClient::GetComposePlan(
    const v1::GetComposePlanRequest& request) const {
  return connection_->GetComposePlan(request);
}

absl::StatusOr<v1::RoutePlan> CoordinatorClient::GetRoutePlan(
    const v1::GetRoutePlanRequest& request) const {
  return connection_->GetRoutePlan(request);
}

absl::StatusOr<v1::ListMissingMembersResponse>
CoordinatorClient::ListMissingMembers(
    const v1::ListMissingMembersRequest& request) const {
  return connection_->ListMissingMembers(request);
}

absl::StatusOr<v1::ListCommunicatorsResponse>
CoordinatorClient::ListCommunicators(
    const v1::ListCommunicatorsRequest& request) const {
  return connection_->ListCommunicators(request);
}

absl::StatusOr<v1::CliqueExplanation> CoordinatorClient::ExplainClique(
    const v1::ExplainCliqueRequest& request) const {
  return connection_->ExplainClique(request);
}

absl::StatusOr<v1::ListEventsResponse> CoordinatorClient::ListEvents(
    const v1::ListEventsRequest& request) const {
  return connection_->ListEvents(request);
}

absl::Status CoordinatorClient::CheckHealth() const {
  return connection_->CheckHealth();
}

}  // namespace shardwright
