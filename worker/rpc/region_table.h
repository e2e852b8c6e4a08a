// The regions of device memory that one session has registered, and the stream
// in which its copies run.

#ifndef WORKER_RPC_REGION_TABLE_H_
#define WORKER_RPC_REGION_TABLE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/sync/mutex.h"
#include "shardwright/v1/worker.pb.h"
#include "worker/device/region_device.h"
#include "worker/rpc/caller.h"

namespace shardwright {

// Thread-safe.
class RegionTable {
 public:
  static constexpr int kRegionsMax = 1024;

  // How long the destructor waits for what runs.
  static constexpr absl::Duration kEndWait = absl::Seconds(1);

  // How long Unregister() waits for the copies that use a region.
  static constexpr absl::Duration kIdleWait = absl::Seconds(10);

  // Agrees with the trainer on an order: by events if both can, else by the
  // host. `device` may be null: the worker has none.
  //
  // Errors:
  //   FAILED_PRECONDITION GPU_NOT_SERVED, NO_CUDA_IPC
  //   DATA_LOSS           DEVICE_FAILED
  static absl::StatusOr<std::unique_ptr<RegionTable>> Create(
      RegionDevice* device, const v1::TrainerGpu& trainer);

  // Unmaps all regions when nothing runs. If that does not come to pass, keeps
  // stream and mappings for ever, and says so.
  ~RegionTable();

  // What was agreed on.
  const v1::GpuSession& agreement() const { return agreement_; }

  // Errors:
  //   INVALID_ARGUMENT   INVALID_REGION: names field and value.
  //   RESOURCE_EXHAUSTED TOO_MANY_REGIONS
  absl::StatusOr<int64_t> Register(const v1::RegisterRegionRequest& request);

  // Errors:
  //   NOT_FOUND         REGION_NOT_FOUND
  //   DEADLINE_EXCEEDED REGION_BUSY: as of the RPC.
  absl::Status Unregister(int64_t id);

  // Waits for the trainer's stream, if the order is by events. Calls `body`,
  // which finds regions and starts copies; what it has found stays mapped until
  // what it has started is done. Waits for that.
  //
  // Errors: of `body`, and
  //   NOT_FOUND SESSION_NOT_FOUND: End() was called.
  //   CANCELLED CLIENT_GONE: `caller` has left.
  //   DEADLINE_EXCEEDED STREAM_NOT_READY: nothing was started.
  //   DATA_LOSS DEVICE_FAILED: the copies do not end.
  absl::Status Run(const std::function<absl::Status()>& body,
                   const Caller& caller = Caller());

  // What Run()'s bodies find stays mapped as long as somebody holds this, not
  // only until the copies are done: Unregister() waits.
  std::shared_ptr<void> KeepMapped();

  // The trainer is gone, and its stream may never get there: Run() fails.
  void End() { ended_ = true; }

  // Inside of Run()'s body only.
  //
  // Errors:
  //   INVALID_ARGUMENT INVALID_TENSOR: no such region, or outside of it; the
  //       message calls the tensor `name`.
  absl::StatusOr<Bytes> Find(const std::string& name,
                             const v1::RegionRange& range) const;

  // Inside of Run()'s body only, once. Copies that depend on one another run
  // one after the other, the others together.
  absl::Status Start(absl::Span<const RegionCopy> copies);

  // Adds its part to a description.
  void Describe(v1::SessionDescription& description) const;

 private:
  struct Region {
    Bytes mapping;  // All of the allocation.
    Bytes bytes;    // The region.
  };

  RegionTable(std::string gpu_uuid, std::unique_ptr<RegionStream> stream)
      : gpu_uuid_(std::move(gpu_uuid)), stream_(std::move(stream)) {}

  // False: not within `timeout`.
  static absl::StatusOr<bool> WaitUntil(
      const std::function<absl::StatusOr<bool>()>& holds,
      absl::Duration timeout);

  // The same for kRunWait, unless the caller or the session has ended.
  absl::StatusOr<bool> Await(const std::function<absl::StatusOr<bool>()>& holds,
                             const Caller& caller);

  absl::StatusOr<Region> Map(const v1::RegisterRegionRequest& request);

  const std::string gpu_uuid_;
  v1::GpuSession agreement_;              // Constant after Create().
  std::unique_ptr<RegionStream> stream_;  // Constant.
  std::atomic<bool> ended_{false};

  const std::shared_ptr<void> mapped_ = std::make_shared<char>();

  // Held while copies are being started, and while the mappings change.
  mutable Mutex starting_;

  mutable Mutex mutex_;  // Taken after starting_.
  std::map<int64_t, Region> regions_ ABSL_GUARDED_BY(mutex_);
  int64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
};

}  // namespace shardwright

#endif  // WORKER_RPC_REGION_TABLE_H_
