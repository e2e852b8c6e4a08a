// Message <-> value. Whatever comes from a wire passes through here and is
// checked: a value that a From* function returned holds its type's invariants.

#ifndef PROTO_PLAN_CODEC_H_
#define PROTO_PLAN_CODEC_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/plan/batch.h"
#include "proto/plan/copy_table.h"
#include "proto/plan/document.h"
#include "proto/plan/layout.h"
#include "proto/plan/route_plan.h"
#include "proto/plan/shard_plan.h"
#include "shardwright/v1/layout.pb.h"
#include "shardwright/v1/plan.pb.h"

namespace shardwright {

// Specs and shapes are not checked here: Layout::Create() and the planner do
// that, so that all problems come at once.
LayoutSpec LayoutSpecFromProto(const v1::Layout& message);
BatchShape BatchShapeFromProto(const v1::BatchShape& message);
v1::BatchShape ToProto(const BatchShape& shape);
Batch BatchFromProto(const v1::Batch& message);

// Unknown fields in a message from the wire, as problems: a client that is
// newer than the server must not have part of its layout ignored.
Problems CheckUnknownFields(const google::protobuf::Message& message);

// Layout::Create(), after CheckUnknownFields(); all problems of both.
absl::StatusOr<Layout> LayoutFromProto(const v1::Layout& message);

// All that is wrong with a layout that was read from a file: of the document,
// and of what it says unless nothing could be read of it.
Problems CheckLayoutDocument(const Document& document,
                             const v1::Layout& message);

v1::Coordinates ToProto(const Coordinates& coordinates);
Coordinates CoordinatesFromProto(const v1::Coordinates& message);

// Errors:
//   INVALID_ARGUMENT INVALID_TABLE: as CopyTable::Create().
v1::CopyTable ToProto(const CopyTable& table);
void ToProto(const CopyTable& table, v1::CopyTable& message);  // Empty before.
absl::StatusOr<CopyTable> CopyTableFromProto(const v1::CopyTable& message);

// Errors:
//   INVALID_ARGUMENT INVALID_TABLE, INVALID_PLAN: runs that do not fit the
//       tables, sizes that are negative.
v1::ShardPlan ToProto(const ShardPlan& plan);
void ToProto(const ShardPlan& plan, v1::ShardPlan& message);  // Empty before.
absl::StatusOr<ShardPlan> ShardPlanFromProto(const v1::ShardPlan& message);

// Errors:
//   INVALID_ARGUMENT INVALID_TABLE, INVALID_PLAN: transfers that do not fit the
//       tables or one another.
v1::RoutePlan ToProto(const RoutePlan& plan);
void ToProto(const RoutePlan& plan, v1::RoutePlan& message);  // Empty before.
absl::StatusOr<RoutePlan> RoutePlanFromProto(const v1::RoutePlan& message);

// Who `rank` is, in full.
// Errors:
//   NOT_FOUND RANK_NOT_FOUND
absl::StatusOr<v1::RankExplanation> ExplainRank(const Layout& layout, Rank rank,
                                                int64_t generation);

// The name of a group of that rank, which is its clique's: "language/tp/3".
std::string NameOf(const v1::RankExplanation& rank,
                   const v1::GroupMembership& group);

// The members of a group in group order. Empty if there are more than a layout
// can have ranks, which no coordinator says.
std::vector<Rank> RanksOf(const v1::GroupMembership& group);

}  // namespace shardwright

#endif  // PROTO_PLAN_CODEC_H_
