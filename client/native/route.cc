#include "client/native/route.h"

#include <algorithm>
#include <string>
#include <utility>

#include "client/json/plan_json.h"
#include "client/native/batch.h"
#include "client/native/handles.h"
#include "coordinator/planner/route_planner.h"
#include "proto/plan/codec.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

absl::StatusOr<RoutePlan> Plan(const sw_job& job, int64_t rank,
                               v1::Batch batch) {
  if (job.layout.has_value()) {
    return PlanRoute(*job.layout, rank, BatchFromProto(batch));
  }
  v1::GetRoutePlanRequest request;
  request.set_job(job.name);
  request.set_rank(rank);
  *request.mutable_batch() = std::move(batch);
  ASSIGN_OR_RETURN(const v1::RoutePlan plan, job.client->GetRoutePlan(request));
  return RoutePlanFromProto(plan);
}

bool IsReceived(const RoutePlan& plan, const std::string& source) {
  return std::any_of(
      plan.edges.begin(), plan.edges.end(),
      [&](const RouteEdge& edge) { return edge.encoder == source; });
}

int64_t RowsOver(const std::vector<RouteEdge>& edges) {
  int64_t rows = 0;
  for (const RouteEdge& edge : edges) {
    for (const RouteTransfer& transfer : edge.transfers) {
      rows += transfer.row_count;
    }
  }
  return rows;
}

}  // namespace
}  // namespace shardwright

sw_route::sw_route(shardwright::RoutePlan route_plan, int64_t micro_batch)
    : plan(std::move(route_plan)), micro_batch_size(micro_batch) {
  if (role() == SW_ROUTE_SENDS) {
    sources.push_back(
        {plan.edges[0].encoder.c_str(), plan.pack->source_rows()[0], 0});
  }
  if (role() == SW_ROUTE_RECEIVES) {
    for (size_t k = 0; k < plan.sources.size(); ++k) {
      sources.push_back({plan.sources[k].c_str(),
                         plan.placement->source_rows()[k],
                         shardwright::IsReceived(plan, plan.sources[k])});
    }
  }
}

sw_route_role sw_route::role() const {
  if (plan.placement.has_value()) return SW_ROUTE_RECEIVES;
  return plan.pack.has_value() ? SW_ROUTE_SENDS : SW_ROUTE_NONE;
}

using shardwright::Call;
using shardwright::CheckLive;
using shardwright::CheckNotNull;

sw_code sw_plan_route(const sw_job* job, int64_t rank, const sw_batch* batch,
                      sw_route** out) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("job", job));
    RETURN_IF_ERROR(CheckNotNull({{"batch", batch}, {"out", out}}));
    ASSIGN_OR_RETURN(shardwright::v1::Batch message,
                     shardwright::BatchFrom(*batch));
    ASSIGN_OR_RETURN(shardwright::RoutePlan plan,
                     shardwright::Plan(*job, rank, std::move(message)));
    *out = new sw_route(std::move(plan), batch->micro_batch_size);
    return absl::OkStatus();
  });
}

void sw_route_destroy(sw_route* route) { delete route; }

sw_code sw_route_get_info(const sw_route* route, sw_route_info* out) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("route", route));
    RETURN_IF_ERROR(CheckNotNull({{"out", out}}));
    const shardwright::RoutePlan& plan = route->plan;
    const shardwright::Coordinates& at = plan.coordinates;
    const sw_route_role role = route->role();
    const int64_t rows = shardwright::RowsOver(plan.edges);
    *out = {plan.digest,
            plan.generation,
            plan.rank,
            at.tp,
            at.gtp_remat,
            at.cp,
            at.dp,
            at.pp,
            at.lane,
            role,
            route->micro_batch_size,
            role == SW_ROUTE_RECEIVES ? plan.placement->destination_rows() : 0,
            role == SW_ROUTE_SENDS ? rows : 0,
            role == SW_ROUTE_RECEIVES ? rows : 0,
            route->sources.data(),
            static_cast<int64_t>(route->sources.size())};
    return absl::OkStatus();
  });
}

sw_code sw_route_json(const sw_route* route, int32_t with_rows, char** json) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("route", route));
    RETURN_IF_ERROR(CheckNotNull({{"json", json}}));
    *json = shardwright::CopyText(
        shardwright::RankRouteJson(route->plan, with_rows != 0).dump());
    return absl::OkStatus();
  });
}
