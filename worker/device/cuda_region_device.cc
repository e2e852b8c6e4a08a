#include "worker/device/cuda_region_device.h"

#include <dlfcn.h>

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "cuda_runtime_api.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "proto/sync/mutex.h"
#include "worker/device/cuda_call.h"
#include "worker/device/cuda_ipc.h"

namespace shardwright {

// CUDA closes a mapping after all that the process has started on the GPU, and
// whatever else needs the driver waits meanwhile: also who would let go a
// stream that waits for a dead trainer. So nothing is closed while a stream
// waits.
class CudaRegionStreams {
 public:
  void Add(cudaStream_t stream) {
    const MutexLock lock(mutex_);
    streams_.insert(stream);
  }
  void Remove(cudaStream_t stream) {
    const MutexLock lock(mutex_);
    streams_.erase(stream);
  }

  absl::Status MakeWait(const SharedEvent& event, cudaStream_t stream) {
    const MutexLock lock(mutex_);
    return event.MakeWait(stream);
  }

  // Closes another process's memory as soon as all streams are idle.
  //
  // Errors:
  //   DEADLINE_EXCEEDED REGION_BUSY: they were not within `timeout`.
  absl::Status Close(int ordinal, Bytes mapping, absl::Duration timeout) {
    const CurrentDevice current(ordinal);
    const absl::Time deadline = absl::Now() + timeout;
    while (true) {
      {
        const MutexLock lock(mutex_);
        if (AllIdle()) return CloseMemory(ordinal, mapping);
      }
      if (absl::Now() > deadline) {
        return Error(absl::StatusCode::kDeadlineExceeded, "REGION_BUSY",
                     absl::StrCat("some session's copies still run after ",
                                  absl::FormatDuration(timeout)));
      }
      absl::SleepFor(kPause);
    }
  }

 private:
  static constexpr absl::Duration kPause = absl::Microseconds(200);

  bool AllIdle() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (const cudaStream_t stream : streams_) {
      if (cudaStreamQuery(stream) == cudaErrorNotReady) return false;
    }
    return true;
  }

  Mutex mutex_;
  std::set<cudaStream_t> streams_ ABSL_GUARDED_BY(mutex_);
};

namespace {

class CudaRegionStream : public RegionStream {
 public:
  static absl::StatusOr<std::unique_ptr<RegionStream>> Create(
      CudaDevice& device, std::shared_ptr<CudaRegionStreams> streams) {
    const CurrentDevice current(device.ordinal());
    cudaStream_t stream = nullptr;
    RETURN_IF_ERROR(
        CudaStatus(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
                   "creating a stream"));
    return std::make_unique<CudaRegionStream>(device, std::move(streams),
                                              stream);
  }

  CudaRegionStream(CudaDevice& device,
                   std::shared_ptr<CudaRegionStreams> streams,
                   cudaStream_t stream)
      : device_(device), streams_(std::move(streams)), stream_(stream) {
    streams_->Add(stream_);
  }

  ~CudaRegionStream() override {
    for (const Bytes mapping : mappings_) {
      // A mapping that stays is better than a worker that hangs.
      (void)streams_->Close(device_.ordinal(), mapping, kEndWait);
    }
    streams_->Remove(stream_);
    const CurrentDevice current(device_.ordinal());
    cudaStreamDestroy(stream_);
  }

  absl::StatusOr<std::string> OrderByEvents(
      absl::string_view ready_handle) override {
    ASSIGN_OR_RETURN(auto ready,
                     SharedEvent::Open(device_.ordinal(), ready_handle));
    ASSIGN_OR_RETURN(done_, SharedEvent::Create(device_.ordinal()));
    ready_ = std::move(ready);
    return done_->handle();
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
    RETURN_IF_ERROR(streams_->Close(device_.ordinal(), memory, kUnmapWait));
    if (found != mappings_.end()) mappings_.erase(found);
    return absl::OkStatus();
  }

  absl::Status Begin() override {
    return ready_ == nullptr ? absl::OkStatus()
                             : streams_->MakeWait(*ready_, stream_);
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

  absl::Status End() override {
    return done_ == nullptr ? absl::OkStatus() : done_->Record(stream_);
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

  absl::Status LetGo() override {
    return ready_ == nullptr ? absl::OkStatus() : ready_->LetGo();
  }

 private:
  static constexpr absl::Duration kUnmapWait = absl::Seconds(10);
  static constexpr absl::Duration kEndWait = absl::Minutes(1);

  CudaDevice& device_;
  const std::shared_ptr<CudaRegionStreams> streams_;
  const cudaStream_t stream_;
  std::unique_ptr<SharedEvent> ready_;  // The trainer's.
  std::unique_ptr<SharedEvent> done_;
  std::vector<Bytes> mappings_;
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
    : device_(device), streams_(std::make_shared<CudaRegionStreams>()) {
  const std::map<std::string, int64_t> free_now = FreeGpuMemory();
  const auto before = free_before.find(uuid());
  const auto now = free_now.find(uuid());
  if (before == free_before.end() || now == free_now.end()) return;
  // Others may have given memory back meanwhile.
  context_memory_bytes_ = std::max<int64_t>(0, before->second - now->second);
}

absl::StatusOr<std::unique_ptr<RegionStream>> CudaRegionDevice::NewStream() {
  return CudaRegionStream::Create(device_, streams_);
}

}  // namespace shardwright
