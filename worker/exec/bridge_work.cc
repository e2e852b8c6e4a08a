#include "worker/exec/bridge_work.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

constexpr int64_t kNone = RouteTransfer::kNone;

// Plan, and tensors, of one call; and where its peers are in the clique.
struct Call {
  const BridgePart& part;
  std::unordered_map<Rank, int> positions;

  const RoutePlan& plan() const { return part.plan; }
  bool backward() const { return part.direction == Direction::kAdjoint; }
  int64_t row_bytes() const { return part.row_bytes; }
  Bytes Rows(Bytes tensor, int64_t row, int64_t count) const {
    return tensor.subspan(row * row_bytes(), count * row_bytes());
  }
  // The rows of a message that move.
  RowRun Moving(const RouteTransfer& transfer) const {
    return backward() ? transfer.returned : RowRun{0, transfer.row_count};
  }
};

absl::Status InvalidPlan(const std::string& message) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_PLAN", message);
}

absl::Status InvalidTensor(const std::string& message) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_TENSOR", message);
}

bool IsInside(int64_t row, int64_t count, int64_t rows) {
  return row >= 0 && count >= 0 && count <= rows && row <= rows - count;
}

// Before staging is allocated: a tensor that is there bounds it.
absl::Status CheckRows(const char* name, Bytes tensor, int64_t rows,
                       int64_t row_bytes) {
  int64_t expected = 0;
  if (!__builtin_mul_overflow(rows, row_bytes, &expected) &&
      static_cast<int64_t>(tensor.size()) == expected) {
    return absl::OkStatus();
  }
  return InvalidTensor(absl::StrCat(name, " has ", tensor.size(),
                                    " bytes, but the plan needs ", rows,
                                    " rows of ", row_bytes, " bytes"));
}

absl::Status CheckTransfer(const Call& call, const RouteTransfer& transfer) {
  const std::string name =
      absl::StrCat("transfer with rank ", transfer.peer, ": ");
  if (call.positions.count(transfer.peer) == 0 ||
      transfer.peer == call.plan().rank) {
    return InvalidPlan(absl::StrCat(name, "not another member of the clique"));
  }
  if (transfer.row_count < 1 ||
      !IsInside(transfer.returned.row, transfer.returned.count,
                transfer.row_count)) {
    return InvalidPlan(
        absl::StrCat(name, "returns rows [", transfer.returned.row, ", +",
                     transfer.returned.count, ") of ", transfer.row_count));
  }
  return absl::OkStatus();
}

// A language rank's placement without what needs no copy: messages that lie in
// the shard as they come are kept there, and have no place in staging.
struct Placement {
  CopyTable table;
  std::vector<int> edge_of;  // By source; -1: local.
  // By edge and transfer: the first row in the edge's staging, or kNone.
  std::vector<std::vector<int64_t>> staging_rows;
  int64_t rows_staged = 0;
};

absl::Status ReadEdges(const Call& call, Placement& placement,
                       std::vector<int64_t>& source_rows) {
  const RoutePlan& plan = call.plan();
  placement.edge_of.assign(source_rows.size(), -1);
  for (size_t e = 0; e < plan.edges.size(); ++e) {
    const RouteEdge& edge = plan.edges[e];
    const size_t k =
        std::find(plan.sources.begin(), plan.sources.end(), edge.encoder) -
        plan.sources.begin();
    if (k == source_rows.size() || placement.edge_of[k] >= 0) {
      return InvalidPlan(absl::StrCat("edge of \"", edge.encoder,
                                      "\": not one source of the placement"));
    }
    placement.edge_of[k] = static_cast<int>(e);
    std::vector<int64_t>& staging_rows = placement.staging_rows.emplace_back();
    int64_t next = 0, staged = 0;
    for (const RouteTransfer& transfer : edge.transfers) {
      RETURN_IF_ERROR(CheckTransfer(call, transfer));
      if (transfer.staging_row != next ||
          transfer.row_count > source_rows[k] - next) {
        break;
      }
      next += transfer.row_count;
      const bool in_place = transfer.tensor_row != kNone;
      staging_rows.push_back(in_place ? kNone : staged);
      if (!in_place) staged += transfer.row_count;
    }
    if (next != source_rows[k] || staging_rows.size() < edge.transfers.size()) {
      return InvalidPlan(absl::StrCat("edge of \"", edge.encoder,
                                      "\": its transfers bring ", next, " of ",
                                      source_rows[k], " rows"));
    }
    source_rows[k] = staged;
    placement.rows_staged += staged;
  }
  return absl::OkStatus();
}

