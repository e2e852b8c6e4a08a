#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "client/json/plan_json.h"
#include "client/native/batch.h"
#include "client/native/call.h"
#include "client/native/handles.h"
#include "client/native/shardwright_plan.h"
#include "coordinator/planner/planner.h"
#include "proto/plan/batch.h"
#include "proto/plan/codec.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "shardwright/v1/plan.pb.h"

namespace shardwright {
namespace {

absl::StatusOr<std::vector<int64_t>> Integers(absl::string_view name,
                                              const int64_t* data,
                                              int64_t count) {
  RETURN_IF_ERROR(CheckArray(name, data, count, kBatchCountMax));
  return std::vector<int64_t>(data, data + count);
}

absl::StatusOr<BatchShape> ShapeFrom(const sw_batch_shape& in) {
  BatchShape shape;
  shape.seq_length = in.seq_length;
  shape.micro_batch_size = in.micro_batch_size;
  ASSIGN_OR_RETURN(shape.cu_seqlens_padded,
                   Integers("cu_seqlens_padded", in.cu_seqlens_padded,
                            in.cu_seqlens_padded_count));
  ASSIGN_OR_RETURN(shape.cu_seqlens,
                   Integers("cu_seqlens", in.cu_seqlens, in.cu_seqlens_count));
  return shape;
}

absl::StatusOr<ShardPlan> Plan(const sw_job& job, int64_t rank,
                               const BatchShape& shape) {
  if (job.layout.has_value()) return PlanShard(*job.layout, rank, shape);
  v1::GetShardPlanRequest request;
  request.set_job(job.name);
  request.set_rank(rank);
  *request.mutable_shape() = ToProto(shape);
  ASSIGN_OR_RETURN(const v1::ShardPlan plan, job.client->GetShardPlan(request));
  return ShardPlanFromProto(plan);
}

absl::StatusOr<ShardPlan> Plan(const sw_job& job, int64_t rank,
                               v1::Batch batch) {
  if (job.layout.has_value()) {
    return PlanCompose(*job.layout, rank, BatchFromProto(batch));
  }
  v1::GetComposePlanRequest request;
  request.set_job(job.name);
  request.set_rank(rank);
  *request.mutable_batch() = std::move(batch);
  ASSIGN_OR_RETURN(const v1::ShardPlan plan,
                   job.client->GetComposePlan(request));
  return ShardPlanFromProto(plan);
}

sw_plan::Table MakeTable(const CopyTable& copies,
                         const std::vector<PositionRun>& runs) {
  sw_plan::Table table;
  table.copies = &copies;
  for (const RowCopy& copy : copies.entries()) {
    table.entries.push_back({copy.source, copy.source_row, copy.destination_row,
                             copy.destination_stride, copy.row_count});
  }
  for (const PositionRun& run : runs) {
    table.runs.push_back({run.position, run.count});
  }
  return table;
}

}  // namespace
}  // namespace shardwright

sw_plan::sw_plan(shardwright::ShardPlan shard_plan, bool is_composed)
    : plan(std::move(shard_plan)), composed(is_composed) {
  labels = shardwright::MakeTable(plan.labels, plan.label_runs);
  labels.source_names = {"labels"};
  if (!plan.embeddings.has_value()) return;
  embeddings = shardwright::MakeTable(*plan.embeddings, plan.embedding_runs);
  for (const std::string& source : plan.sources) {
    embeddings.source_names.push_back(source.c_str());
  }
}

absl::StatusOr<const sw_plan::Table*> sw_plan::Find(sw_table_id id) const {
  if (id != SW_EMBEDDINGS && id != SW_LABELS) {
    return shardwright::Error(
        absl::StatusCode::kInvalidArgument, "INVALID_TABLE_ID",
        absl::StrCat("table id ", id,
                     " is neither SW_EMBEDDINGS nor SW_LABELS"));
  }
  const Table& table = id == SW_LABELS ? labels : embeddings;
  if (table.copies != nullptr) return &table;
  return shardwright::Error(
      absl::StatusCode::kNotFound, "NO_EMBEDDINGS",
      absl::StrCat("rank ", plan.rank, " is on pipeline stage ",
                   plan.coordinates.pp, ", and only stage 0 has embeddings"));
}

using shardwright::Call;
using shardwright::CheckLive;
using shardwright::CheckNotNull;

sw_code sw_plan_shard(const sw_job* job, int64_t rank,
                      const sw_batch_shape* shape, sw_plan** out) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("job", job));
    RETURN_IF_ERROR(CheckNotNull({{"shape", shape}, {"out", out}}));
    ASSIGN_OR_RETURN(const shardwright::BatchShape batch_shape,
                     shardwright::ShapeFrom(*shape));
    ASSIGN_OR_RETURN(shardwright::ShardPlan plan,
                     shardwright::Plan(*job, rank, batch_shape));
    *out = new sw_plan(std::move(plan), /*is_composed=*/false);
    return absl::OkStatus();
  });
}

sw_code sw_plan_compose(const sw_job* job, int64_t rank, const sw_batch* batch,
                        sw_plan** out) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("job", job));
    RETURN_IF_ERROR(CheckNotNull({{"batch", batch}, {"out", out}}));
    ASSIGN_OR_RETURN(shardwright::v1::Batch message,
                     shardwright::BatchFrom(*batch));
    ASSIGN_OR_RETURN(shardwright::ShardPlan plan,
                     shardwright::Plan(*job, rank, std::move(message)));
    *out = new sw_plan(std::move(plan), /*is_composed=*/true);
    return absl::OkStatus();
  });
}

void sw_plan_destroy(sw_plan* plan) { delete plan; }

sw_code sw_plan_get_info(const sw_plan* plan, sw_plan_info* out) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("plan", plan));
    RETURN_IF_ERROR(CheckNotNull({{"out", out}}));
    const shardwright::ShardPlan& from = plan->plan;
    const shardwright::Coordinates& at = from.coordinates;
    *out = {from.digest,
            from.generation,
            from.rank,
            at.tp,
            at.gtp_remat,
            at.cp,
            at.dp,
            at.pp,
            at.lane,
            from.seq_length,
            from.micro_batch_size,
            from.load.token_count,
            from.load.padding_token_count,
            from.load.causal_work};
    return absl::OkStatus();
  });
}

sw_code sw_plan_json(const sw_plan* plan, int32_t with_positions, char** json) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("plan", plan));
    RETURN_IF_ERROR(CheckNotNull({{"json", json}}));
    const auto to_json = plan->composed ? shardwright::PlanComposeJson
                                        : shardwright::PlanShardJson;
    *json = shardwright::CopyText(to_json(plan->plan.digest,
                                          absl::MakeSpan(&plan->plan, 1),
                                          with_positions != 0)
                                      .dump());
    return absl::OkStatus();
  });
}

sw_code sw_plan_get_table(const sw_plan* plan, sw_table_id id, sw_table* out) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("plan", plan));
    RETURN_IF_ERROR(CheckNotNull({{"out", out}}));
    ASSIGN_OR_RETURN(const sw_plan::Table* table, plan->Find(id));
    const std::vector<int64_t>& source_rows = table->copies->source_rows();
    *out = {table->entries.data(),
            static_cast<int64_t>(table->entries.size()),
            source_rows.data(),
            table->source_names.data(),
            static_cast<int64_t>(source_rows.size()),
            table->copies->destination_rows(),
            table->copies->IsView(),
            table->runs.data(),
            static_cast<int64_t>(table->runs.size())};
    return absl::OkStatus();
  });
}
