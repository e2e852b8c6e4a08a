#include "coordinator/rpc/services.h"

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/planner/planner.h"
#include "coordinator/rpc/stream_call.h"
#include "proto/plan/codec.h"
#include "proto/status/grpc_status.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context,
                                 const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

template <typename Response>
grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context,
                                 absl::StatusOr<Response> result,
                                 Response* response) {
  if (result.ok()) *response = *std::move(result);
  return Answer(context, result.status());
}

absl::StatusOr<JobLayout> FindLayout(CoreLoop& loop, const std::string& job,
                                     int64_t generation) {
  return loop.Run([&](CoordinatorCore& core, absl::Time, Effects&) {
    return core.FindLayout(job, generation);
  });
}

absl::StatusOr<v1::ShardPlan> WithGeneration(absl::StatusOr<ShardPlan> plan,
                                             int64_t generation) {
  RETURN_IF_ERROR(plan.status());
  plan->generation = generation;
  return ToProto(*plan);
}

class SessionCall final
    : public StreamCall<
          grpc::ServerBidiReactor<v1::SessionRequest, v1::SessionResponse>,
          v1::SessionResponse> {
 public:
  explicit SessionCall(CoreLoop& loop) : StreamCall(loop) {}

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
class WriteCall final
    : public StreamCall<grpc::ServerWriteReactor<Response>, Response> {
 public:
  explicit WriteCall(CoreLoop& loop)
      : StreamCall<grpc::ServerWriteReactor<Response>, Response>(loop) {}
};

}  // namespace

grpc::ServerUnaryReactor* LayoutServiceImpl::ApplyLayout(
    grpc::CallbackServerContext* context, const v1::ApplyLayoutRequest* request,
    v1::ApplyLayoutResponse* response) {
  return Answer(
      context,
      loop_.Run([&](CoordinatorCore& core, absl::Time now, Effects& effects) {
        return core.ApplyLayout(*request, now, effects);
      }),
      response);
}

grpc::ServerUnaryReactor* LayoutServiceImpl::GetLayout(
    grpc::CallbackServerContext* context, const v1::GetLayoutRequest* request,
    v1::GetLayoutResponse* response) {
  const absl::StatusOr<JobLayout> job = FindLayout(loop_, request->job(), 0);
  if (job.ok()) *response = *job->record;
  return Answer(context, job.status());
}

grpc::ServerUnaryReactor* LayoutServiceImpl::ListLayouts(
    grpc::CallbackServerContext* context, const v1::ListLayoutsRequest* request,
    v1::ListLayoutsResponse* response) {
  return Answer(context,
                loop_.Run([&](CoordinatorCore& core, absl::Time, Effects&) {
                  return core.ListLayouts(*request);
                }),
                response);
}

grpc::ServerUnaryReactor* LayoutServiceImpl::ExplainRank(
    grpc::CallbackServerContext* context, const v1::ExplainRankRequest* request,
    v1::RankExplanation* response) {
  const absl::StatusOr<JobLayout> job = FindLayout(loop_, request->job(), 0);
  if (!job.ok()) return Answer(context, job.status());
  return Answer(context,
                shardwright::ExplainRank(*job->layout, request->rank(),
                                         job->generation()),
                response);
}

grpc::ServerUnaryReactor* MembershipServiceImpl::Register(
    grpc::CallbackServerContext* context, const v1::RegisterRequest* request,
    v1::RegisterResponse* response) {
  return Answer(
      context,
      loop_.Run([&](CoordinatorCore& core, absl::Time now, Effects& effects) {
        return core.Register(*request, now, effects);
      }),
      response);
}

grpc::ServerBidiReactor<v1::SessionRequest, v1::SessionResponse>*
MembershipServiceImpl::Session(grpc::CallbackServerContext* context) {
  SessionCall* call = SessionCall::Park(std::make_shared<SessionCall>(loop_));
  call->Begin();
  return call;
}

grpc::ServerUnaryReactor* MembershipServiceImpl::Leave(
    grpc::CallbackServerContext* context, const v1::LeaveRequest* request,
    v1::LeaveResponse* response) {
  return Answer(context, loop_.Run([&](CoordinatorCore& core, absl::Time now,
                                       Effects& effects) {
    return core.Leave(*request, now, effects);
  }));
}

grpc::ServerUnaryReactor* MembershipServiceImpl::ListMembers(
    grpc::CallbackServerContext* context, const v1::ListMembersRequest* request,
    v1::ListMembersResponse* response) {
  return Answer(
      context,
      loop_.Run([&](CoordinatorCore& core, absl::Time now, Effects& effects) {
        return core.ListMembers(*request, now, effects);
      }),
      response);
}

