#include "worker/device/cuda_bridge_engine.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "worker/device/cuda_call.h"

namespace shardwright {

absl::StatusOr<std::unique_ptr<CudaBridgeEngine>> CudaBridgeEngine::Create(
    CudaDevice& device) {
  const CurrentDevice current(device.ordinal());
  cudaStream_t stream = nullptr;
  RETURN_IF_ERROR(
      CudaStatus(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
                 "creating a stream"));
  return std::unique_ptr<CudaBridgeEngine>(
      new CudaBridgeEngine(device, stream));
}

CudaBridgeEngine::~CudaBridgeEngine() {
  const CurrentDevice current(device_.ordinal());
  cudaFree(staging_);
  cudaStreamDestroy(stream_);
}

absl::StatusOr<Bytes> CudaBridgeEngine::Staging(int64_t byte_count) {
  if (byte_count > staging_bytes_) {
    const CurrentDevice current(device_.ordinal());
    RETURN_IF_ERROR(CudaStatus(cudaFree(staging_), "freeing staging"));
    staging_ = nullptr;
    staging_bytes_ = 0;
    const cudaError_t error = cudaMalloc(&staging_, byte_count);
    if (error == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();
      return Error(absl::StatusCode::kResourceExhausted, "OUT_OF_MEMORY",
                   absl::StrCat("the GPU has no room for ", byte_count,
                                " bytes of staging"));
    }
    RETURN_IF_ERROR(CudaStatus(error, "allocating staging"));
    staging_bytes_ = byte_count;
  }
  return Bytes(static_cast<char*>(staging_), byte_count);
}

absl::Status CudaBridgeEngine::Copy(const CopyTable& table, Direction direction,
                                    int64_t row_bytes, int64_t element_bytes,
                                    absl::Span<const Bytes> sources,
                                    Bytes destination, ConstBytes fill_value) {
  GpuCopy copy;
  copy.table = &table;
  copy.direction = direction;
  copy.row_bytes = row_bytes;
  copy.element_bytes = element_bytes;
  copy.sources.assign(sources.begin(), sources.end());
  copy.destination = destination;
  copy.fill_value = fill_value;
  RETURN_IF_ERROR(device_.Run({copy}, stream_));
  return CudaStatus(cudaStreamSynchronize(stream_), "copying rows");
}

}  // namespace shardwright
