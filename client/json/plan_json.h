// Plans, groups and ranks as JSON: the shapes that `shardctl -o json` promises
// and that libshardwright.so hands out. Their one definition in the code.
//
// Keys always in the order shown; integers as numbers; what is
// not there is null. Pure functions.

#ifndef CLIENT_JSON_PLAN_JSON_H_
#define CLIENT_JSON_PLAN_JSON_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/types/span.h"
#include "nlohmann/json.hpp"
#include "proto/plan/fingerprint.h"
#include "proto/plan/layout.h"
#include "proto/plan/route_plan.h"
#include "proto/plan/shard_plan.h"
#include "shardwright/v1/layout.pb.h"

namespace shardwright {

// {"digest", "ranks": [{"rank", "tp", ... "embedding_runs", "label_runs"}]},
// and with `with_positions` for each rank the runs spelt out, position by
// position.
nlohmann::ordered_json PlanShardJson(uint64_t digest,
                                     absl::Span<const ShardPlan> plans,
                                     bool with_positions);

// The same, and for each rank "rows": for local position l and sample b the
// source's name and row; null on later pipeline stages.
nlohmann::ordered_json PlanComposeJson(uint64_t digest,
                                       absl::Span<const ShardPlan> plans,
                                       bool with_positions);

// {"digest", "transfers": [{"edge", "source_rank", "destination_rank",
//  "row_count", "bytes"}], "total_rows", "rows_if_broadcast"}, and with
// `with_rows` for each transfer "rows", runs of the source lane's output.
// "bytes" is null where the bytes of a row are not known. `plans` are those of
// all encoder ranks that send; other ranks' are passed over.
nlohmann::ordered_json PlanRouteJson(const Layout& layout,
                                     absl::Span<const RoutePlan> plans,
                                     std::optional<int64_t> row_bytes,
                                     bool with_rows);

// One rank's own part of it: {"digest", "rank", "transfers": [{"encoder",
// "source_rank", "destination_rank", "row_count", "returned"}]}, and "rows" as
// above. `returned` is a run that counts from the transfer's first row.
nlohmann::ordered_json RankRouteJson(const RoutePlan& plan, bool with_rows);

// {"modules": [{"name", "groups": {kind: [[rank, ...], ...]}}]}
nlohmann::ordered_json GroupsJson(const Layout& layout);

// {"job", "rank", "generation", "module", "role", "coordinates": {...},
//  "parallelism": {...}, "groups": [{"name", "kind", "index", "position",
//  "ranks"}]}, where a group's name is that of its clique, "language/tp/3".
nlohmann::ordered_json RankExplanationJson(const v1::RankExplanation& rank);

}  // namespace shardwright

#endif  // CLIENT_JSON_PLAN_JSON_H_
