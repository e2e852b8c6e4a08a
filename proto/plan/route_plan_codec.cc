#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "proto/plan/codec.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

absl::Status InvalidRoute(const std::string& message) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_PLAN", message);
}

void ToProto(const RowRun& run, v1::RowRun& message) {
  message.set_row(run.row);
  message.set_count(run.count);
}

void ToProto(const RouteTransfer& transfer, v1::RouteTransfer& message) {
  message.set_peer(transfer.peer);
  message.mutable_rows()->Reserve(static_cast<int>(transfer.rows.size()));
  for (const RowRun& run : transfer.rows) ToProto(run, *message.add_rows());
  message.set_row_count(transfer.row_count);
  if (transfer.staging_row != RouteTransfer::kNone) {
    message.set_staging_row(transfer.staging_row);
  }
  if (transfer.tensor_row != RouteTransfer::kNone) {
    message.set_tensor_row(transfer.tensor_row);
  }
  ToProto(transfer.returned, *message.mutable_returned());
}

// Whether [row, row + count) is inside [0, rows), with no overflow.
bool IsInside(int64_t row, int64_t count, int64_t rows) {
  return row >= 0 && count >= 0 && count <= rows && row <= rows - count;
}

// A transfer whose rows are inside a tensor of `output_rows`, whose place in
// staging is inside that, and in the rank's own tensor inside `tensor_rows`.
absl::StatusOr<RouteTransfer> TransferFromProto(
    const v1::RouteTransfer& message, int64_t staging_rows, int64_t output_rows,
    int64_t tensor_rows) {
  RouteTransfer transfer;
  transfer.peer = message.peer();
  transfer.row_count = message.row_count();
  if (message.has_staging_row()) transfer.staging_row = message.staging_row();
  if (message.has_tensor_row()) transfer.tensor_row = message.tensor_row();
  transfer.returned = {message.returned().row(), message.returned().count()};
  const std::string name =
      absl::StrCat("transfer with rank ", transfer.peer, ": ");
  if (transfer.peer < 0 || transfer.peer >= kWorldSizeMax) {
    return InvalidRoute(absl::StrCat(name, "no such rank"));
  }
  int64_t left = transfer.row_count;
  int64_t next = 0;
  for (const v1::RowRun& run : message.rows()) {
    const bool ascends = transfer.rows.empty() || run.row() > next;
    if (!ascends || run.count() < 1 || run.count() > left ||
        !IsInside(run.row(), run.count(), output_rows)) {
      return InvalidRoute(absl::StrCat(name, "rows [", run.row(), ", +",
                                       run.count(), ") do not ascend, are ",
                                       "outside the output or more than ",
                                       transfer.row_count));
    }
    next = run.row() + run.count();
    left -= run.count();
    transfer.rows.push_back({run.row(), run.count()});
  }
  if (left != 0 || transfer.rows.empty()) {
    return InvalidRoute(absl::StrCat(name, "row_count=", transfer.row_count,
                                     " is not the count of its rows"));
  }
  if ((message.has_staging_row() &&
       !IsInside(transfer.staging_row, transfer.row_count, staging_rows)) ||
      (message.has_tensor_row() &&
       !IsInside(transfer.tensor_row, transfer.row_count, tensor_rows)) ||
      !IsInside(transfer.returned.row, transfer.returned.count,
                transfer.row_count)) {
    return InvalidRoute(
        absl::StrCat(name, "a place is outside of what it is in"));
  }
  return transfer;
}

absl::StatusOr<RouteEdge> EdgeFromProto(const v1::RouteEdge& message,
                                        int64_t output_rows,
                                        int64_t tensor_rows) {
  RouteEdge edge;
  edge.encoder = message.encoder();
  edge.staging_rows = message.staging_rows();
  std::set<Rank> peers;
  for (const v1::RouteTransfer& from : message.transfers()) {
    ASSIGN_OR_RETURN(
        edge.transfers.emplace_back(),
        TransferFromProto(from, edge.staging_rows, output_rows, tensor_rows));
    if (!peers.insert(from.peer()).second) {
      return InvalidRoute(
          absl::StrCat("two transfers with rank ", from.peer()));
    }
  }
  return edge;
}

