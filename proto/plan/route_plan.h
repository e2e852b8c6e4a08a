// A RoutePlan says which rows of the encoders' outputs one rank sends or
// receives for one micro-batch, and where in its own memory they lie. Made by
// coordinator/planner.
//
// Forward. An encoder lane's output is the rows of its own samples, in (sample,
// position) order; the tp x cp ranks of its last pipeline stage all hold the
// whole of it, so each sends one of `parts`, equal contiguous shares. A
// language rank of the first stage receives the rows that it owns and no
// others, from each source rank at most one message an edge.
//
//   encoder    1. pack: rows of the output -> staging    2. send
//   language   1. receive into staging                   2. placement: text
//                                                           and staging ->
//                                                           shard
//
// A message whose rows are one run of the output or of the shard needs no
// staging there (`tensor_row`).
//
// Backward. The same from right to left, nothing summed: placement's adjoint
// takes the shard's gradient to staging, each rank sends back the rows
// `returned` of each message, and pack's adjoint takes them to the output's
// gradient. With sequence parallelism a row has one owner, who returns it;
// without, all tp ranks hold the same gradient, and each returns an equal share
// of the message. Then every rank of the lane's last stage holds the gradient
// of its part, and the parts are gathered to all of them.

#ifndef PROTO_PLAN_ROUTE_PLAN_H_
#define PROTO_PLAN_ROUTE_PLAN_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "proto/plan/copy_table.h"
#include "proto/plan/layout.h"

namespace shardwright {

// Rows [row, row + count).
struct RowRun {
  int64_t row = 0;
  int64_t count = 0;

  friend bool operator==(const RowRun& a, const RowRun& b) {
    return a.row == b.row && a.count == b.count;
  }
};

// One message between two ranks, as one of them sees it.
struct RouteTransfer {
  static constexpr int64_t kNone = -1;

  Rank peer = 0;

  // What the message carries, in this order: rows of the source lane's output,
  // ascending, no run continuing another. Equal at both ranks.
  std::vector<RowRun> rows;
  int64_t row_count = 0;

  // The message's first row in this rank's staging. At a language rank every
  // message has a place there, so that `placement` is whole. At an encoder rank
  // those have that are packed, and messages of the same rows (to tp ranks that
  // do not split the sequence) share it; else kNone.
  int64_t staging_row = kNone;

  // The message's first row in the shard or in the lane's output, where they
  // are one run of consecutive rows; else kNone. A message may be received, and
  // its gradient sent, right there; then what `placement` says of its staging
  // rows is done already.
  int64_t tensor_row = kNone;

  // Which of the message's rows come back with a gradient, counted from its
  // first. Equal at both ranks; may be none.
  RowRun returned;
};

// What comes, or goes, over one edge of the layout.
struct RouteEdge {
  std::string encoder;
  int64_t staging_rows = 0;

  // A language rank's are in the order of staging, which is that of the
  // encoder's lanes and rows; an encoder rank's in that of the language lanes.
  std::vector<RouteTransfer> transfers;
};

// The share of a lane's output that one rank sends.
struct RoutePart {
  Rank rank = 0;
  RowRun rows;
};

struct RoutePlan {
  // As of a composed ShardPlan: of layout and batch, equal on all ranks.
  uint64_t digest = 0;

  // Of the layout that was planned with; 0 when planned without a coordinator.
  int64_t generation = 0;

  Rank rank = 0;
  Coordinates coordinates;

  // An encoder rank has its own edge, a language rank one for each modality of
  // the batch that an edge brings. None where the rank takes no part: an
  // encoder's earlier and the language module's later stages.
  std::vector<RouteEdge> edges;

  // Language ranks of the first stage. The sources are "text" and then the
  // modalities by name. A modality that an edge brings is that edge's staging;
  // the others are local, numbered over the lane's own samples as PlanCompose
  // does.
  std::vector<std::string> sources;
  std::optional<CopyTable> placement;  // -> [S / (cp * tp), B, H]

  // Encoder ranks of the last stage, if an edge leaves the encoder.
  // The lane's output -> staging. Each row is in one packed message, or in
  // messages sent as they lie.
  std::optional<CopyTable> pack;
  // Of all ranks of the lane's last stage, in the order of its tp_cp group;
  // they may be empty, and together are the output.
  std::vector<RoutePart> parts;
};

// One transfer, as its source rank's plan has it.
struct RouteLink {
  std::string encoder;
  Rank source_rank = 0;
  const RouteTransfer* transfer = nullptr;
};

// A whole micro-batch's transfers, and what they save.
struct RouteSummary {
  uint64_t digest = 0;
  // By edge in the layout's order, source and destination rank.
  std::vector<RouteLink> links;
  int64_t total_rows = 0;  // (row, receiving rank) pairs.
  // The same if each language lane's rows went to all its tp x cp ranks.
  int64_t rows_if_broadcast = 0;
};

// The ranks whose plans have transfers to send; where there are none, one
// language rank, for the digest.
std::vector<Rank> SendingRanks(const Layout& layout);

// REQUIRES: plans of one digest, all of those of SendingRanks() among them.
// They outlive the summary.
RouteSummary SummarizeRoute(const Layout& layout,
                            absl::Span<const RoutePlan> plans);

}  // namespace shardwright

#endif  // PROTO_PLAN_ROUTE_PLAN_H_
