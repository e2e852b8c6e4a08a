// A ShardPlan says what one rank owns of one micro-batch, and which copies
// bring it there. Made by coordinator/planner, carried out by worker/exec.

#ifndef PROTO_PLAN_SHARD_PLAN_H_
#define PROTO_PLAN_SHARD_PLAN_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "proto/plan/copy_table.h"
#include "proto/plan/layout.h"

namespace shardwright {

// Positions [position, position + count) of a sample or pack.
struct PositionRun {
  int64_t position = 0;
  int64_t count = 0;

  friend bool operator==(const PositionRun& a, const PositionRun& b) {
    return a.position == b.position && a.count == b.count;
  }
};

// What a plan costs its rank. Counts are over all B samples.
struct RankLoad {
  int64_t token_count = 0;          // Label positions.
  int64_t padding_token_count = 0;  // Those that are padding, where known.
  // Query-key pairs of causal attention; at most what 63 bits hold.
  int64_t causal_work = 0;
};

struct ShardPlan {
  // Fingerprint of layout and batch, equal on all ranks; never of generation.
  uint64_t digest = 0;

  // Of the layout that was planned with; 0 when planned without a coordinator.
  int64_t generation = 0;

  Rank rank = 0;
  Coordinates coordinates;
  int64_t seq_length = 0;
  int64_t micro_batch_size = 0;

  // What the sources of `embeddings` are: {"sequence"}, or "text" and then the
  // modalities by name.
  std::vector<std::string> sources;

  // [S, B, H] (or the sources' rows) -> [S / (cp * tp), B, H]. Nothing on
  // pipeline stages after the first.
  std::optional<CopyTable> embeddings;

  // [B, S] -> [B, S / cp], element by element; on every stage.
  CopyTable labels;

  // The positions owned, in local order; the same for every sample.
  // embedding_runs is empty where there are no embeddings.
  std::vector<PositionRun> embedding_runs;
  std::vector<PositionRun> label_runs;

  RankLoad load;
};

}  // namespace shardwright

#endif  // PROTO_PLAN_SHARD_PLAN_H_
