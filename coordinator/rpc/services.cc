#include "coordinator/rpc/services.h"

#include <chrono>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "coordinator/planner/planner.h"
#include "coordinator/planner/route_planner.h"
#include "coordinator/rpc/stream_call.h"
#include "google/protobuf/arena.h"
#include "grpcpp/support/message_allocator.h"
#include "proto/plan/codec.h"
#include "proto/status/error.h"
#include "proto/status/grpc_status.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

// The one place where a call's deadline is looked at. Parked calls would wait,
// and answers be worked out, for clients that have gone long ago.
//
// Errors:
//   INVALID_ARGUMENT  DEADLINE_REQUIRED: the client waits for ever.
//   DEADLINE_EXCEEDED DEADLINE_PASSED: it waits no more.
absl::Status CheckDeadline(const grpc::CallbackServerContext& context) {
  const std::chrono::system_clock::time_point deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) {
    return Error(absl::StatusCode::kInvalidArgument, "DEADLINE_REQUIRED",
                 "the call has no deadline; set one when you make it");
  }
  if (deadline <= std::chrono::system_clock::now()) {
    return Error(absl::StatusCode::kDeadlineExceeded, "DEADLINE_PASSED",
                 "the call's deadline had passed when it came");
  }
  return absl::OkStatus();
}

absl::Status Take(absl::Status status, const google::protobuf::Message*) {
  return status;
}

template <typename Response>
absl::Status Take(absl::StatusOr<Response> result, Response* response) {
  if (result.ok()) *response = *std::move(result);
  return result.status();
}

// Answers a unary call with what `function()` returns, an absl::StatusOr of its
// response or an absl::Status.
template <typename Response, typename Function>
grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context,
                                 Response* response, Function function) {
  absl::Status status = CheckDeadline(*context);
  if (status.ok()) status = Take(function(), response);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

// The same with what a method of the core returns.
template <typename Response, typename Request, typename Result>
grpc::ServerUnaryReactor* Answer(
    grpc::CallbackServerContext* context, Response* response, CoreLoop& loop,
    Result (CoordinatorCore::*method)(const Request&, absl::Time, Effects&),
    const Request* request) {
  return Answer(context, response, [&] {
    return loop.Run(
        [&](CoordinatorCore& core, absl::Time now, Effects& effects) {
          return (core.*method)(*request, now, effects);
        });
  });
}

absl::StatusOr<JobLayout> FindLayout(CoreLoop& loop, const std::string& job,
                                     int64_t generation) {
  return loop.Run([&](CoordinatorCore& core, absl::Time, Effects&) {
    return core.FindLayout(job, generation);
  });
}

template <typename Plan, typename Response>
absl::Status Write(absl::StatusOr<Plan> plan, int64_t generation,
                   Response& response) {
  if (!plan.ok()) return plan.status();
  plan->generation = generation;
  ToProto(*plan, response);
  return absl::OkStatus();
}

// Puts a call's request and answer into one piece of memory: a plan is a
// message of a few small ones a document, and to make and free each by itself
// takes longer than to plan.
template <typename Request, typename Response>
class ArenaAllocator final : public grpc::MessageAllocator<Request, Response> {
 public:
  grpc::MessageHolder<Request, Response>* AllocateMessages() override {
    return new Holder;
  }

 private:
  class Holder final : public grpc::MessageHolder<Request, Response> {
   public:
    Holder() : arena_(block_, sizeof(block_)) {
      this->set_request(
          google::protobuf::Arena::CreateMessage<Request>(&arena_));
      this->set_response(
          google::protobuf::Arena::CreateMessage<Response>(&arena_));
    }
    void Release() override { delete this; }

   private:
    char block_[8192];  // Used first; enough for some twenty documents.
    google::protobuf::Arena arena_;
  };
};

class SessionCall final
    : public StreamCall<
          grpc::ServerBidiReactor<v1::SessionRequest, v1::SessionResponse>,
          v1::SessionResponse> {
 public:
  SessionCall(CoreLoop& loop, std::string peer)
      : StreamCall(loop, std::move(peer)) {}

  void OnReadDone(bool ok) override {
    if (!ok) {
      End(absl::OkStatus());
      return;
    }
    loop().RunStream(stream(), [this](CoordinatorCore& core, absl::Time now,
                                      Effects& effects) {
      return core.Session(stream(), request_, now, effects);
    });
    StartRead(&request_);
  }

  void Begin() { StartRead(&request_); }

 private:
  v1::SessionRequest request_;
};

template <typename Response>
class WriteCall
    : public StreamCall<grpc::ServerWriteReactor<Response>, Response> {
 public:
  WriteCall(CoreLoop& loop, std::string peer)
      : StreamCall<grpc::ServerWriteReactor<Response>, Response>(
            loop, std::move(peer)) {}
};

class WatchCall final : public WriteCall<v1::WatchLayoutsResponse> {
 public:
  using WriteCall::WriteCall;

 private:
  void OnAllRead() override {
    loop().RunStream(stream(), [this](CoordinatorCore& core, absl::Time now,
                                      Effects& effects) {
      core.WatchOn(stream(), now, effects);
      return absl::OkStatus();
    });
  }
};

// Parks a call that the core answers in its own time, unless `check` refuses
// it.
template <typename Call, typename Request>
Call* Park(const grpc::CallbackServerContext& context,
           const absl::Status& check, CoreLoop& loop,
           absl::Status (CoordinatorCore::*method)(StreamId, const Request&,
                                                   absl::Time, Effects&),
           const Request* request) {
  Call* call = Call::Park(std::make_shared<Call>(loop, context.peer()));
  loop.RunStream(call->stream(),
                 [&](CoordinatorCore& core, absl::Time now,
                     Effects& effects) -> absl::Status {
                   RETURN_IF_ERROR(check);
                   return (core.*method)(call->stream(), *request, now,
                                         effects);
                 });
  return call;
}

}  // namespace

