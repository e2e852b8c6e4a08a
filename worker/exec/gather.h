// Proves a shard plan by undoing it: the shards of all members of a clique come
// together, and every row goes back into the source that it came from.

#ifndef WORKER_EXEC_GATHER_H_
#define WORKER_EXEC_GATHER_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "proto/plan/copy_table.h"
#include "worker/comm/communicator.h"
#include "worker/exec/executor.h"

namespace shardwright {

// What one member brings.
struct GatherPart {
  uint64_t digest = 0;  // Of the shard plan; equal at all members.
  CopyTable table;
  int64_t row_bytes = 0;
  ConstBytes shard;            // The table's destination: only read.
  std::vector<Bytes> sources;  // Written; equal sizes at all members.

  // By when the members must have met.
  absl::Time deadline = absl::InfiniteFuture();
};

// How many rows of each source came back. Rows that no member holds are left as
// they are; nothing at all is written on failure.
//
// Every member of the communicator must call. One whose own arguments are wrong
// calls as well, with the reason in `refusal` (and an empty part), so that the
// others learn of it now and not at a deadline; it gets the reason back.
//
// Errors: as for an operation of a Communicator, and
//   INVALID_ARGUMENT INVALID_TENSOR:  the part does not fit its table.
//   INVALID_ARGUMENT PEER_REFUSED:    another member's arguments are wrong; the
//                                     message has its rank and the reason.
//   INVALID_ARGUMENT OPERATION_MISMATCH: another member calls for something
//                                     else.
//   INVALID_ARGUMENT DIGEST_MISMATCH: members planned different batches; the
//                                     message names the ranks on each side.
//   INVALID_ARGUMENT SOURCES_DIFFER:  members have other sources or row sizes.
//   INVALID_ARGUMENT INVALID_TABLE:   a member sent what is no table.
//   DATA_LOSS        ROWS_DIFFER:     two members hold different bytes for one
//                                     row; the message names both and the row.
absl::StatusOr<std::vector<int64_t>> GatherShards(
    Communicator& communicator, const GatherPart& part,
    const absl::Status& refusal = absl::OkStatus());

}  // namespace shardwright

#endif  // WORKER_EXEC_GATHER_H_
