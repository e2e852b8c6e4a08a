// A RegionDevice of host memory: for tests of what is above it.

#ifndef WORKER_RPC_FAKE_REGION_DEVICE_H_
#define WORKER_RPC_FAKE_REGION_DEVICE_H_

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "proto/status/error.h"
#include "proto/sync/mutex.h"
#include "worker/device/region_device.h"

namespace shardwright {

// Thread-safe.
class FakeRegionDevice : public RegionDevice {
 public:
  // With it go the streams that were abandoned.
  ~FakeRegionDevice() override {
    while (!streams_.empty()) delete *streams_.begin();
  }

  // 64 bytes, as CUDA's handles.
  static std::string Handle(const std::string& name) {
    return name + std::string(64 - name.size(), '.');
  }

  // A trainer's allocation. Again: other bytes, as many, in the same place.
  void Allocate(const std::string& name, const std::string& bytes) {
    const MutexLock lock(mutex_);
    allocations_[Handle(name)] = bytes;
  }

  // What the trainer would see there now.
  std::string BytesOf(const std::string& name) const {
    const MutexLock lock(mutex_);
    return allocations_.at(Handle(name));
  }

  // A trainer's stream that has not got there yet.
  void Hold() { SetReady(false); }
  void Release() { SetReady(true); }

  // Streams that CUDA does not make yet.
  void HoldNewStreams(bool hold) {
    const MutexLock lock(mutex_);
    holds_new_streams_ = hold;
    changed_.NotifyAll();
  }

  // How many wait to be made.
  int waiting_stream_count() const {
    const MutexLock lock(mutex_);
    return waiting_stream_count_;
  }

  // Copies that do not end.
  void SetBusy(bool busy) {
    const MutexLock lock(mutex_);
    busy_ = busy;
  }

  int mapping_count() const {
    const MutexLock lock(mutex_);
    return mapping_count_;
  }

  // How many copies each call of Start() had.
  std::vector<int> starts() const {
    const MutexLock lock(mutex_);
    return starts_;
  }

  std::string uuid() const override { return "GPU-fake"; }
  int64_t context_memory_bytes() const override { return 512 << 20; }
  absl::StatusOr<std::unique_ptr<RegionStream>> NewStream() override {
    {
      MutexLock lock(mutex_);
      ++waiting_stream_count_;
      while (holds_new_streams_) changed_.Wait(lock);
      --waiting_stream_count_;
    }
    return std::make_unique<Stream>(*this);
  }
  absl::StatusOr<std::unique_ptr<DeviceMemory>> Allocate(
      int64_t byte_count) override {
    return std::make_unique<Memory>(byte_count);
  }

 private:
  void SetReady(bool ready) {
    const MutexLock lock(mutex_);
    ready_ = ready;
  }

  class Memory : public DeviceMemory {
   public:
    explicit Memory(int64_t byte_count) : text_(byte_count, '!') {}
    Bytes bytes() const override { return {text_.data(), text_.size()}; }

   private:
    mutable std::string text_;
  };

  class Stream : public RegionStream {
   public:
    explicit Stream(FakeRegionDevice& device) : device_(device) {
      const MutexLock lock(device_.mutex_);
      device_.streams_.insert(this);
    }
    ~Stream() override {
      const MutexLock lock(device_.mutex_);
      device_.streams_.erase(this);
      device_.mapping_count_ -= mapping_count_;
    }

    absl::Status Follow(absl::string_view ready_handle) override {
      if (ready_handle == Handle("ready")) {
        follows_ = true;
        return absl::OkStatus();
      }
      return Error(absl::StatusCode::kDataLoss, "DEVICE_FAILED",
                   "opening an event: no such event");
    }

    absl::StatusOr<bool> IsReady() override {
      const MutexLock lock(device_.mutex_);
      return !follows_ || device_.ready_;
    }

    absl::StatusOr<Bytes> Map(absl::string_view memory_handle) override {
      const MutexLock lock(device_.mutex_);
      const auto found = device_.allocations_.find(std::string(memory_handle));
      if (found == device_.allocations_.end()) {
        return Error(absl::StatusCode::kInvalidArgument, "INVALID_REGION",
                     "memory_handle opens nothing");
      }
      ++mapping_count_;
      ++device_.mapping_count_;
      return Bytes(found->second.data(), found->second.size());
    }

    absl::Status Unmap(Bytes) override {
      const MutexLock lock(device_.mutex_);
      --mapping_count_;
      --device_.mapping_count_;
      return absl::OkStatus();
    }

    absl::Status Start(absl::Span<const RegionCopy> copies) override {
      const MutexLock lock(device_.mutex_);
      device_.starts_.push_back(static_cast<int>(copies.size()));
      for (const RegionCopy& copy : copies) Move(copy);
      return absl::OkStatus();
    }

    absl::StatusOr<bool> IsIdle() override {
      const MutexLock lock(device_.mutex_);
      return !device_.busy_;
    }

   private:
    static void Move(const RegionCopy& copy) {
      if (copy.direction == Direction::kForward) {
        (void)RunForward(
            *copy.table, copy.row_bytes,
            std::vector<ConstBytes>(copy.sources.begin(), copy.sources.end()),
            copy.destination, copy.fill_value);
      } else {
        (void)RunAdjoint(*copy.table, copy.row_bytes, copy.destination,
                         copy.sources);
      }
    }

    FakeRegionDevice& device_;
    bool follows_ = false;
    int mapping_count_ = 0;
  };

  mutable Mutex mutex_;
  std::set<Stream*> streams_ ABSL_GUARDED_BY(mutex_);
  CondVar changed_;
  std::map<std::string, std::string> allocations_ ABSL_GUARDED_BY(mutex_);
  std::vector<int> starts_ ABSL_GUARDED_BY(mutex_);
  bool ready_ ABSL_GUARDED_BY(mutex_) = true;
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;
  bool holds_new_streams_ ABSL_GUARDED_BY(mutex_) = false;
  int waiting_stream_count_ ABSL_GUARDED_BY(mutex_) = 0;
  int mapping_count_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace shardwright

#endif  // WORKER_RPC_FAKE_REGION_DEVICE_H_