// The edges of a language rank: each is a source of the placement, whose rows
// the transfers bring one after the other.
absl::Status ReadReceiving(const v1::RoutePlan& message, RoutePlan& plan) {
  ASSIGN_OR_RETURN(plan.placement, CopyTableFromProto(message.placement()));
  const std::vector<int64_t>& source_rows = plan.placement->source_rows();
  if (source_rows.size() != plan.sources.size() ||
      message.edges_size() > message.sources_size()) {
    return InvalidRoute(absl::StrCat(plan.sources.size(), " names for ",
                                     source_rows.size(), " sources and ",
                                     message.edges_size(), " edges"));
  }
  std::set<std::string> encoders;
  for (const v1::RouteEdge& from : message.edges()) {
    ASSIGN_OR_RETURN(const RouteEdge edge,
                     EdgeFromProto(from, CopyTable::kRowsMax,
                                   plan.placement->destination_rows()));
    const auto name =
        std::find(plan.sources.begin(), plan.sources.end(), edge.encoder);
    int64_t staged = 0;
    for (const RouteTransfer& transfer : edge.transfers) {
      if (transfer.staging_row != staged) break;
      staged += transfer.row_count;
    }
    if (name == plan.sources.end() || !encoders.insert(edge.encoder).second ||
        staged != edge.staging_rows ||
        source_rows[name - plan.sources.begin()] != staged) {
      return InvalidRoute(absl::StrCat(
          "edge of ", QuoteName(edge.encoder), ": its transfers bring ", staged,
          " rows one after the other, and its staging has ",
          edge.staging_rows));
    }
    plan.edges.push_back(edge);
  }
  return absl::OkStatus();
}

// The one edge of an encoder rank: messages are packed, or sent as they lie.
absl::Status ReadSending(const v1::RoutePlan& message, RoutePlan& plan) {
  ASSIGN_OR_RETURN(plan.pack, CopyTableFromProto(message.pack()));
  if (plan.pack->source_rows().size() != 1 || message.edges_size() != 1 ||
      plan.pack->destination_rows() != message.edges(0).staging_rows()) {
    return InvalidRoute(
        absl::StrCat("pack has ", plan.pack->source_rows().size(),
                     " sources and ", plan.pack->destination_rows(),
                     " rows for ", message.edges_size(), " edges"));
  }
  const int64_t rows = plan.pack->source_rows()[0];
  ASSIGN_OR_RETURN(const RouteEdge edge,
                   EdgeFromProto(message.edges(0), rows, rows));
  for (const RouteTransfer& transfer : edge.transfers) {
    const bool packed = transfer.staging_row != RouteTransfer::kNone;
    const bool lies = transfer.rows.size() == 1 &&
                      transfer.tensor_row == transfer.rows[0].row;
    if (packed ? transfer.tensor_row != RouteTransfer::kNone : !lies) {
      return InvalidRoute(absl::StrCat("transfer with rank ", transfer.peer,
                                       ": is packed or lies in one run"));
    }
  }
  plan.edges.push_back(edge);
  int64_t next = 0;
  for (const v1::RoutePart& part : message.parts()) {
    const RowRun run = {part.rows().row(), part.rows().count()};
    if (run.row != next || !IsInside(run.row, run.count, rows)) break;
    next += run.count;
    plan.parts.push_back({part.rank(), run});
  }
  if (next != rows || plan.parts.size() != message.parts_size()) {
    return InvalidRoute(
        absl::StrCat("parts reach row ", next, " of the output's ", rows));
  }
  return absl::OkStatus();
}

}  // namespace

v1::RoutePlan ToProto(const RoutePlan& plan) {
  v1::RoutePlan message;
  ToProto(plan, message);
  return message;
}

void ToProto(const RoutePlan& plan, v1::RoutePlan& message) {
  message.set_digest(plan.digest);
  message.set_generation(plan.generation);
  message.set_rank(plan.rank);
  *message.mutable_coordinates() = ToProto(plan.coordinates);
  for (const RouteEdge& edge : plan.edges) {
    v1::RouteEdge& to = *message.add_edges();
    to.set_encoder(edge.encoder);
    to.set_staging_rows(edge.staging_rows);
    for (const RouteTransfer& transfer : edge.transfers) {
      ToProto(transfer, *to.add_transfers());
    }
  }
  message.mutable_sources()->Add(plan.sources.begin(), plan.sources.end());
  if (plan.placement.has_value()) {
    ToProto(*plan.placement, *message.mutable_placement());
  }
  if (plan.pack.has_value()) ToProto(*plan.pack, *message.mutable_pack());
  for (const RoutePart& part : plan.parts) {
    v1::RoutePart& to = *message.add_parts();
    to.set_rank(part.rank);
    ToProto(part.rows, *to.mutable_rows());
  }
}

absl::StatusOr<RoutePlan> RoutePlanFromProto(const v1::RoutePlan& message) {
  RoutePlan plan;
  plan.digest = message.digest();
  plan.generation = message.generation();
  plan.rank = message.rank();
  plan.coordinates = CoordinatesFromProto(message.coordinates());
  plan.sources.assign(message.sources().begin(), message.sources().end());
  if (plan.rank < 0 || plan.rank >= kWorldSizeMax) {
    return InvalidRoute(absl::StrCat("rank=", plan.rank, " is out of range"));
  }
  if (message.has_placement() && message.has_pack()) {
    return InvalidRoute("a rank receives or sends, and not both");
  }
  if (message.has_placement()) {
    RETURN_IF_ERROR(ReadReceiving(message, plan));
  } else if (message.has_pack()) {
    RETURN_IF_ERROR(ReadSending(message, plan));
  } else if (message.edges_size() > 0) {
    return InvalidRoute("there are edges and no table");
  }
  return plan;
}

}  // namespace shardwright
