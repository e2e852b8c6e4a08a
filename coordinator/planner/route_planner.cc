#include "coordinator/planner/route_planner.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "coordinator/planner/position_runs.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

// `total` things in `count` equal contiguous shares, larger ones first.
class Shares {
 public:
  Shares(int64_t total, int64_t count)
      : size_(total / count), larger_(total % count) {}

  int64_t Begin(int64_t share) const {
    return share * size_ + std::min(share, larger_);
  }
  RowRun Rows(int64_t share) const {
    return {Begin(share), Begin(share + 1) - Begin(share)};
  }
  // REQUIRES: 0 <= row < total.
  int64_t ShareOf(int64_t row) const {
    const int64_t in_larger = larger_ * (size_ + 1);
    return row < in_larger ? row / (size_ + 1)
                           : larger_ + (row - in_larger) / size_;
  }

 private:
  int64_t size_;
  int64_t larger_;  // How many shares have one more.
};

constexpr DimSet kReplicas = {Dim::kTp, Dim::kCp};

// The ranks of one stage of a lane, which all hold its whole output, in the
// order of their tp_cp group.
class StageRanks {
 public:
  StageRanks(const Module& module, int64_t lane, int64_t stage)
      : module_(module) {
    Coordinates at;
    at.dp = lane / module.gtp_remat();
    at.gtp_remat = lane % module.gtp_remat();
    at.pp = stage;
    group_ = module.grid().GroupOf(kReplicas, module.IndexAt(at));
  }
  int64_t size() const { return module_.grid().GroupSize(kReplicas); }
  Rank at(int64_t position) const {
    return module_.RankAt(module_.grid().Member(kReplicas, group_, position));
  }

 private:
  const Module& module_;
  int64_t group_;
};

void AppendRows(std::vector<RowRun>& runs, int64_t row, int64_t count) {
  if (!runs.empty() && runs.back().row + runs.back().count == row) {
    runs.back().count += count;
  } else {
    runs.push_back({row, count});
  }
}

// The rows of a message that tp rank `tp` of the language module returns.
RowRun ReturnedRows(const Module& language, int64_t tp, int64_t row_count) {
  if (language.sequence_parallel()) return {0, row_count};
  return Shares(row_count, language.tp()).Rows(tp);
}

// The messages of one encoder rank to one language lane, by owner: its cp
// rank, and with sequence parallelism its tp rank.
class LaneMessages {
 public:
  LaneMessages(const Module& language, int64_t lane, const BatchShape& shape)
      : language_(language),
        lane_(lane),
        tp_(language.sequence_parallel() ? language.tp() : 1),
        owners_(language, shape),
        rows_(language.cp() * tp_) {}

  // Rows [row, row + count) of the output stand at `position` and on.
  void Add(int64_t position, int64_t row, int64_t count) {
    for (const int64_t end = position + count; position < end;) {
      const PositionOwners::Owner owner = owners_.At(position);
      const int64_t part = std::min(end, owner.end) - position;
      AppendRows(rows_[owner.cp * tp_ + owner.tp], row, part);
      row += part;
      position += part;
    }
  }

  // Appends the messages, and what of them is to be packed.
  void AppendTo(RouteEdge& edge, std::vector<RowCopy>& pack) {
    for (size_t owner = 0; owner < rows_.size(); ++owner) {
      if (rows_[owner].empty()) continue;
      RouteTransfer message;
      message.rows = std::move(rows_[owner]);
      for (const RowRun& run : message.rows) message.row_count += run.count;
      if (message.rows.size() == 1) {
        message.tensor_row = message.rows[0].row;
      } else {
        message.staging_row = edge.staging_rows;
        for (const RowRun& run : message.rows) {
          pack.push_back({0, run.row, edge.staging_rows, 1, run.count});
          edge.staging_rows += run.count;
        }
      }
      Coordinates at;
      at.dp = lane_ / language_.gtp_remat();
      at.gtp_remat = lane_ % language_.gtp_remat();
      at.cp = static_cast<int64_t>(owner) / tp_;
      at.tp = static_cast<int64_t>(owner) % tp_;
      // All tp ranks of an owner get the same message.
      for (; at.tp < language_.tp(); at.tp += tp_) {
        message.peer = language_.RankAt(language_.IndexAt(at));
        message.returned = ReturnedRows(language_, at.tp, message.row_count);
        edge.transfers.push_back(message);
      }
    }
  }

 private:
  const Module& language_;
  const int64_t lane_;
  const int64_t tp_;  // Owners of a cp rank's positions.
  const PositionOwners owners_;
  std::vector<std::vector<RowRun>> rows_;
};

}  // namespace

