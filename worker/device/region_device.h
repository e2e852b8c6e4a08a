// A GPU, as those see it who copy between regions of its memory that belong to
// other processes. CUDA's is cuda_region_device.h.

#ifndef WORKER_DEVICE_REGION_DEVICE_H_
#define WORKER_DEVICE_REGION_DEVICE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "proto/plan/copy_table.h"
#include "worker/exec/executor.h"

namespace shardwright {

// One table over mapped memory; sizes and alignment have been checked.
struct RegionCopy {
  const CopyTable* table = nullptr;
  Direction direction = Direction::kForward;
  int64_t row_bytes = 0;
  int64_t element_bytes = 1;
  std::vector<Bytes> sources;  // Only read with kForward.
  Bytes destination;           // Only read with kAdjoint.
  ConstBytes fill_value;       // In host memory.
};

// A stream of the GPU, and another process's memory mapped for it. Handles are
// the 64 bytes of CUDA's, and secrets. One thread at a time, but for IsReady()
// and IsIdle().
//
// Errors of all functions, besides those named:
//   DATA_LOSS DEVICE_FAILED: the GPU failed; the message has its words.
class RegionStream {
 public:
  // Unmaps what is mapped.
  //
  // REQUIRES: the stream is idle, or has failed.
  virtual ~RegionStream() = default;

  // Opens the event behind a handle, for IsReady().
  virtual absl::Status Follow(absl::string_view ready_handle) = 0;

  // Whether what the event was last recorded behind is done; true without one.
  // Asking is all that this process does with it: a stream that waited for the
  // event of a process that has died would never end, and with it whatever
  // CUDA does for all streams at once.
  virtual absl::StatusOr<bool> IsReady() = 0;

  // The whole allocation behind a handle. Mapping it again is another mapping.
  //
  // Errors:
  //   INVALID_ARGUMENT INVALID_REGION: the handle opens nothing here.
  virtual absl::StatusOr<Bytes> Map(absl::string_view memory_handle) = 0;

  // REQUIRES: nothing that uses it is running.
  virtual absl::Status Unmap(Bytes memory) = 0;

  // Starts copies that do not depend on one another, behind those started
  // before. The arguments are free when it returns.
  virtual absl::Status Start(absl::Span<const RegionCopy> copies) = 0;

  // Whether all that was started is done. Thread-safe.
  virtual absl::StatusOr<bool> IsIdle() = 0;
};

// The process's own memory on the GPU.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  virtual Bytes bytes() const = 0;
};

// Thread-safe.
class RegionDevice {
 public:
  virtual ~RegionDevice() = default;

  virtual std::string uuid() const = 0;

  // GPU memory that the process took to get there; 0 if nobody knows.
  virtual int64_t context_memory_bytes() const = 0;

  virtual absl::StatusOr<std::unique_ptr<RegionStream>> NewStream() = 0;

  // Errors:
  //   DATA_LOSS DEVICE_FAILED: also where there is not so much memory.
  virtual absl::StatusOr<std::unique_ptr<DeviceMemory>> Allocate(
      int64_t byte_count) = 0;
};

}  // namespace shardwright

#endif  // WORKER_DEVICE_REGION_DEVICE_H_
