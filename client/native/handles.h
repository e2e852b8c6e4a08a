// What is behind the handles that more than one file knows.

#ifndef CLIENT_NATIVE_HANDLES_H_
#define CLIENT_NATIVE_HANDLES_H_

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/cc/coordinator_client.h"
#include "client/native/call.h"
#include "client/native/shardwright_plan.h"
#include "proto/plan/layout.h"
#include "proto/plan/shard_plan.h"
#include "worker/exec/executor.h"

// Immutable. Has exactly one of `client` and `layout`.
struct sw_job : shardwright::LiveHandle {
  std::string name;
  std::optional<shardwright::CoordinatorClient> client;
  std::optional<shardwright::Layout> layout;
};

// Immutable, and never moved: the tables point into the plan.
struct sw_plan : shardwright::LiveHandle {
  struct Table {
    const shardwright::CopyTable* copies = nullptr;  // Nothing: no such table.
    std::vector<sw_row_copy> entries;
    std::vector<sw_position_run> runs;
    std::vector<const char*> source_names;
  };

  sw_plan(shardwright::ShardPlan shard_plan, bool is_composed);
  sw_plan(const sw_plan&) = delete;
  sw_plan& operator=(const sw_plan&) = delete;

  // Errors:
  //   NOT_FOUND        NO_EMBEDDINGS: a later pipeline stage.
  //   INVALID_ARGUMENT INVALID_TABLE_ID
  absl::StatusOr<const Table*> Find(sw_table_id id) const;

  const shardwright::ShardPlan plan;
  const bool composed;
  Table embeddings;
  Table labels;
};

namespace shardwright {

// The memory that a caller names.
// Errors:
//   INVALID_ARGUMENT INVALID_TENSOR: fewer than no bytes; NULL_ARGUMENT
absl::StatusOr<Bytes> BytesOf(absl::string_view name, const sw_buffer& buffer);

}  // namespace shardwright

#endif  // CLIENT_NATIVE_HANDLES_H_
