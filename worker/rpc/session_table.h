// The sessions of a worker's trainers: which shared memory each has given.

#ifndef WORKER_RPC_SESSION_TABLE_H_
#define WORKER_RPC_SESSION_TABLE_H_

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/sync/mutex.h"
#include "shardwright/v1/worker.pb.h"
#include "worker/rpc/shared_memory.h"

namespace shardwright {

// Segments in the order of the request. They stay mapped while anybody holds
// this: a copy that runs when its session ends still runs to its end.
using SessionMemory = std::shared_ptr<const std::vector<SharedMemory>>;

// Thread-safe.
class SessionTable {
 public:
  static constexpr int kSessionsMax = 64;
  static constexpr int kSegmentsMax = 64;  // Of one session.

  SessionTable() = default;
  ~SessionTable();

  // Maps all segments, or none; returns the session's id.
  //
  // Errors: of SharedMemory::Map(), and
  //   RESOURCE_EXHAUSTED TOO_MANY_SESSIONS
  //   INVALID_ARGUMENT   INVALID_SEGMENT: more than kSegmentsMax.
  absl::StatusOr<std::string> Open(const v1::OpenSessionRequest& request);

  // Unlinks the segments, and unmaps them when the last user is done. An id
  // that is not open is ignored.
  void Close(const std::string& id);

  // Errors:
  //   NOT_FOUND SESSION_NOT_FOUND
  absl::StatusOr<SessionMemory> Find(const std::string& id) const;

  int count() const;

 private:
  mutable Mutex mutex_;
  std::unordered_map<std::string, SessionMemory> sessions_
      ABSL_GUARDED_BY(mutex_);
};

}  // namespace shardwright

#endif  // WORKER_RPC_SESSION_TABLE_H_