// Cuts an entry that places rows of an edge where messages meet.
absl::Status PlaceMessages(const RouteEdge& edge,
                           const std::vector<int64_t>& staging_rows,
                           RowCopy rest, std::vector<RowCopy>& entries) {
  auto transfer = std::upper_bound(
      edge.transfers.begin(), edge.transfers.end(), rest.source_row,
      [](int64_t row, const RouteTransfer& t) { return row < t.staging_row; });
  for (--transfer; rest.row_count > 0; ++transfer) {
    const int64_t behind = rest.source_row - transfer->staging_row;
    RowCopy piece = rest;
    piece.row_count = std::min(rest.row_count, transfer->row_count - behind);
    const int64_t at = staging_rows[transfer - edge.transfers.begin()];
    if (at != kNone) {
      piece.source_row = at + behind;
    } else {
      piece.source = RowCopy::kKeep;
      piece.source_row = 0;
      if (piece.destination_row != transfer->tensor_row + behind ||
          (piece.row_count > 1 && piece.destination_stride != 1)) {
        return InvalidPlan(absl::StrCat(
            "transfer with rank ", transfer->peer, ": row ", behind,
            " does not lie in the shard from tensor_row=", transfer->tensor_row,
            ", but at row ", piece.destination_row));
      }
    }
    entries.push_back(piece);
    rest.source_row += piece.row_count;
    rest.destination_row += piece.row_count * rest.destination_stride;
    rest.row_count -= piece.row_count;
  }
  return absl::OkStatus();
}

absl::StatusOr<Placement> PlacementOf(const Call& call) {
  const CopyTable& whole = *call.plan().placement;
  std::vector<int64_t> source_rows = whole.source_rows();
  if (source_rows.size() != call.plan().sources.size()) {
    return InvalidPlan(absl::StrCat(call.plan().sources.size(), " names for ",
                                    source_rows.size(), " sources"));
  }
  Placement placement;
  RETURN_IF_ERROR(ReadEdges(call, placement, source_rows));
  std::vector<RowCopy> entries;
  std::vector<int64_t> placed(source_rows.size(), 0);
  for (const RowCopy& entry : whole.entries()) {
    const int edge = entry.source < 0 ? -1 : placement.edge_of[entry.source];
    if (edge < 0) {
      entries.push_back(entry);
      continue;
    }
    placed[entry.source] += entry.row_count;
    RETURN_IF_ERROR(PlaceMessages(
        call.plan().edges[edge], placement.staging_rows[edge], entry, entries));
  }
  for (size_t k = 0; k < placed.size(); ++k) {
    if (placement.edge_of[k] >= 0 && placed[k] != whole.source_rows()[k]) {
      return InvalidPlan(absl::StrCat("of ", whole.source_rows()[k], " rows \"",
                                      call.plan().sources[k], "\" ", placed[k],
                                      " are placed"));
    }
  }
  ASSIGN_OR_RETURN(placement.table,
                   CopyTable::Create(std::move(entries), std::move(source_rows),
                                     whole.destination_rows()));
  return placement;
}

bool MovesRows(const CopyTable& table, Direction direction) {
  if (direction == Direction::kAdjoint) {
    return std::any_of(table.source_rows().begin(), table.source_rows().end(),
                       [](int64_t rows) { return rows > 0; });
  }
  return std::any_of(
      table.entries().begin(), table.entries().end(),
      [](const RowCopy& entry) { return entry.source != RowCopy::kKeep; });
}

// Sets what is copied, if there is something.
absl::Status SetCopy(const Call& call, const CopyTable& table,
                     BridgeWork& work) {
  RETURN_IF_ERROR(CheckCopies(
      table, call.row_bytes(),
      std::vector<ConstBytes>(work.sources.begin(), work.sources.end()),
      work.destination, call.part.fill_value, call.part.direction));
  if (MovesRows(table, call.part.direction)) work.table = table;
  return absl::OkStatus();
}

void AddMessage(const Call& call, bool receives, Rank peer, Bytes bytes,
                BridgeWork& work) {
  if (bytes.empty()) return;
  const int position = call.positions.at(peer);
  if (receives) {
    work.receives.push_back({position, bytes});
  } else {
    work.sends.push_back({position, bytes});
  }
}

