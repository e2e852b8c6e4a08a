// cuda_ipc.h in a build without CUDA.

#include "proto/status/error.h"
#include "worker/device/cuda_ipc.h"

namespace shardwright {
namespace {

absl::Status NotBuilt() {
  return Error(absl::StatusCode::kUnimplemented, "GPU_NOT_BUILT",
               "this library was built without CUDA");
}

}  // namespace

absl::StatusOr<std::string> GpuUuid(int) { return NotBuilt(); }

absl::StatusOr<SharedMemoryRange> ExportMemory(const void*, int64_t) {
  return NotBuilt();
}

absl::StatusOr<Bytes> OpenMemory(int, absl::string_view) { return NotBuilt(); }

absl::Status CloseMemory(int, Bytes) { return NotBuilt(); }

absl::Status SynchronizeStream(int, GpuStream) { return NotBuilt(); }

absl::StatusOr<bool> IsStreamIdle(int, GpuStream) { return NotBuilt(); }

absl::StatusOr<std::unique_ptr<SharedEvent>> SharedEvent::Create(int) {
  return NotBuilt();
}

absl::StatusOr<std::unique_ptr<SharedEvent>> SharedEvent::Open(
    int, absl::string_view) {
  return NotBuilt();
}

SharedEvent::~SharedEvent() = default;

absl::Status SharedEvent::Record(GpuStream) { return NotBuilt(); }

absl::StatusOr<bool> SharedEvent::IsDone() const { return NotBuilt(); }

}  // namespace shardwright
