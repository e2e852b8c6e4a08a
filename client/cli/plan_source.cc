#include "client/cli/plan_source.h"

#include "client/cli/input_file.h"
#include "client/cli/job_options.h"
#include "coordinator/planner/planner.h"
#include "coordinator/planner/route_planner.h"
#include "proto/option/address.h"
#include "proto/plan/codec.h"
#include "proto/status/status_macros.h"

namespace shardwright {

void AddPlanSourceOptions(CLI::App& command, PlanSourceOptions& options,
                          bool required) {
  CLI::Option_group* source = command.add_option_group(
      "Layout", "a file, or the layout in force of a job");
  source->add_option("--layout", options.layout_file, "layout file")
      ->type_name("FILE");
  CLI::Option* coordinator =
      source
          ->add_option("--coordinator", options.coordinator,
                       "ask this coordinator instead")
          ->check(CheckHasPort)
          ->type_name("HOST:PORT");
  source->require_option(required ? 1 : 0, 1);
  CLI::Option* job =
      command.add_option("--job", options.job, "job, with --coordinator")
          ->type_name("NAME");
  job->needs(coordinator);
  coordinator->needs(job);
}

absl::StatusOr<PlanSource> PlanSource::Open(const PlanSourceOptions& options) {
  if (options.coordinator.empty()) {
    ASSIGN_OR_RETURN(Layout layout, LoadLayout(options.layout_file));
    return PlanSource(std::move(layout));
  }
  CoordinatorClient client = JobOptions::ConnectForCommand(options.coordinator);
  v1::GetLayoutRequest request;
  request.set_job(options.job);
  const absl::StatusOr<v1::GetLayoutResponse> response =
      client.GetLayout(request);
  if (!response.ok()) {
    return SuggestJob(response.status(), client, options.job);
  }
  ASSIGN_OR_RETURN(Layout layout, LayoutFromProto(response->layout()));
  PlanSource source(std::move(layout));
  source.client_ = std::move(client);
  source.job_ = options.job;
  source.generation_ = response->generation();
  return source;
}

absl::StatusOr<ShardPlan> PlanSource::PlanShard(Rank rank,
                                                const BatchShape& shape) const {
  if (!client_.has_value()) {
    return shardwright::PlanShard(layout_, rank, shape);
  }
  v1::GetShardPlanRequest request;
  request.set_job(job_);
  request.set_rank(rank);
  request.set_generation(generation_);
  *request.mutable_shape() = ToProto(shape);
  ASSIGN_OR_RETURN(const v1::ShardPlan plan, client_->GetShardPlan(request));
  return ShardPlanFromProto(plan);
}

absl::StatusOr<ShardPlan> PlanSource::PlanCompose(
    Rank rank, const v1::Batch& batch) const {
  if (!client_.has_value()) {
    return shardwright::PlanCompose(layout_, rank, BatchFromProto(batch));
  }
  v1::GetComposePlanRequest request;
  request.set_job(job_);
  request.set_rank(rank);
  request.set_generation(generation_);
  *request.mutable_batch() = batch;
  ASSIGN_OR_RETURN(const v1::ShardPlan plan, client_->GetComposePlan(request));
  return ShardPlanFromProto(plan);
}

absl::StatusOr<std::vector<RoutePlan>> PlanSource::PlanRoutes(
    const std::vector<Rank>& ranks, const v1::Batch& batch) const {
  std::vector<RoutePlan> plans;
  if (!client_.has_value()) {
    const Batch tokens = BatchFromProto(batch);
    ASSIGN_OR_RETURN(const RoutePlanner planner,
                     RoutePlanner::Create(layout_, tokens));
    for (Rank rank : ranks) {
      ASSIGN_OR_RETURN(plans.emplace_back(), planner.PlanFor(rank));
    }
    return plans;
  }
  v1::GetRoutePlanRequest request;
  request.set_job(job_);
  request.set_generation(generation_);
  *request.mutable_batch() = batch;
  for (Rank rank : ranks) {
    request.set_rank(rank);
    ASSIGN_OR_RETURN(const v1::RoutePlan plan, client_->GetRoutePlan(request));
    ASSIGN_OR_RETURN(plans.emplace_back(), RoutePlanFromProto(plan));
  }
  return plans;
}

}  // namespace shardwright