absl::StatusOr<BridgeWork> PrepareLanguage(const Call& call,
                                           BridgeEngine& engine) {
  const BridgePart& part = call.part;
  ASSIGN_OR_RETURN(const Placement placement, PlacementOf(call));
  RETURN_IF_ERROR(CheckRows("the shard", part.shard,
                            placement.table.destination_rows(),
                            part.row_bytes));
  if (part.sources.size() != placement.edge_of.size()) {
    return InvalidTensor(absl::StrCat("there are ", part.sources.size(),
                                      " sources, but the plan has ",
                                      placement.edge_of.size()));
  }
  BridgeWork work;
  work.sources = part.sources;
  work.destination = part.shard;
  Bytes staging;
  if (placement.rows_staged > 0) {
    ASSIGN_OR_RETURN(staging,
                     engine.Staging(placement.rows_staged * part.row_bytes));
  }
  for (size_t k = 0; k < work.sources.size(); ++k) {
    const int edge = placement.edge_of[k];
    if (edge < 0) continue;
    if (!part.sources[k].empty()) {
      return InvalidTensor(absl::StrCat(
          "source ", k, " (\"", part.plan.sources[k], "\") has ",
          part.sources[k].size(), " bytes, but an edge brings its rows"));
    }
    const int64_t rows = placement.table.source_rows()[k];
    work.sources[k] = call.Rows(staging, 0, rows);
    staging.remove_prefix(rows * part.row_bytes);
    const auto& transfers = part.plan.edges[edge].transfers;
    for (size_t i = 0; i < transfers.size(); ++i) {
      const int64_t at = placement.staging_rows[edge][i];
      const RowRun rows = call.Moving(transfers[i]);
      const Bytes bytes =
          at == kNone
              ? call.Rows(part.shard, transfers[i].tensor_row + rows.row,
                          rows.count)
              : call.Rows(work.sources[k], at + rows.row, rows.count);
      AddMessage(call, !call.backward(), transfers[i].peer, bytes, work);
    }
  }
  RETURN_IF_ERROR(SetCopy(call, placement.table, work));
  return work;
}

// The part that this rank sends, of those that together are the output.
absl::StatusOr<RowRun> OwnPart(const Call& call, const Communicator* lane) {
  const RoutePlan& plan = call.plan();
  std::vector<Rank> ranks;
  std::optional<RowRun> own;
  int64_t next = 0;
  const int64_t rows = plan.pack->source_rows()[0];
  for (const RoutePart& part : plan.parts) {
    if (part.rows.row != next || !IsInside(next, part.rows.count, rows)) break;
    next += part.rows.count;
    ranks.push_back(part.rank);
    if (part.rank == plan.rank && !own.has_value()) own = part.rows;
  }
  if (!own.has_value() || next != rows || ranks.size() != plan.parts.size()) {
    return InvalidPlan(absl::StrCat("parts are ", next, " of the output's ",
                                    rows, " rows, or none is of rank ",
                                    plan.rank));
  }
  if (call.backward() && ranks.size() > 1 &&
      (lane == nullptr || lane->ranks() != ranks)) {
    return InvalidPlan("parts are not of the ranks of the lane's communicator");
  }
  return *own;
}

absl::Status CheckSending(const Call& call) {
  const CopyTable& pack = *call.plan().pack;
  if (pack.source_rows().size() != 1 || call.plan().edges.size() != 1 ||
      std::any_of(pack.entries().begin(), pack.entries().end(),
                  [](const RowCopy& entry) { return entry.source != 0; })) {
    return InvalidPlan("pack is not of rows of one output, for one edge");
  }
  for (const RouteTransfer& transfer : call.plan().edges[0].transfers) {
    RETURN_IF_ERROR(CheckTransfer(call, transfer));
    const bool packed = transfer.staging_row != kNone;
    if ((packed && transfer.tensor_row != kNone) ||
        !IsInside(packed ? transfer.staging_row : transfer.tensor_row,
                  transfer.row_count,
                  packed ? pack.destination_rows() : pack.source_rows()[0])) {
      return InvalidPlan(absl::StrCat("transfer with rank ", transfer.peer,
                                      ": a place is outside of what it is in"));
    }
  }
  return absl::OkStatus();
}

// Where an encoder rank takes in the gradient of its part: behind the rows of
// pack's staging, those of messages that were sent as they lie. One table takes
// all to the part, where the adjoint of pack would make zeros of the others.
struct Unpacking {
  CopyTable table;
  std::vector<int64_t> staging_rows;  // By transfer.
};

// Whether runs of (row, count) are rows [0, rows), each once.
bool AreEachOnce(std::vector<std::pair<int64_t, int64_t>> runs, int64_t rows) {
  std::sort(runs.begin(), runs.end());
  int64_t end = 0;
  for (const auto& [row, count] : runs) {
    if (row != end) return false;
    end += count;
  }
  return end == rows;
}