grpc::ServerUnaryReactor* LayoutServiceImpl::ApplyLayout(
    grpc::CallbackServerContext* context, const v1::ApplyLayoutRequest* request,
    v1::ApplyLayoutResponse* response) {
  return Answer(
      context, response, [&]() -> absl::StatusOr<v1::ApplyLayoutResponse> {
        ASSIGN_OR_RETURN(Layout layout, LayoutFromProto(request->layout()));
        return loop_.Run([&](CoordinatorCore& core, absl::Time now,
                             Effects& effects) {
          return core.ApplyLayout(*request, std::move(layout), now, effects);
        });
      });
}

grpc::ServerUnaryReactor* LayoutServiceImpl::GetLayout(
    grpc::CallbackServerContext* context, const v1::GetLayoutRequest* request,
    v1::GetLayoutResponse* response) {
  return Answer(context, response,
                [&]() -> absl::StatusOr<v1::GetLayoutResponse> {
                  ASSIGN_OR_RETURN(const JobLayout job,
                                   FindLayout(loop_, request->job(), 0));
                  return *job.record;
                });
}

grpc::ServerUnaryReactor* LayoutServiceImpl::ListLayouts(
    grpc::CallbackServerContext* context, const v1::ListLayoutsRequest* request,
    v1::ListLayoutsResponse* response) {
  return Answer(context, response, [&] {
    return loop_.Run([&](CoordinatorCore& core, absl::Time, Effects&) {
      return core.ListLayouts(*request);
    });
  });
}

grpc::ServerUnaryReactor* LayoutServiceImpl::ExplainRank(
    grpc::CallbackServerContext* context, const v1::ExplainRankRequest* request,
    v1::RankExplanation* response) {
  return Answer(context, response,
                [&]() -> absl::StatusOr<v1::RankExplanation> {
                  ASSIGN_OR_RETURN(const JobLayout job,
                                   FindLayout(loop_, request->job(), 0));
                  return shardwright::ExplainRank(*job.layout, request->rank(),
                                                  job.generation());
                });
}

