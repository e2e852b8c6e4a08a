// LayoutService and PlanService, as far as they are pure: a layout on the wire,
// and then requests for plans and explanations of it, and plans as a client
// reads them.

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "coordinator/planner/planner.h"
#include "coordinator/planner/route_planner.h"
#include "proto/plan/codec.h"
#include "proto/plan/layout.h"
#include "shardwright/v1/layout.pb.h"
#include "shardwright/v1/plan.pb.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/promise.h"
#include "tests/property/plan_promises.h"
#include "tests/property/route_promises.h"

namespace shardwright {
namespace {

// Above these only what was asked for is computed, not all that must hold.
constexpr int64_t kRanksMax = 64;
constexpr int64_t kTokensMax = 4096;

// An explanation lists the ranks of every group.
constexpr int64_t kExplainedRanksMax = 1 << 16;

bool IsSmall(const Layout& layout, int64_t seq_length, int64_t b) {
  return layout.world_size() <= kRanksMax && seq_length <= kTokensMax &&
         seq_length * b <= kTokensMax;
}

// The server's answer to one of its requests.
void CheckAnswer(const absl::StatusOr<ShardPlan>& plan) {
  if (!plan.ok()) return PromiseOneError(plan.status());
  v1::ShardPlan message;
  Promise(message.ParseFromString(ToProto(*plan).SerializeAsString()),
          "a plan can be parsed");
  Promise(ShardPlanFromProto(message).status());
}

void GetShardPlan(const Layout& layout, Input& input) {
  v1::GetShardPlanRequest request;
  if (!input.Parse(request)) return;
  const BatchShape shape = BatchShapeFromProto(request.shape());
  CheckAnswer(PlanShard(layout, request.rank(), shape));
  if (!CheckShape(layout.language(), shape).empty()) return;
  if (IsSmall(layout, shape.seq_length, shape.micro_batch_size)) {
    Promise(CheckShardPlans(layout, shape));
  }
}

void GetComposePlan(const Layout& layout, Input& input) {
  v1::GetComposePlanRequest request;
  if (!input.Parse(request)) return;
  const Batch batch = BatchFromProto(request.batch());
  CheckAnswer(PlanCompose(layout, request.rank(), batch));
  if (!CheckBatch(layout, batch).empty()) return;
  if (IsSmall(layout, batch.seq_length, batch.micro_batch_size)) {
    Promise(CheckComposePlans(layout, batch));
  }
}

void GetRoutePlan(const Layout& layout, Input& input) {
  v1::GetRoutePlanRequest request;
  if (!input.Parse(request)) return;
  const Batch batch = BatchFromProto(request.batch());
  const absl::StatusOr<RoutePlan> plan =
      PlanRoute(layout, request.rank(), batch);
  if (!plan.ok()) return PromiseOneError(plan.status());
  Promise(RoutePlanFromProto(ToProto(*plan)).status());
  if (IsSmall(layout, batch.seq_length, batch.micro_batch_size)) {
    Promise(CheckRoutes(layout, batch));
  }
}

void Explain(const Layout& layout, Input& input) {
  v1::ExplainRankRequest request;
  if (!input.Parse(request)) return;
  if (layout.world_size() > kExplainedRanksMax) return;
  const auto explained = ExplainRank(layout, request.rank(), 1);
  if (!explained.ok()) return PromiseOneError(explained.status());
  Promise(explained->rank() == request.rank(), "a rank is told of itself");
}

// A client's side: what was accepted is stable.
template <typename Message, typename Plan>
void ReadPlan(absl::StatusOr<Plan> (*from_proto)(const Message&),
              Input& input) {
  Message message;
  if (!input.Parse(message)) return;
  const absl::StatusOr<Plan> plan = from_proto(message);
  if (!plan.ok()) return PromiseOneError(plan.status());
  const Message once = ToProto(*plan);
  const absl::StatusOr<Plan> again = from_proto(once);
  Promise(again.status());
  Promise(ToProto(*again).SerializeAsString() == once.SerializeAsString(),
          "a plan is the same after the wire");
}

}  // namespace
}  // namespace shardwright

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shardwright;
  Input input(data, size);
  v1::Layout message;
  if (!input.Parse(message)) return 0;
  const absl::StatusOr<Layout> layout = LayoutFromProto(message);
  if (!layout.ok()) PromiseOneError(layout.status());
  if (layout.ok() && layout->world_size() <= kRanksMax) {
    Promise(CheckGroups(*layout));
  }
  while (!input.empty()) {
    const int kind = input.Index(6);
    if (kind == 3) {
      ReadPlan(ShardPlanFromProto, input);
    } else if (kind == 4) {
      ReadPlan(RoutePlanFromProto, input);
    } else if (!layout.ok()) {
      return 0;
    } else if (kind == 0) {
      GetShardPlan(*layout, input);
    } else if (kind == 1) {
      GetComposePlan(*layout, input);
    } else if (kind == 5) {
      GetRoutePlan(*layout, input);
    } else {
      Explain(*layout, input);
    }
  }
  return 0;
}
