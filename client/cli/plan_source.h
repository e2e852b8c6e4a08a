// Where a command takes its layout and plans from: a file, planned in this
// process, or a coordinator. Both give the same answers.

#ifndef CLIENT_CLI_PLAN_SOURCE_H_
#define CLIENT_CLI_PLAN_SOURCE_H_

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "client/cc/coordinator_client.h"
#include "proto/plan/batch.h"
#include "proto/plan/layout.h"
#include "proto/plan/route_plan.h"
#include "proto/plan/shard_plan.h"
#include "shardwright/v1/plan.pb.h"

namespace shardwright {

// What the user says of it. Either a file, or a coordinator and a job.
struct PlanSourceOptions {
  std::string layout_file;
  std::string coordinator;
  std::string job;
};

// Adds --layout, --coordinator and --job, of which the user must name a file or
// a job; with `required` false he may leave them all out. `options` outlives
// `command`.
void AddPlanSourceOptions(CLI::App& command, PlanSourceOptions& options,
                          bool required = true);

// Immutable, safe to share between threads.
class PlanSource {
 public:
  // Reads the file, or asks the coordinator for the layout in force. Errors: of
  // LoadLayout(), or of LayoutService.GetLayout.
  static absl::StatusOr<PlanSource> Open(const PlanSourceOptions& options);

  const Layout& layout() const { return layout_; }

  // Errors: of the planner, or of PlanService.
  absl::StatusOr<ShardPlan> PlanShard(Rank rank, const BatchShape& shape) const;
  absl::StatusOr<ShardPlan> PlanCompose(Rank rank,
                                        const v1::Batch& batch) const;
  // Of each of the ranks.
  absl::StatusOr<std::vector<RoutePlan>> PlanRoutes(
      const std::vector<Rank>& ranks, const v1::Batch& batch) const;

 private:
  explicit PlanSource(Layout layout) : layout_(std::move(layout)) {}

  Layout layout_;
  std::optional<CoordinatorClient> client_;  // Nothing: plan in this process.
  std::string job_;
  int64_t generation_ = 0;  // So that all plans are of one layout.
};

}  // namespace shardwright

#endif  // CLIENT_CLI_PLAN_SOURCE_H_
