// A bridge's copies and staging on a GPU of this process.

#ifndef WORKER_DEVICE_CUDA_BRIDGE_ENGINE_H_
#define WORKER_DEVICE_CUDA_BRIDGE_ENGINE_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cuda_runtime_api.h"
#include "worker/device/cuda_device.h"
#include "worker/exec/bridge.h"

namespace shardwright {

// Copies run in a stream of the engine's own; the tensors' last use must be
// done before RunBridge() is called. Staging is allocated when it has to grow,
// and kept.
class CudaBridgeEngine : public BridgeEngine {
 public:
  // `device` must outlive it. Errors: DATA_LOSS DEVICE_FAILED.
  static absl::StatusOr<std::unique_ptr<CudaBridgeEngine>> Create(
      CudaDevice& device);
  ~CudaBridgeEngine() override;

  // Errors:
  //   RESOURCE_EXHAUSTED OUT_OF_MEMORY: the GPU has no room for it.
  absl::StatusOr<Bytes> Staging(int64_t byte_count) override;

  absl::Status Copy(const CopyTable& table, Direction direction,
                    int64_t row_bytes, int64_t element_bytes,
                    absl::Span<const Bytes> sources, Bytes destination,
                    ConstBytes fill_value) override;

  int64_t staging_bytes() const { return staging_bytes_; }

 private:
  CudaBridgeEngine(CudaDevice& device, cudaStream_t stream)
      : device_(device), stream_(stream) {}

  CudaDevice& device_;
  const cudaStream_t stream_;
  void* staging_ = nullptr;
  int64_t staging_bytes_ = 0;
};

}  // namespace shardwright

#endif  // WORKER_DEVICE_CUDA_BRIDGE_ENGINE_H_