RoutePlanner::RoutePlanner(const Layout& layout, const Batch& batch)
    : layout_(&layout), batch_(&batch), digest_(DigestOf(layout, batch)) {
  const SourceOf source_of(batch.special_token_ids);
  std::vector<int64_t> rows(source_of.source_count(), 0);
  samples_.reserve(batch.samples.size());
  rows_before_.reserve(batch.samples.size() + 1);
  for (const std::vector<int64_t>& input_ids : batch.samples) {
    rows_before_.push_back(rows);
    samples_.push_back(RunsOfSample(input_ids, source_of, rows));
  }
  rows_before_.push_back(std::move(rows));
  for (const EdgeSpec& edge : layout.edges()) {
    edges_.push_back(MakeEdge(*layout.FindModule(edge.from)));
  }
}

RoutePlanner::Edge RoutePlanner::MakeEdge(const Module& encoder) const {
  const auto& ids = batch_->special_token_ids;
  const auto modality = ids.find(encoder.name());
  Edge edge = {&encoder, 0, {}};
  if (modality == ids.end()) return edge;
  edge.source = static_cast<int32_t>(std::distance(ids.begin(), modality)) + 1;
  const auto lanes = batch_->encoder_rows.find(encoder.name());
  if (lanes == batch_->encoder_rows.end()) return edge;
  edge.lane_starts.push_back(0);
  for (int64_t rows : lanes->second) {
    edge.lane_starts.push_back(edge.lane_starts.back() + rows);
  }
  return edge;
}

int64_t RoutePlanner::LaneStart(const Edge& edge, int64_t lane) const {
  if (edge.source == 0) return 0;
  if (!edge.lane_starts.empty()) return edge.lane_starts[lane];
  const Shares samples(static_cast<int64_t>(samples_.size()),
                       edge.encoder->lane_count());
  return rows_before_[samples.Begin(lane)][edge.source];
}

const RoutePlanner::Edge* RoutePlanner::FindEdge(int32_t source) const {
  for (const Edge& edge : edges_) {
    if (edge.source == source) return &edge;
  }
  return nullptr;
}

RoutePlanner::Peer RoutePlanner::SenderOf(const Edge& edge, int64_t row) const {
  const Module& encoder = *edge.encoder;
  // The last lane that starts at or before the row: those that have none start
  // where the next does.
  int64_t lane = 0;
  for (int64_t after = encoder.lane_count(); after - lane > 1;) {
    const int64_t middle = lane + (after - lane) / 2;
    (LaneStart(edge, middle) <= row ? lane : after) = middle;
  }
  const int64_t start = LaneStart(edge, lane);
  const StageRanks ranks(encoder, lane, encoder.pp() - 1);
  const Shares parts(LaneStart(edge, lane + 1) - start, ranks.size());
  const int64_t part = parts.ShareOf(row - start);
  return {ranks.at(part), start + parts.Begin(part + 1), start};
}

void RoutePlanner::PlanSending(const Edge& edge, RoutePlan& plan) const {
  const Module& encoder = *edge.encoder;
  const Module& language = layout_->language();
  const int64_t start = LaneStart(edge, plan.coordinates.lane);
  const int64_t rows = LaneStart(edge, plan.coordinates.lane + 1) - start;
  const StageRanks ranks(encoder, plan.coordinates.lane, encoder.pp() - 1);
  const Shares parts(rows, ranks.size());
  RowRun own;
  for (int64_t part = 0; part < ranks.size(); ++part) {
    plan.parts.push_back({ranks.at(part), parts.Rows(part)});
    if (ranks.at(part) == plan.rank) own = parts.Rows(part);
  }
  RouteEdge& sent = plan.edges.emplace_back();
  sent.encoder = encoder.name();
  std::vector<RowCopy> pack;
  std::optional<LaneMessages> messages;
  int64_t row = start + own.row;  // The first not yet in a message.
  const int64_t end = row + own.count;
  const int64_t b = batch_->micro_batch_size;
  // The last sample that begins at or before the row.
  int64_t sample =
      std::upper_bound(rows_before_.begin(), rows_before_.end(), row,
                       [&](int64_t value, const std::vector<int64_t>& before) {
                         return value < before[edge.source];
                       }) -
      rows_before_.begin() - 1;
  for (int64_t lane = -1; row < end; ++sample) {
    if (sample / b != lane) {
      if (messages.has_value()) messages->AppendTo(sent, pack);
      lane = sample / b;
      messages.emplace(language, lane, batch_->ShapeOf(lane));
    }
    for (const SourceRun& run : samples_[sample]) {
      if (run.source != edge.source || run.source_row + run.count <= row) {
        continue;
      }
      if (row >= end) break;
      const int64_t count = std::min(end, run.source_row + run.count) - row;
      messages->Add(run.position + row - run.source_row, row - start, count);
      row += count;
    }
  }
  if (messages.has_value()) messages->AppendTo(sent, pack);
  plan.pack = *CopyTable::Create(std::move(pack), {rows}, sent.staging_rows);
}

