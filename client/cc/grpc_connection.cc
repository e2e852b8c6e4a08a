#include "client/cc/grpc_connection.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cc/channel.h"
#include "google/protobuf/wrappers.pb.h"
#include "grpcpp/impl/client_unary_call.h"
#include "grpcpp/support/sync_stream.h"
#include "proto/status/error.h"
#include "proto/status/grpc_status.h"
#include "proto/time/proto_time.h"
#include "shardwright/v1/barrier.grpc.pb.h"
#include "shardwright/v1/communicator.grpc.pb.h"
#include "shardwright/v1/diagnostics.grpc.pb.h"
#include "shardwright/v1/layout.grpc.pb.h"
#include "shardwright/v1/membership.grpc.pb.h"
#include "shardwright/v1/plan.grpc.pb.h"

namespace shardwright {
namespace {

// How much longer a waiting call may take than the wait that it asks for.
constexpr absl::Duration kStreamSlack = absl::Seconds(5);

// Of a process that ends, and shall not be kept from it; together they are the
// most that leaving takes.
constexpr absl::Duration kLeaveCallTimeout = absl::Seconds(1);
constexpr absl::Duration kLeaveRetryTimeout = absl::Seconds(1);

// How a call ends that this program has cancelled; the server may have ended it
// before.
absl::Status BrokenOff(const grpc::Status& end) {
  if (end.error_code() != grpc::StatusCode::CANCELLED) {
    return FromGrpcStatus(end);
  }
  return Error(absl::StatusCode::kCancelled, "CALL_CANCELLED",
               "this program broke the call off");
}

class GrpcSessionStream : public SessionStream {
 public:
  GrpcSessionStream(Channel channel, v1::MembershipService::Stub& stub)
      : channel_(std::move(channel)), stream_(stub.Session(&context_)) {}

  ~GrpcSessionStream() override {
    context_.TryCancel();
    if (!finished_) stream_->Finish();
  }

  bool Write(const v1::SessionRequest& request) override {
    return stream_->Write(request);
  }
  bool Read(v1::SessionResponse* response) override {
    return stream_->Read(response);
  }
  void Cancel() override {
    cancelled_ = true;
    context_.TryCancel();
  }

  absl::Status Finish() override {
    finished_ = true;
    const grpc::Status end = stream_->Finish();
    return cancelled_ ? BrokenOff(end) : channel_.ToStatus(end);
  }

 private:
  const Channel channel_;
  grpc::ClientContext context_;
  std::unique_ptr<
      grpc::ClientReaderWriter<v1::SessionRequest, v1::SessionResponse>>
      stream_;
  bool finished_ = false;
  std::atomic<bool> cancelled_ = false;
};

class GrpcConnection : public Connection {
 public:
  GrpcConnection(const std::string& target, CoordinatorClient::Options options)
      : options_(options),
        channel_(target),
        layout_(channel_.grpc_channel()),
        membership_(channel_.grpc_channel()),
        communicator_(channel_.grpc_channel()),
        barrier_(channel_.grpc_channel()),
        plan_(channel_.grpc_channel()),
        diagnostics_(channel_.grpc_channel()) {}

  absl::StatusOr<v1::ApplyLayoutResponse> ApplyLayout(
      const v1::ApplyLayoutRequest& request) override {
    return Call(layout_, &v1::LayoutService::Stub::ApplyLayout, request);
  }
  absl::StatusOr<v1::GetLayoutResponse> GetLayout(
      const v1::GetLayoutRequest& request) override {
    return Call(layout_, &v1::LayoutService::Stub::GetLayout, request);
  }
  absl::StatusOr<v1::ListLayoutsResponse> ListLayouts(
      const v1::ListLayoutsRequest& request) override {
    return Call(layout_, &v1::LayoutService::Stub::ListLayouts, request);
  }
  absl::StatusOr<v1::RankExplanation> ExplainRank(
      const v1::ExplainRankRequest& request) override {
    return Call(layout_, &v1::LayoutService::Stub::ExplainRank, request);
  }
  absl::Status WatchLayouts(
      const v1::WatchLayoutsRequest& request,
      const std::function<bool(const v1::WatchLayoutsResponse&)>& on_event,
      CallCanceller canceller) override {
    return ReadStream<v1::WatchLayoutsResponse>(
        layout_, &v1::LayoutService::Stub::WatchLayouts, request,
        absl::InfiniteDuration(), on_event, std::move(canceller));
  }

  absl::StatusOr<v1::RegisterResponse> Register(
      const v1::RegisterRequest& request) override {
    return channel_.Call(membership_, &v1::MembershipService::Stub::Register,
                         request, options_.call_timeout, absl::ZeroDuration());
  }
  absl::StatusOr<v1::LeaveResponse> Leave(
      const v1::LeaveRequest& request) override {
    return channel_.Call(membership_, &v1::MembershipService::Stub::Leave,
                         request,
                         std::min(options_.call_timeout, kLeaveCallTimeout),
                         std::min(options_.retry_timeout, kLeaveRetryTimeout));
  }
  absl::StatusOr<v1::ListMembersResponse> ListMembers(
      const v1::ListMembersRequest& request) override {
    return Call(membership_, &v1::MembershipService::Stub::ListMembers,
                request);
  }
  std::unique_ptr<SessionStream> OpenSession() override {
    return std::make_unique<GrpcSessionStream>(channel_, membership_);
  }

