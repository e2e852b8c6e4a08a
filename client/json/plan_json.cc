#include "client/json/plan_json.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/plan/codec.h"
#include "proto/plan/group.h"

namespace shardwright {
namespace {

using Json = nlohmann::ordered_json;

Json RunsJson(const std::vector<RowRun>& runs) {
  Json json = Json::array();
  for (const RowRun& run : runs) {
    json.push_back(Json::array({run.row, run.count}));
  }
  return json;
}

Json RunsJson(const std::vector<PositionRun>& runs) {
  Json json = Json::array();
  for (const PositionRun& run : runs) {
    json.push_back(Json::array({run.position, run.count}));
  }
  return json;
}

Json PositionsJson(const std::vector<PositionRun>& runs) {
  Json json = Json::array();
  for (const PositionRun& run : runs) {
    for (int64_t i = 0; i < run.count; ++i) json.push_back(run.position + i);
  }
  return json;
}

// For each destination row [source, source row]; null where it is filled.
std::vector<Json> SourceOfRows(const ShardPlan& plan) {
  std::vector<Json> rows(plan.embeddings->destination_rows());
  for (const RowCopy& copy : plan.embeddings->entries()) {
    if (copy.source == RowCopy::kFill) continue;
    for (int64_t i = 0; i < copy.row_count; ++i) {
      rows[copy.destination_row + i * copy.destination_stride] =
          Json::array({plan.sources[copy.source], copy.source_row + i});
    }
  }
  return rows;
}

Json RowsJson(const ShardPlan& plan) {
  if (!plan.embeddings.has_value()) return nullptr;
  Json json = Json::array();
  int64_t sample = 0;
  for (Json& row : SourceOfRows(plan)) {
    if (sample == 0) json.push_back(Json::array());
    json.back().push_back(std::move(row));
    sample = (sample + 1) % plan.micro_batch_size;
  }
  return json;
}

Json RankPlanJson(const ShardPlan& plan, bool with_positions) {
  const bool embeds = plan.embeddings.has_value();
  Json json;
  json["rank"] = plan.rank;
  json["tp"] = plan.coordinates.tp;
  json["gtp_remat"] = plan.coordinates.gtp_remat;
  json["cp"] = plan.coordinates.cp;
  json["dp"] = plan.coordinates.dp;
  json["pp"] = plan.coordinates.pp;
  json["lane"] = plan.coordinates.lane;
  json["view"] = embeds && plan.embeddings->IsView();
  json["embedding_shape"] = nullptr;
  json["embedding_runs"] = nullptr;
  if (embeds) {
    json["embedding_shape"] = Json::array(
        {plan.embeddings->destination_rows() / plan.micro_batch_size,
         plan.micro_batch_size, nullptr});
    json["embedding_runs"] = RunsJson(plan.embedding_runs);
  }
  json["label_runs"] = RunsJson(plan.label_runs);
  if (with_positions) {
    json["embedding_positions"] = nullptr;
    if (embeds) {
      json["embedding_positions"] = PositionsJson(plan.embedding_runs);
    }
    json["label_positions"] = PositionsJson(plan.label_runs);
  }
  return json;
}

const char* RoleName(v1::Role role) {
  switch (role) {
    case v1::ENCODER:
      return "encoder";
    case v1::LANGUAGE:
      return "language";
    default:
      return "unspecified";
  }
}

}  // namespace

nlohmann::ordered_json PlanShardJson(uint64_t digest,
                                     absl::Span<const ShardPlan> plans,
                                     bool with_positions) {
  Json json;
  json["digest"] = DigestText(digest);
  json["ranks"] = Json::array();
  for (const ShardPlan& plan : plans) {
    json["ranks"].push_back(RankPlanJson(plan, with_positions));
  }
  return json;
}

nlohmann::ordered_json PlanComposeJson(uint64_t digest,
                                       absl::Span<const ShardPlan> plans,
                                       bool with_positions) {
  Json json = PlanShardJson(digest, plans, with_positions);
  for (size_t i = 0; i < plans.size(); ++i) {
    json["ranks"][i]["rows"] = RowsJson(plans[i]);
  }
  return json;
}

nlohmann::ordered_json PlanRouteJson(const Layout& layout,
                                     absl::Span<const RoutePlan> plans,
                                     std::optional<int64_t> row_bytes,
                                     bool with_rows) {
  const RouteSummary summary = SummarizeRoute(layout, plans);
  Json json;
  json["digest"] = DigestText(summary.digest);
  json["transfers"] = Json::array();
  for (const RouteLink& link : summary.links) {
    Json entry;
    entry["edge"] = absl::StrCat(link.encoder, "->", layout.language().name());
    entry["source_rank"] = link.source_rank;
    entry["destination_rank"] = link.transfer->peer;
    entry["row_count"] = link.transfer->row_count;
    entry["bytes"] = nullptr;
    if (row_bytes.has_value()) {
      entry["bytes"] = link.transfer->row_count * *row_bytes;
    }
    if (with_rows) entry["rows"] = RunsJson(link.transfer->rows);
    json["transfers"].push_back(std::move(entry));
  }
  json["total_rows"] = summary.total_rows;
  json["rows_if_broadcast"] = summary.rows_if_broadcast;
  return json;
}

nlohmann::ordered_json RankRouteJson(const RoutePlan& plan, bool with_rows) {
  const bool sends = plan.pack.has_value();
  Json json;
  json["digest"] = DigestText(plan.digest);
  json["rank"] = plan.rank;
  json["transfers"] = Json::array();
  for (const RouteEdge& edge : plan.edges) {
    for (const RouteTransfer& transfer : edge.transfers) {
      const RowRun& returned = transfer.returned;
      Json entry;
      entry["encoder"] = edge.encoder;
      entry["source_rank"] = sends ? plan.rank : transfer.peer;
      entry["destination_rank"] = sends ? transfer.peer : plan.rank;
      entry["row_count"] = transfer.row_count;
      entry["returned"] = Json::array({returned.row, returned.count});
      if (with_rows) entry["rows"] = RunsJson(transfer.rows);
      json["transfers"].push_back(std::move(entry));
    }
  }
  return json;
}

nlohmann::ordered_json GroupsJson(const Layout& layout) {
  Json json;
  json["modules"] = Json::array();
  for (const Module& module : layout.modules()) {
    Json groups_by_kind = Json::object();
    for (const GroupKind& kind : GroupKinds()) {
      const int64_t count = GroupCount(layout, module, kind);
      if (count == 0) continue;
      Json groups = Json::array();
      for (int64_t i = 0; i < count; ++i) {
        groups.push_back(RanksOf(layout, {&module, &kind, i}));
      }
      groups_by_kind[std::string(kind.name)] = std::move(groups);
    }
    Json entry;
    entry["name"] = module.name();
    entry["groups"] = std::move(groups_by_kind);
    json["modules"].push_back(std::move(entry));
  }
  return json;
}

nlohmann::ordered_json RankExplanationJson(const v1::RankExplanation& rank) {
  Json json;
  json["job"] = rank.job();
  json["rank"] = rank.rank();
  json["generation"] = rank.generation();
  json["module"] = rank.module();
  json["role"] = RoleName(rank.role());
  const v1::Coordinates& at = rank.coordinates();
  json["coordinates"] = {{"tp", at.tp()}, {"gtp_remat", at.gtp_remat()},
                         {"cp", at.cp()}, {"dp", at.dp()},
                         {"pp", at.pp()}, {"lane", at.lane()}};
  const v1::Parallelism& sizes = rank.parallelism();
  json["parallelism"] = {{"tp", sizes.tp()},
                         {"gtp_remat", sizes.gtp_remat()},
                         {"cp", sizes.cp()},
                         {"dp", rank.dp_size()},
                         {"pp", sizes.pp()},
                         {"ep", sizes.ep()},
                         {"expert_tp", sizes.expert_tp()},
                         {"expert_gtp_remat", sizes.expert_gtp_remat()},
                         {"sequence_parallel", sizes.sequence_parallel()},
                         {"order", sizes.order()}};
  json["groups"] = Json::array();
  for (const v1::GroupMembership& group : rank.groups()) {
    Json entry;
    entry["name"] = NameOf(rank, group);
    entry["kind"] = group.kind();
    entry["index"] = group.index();
    entry["position"] = group.position();
    entry["ranks"] = RanksOf(group);
    json["groups"].push_back(std::move(entry));
  }
  return json;
}

}  // namespace shardwright
