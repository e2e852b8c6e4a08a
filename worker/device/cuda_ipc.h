// Device memory and events that two processes share (CUDA IPC). Without CUDA in
// the build, all of it fails with UNIMPLEMENTED GPU_NOT_BUILT.
//
// Handles are CUDA's 64 bytes. Whoever has one can use what is behind it: they
// are never logged, and no message has them.
//
// Errors of all functions, besides those named:
//   DATA_LOSS DEVICE_FAILED: CUDA failed; the message has its words.

#ifndef WORKER_DEVICE_CUDA_IPC_H_
#define WORKER_DEVICE_CUDA_IPC_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/exec/executor.h"

struct CUevent_st;
struct CUstream_st;

namespace shardwright {

using GpuStream = CUstream_st*;  // cudaStream_t.

// "GPU-8f0c…" of a GPU that CUDA shows this process.
absl::StatusOr<std::string> GpuUuid(int ordinal);

// Bytes [offset, offset + size) of an allocation of this process.
struct SharedMemoryRange {
  std::string handle;  // Of all of the allocation.
  int64_t allocation_bytes = 0;
  int64_t offset_bytes = 0;
  std::string gpu_uuid;
};

// Errors:
//   INVALID_ARGUMENT INVALID_REGION: not device memory, not of one allocation,
//       or of an allocator whose memory CUDA does not share; the message says
//       what to change.
absl::StatusOr<SharedMemoryRange> ExportMemory(const void* pointer,
                                               int64_t size_bytes);

// Maps an allocation of another process, all of it. To be closed once for each
// time that it was opened.
//
// Errors:
//   INVALID_ARGUMENT INVALID_REGION: the handle opens nothing here.
absl::StatusOr<Bytes> OpenMemory(int ordinal, absl::string_view handle);
absl::Status CloseMemory(int ordinal, Bytes memory);

// Waits for all that is in a stream.
absl::Status SynchronizeStream(int ordinal, GpuStream stream);

// Whether all that is in a stream is done.
absl::StatusOr<bool> IsStreamIdle(int ordinal, GpuStream stream);

// An event of one process that another one can open. Thread-compatible.
class SharedEvent {
 public:
  static absl::StatusOr<std::unique_ptr<SharedEvent>> Create(int ordinal);
  static absl::StatusOr<std::unique_ptr<SharedEvent>> Open(
      int ordinal, absl::string_view handle);

  // One that was created must not be destroyed while it is open elsewhere.
  ~SharedEvent();
  SharedEvent(const SharedEvent&) = delete;
  SharedEvent& operator=(const SharedEvent&) = delete;

  const std::string& handle() const { return handle_; }

  absl::Status Record(GpuStream stream);

  // Whether what it was last recorded behind is done.
  absl::StatusOr<bool> IsDone() const;

 private:
  SharedEvent(int ordinal, std::string handle, CUevent_st* event)
      : ordinal_(ordinal), handle_(std::move(handle)), event_(event) {}

  const int ordinal_;
  const std::string handle_;
  CUevent_st* const event_;
};

}  // namespace shardwright

#endif  // WORKER_DEVICE_CUDA_IPC_H_
