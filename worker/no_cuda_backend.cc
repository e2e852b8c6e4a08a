// Of a build without CUDA.

#include "proto/status/error.h"
#include "worker/backend.h"

namespace shardwright {

absl::StatusOr<Backend> OpenCudaBackend(const WorkerOptions& options) {
  return Error(absl::StatusCode::kInvalidArgument, "DEVICE_NOT_BUILT",
               "this workerd has no device \"cuda\": use --device host");
}

std::optional<int> RunBackendProcess(int argc, char** argv) {
  return std::nullopt;
}

}  // namespace shardwright
