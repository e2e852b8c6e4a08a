// CUDA's errors as Status, and which GPU a thread means.

#ifndef WORKER_DEVICE_CUDA_CALL_H_
#define WORKER_DEVICE_CUDA_CALL_H_

#include <string>

#include "absl/status/status.h"
#include "cuda_runtime_api.h"

namespace shardwright {

// OK, or DATA_LOSS DEVICE_FAILED: `what` and CUDA's words. Clears an error that
// CUDA would report again to whoever asks next.
absl::Status CudaStatus(cudaError_t error, const char* what);

// "GPU-8f0c…", as nvidia-smi writes it.
std::string GpuUuidText(const cudaUUID_t& uuid);

// Makes a GPU the thread's current one, and then again what was so before; but
// not one that the process has not used yet, because to choose it would make a
// context of hundreds of megabytes there.
class CurrentDevice {
 public:
  explicit CurrentDevice(int ordinal);
  ~CurrentDevice();
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int before_ = -1;  // -1: none, or this one.
};

}  // namespace shardwright

#endif  // WORKER_DEVICE_CUDA_CALL_H_