grpc::ServerWriteReactor<v1::WatchLayoutsResponse>*
LayoutServiceImpl::WatchLayouts(grpc::CallbackServerContext* context,
                                const v1::WatchLayoutsRequest* request) {
  return Park<WatchCall>(*context, absl::OkStatus(), loop_,
                         &CoordinatorCore::WatchLayouts, request);
}

grpc::ServerUnaryReactor* MembershipServiceImpl::Register(
    grpc::CallbackServerContext* context, const v1::RegisterRequest* request,
    v1::RegisterResponse* response) {
  return Answer(context, response, loop_, &CoordinatorCore::Register, request);
}

grpc::ServerBidiReactor<v1::SessionRequest, v1::SessionResponse>*
MembershipServiceImpl::Session(grpc::CallbackServerContext* context) {
  SessionCall* call =
      SessionCall::Park(std::make_shared<SessionCall>(loop_, context->peer()));
  loop_.RunStream(call->stream(),
                  [&](CoordinatorCore& core, absl::Time now, Effects& effects) {
                    core.SessionOpened(call->stream(), now, effects);
                    return absl::OkStatus();
                  });
  call->Begin();
  return call;
}

grpc::ServerUnaryReactor* MembershipServiceImpl::Leave(
    grpc::CallbackServerContext* context, const v1::LeaveRequest* request,
    v1::LeaveResponse* response) {
  return Answer(context, response, loop_, &CoordinatorCore::Leave, request);
}

grpc::ServerUnaryReactor* MembershipServiceImpl::ListMembers(
    grpc::CallbackServerContext* context, const v1::ListMembersRequest* request,
    v1::ListMembersResponse* response) {
  return Answer(context, response, loop_, &CoordinatorCore::ListMembers,
                request);
}

grpc::ServerWriteReactor<v1::FormCommunicatorsResponse>*
CommunicatorServiceImpl::FormCommunicators(
    grpc::CallbackServerContext* context,
    const v1::FormCommunicatorsRequest* request) {
  return Park<WriteCall<v1::FormCommunicatorsResponse>>(
      *context, CheckDeadline(*context), loop_,
      &CoordinatorCore::FormCommunicators, request);
}

grpc::ServerUnaryReactor* CommunicatorServiceImpl::PublishSlots(
    grpc::CallbackServerContext* context,
    const v1::PublishSlotsRequest* request,
    v1::PublishSlotsResponse* response) {
  return Answer(context, response, loop_, &CoordinatorCore::PublishSlots,
                request);
}

grpc::ServerUnaryReactor* CommunicatorServiceImpl::ReportCommunicators(
    grpc::CallbackServerContext* context,
    const v1::ReportCommunicatorsRequest* request,
    v1::ReportCommunicatorsResponse* response) {
  return Answer(context, response, loop_, &CoordinatorCore::ReportCommunicators,
                request);
}

grpc::ServerWriteReactor<v1::WaitAtBarrierResponse>*
BarrierServiceImpl::WaitAtBarrier(grpc::CallbackServerContext* context,
                                  const v1::WaitAtBarrierRequest* request) {
  return Park<WriteCall<v1::WaitAtBarrierResponse>>(
      *context, CheckDeadline(*context), loop_, &CoordinatorCore::WaitAtBarrier,
      request);
}

grpc::ServerUnaryReactor* DiagnosticsServiceImpl::ListMissingMembers(
    grpc::CallbackServerContext* context,
    const v1::ListMissingMembersRequest* request,
    v1::ListMissingMembersResponse* response) {
  return Answer(context, response, loop_, &CoordinatorCore::ListMissingMembers,
                request);
}

grpc::ServerUnaryReactor* DiagnosticsServiceImpl::ListCommunicators(
    grpc::CallbackServerContext* context,
    const v1::ListCommunicatorsRequest* request,
    v1::ListCommunicatorsResponse* response) {
  return Answer(context, response, loop_, &CoordinatorCore::ListCommunicators,
                request);
}