absl::StatusOr<Unpacking> UnpackingOf(const Call& call, const RowRun& part) {
  const CopyTable& pack = *call.plan().pack;
  std::vector<RowCopy> entries = pack.entries();
  for (RowCopy& entry : entries) entry.source_row -= part.row;
  int64_t next = pack.destination_rows();
  Unpacking unpacking;
  // Without SP, tp ranks share rows.
  std::map<std::pair<int64_t, int64_t>, int64_t> place_of;
  std::vector<std::pair<int64_t, int64_t>> returned;
  for (const RouteTransfer& transfer : call.plan().edges[0].transfers) {
    int64_t at = transfer.staging_row;
    if (at == kNone) {
      const auto [known, is_new] =
          place_of.try_emplace({transfer.tensor_row, transfer.row_count}, next);
      at = known->second;
      if (is_new) {
        entries.push_back(
            {0, transfer.tensor_row - part.row, next, 1, transfer.row_count});
        next += transfer.row_count;
      }
    }
    unpacking.staging_rows.push_back(at);
    if (transfer.returned.count > 0) {
      returned.emplace_back(at + transfer.returned.row,
                            transfer.returned.count);
    }
  }
  std::vector<std::pair<int64_t, int64_t>> sent;
  for (const RowCopy& entry : entries) {
    sent.emplace_back(entry.source_row, entry.row_count);
  }
  if (next != part.count || !AreEachOnce(std::move(sent), part.count) ||
      !AreEachOnce(std::move(returned), part.count)) {
    return InvalidPlan(absl::StrCat(next, " rows are sent, but the part's ",
                                    part.count,
                                    " must each be sent and return once"));
  }
  ASSIGN_OR_RETURN(unpacking.table,
                   CopyTable::Create(std::move(entries), {part.count}, next));
  return unpacking;
}

absl::StatusOr<BridgeWork> PrepareEncoder(const Call& call,
                                          const Communicator* lane,
                                          BridgeEngine& engine) {
  const BridgePart& part = call.part;
  RETURN_IF_ERROR(CheckSending(call));
  ASSIGN_OR_RETURN(const RowRun own, OwnPart(call, lane));
  if (part.sources.size() != 1 || !part.shard.empty()) {
    return InvalidTensor(absl::StrCat(
        "an encoder's rank has one source and no shard, not ",
        part.sources.size(), " and one of ", part.shard.size(), " bytes"));
  }
  const Bytes output = part.sources[0];
  CopyTable table = *part.plan.pack;
  RETURN_IF_ERROR(
      CheckRows("the output", output, table.source_rows()[0], part.row_bytes));
  const bool packs = table.destination_rows() > 0;
  BridgeWork work;
  work.sources = {output};
  std::vector<int64_t> staging_rows;  // Backward, all go there.
  if (call.backward()) {
    ASSIGN_OR_RETURN(Unpacking unpacking, UnpackingOf(call, own));
    table = unpacking.table;
    staging_rows = std::move(unpacking.staging_rows);
    work.sources = {call.Rows(output, own.row, own.count)};
  }
  if (packs) {
    ASSIGN_OR_RETURN(Bytes staging,
                     engine.Staging(table.destination_rows() * part.row_bytes));
    work.destination = call.Rows(staging, 0, table.destination_rows());
    RETURN_IF_ERROR(SetCopy(call, table, work));
  }
  const auto& transfers = part.plan.edges[0].transfers;
  for (size_t i = 0; i < transfers.size(); ++i) {
    const RowRun rows = call.Moving(transfers[i]);
    const int64_t at =
        call.backward() && packs ? staging_rows[i] : transfers[i].staging_row;
    const Bytes bytes =
        at == kNone
            ? call.Rows(output, transfers[i].tensor_row + rows.row, rows.count)
            : call.Rows(work.destination, at + rows.row, rows.count);
    AddMessage(call, call.backward(), transfers[i].peer, bytes, work);
  }
  return work;
}

}  // namespace

absl::StatusOr<BridgeWork> PrepareBridge(const Communicator& bridge,
                                         const Communicator* lane,
                                         const BridgePart& part,
                                         BridgeEngine& engine) {
  Call call = {part, {}};
  for (int i = 0; i < bridge.size(); ++i) {
    call.positions[bridge.ranks()[i]] = i;
  }
  if (part.plan.rank != bridge.ranks()[bridge.position()]) {
    return InvalidPlan(absl::StrCat("the plan is of rank ", part.plan.rank,
                                    ", but this is rank ",
                                    bridge.ranks()[bridge.position()]));
  }
  if (part.row_bytes < 1 || part.element_bytes < 1 ||
      part.row_bytes % part.element_bytes != 0) {
    return InvalidTensor(absl::StrCat(
        "row_bytes is ", part.row_bytes, ", but must be a multiple of the ",
        part.element_bytes, " bytes of an element, both at least 1"));
  }
  if (part.plan.placement.has_value()) return PrepareLanguage(call, engine);
  if (part.plan.pack.has_value()) return PrepareEncoder(call, lane, engine);
  if (part.plan.edges.empty() && part.sources.empty() && part.shard.empty()) {
    return BridgeWork();
  }
  return InvalidPlan("there are edges or tensors, and no table");
}

}  // namespace shardwright
