// The coordinator's gRPC services: decode, ask the core, encode. Each is
// thread-safe; the loop must outlive them and their calls.
//
// A call without a deadline is refused with DEADLINE_REQUIRED, but for Session
// and WatchLayouts, which have no end. One whose deadline has passed changes
// nothing.

#ifndef COORDINATOR_RPC_SERVICES_H_
#define COORDINATOR_RPC_SERVICES_H_

#include <memory>

#include "coordinator/rpc/core_loop.h"
#include "grpcpp/generic/async_generic_service.h"
#include "grpcpp/support/message_allocator.h"
#include "shardwright/v1/barrier.grpc.pb.h"
#include "shardwright/v1/communicator.grpc.pb.h"
#include "shardwright/v1/diagnostics.grpc.pb.h"
#include "shardwright/v1/layout.grpc.pb.h"
#include "shardwright/v1/membership.grpc.pb.h"
#include "shardwright/v1/plan.grpc.pb.h"

namespace shardwright {

class LayoutServiceImpl final : public v1::LayoutService::CallbackService {
 public:
  explicit LayoutServiceImpl(CoreLoop& loop) : loop_(loop) {}

  grpc::ServerUnaryReactor* ApplyLayout(
      grpc::CallbackServerContext* context,
      const v1::ApplyLayoutRequest* request,
      v1::ApplyLayoutResponse* response) override;
  grpc::ServerUnaryReactor* GetLayout(grpc::CallbackServerContext* context,
                                      const v1::GetLayoutRequest* request,
                                      v1::GetLayoutResponse* response) override;
  grpc::ServerUnaryReactor* ListLayouts(
      grpc::CallbackServerContext* context,
      const v1::ListLayoutsRequest* request,
      v1::ListLayoutsResponse* response) override;
  grpc::ServerUnaryReactor* ExplainRank(grpc::CallbackServerContext* context,
                                        const v1::ExplainRankRequest* request,
                                        v1::RankExplanation* response) override;
  grpc::ServerWriteReactor<v1::WatchLayoutsResponse>* WatchLayouts(
      grpc::CallbackServerContext* context,
      const v1::WatchLayoutsRequest* request) override;

 private:
  CoreLoop& loop_;
};

class MembershipServiceImpl final
    : public v1::MembershipService::CallbackService {
 public:
  explicit MembershipServiceImpl(CoreLoop& loop) : loop_(loop) {}

  grpc::ServerUnaryReactor* Register(grpc::CallbackServerContext* context,
                                     const v1::RegisterRequest* request,
                                     v1::RegisterResponse* response) override;
  grpc::ServerBidiReactor<v1::SessionRequest, v1::SessionResponse>* Session(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* Leave(grpc::CallbackServerContext* context,
                                  const v1::LeaveRequest* request,
                                  v1::LeaveResponse* response) override;
  grpc::ServerUnaryReactor* ListMembers(
      grpc::CallbackServerContext* context,
      const v1::ListMembersRequest* request,
      v1::ListMembersResponse* response) override;

 private:
  CoreLoop& loop_;
};

class CommunicatorServiceImpl final
    : public v1::CommunicatorService::CallbackService {
 public:
  explicit CommunicatorServiceImpl(CoreLoop& loop) : loop_(loop) {}

  grpc::ServerWriteReactor<v1::FormCommunicatorsResponse>* FormCommunicators(
      grpc::CallbackServerContext* context,
      const v1::FormCommunicatorsRequest* request) override;
  grpc::ServerUnaryReactor* PublishSlots(
      grpc::CallbackServerContext* context,
      const v1::PublishSlotsRequest* request,
      v1::PublishSlotsResponse* response) override;
  grpc::ServerUnaryReactor* ReportCommunicators(
      grpc::CallbackServerContext* context,
      const v1::ReportCommunicatorsRequest* request,
      v1::ReportCommunicatorsResponse* response) override;

 private:
  CoreLoop& loop_;
};

class BarrierServiceImpl final : public v1::BarrierService::CallbackService {
 public:
  explicit BarrierServiceImpl(CoreLoop& loop) : loop_(loop) {}

  grpc::ServerWriteReactor<v1::WaitAtBarrierResponse>* WaitAtBarrier(
      grpc::CallbackServerContext* context,
      const v1::WaitAtBarrierRequest* request) override;

 private:
  CoreLoop& loop_;
};

class DiagnosticsServiceImpl final
    : public v1::DiagnosticsService::CallbackService {
 public:
  explicit DiagnosticsServiceImpl(CoreLoop& loop) : loop_(loop) {}

  grpc::ServerUnaryReactor* ListMissingMembers(
      grpc::CallbackServerContext* context,
      const v1::ListMissingMembersRequest* request,
      v1::ListMissingMembersResponse* response) override;
  grpc::ServerUnaryReactor* ListCommunicators(
      grpc::CallbackServerContext* context,
      const v1::ListCommunicatorsRequest* request,
      v1::ListCommunicatorsResponse* response) override;
  grpc::ServerUnaryReactor* ExplainClique(
      grpc::CallbackServerContext* context,
      const v1::ExplainCliqueRequest* request,
      v1::CliqueExplanation* response) override;
  grpc::ServerUnaryReactor* ListEvents(
      grpc::CallbackServerContext* context,
      const v1::ListEventsRequest* request,
      v1::ListEventsResponse* response) override;

 private:
  CoreLoop& loop_;
};

// Plans outside the loop's lock.
class PlanServiceImpl final : public v1::PlanService::CallbackService {
 public:
  explicit PlanServiceImpl(CoreLoop& loop);

  grpc::ServerUnaryReactor* GetShardPlan(grpc::CallbackServerContext* context,
                                         const v1::GetShardPlanRequest* request,
                                         v1::ShardPlan* response) override;
  grpc::ServerUnaryReactor* GetComposePlan(
      grpc::CallbackServerContext* context,
      const v1::GetComposePlanRequest* request,
      v1::ShardPlan* response) override;
  grpc::ServerUnaryReactor* GetRoutePlan(grpc::CallbackServerContext* context,
                                         const v1::GetRoutePlanRequest* request,
                                         v1::RoutePlan* response) override;

 private:
  CoreLoop& loop_;
  const std::unique_ptr<
      grpc::MessageAllocator<v1::GetShardPlanRequest, v1::ShardPlan>>
      shard_plan_messages_;
  const std::unique_ptr<
      grpc::MessageAllocator<v1::GetComposePlanRequest, v1::ShardPlan>>
      compose_plan_messages_;
  const std::unique_ptr<
      grpc::MessageAllocator<v1::GetRoutePlanRequest, v1::RoutePlan>>
      route_plan_messages_;
};

// Answers what no service here has: gRPC's own answer carries no reason.
class UnknownMethods final : public grpc::CallbackGenericService {
 public:
  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override;
};

}  // namespace shardwright

#endif  // COORDINATOR_RPC_SERVICES_H_