  absl::StatusOr<v1::PublishSlotsResponse> PublishSlots(
      const v1::PublishSlotsRequest& request) override {
    return Call(communicator_, &v1::CommunicatorService::Stub::PublishSlots,
                request);
  }
  absl::StatusOr<v1::ReportCommunicatorsResponse> ReportCommunicators(
      const v1::ReportCommunicatorsRequest& request) override {
    return Call(communicator_,
                &v1::CommunicatorService::Stub::ReportCommunicators, request);
  }
  absl::Status FormCommunicators(
      const v1::FormCommunicatorsRequest& request,
      const std::function<bool(const v1::FormCommunicatorsResponse&)>& on_event,
      CallCanceller canceller) override {
    return ReadStream<v1::FormCommunicatorsResponse>(
        communicator_, &v1::CommunicatorService::Stub::FormCommunicators,
        request, FromProto(request.timeout()), on_event, std::move(canceller));
  }
  absl::Status WaitAtBarrier(
      const v1::WaitAtBarrierRequest& request,
      const std::function<bool(const v1::WaitAtBarrierResponse&)>& on_event,
      CallCanceller canceller) override {
    return ReadStream<v1::WaitAtBarrierResponse>(
        barrier_, &v1::BarrierService::Stub::WaitAtBarrier, request,
        FromProto(request.timeout()), on_event, std::move(canceller));
  }

  absl::StatusOr<v1::ShardPlan> GetShardPlan(
      const v1::GetShardPlanRequest& request) override {
    return Call(plan_, &v1::PlanService::Stub::GetShardPlan, request);
  }
  absl::StatusOr<v1::ShardPlan> GetComposePlan(
      const v1::GetComposePlanRequest& request) override {
    return Call(plan_, &v1::PlanService::Stub::GetComposePlan, request);
  }
  absl::StatusOr<v1::RoutePlan> GetRoutePlan(
      const v1::GetRoutePlanRequest& request) override {
    return Call(plan_, &v1::PlanService::Stub::GetRoutePlan, request);
  }

  absl::StatusOr<v1::ListMissingMembersResponse> ListMissingMembers(
      const v1::ListMissingMembersRequest& request) override {
    return Call(diagnostics_, &v1::DiagnosticsService::Stub::ListMissingMembers,
                request);
  }
  absl::StatusOr<v1::ListCommunicatorsResponse> ListCommunicators(
      const v1::ListCommunicatorsRequest& request) override {
    return Call(diagnostics_, &v1::DiagnosticsService::Stub::ListCommunicators,
                request);
  }
  absl::StatusOr<v1::CliqueExplanation> ExplainClique(
      const v1::ExplainCliqueRequest& request) override {
    return Call(diagnostics_, &v1::DiagnosticsService::Stub::ExplainClique,
                request);
  }
  absl::StatusOr<v1::ListEventsResponse> ListEvents(
      const v1::ListEventsRequest& request) override {
    return Call(diagnostics_, &v1::DiagnosticsService::Stub::ListEvents,
                request);
  }

  absl::Status CheckHealth() override {
    // The wrappers have the wire form of HealthCheckRequest {string service}
    // and HealthCheckResponse {enum status}: no stub needs to be generated.
    const grpc::internal::RpcMethod method(
        "/grpc.health.v1.Health/Check", grpc::internal::RpcMethod::NORMAL_RPC,
        channel_.grpc_channel());
    grpc::ClientContext context;
    context.set_deadline(Channel::DeadlineAfter(options_.call_timeout));
    const google::protobuf::StringValue request;
    google::protobuf::Int32Value response;
    const grpc::Status status = grpc::internal::BlockingUnaryCall<
        google::protobuf::StringValue, google::protobuf::Int32Value,
        google::protobuf::MessageLite, google::protobuf::MessageLite>(
        channel_.grpc_channel().get(), method, &context, request, &response);
    constexpr int kServing = 1;
    if (!status.ok() || response.value() == kServing) {
      return channel_.ToStatus(status);
    }
    return Error(absl::StatusCode::kUnavailable, "NOT_SERVING",
                 "the coordinator answers, but says that it is not serving");
  }

 private:
  template <typename Stub, typename Request, typename Response>
  absl::StatusOr<Response> Call(
      Stub& stub,
      grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                   Response*),
      const Request& request) const {
    return channel_.Call(stub, method, request, options_.call_timeout,
                         options_.retry_timeout);
  }

  template <typename Response, typename Stub, typename Request>
  absl::Status ReadStream(Stub& stub,
                          std::unique_ptr<grpc::ClientReader<Response>> (
                              Stub::*method)(grpc::ClientContext*,
                                             const Request&),
                          const Request& request, absl::Duration timeout,
                          const std::function<bool(const Response&)>& on_event,
                          CallCanceller canceller) const {
    grpc::ClientContext context;
    if (timeout < absl::InfiniteDuration()) {
      context.set_deadline(Channel::DeadlineAfter(timeout + kStreamSlack));
    }
    canceller.OnCancel([&context] { context.TryCancel(); });
    const std::unique_ptr<grpc::ClientReader<Response>> reader =
        (stub.*method)(&context, request);
    bool stopped = false;
    for (Response response; !stopped && reader->Read(&response);) {
      stopped = !on_event(response);
    }
    if (stopped) context.TryCancel();
    const grpc::Status end = reader->Finish();
    canceller.CallEnded();
    if (stopped || canceller.cancelled()) return BrokenOff(end);
    return channel_.ToStatus(end);
  }

  const CoordinatorClient::Options options_;
  const Channel channel_;
  v1::LayoutService::Stub layout_;
  v1::MembershipService::Stub membership_;
  v1::CommunicatorService::Stub communicator_;
  v1::BarrierService::Stub barrier_;
  v1::PlanService::Stub plan_;
  v1::DiagnosticsService::Stub diagnostics_;
};

}  // namespace

std::shared_ptr<Connection> MakeGrpcConnection(
    const std::string& target, CoordinatorClient::Options options) {
  return std::make_shared<GrpcConnection>(target, options);
}

}  // namespace shardwright
