// What a worker computes on beside the host's memory, and what its cliques talk
// over.

#ifndef WORKER_BACKEND_H_
#define WORKER_BACKEND_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "shardwright/v1/membership.pb.h"
#include "shardwright/v1/worker.pb.h"
#include "worker/comm/communicator.h"
#include "worker/device/device.h"
#include "worker/device/region_device.h"
#include "worker/options.h"

namespace shardwright {

struct Backend {
  std::unique_ptr<Device> gpu;                // Null without one.
  std::unique_ptr<RegionDevice> gpu_regions;  // The same, for its memory.
  std::unique_ptr<CommunicatorFactory> factory;
  v1::MemberFacts facts;  // Of device and factory.

  // Adds what the GPU is and has.
  std::function<void(v1::WorkerDescription&)> describe =
      [](v1::WorkerDescription&) {};
};

// Plain C++, and Gloo over TCP on `host`. Errors: of CreateGlooFactory().
absl::StatusOr<Backend> OpenHostBackend(const std::string& host);

// A GPU of this machine, and NCCL. Errors: of CudaDevice::Open(), of
// ProbeNccl(), and
//   INVALID_ARGUMENT DEVICE_NOT_BUILT: a build without CUDA.
absl::StatusOr<Backend> OpenCudaBackend(const WorkerOptions& options);

// If this process is one that OpenCudaBackend's cliques have started, does what
// it shall, and returns the exit code.
std::optional<int> RunBackendProcess(int argc, char** argv);

}  // namespace shardwright

#endif  // WORKER_BACKEND_H_
