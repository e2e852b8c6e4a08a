// The sessions of a worker's trainers: what each has given its worker.

#ifndef WORKER_RPC_SESSION_TABLE_H_
#define WORKER_RPC_SESSION_TABLE_H_

#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/sync/mutex.h"
#include "shardwright/v1/worker.pb.h"
#include "worker/device/region_device.h"
#include "worker/rpc/plan_tables.h"
#include "worker/rpc/region_table.h"
#include "worker/rpc/shared_memory.h"

namespace shardwright {

// All of it stays mapped while anybody holds the session: a copy that runs when
// its session ends still runs to its end. Thread-safe.
class Session {
 public:
  // `regions` may be null: host memory only.
  Session(std::vector<SharedMemory> segments,
          std::unique_ptr<RegionTable> regions)
      : segments_(std::move(segments)), regions_(std::move(regions)) {}

  // In the order of the request.
  const std::vector<SharedMemory>& segments() const { return segments_; }
  RegionTable* regions() const { return regions_.get(); }
  PlanTables& tables() { return tables_; }

  v1::SessionDescription Describe() const;

 private:
  const std::vector<SharedMemory> segments_;
  const std::unique_ptr<RegionTable> regions_;
  PlanTables tables_;
};

// Thread-safe.
class SessionTable {
 public:
  static constexpr int kSessionsMax = 64;
  static constexpr int kSegmentsMax = 64;  // Of one session.

  // `device` may be null: no regions. It must outlive the table.
  explicit SessionTable(RegionDevice* device = nullptr) : device_(device) {}
  ~SessionTable();

  // Maps all segments, or none; returns the session's id.
  //
  // Errors: of SharedMemory::Map() and RegionTable::Create(), and
  //   RESOURCE_EXHAUSTED TOO_MANY_SESSIONS
  //   INVALID_ARGUMENT   INVALID_SEGMENT: more than kSegmentsMax.
  absl::StatusOr<std::string> Open(const v1::OpenSessionRequest& request);

  // Unlinks the segments, and unmaps them and the regions when the last user is
  // done; waits for copies that run on a GPU. An id that is not open is
  // ignored.
  void Close(const std::string& id);

  // Errors:
  //   NOT_FOUND SESSION_NOT_FOUND
  absl::StatusOr<std::shared_ptr<Session>> Find(const std::string& id) const;

  // Of the open ones. Holds none of them: whoever lets a session go last may
  // have to wait for a GPU.
  std::vector<v1::SessionDescription> Describe() const;

 private:
  RegionDevice* const device_;

  mutable Mutex mutex_;
  std::unordered_map<std::string, std::shared_ptr<Session>> sessions_
      ABSL_GUARDED_BY(mutex_);
};

}  // namespace shardwright

#endif  // WORKER_RPC_SESSION_TABLE_H_
