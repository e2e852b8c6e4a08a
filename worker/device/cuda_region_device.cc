#include "worker/device/cuda_region_device.h"

#include <dlfcn.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "cuda_runtime_api.h"
#include "proto/status/status_macros.h"
#include "worker/device/cuda_call.h"
#include "worker/device/cuda_ipc.h"

namespace shardwright {

namespace {

class CudaRegionStream : public RegionStream {
 public:
  static absl::StatusOr<std::unique_ptr<RegionStream>> Create(
      CudaDevice& device) {
    const CurrentDevice current(device.ordinal());
    cudaStream_t stream = nullptr;
    RETURN_IF_ERROR(
        CudaStatus(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
                   "creating a stream"));
    return std::make_unique<CudaRegionStream>(device, stream);
  }

  CudaRegionStream(CudaDevice& device, cudaStream_t stream)
      : device_(device), stream_(stream) {}

  ~CudaRegionStream() override {
    for (const Bytes mapping : mappings_) {
      (void)CloseMemory(device_.ordinal(), mapping);
    }
    const CurrentDevice current(device_.ordinal());
    cudaStreamDestroy(stream_);
  }

  absl::Status Follow(absl::string_view ready_handle) override {
    ASSIGN_OR_RETURN(ready_,
                     SharedEvent::Open(device_.ordinal(), ready_handle));
    return absl::OkStatus();
  }

  absl::StatusOr<bool> IsReady() override {
    if (ready_ == nullptr) return true;
    return ready_->IsDone();
  }

  absl::StatusOr<Bytes> Map(absl::string_view memory_handle) override {
    ASSIGN_OR_RETURN(const Bytes mapping,
                     OpenMemory(device_.ordinal(), memory_handle));
    mappings_.push_back(mapping);
    return mapping;
  }

  absl::Status Unmap(Bytes memory) override {
    // Those of one allocation are equal: any of them will do.
    const auto found = std::find_if(
        mappings_.begin(), mappings_.end(),
        [&](Bytes mapping) { return mapping.data() == memory.data(); });
    if (found != mappings_.end()) mappings_.erase(found);
    return CloseMemory(device_.ordinal(), memory);
  }

  absl::Status Start(absl::Span<const RegionCopy> copies) override {
    std::vector<GpuCopy> gpu_copies(copies.size());
    for (size_t i = 0; i < copies.size(); ++i) {
      gpu_copies[i].table = copies[i].table;
      gpu_copies[i].direction = copies[i].direction;
      gpu_copies[i].row_bytes = copies[i].row_bytes;
      gpu_copies[i].element_bytes = copies[i].element_bytes;
      gpu_copies[i].sources = copies[i].sources;
      gpu_copies[i].destination = copies[i].destination;
      gpu_copies[i].fill_value = copies[i].fill_value;
    }
    return device_.Run(gpu_copies, stream_);
  }

  absl::StatusOr<bool> IsIdle() override {
    const CurrentDevice current(device_.ordinal());
    const cudaError_t error = cudaStreamQuery(stream_);
    if (error == cudaErrorNotReady) {
      (void)cudaGetLastError();
      return false;
    }
    RETURN_IF_ERROR(CudaStatus(error, "copying"));
    return true;
  }

 private:
  CudaDevice& device_;
  const cudaStream_t stream_;
  std::unique_ptr<SharedEvent> ready_;  // The trainer's.
  std::vector<Bytes> mappings_;
};

class CudaMemory : public DeviceMemory {
 public:
  CudaMemory(int ordinal, Bytes bytes) : ordinal_(ordinal), bytes_(bytes) {}
  ~CudaMemory() override {
    const CurrentDevice current(ordinal_);
    cudaFree(bytes_.data());
  }
  CudaMemory(const CudaMemory&) = delete;
  CudaMemory& operator=(const CudaMemory&) = delete;

  Bytes bytes() const override { return bytes_; }

 private:
  const int ordinal_;
  const Bytes bytes_;
};

// The little of NVML that FreeGpuMemory() needs, by its documented interface.
class Nvml {
 public:
  Nvml() : library_(dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL)) {
    if (library_ == nullptr) return;
    Find("nvmlInit_v2", init_);
    Find("nvmlShutdown", shutdown_);
    Find("nvmlDeviceGetCount_v2", count_);
    Find("nvmlDeviceGetHandleByIndex_v2", device_);
    Find("nvmlDeviceGetUUID", uuid_);
    Find("nvmlDeviceGetMemoryInfo", memory_);
    ready_ = init_ != nullptr && shutdown_ != nullptr && count_ != nullptr &&
             device_ != nullptr && uuid_ != nullptr && memory_ != nullptr &&
             init_() == 0;
  }
  ~Nvml() {
    if (ready_) shutdown_();
    if (library_ != nullptr) dlclose(library_);
  }
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  std::map<std::string, int64_t> FreeMemory() const {
    std::map<std::string, int64_t> free;
    unsigned int count = 0;
    if (!ready_ || count_(&count) != 0) return free;
    for (unsigned int i = 0; i < count; ++i) {
      void* device = nullptr;
      char uuid[96] = {};
      Memory memory;
      if (device_(i, &device) == 0 && uuid_(device, uuid, sizeof(uuid)) == 0 &&
          memory_(device, &memory) == 0) {
        free[uuid] = static_cast<int64_t>(memory.free);
      }
    }
    return free;
  }

 private:
  struct Memory {  // nvmlMemory_t, in bytes.
    unsigned long long total = 0, free = 0, used = 0;
  };

  template <typename Function>
  void Find(const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library_, name));
  }

  void* const library_;
  int (*init_)() = nullptr;
  int (*shutdown_)() = nullptr;
  int (*count_)(unsigned int*) = nullptr;
  int (*device_)(unsigned int, void**) = nullptr;
  int (*uuid_)(void*, char*, unsigned int) = nullptr;
  int (*memory_)(void*, Memory*) = nullptr;
  bool ready_ = false;
};

}  // namespace

std::map<std::string, int64_t> FreeGpuMemory() { return Nvml().FreeMemory(); }

CudaRegionDevice::CudaRegionDevice(
    CudaDevice& device, const std::map<std::string, int64_t>& free_before)
    : device_(device) {
  const std::map<std::string, int64_t> free_now = FreeGpuMemory();
  const auto before = free_before.find(uuid());
  const auto now = free_now.find(uuid());
  if (before == free_before.end() || now == free_now.end()) return;
  // Others may have given memory back meanwhile.
  context_memory_bytes_ = std::max<int64_t>(0, before->second - now->second);
}

absl::StatusOr<std::unique_ptr<RegionStream>> CudaRegionDevice::NewStream() {
  return CudaRegionStream::Create(device_);
}

absl::StatusOr<std::unique_ptr<DeviceMemory>> CudaRegionDevice::Allocate(
    int64_t byte_count) {
  const CurrentDevice current(device_.ordinal());
  void* memory = nullptr;
  const cudaError_t error =
      cudaMalloc(&memory, static_cast<size_t>(byte_count));
  if (error == cudaErrorMemoryAllocation) (void)cudaGetLastError();
  RETURN_IF_ERROR(CudaStatus(error, "allocating memory"));
  return std::make_unique<CudaMemory>(
      device_.ordinal(),
      Bytes(static_cast<char*>(memory), static_cast<size_t>(byte_count)));
}

}  // namespace shardwright
