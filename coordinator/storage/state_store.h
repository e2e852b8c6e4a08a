// Where the coordinator keeps what must outlive it: a small map from keys to
// values. What the entries mean is coordinator/core's business.
//
// Obligations of every implementation (state_store_test.cc asks them of each):
//   1. Atomic: a Commit() that fails changes nothing, one that succeeds changes
//      everything it was given.
//   2. Durable: what Commit() returned OK for is there after a crash, as far as
//      the implementation has anything that outlives a process.
//   3. Exclusive: no two live stores share one place.

#ifndef COORDINATOR_STORAGE_STATE_STORE_H_
#define COORDINATOR_STORAGE_STATE_STORE_H_

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shardwright {

// Not thread-safe: one owner, one call at a time. Calls may block on a disk.
class StateStore {
 public:
  using Entries = std::map<std::string, std::string>;

  virtual ~StateStore() = default;

  // All entries.
  //
  // Errors:
  //   UNAVAILABLE STORE_FAILED: they cannot be read.
  virtual absl::StatusOr<Entries> Load() = 0;

  // Writes all of `entries`, in place of what their keys had.
  //
  // Errors:
  //   UNAVAILABLE STORE_FAILED: nothing was written; the message says why.
  virtual absl::Status Commit(const Entries& entries) = 0;
};

}  // namespace shardwright

#endif  // COORDINATOR_STORAGE_STATE_STORE_H_
