// What a worker computes on, and what its cliques talk over.

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
#include "worker/options.h"

namespace shardwright {

struct Backend {
  std::unique_ptr<Device> device;
  std::unique_ptr<CommunicatorFactory> factory;
  v1::MemberFacts facts;  // What is to be said of both; host and pid are not.

  // Adds what the device is and has; may be empty.
  std::function<void(v1::WorkerDescription&)> describe;
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