grpc::ServerWriteReactor<v1::FormCommunicatorsResponse>*
CommunicatorServiceImpl::FormCommunicators(
    grpc::CallbackServerContext* context,
    const v1::FormCommunicatorsRequest* request) {
  using Call = WriteCall<v1::FormCommunicatorsResponse>;
  Call* call = Call::Park(std::make_shared<Call>(loop_));
  loop_.RunStream(call->stream(), [&](CoordinatorCore& core, absl::Time now,
                                      Effects& effects) {
    return core.FormCommunicators(call->stream(), *request, now, effects);
  });
  return call;
}

grpc::ServerUnaryReactor* CommunicatorServiceImpl::PublishSlots(
    grpc::CallbackServerContext* context,
    const v1::PublishSlotsRequest* request,
    v1::PublishSlotsResponse* response) {
  return Answer(context, loop_.Run([&](CoordinatorCore& core, absl::Time now,
                                       Effects& effects) {
    return core.PublishSlots(*request, now, effects);
  }));
}

grpc::ServerUnaryReactor* CommunicatorServiceImpl::ReportCommunicators(
    grpc::CallbackServerContext* context,
    const v1::ReportCommunicatorsRequest* request,
    v1::ReportCommunicatorsResponse* response) {
  return Answer(context, loop_.Run([&](CoordinatorCore& core, absl::Time now,
                                       Effects& effects) {
    return core.ReportCommunicators(*request, now, effects);
  }));
}

grpc::ServerWriteReactor<v1::WaitAtBarrierResponse>*
BarrierServiceImpl::WaitAtBarrier(grpc::CallbackServerContext* context,
                                  const v1::WaitAtBarrierRequest* request) {
  using Call = WriteCall<v1::WaitAtBarrierResponse>;
  Call* call = Call::Park(std::make_shared<Call>(loop_));
  loop_.RunStream(call->stream(), [&](CoordinatorCore& core, absl::Time now,
                                      Effects& effects) {
    return core.WaitAtBarrier(call->stream(), *request, now, effects);
  });
  return call;
}

grpc::ServerUnaryReactor* DiagnosticsServiceImpl::ListMissingMembers(
    grpc::CallbackServerContext* context,
    const v1::ListMissingMembersRequest* request,
    v1::ListMissingMembersResponse* response) {
  return Answer(
      context,
      loop_.Run([&](CoordinatorCore& core, absl::Time now, Effects& effects) {
        return core.ListMissingMembers(*request, now, effects);
      }),
      response);
}

grpc::ServerUnaryReactor* DiagnosticsServiceImpl::ListCommunicators(
    grpc::CallbackServerContext* context,
    const v1::ListCommunicatorsRequest* request,
    v1::ListCommunicatorsResponse* response) {
  return Answer(
      context,
      loop_.Run([&](CoordinatorCore& core, absl::Time now, Effects& effects) {
        return core.ListCommunicators(*request, now, effects);
      }),
      response);
}

grpc::ServerUnaryReactor* DiagnosticsServiceImpl::ExplainClique(
    grpc::CallbackServerContext* context,
    const v1::ExplainCliqueRequest* request, v1::CliqueExplanation* response) {
  return Answer(
      context,
      loop_.Run([&](CoordinatorCore& core, absl::Time now, Effects& effects) {
        return core.ExplainClique(*request, now, effects);
      }),
      response);
}

grpc::ServerUnaryReactor* DiagnosticsServiceImpl::ListEvents(
    grpc::CallbackServerContext* context, const v1::ListEventsRequest* request,
    v1::ListEventsResponse* response) {
  return Answer(
      context,
      loop_.Run([&](CoordinatorCore& core, absl::Time now, Effects& effects) {
        return core.ListEvents(*request, now, effects);
      }),
      response);
}

grpc::ServerUnaryReactor* PlanServiceImpl::GetShardPlan(
    grpc::CallbackServerContext* context,
    const v1::GetShardPlanRequest* request, v1::ShardPlan* response) {
  const absl::StatusOr<JobLayout> job =
      FindLayout(loop_, request->job(), request->generation());
  if (!job.ok()) return Answer(context, job.status());
  return Answer(context,
                WithGeneration(PlanShard(*job->layout, request->rank(),
                                         BatchShapeFromProto(request->shape())),
                               job->generation()),
                response);
}

grpc::ServerUnaryReactor* PlanServiceImpl::GetComposePlan(
    grpc::CallbackServerContext* context,
    const v1::GetComposePlanRequest* request, v1::ShardPlan* response) {
  const absl::StatusOr<JobLayout> job =
      FindLayout(loop_, request->job(), request->generation());
  if (!job.ok()) return Answer(context, job.status());
  return Answer(context,
                WithGeneration(PlanCompose(*job->layout, request->rank(),
                                           BatchFromProto(request->batch())),
                               job->generation()),
                response);
}

}  // namespace shardwright