grpc::ServerUnaryReactor* DiagnosticsServiceImpl::ExplainClique(
    grpc::CallbackServerContext* context,
    const v1::ExplainCliqueRequest* request, v1::CliqueExplanation* response) {
  return Answer(
      context, response, [&]() -> absl::StatusOr<v1::CliqueExplanation> {
        ASSIGN_OR_RETURN(const JobLayout job,
                         FindLayout(loop_, request->job(), 0));
        ASSIGN_OR_RETURN(const IdleClique idle,
                         IdleClique::Create(job, *request));
        return loop_.Run(
            [&](CoordinatorCore& core, absl::Time now,
                Effects& effects) -> absl::StatusOr<v1::CliqueExplanation> {
              return core.ExplainCliqueOrIdle(*request, idle, now, effects);
            });
      });
}

grpc::ServerUnaryReactor* DiagnosticsServiceImpl::ListEvents(
    grpc::CallbackServerContext* context, const v1::ListEventsRequest* request,
    v1::ListEventsResponse* response) {
  return Answer(context, response, loop_, &CoordinatorCore::ListEvents,
                request);
}

PlanServiceImpl::PlanServiceImpl(CoreLoop& loop)
    : loop_(loop),
      shard_plan_messages_(
          std::make_unique<
              ArenaAllocator<v1::GetShardPlanRequest, v1::ShardPlan>>()),
      compose_plan_messages_(
          std::make_unique<
              ArenaAllocator<v1::GetComposePlanRequest, v1::ShardPlan>>()),
      route_plan_messages_(
          std::make_unique<
              ArenaAllocator<v1::GetRoutePlanRequest, v1::RoutePlan>>()) {
  SetMessageAllocatorFor_GetShardPlan(shard_plan_messages_.get());
  SetMessageAllocatorFor_GetComposePlan(compose_plan_messages_.get());
  SetMessageAllocatorFor_GetRoutePlan(route_plan_messages_.get());
}

grpc::ServerUnaryReactor* PlanServiceImpl::GetShardPlan(
    grpc::CallbackServerContext* context,
    const v1::GetShardPlanRequest* request, v1::ShardPlan* response) {
  return Answer(context, response, [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const JobLayout job,
                     FindLayout(loop_, request->job(), request->generation()));
    return Write(PlanShard(*job.layout, request->rank(),
                           BatchShapeFromProto(request->shape())),
                 job.generation(), *response);
  });
}

grpc::ServerUnaryReactor* PlanServiceImpl::GetComposePlan(
    grpc::CallbackServerContext* context,
    const v1::GetComposePlanRequest* request, v1::ShardPlan* response) {
  return Answer(context, response, [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const JobLayout job,
                     FindLayout(loop_, request->job(), request->generation()));
    return Write(PlanCompose(*job.layout, request->rank(),
                             BatchFromProto(request->batch())),
                 job.generation(), *response);
  });
}

grpc::ServerUnaryReactor* PlanServiceImpl::GetRoutePlan(
    grpc::CallbackServerContext* context,
    const v1::GetRoutePlanRequest* request, v1::RoutePlan* response) {
  return Answer(context, response, [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const JobLayout job,
                     FindLayout(loop_, request->job(), request->generation()));
    return Write(PlanRoute(*job.layout, request->rank(),
                           BatchFromProto(request->batch())),
                 job.generation(), *response);
  });
}

grpc::ServerGenericBidiReactor* UnknownMethods::CreateReactor(
    grpc::GenericCallbackServerContext* context) {
  class Refusal final : public grpc::ServerGenericBidiReactor {
   public:
    void OnDone() override { delete this; }
  };
  auto* refusal = new Refusal;
  refusal->Finish(ToGrpcStatus(
      Error(absl::StatusCode::kUnimplemented, "METHOD_NOT_FOUND",
            absl::StrCat("the coordinator has no method ", context->method(),
                         "; it may be older than its client"))));
  return refusal;
}

}  // namespace shardwright
