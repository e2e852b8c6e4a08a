// CudaDevice as a RegionDevice: copies between memory of other processes.

#ifndef WORKER_DEVICE_CUDA_REGION_DEVICE_H_
#define WORKER_DEVICE_CUDA_REGION_DEVICE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "worker/device/cuda_device.h"
#include "worker/device/region_device.h"

namespace shardwright {

// Free bytes of the machine's GPUs, by UUID; empty if the driver does not tell.
// Needs no CUDA context, and makes none.
std::map<std::string, int64_t> FreeGpuMemory();

// Thread-safe.
class CudaRegionDevice : public RegionDevice {
 public:
  // `device` must outlive it. `free_before` is what FreeGpuMemory() said before
  // that was opened.
  CudaRegionDevice(CudaDevice& device,
                   const std::map<std::string, int64_t>& free_before);

  std::string uuid() const override { return device_.facts().uuid; }
  int64_t context_memory_bytes() const override {
    return context_memory_bytes_;
  }
  absl::StatusOr<std::unique_ptr<RegionStream>> NewStream() override;
  absl::StatusOr<std::unique_ptr<DeviceMemory>> Allocate(
      int64_t byte_count) override;

 private:
  CudaDevice& device_;
  int64_t context_memory_bytes_ = 0;
};

}  // namespace shardwright

#endif  // WORKER_DEVICE_CUDA_REGION_DEVICE_H_