// Turns `entry`, whose rows are numbered over all lanes, into one from staging.
void RoutePlanner::Receive(const Edge& edge, RowCopy& entry,
                           RouteEdge& received) const {
  int64_t row = entry.source_row;
  int64_t destination = entry.destination_row;
  const int64_t end = row + entry.row_count;
  entry.source_row = received.staging_rows;
  while (row < end) {
    const Peer sender = SenderOf(edge, row);
    std::vector<RouteTransfer>& transfers = received.transfers;
    if (transfers.empty() || transfers.back().peer != sender.rank) {
      RouteTransfer& transfer = transfers.emplace_back();
      transfer.peer = sender.rank;
      transfer.staging_row = received.staging_rows;
      transfer.tensor_row = destination;
    }
    RouteTransfer& transfer = transfers.back();
    const int64_t count = std::min(end, sender.end) - row;
    if ((entry.destination_stride > 1 && count > 1) ||
        destination != transfer.tensor_row + transfer.row_count) {
      transfer.tensor_row = RouteTransfer::kNone;
    }
    AppendRows(transfer.rows, row - sender.lane_start, count);
    transfer.row_count += count;
    received.staging_rows += count;
    destination += count * entry.destination_stride;
    row += count;
  }
}

absl::Status RoutePlanner::PlanReceiving(RoutePlan& plan) const {
  const Module& language = layout_->language();
  const int64_t b = batch_->micro_batch_size;
  const int64_t first = plan.coordinates.lane * b;
  const std::vector<PositionRun> owned = EmbeddingRuns(
      language, plan.coordinates,
      ZigzagRuns(DocumentStarts(batch_->ShapeOf(plan.coordinates.lane)),
                 language.cp(), plan.coordinates.cp));
  std::vector<RowCopy> entries;
  for (int64_t i = 0; i < b; ++i) {
    AppendEntries(samples_[first + i], owned, i, b, entries);
  }
  plan.sources = SourceNames(*batch_);
  const size_t source_count = plan.sources.size();
  std::vector<const Edge*> edges(source_count);  // Null: the source is local.
  std::vector<RouteEdge> received(source_count);
  for (size_t k = 0; k < source_count; ++k) {
    edges[k] = k == 0 ? nullptr : FindEdge(static_cast<int32_t>(k));
    received[k].encoder = plan.sources[k];
  }
  int64_t destination_rows = 0;
  for (RowCopy& entry : entries) {
    const int32_t k = entry.source;
    destination_rows += entry.row_count;
    if (edges[k] != nullptr) {
      Receive(*edges[k], entry, received[k]);
    } else {
      entry.source_row -= rows_before_[first][k];
    }
  }
  std::vector<int64_t> source_rows(source_count);
  for (size_t k = 0; k < source_count; ++k) {
    source_rows[k] = rows_before_[first + b][k] - rows_before_[first][k];
    if (edges[k] == nullptr) continue;
    source_rows[k] = received[k].staging_rows;
    for (RouteTransfer& transfer : received[k].transfers) {
      transfer.returned =
          ReturnedRows(language, plan.coordinates.tp, transfer.row_count);
    }
    plan.edges.push_back(std::move(received[k]));
  }
  ASSIGN_OR_RETURN(plan.placement,
                   CopyTable::Create(std::move(entries), std::move(source_rows),
                                     destination_rows));
  return absl::OkStatus();
}

absl::StatusOr<RoutePlanner> RoutePlanner::Create(const Layout& layout,
                                                  const Batch& batch) {
  RETURN_IF_ERROR(ProblemsToStatus("INVALID_BATCH", CheckBatch(layout, batch)));
  return RoutePlanner(layout, batch);
}

absl::StatusOr<RoutePlan> RoutePlanner::PlanFor(Rank rank) const {
  ASSIGN_OR_RETURN(const Placement at, layout_->Find(rank));
  RoutePlan plan;
  plan.digest = digest_;
  plan.rank = rank;
  plan.coordinates = at.module->CoordinatesAt(at.index);
  if (at.module->role() == Role::kLanguage) {
    if (plan.coordinates.pp == 0) RETURN_IF_ERROR(PlanReceiving(plan));
    return plan;
  }
  for (const Edge& edge : edges_) {
    if (edge.encoder == at.module &&
        plan.coordinates.pp == at.module->pp() - 1) {
      PlanSending(edge, plan);
    }
  }
  return plan;
}

absl::StatusOr<RoutePlan> PlanRoute(const Layout& layout, Rank rank,
                                    const Batch& batch) {
  RETURN_IF_ERROR(layout.Find(rank).status());
  ASSIGN_OR_RETURN(const RoutePlanner planner,
                   RoutePlanner::Create(layout, batch));
  return planner.PlanFor(rank);
}

}  // namespace shardwright
