// A RegionDevice of host memory: for tests of what is above it.

#ifndef WORKER_RPC_FAKE_REGION_DEVICE_H_
#define WORKER_RPC_FAKE_REGION_DEVICE_H_

#include <deque>
#include <functional>
#include <map>
#include <memory>
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
  // 64 bytes, as CUDA's handles.
  static std::string Handle(const std::string& name) {
    return name + std::string(64 - name.size(), '.');
  }

  // A trainer's allocation; its bytes are the test's to look at.
  std::string& Allocate(const std::string& name, const std::string& bytes) {
    const MutexLock lock(mutex_);
    return allocations_[Handle(name)] = bytes;
  }

  // Holds what is started from now on, as a trainer's event does that has not
  // been reached; and lets it go.
  void Hold() {
    const MutexLock lock(mutex_);
    held_ = true;
  }
  void Release() {
    const MutexLock lock(mutex_);
    held_ = false;
    for (const auto& work : waiting_) work();
    waiting_.clear();
  }

  // What is held can only be released, and not be let go.
  void SetStuck() {
    const MutexLock lock(mutex_);
    stuck_ = true;
  }
  bool stuck() const {
    const MutexLock lock(mutex_);
    return stuck_;
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
    return std::make_unique<Stream>(*this);
  }

 private:
  class Stream : public RegionStream {
   public:
    explicit Stream(FakeRegionDevice& device) : device_(device) {}
    ~Stream() override {
      const MutexLock lock(device_.mutex_);
      device_.mapping_count_ -= mapping_count_;
    }

    absl::StatusOr<std::string> OrderByEvents(
        absl::string_view ready_handle) override {
      if (ready_handle == Handle("ready")) return Handle("done");
      return Error(absl::StatusCode::kDataLoss, "DEVICE_FAILED",
                   "opening an event: no such event");
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

    absl::Status Begin() override { return absl::OkStatus(); }
    absl::Status End() override { return absl::OkStatus(); }

    absl::Status Start(absl::Span<const RegionCopy> copies) override {
      const MutexLock lock(device_.mutex_);
      device_.starts_.push_back(static_cast<int>(copies.size()));
      for (const RegionCopy& copy : copies) {
        auto work = [copy, table = *copy.table,
                     fill = std::string(copy.fill_value.begin(),
                                        copy.fill_value.end())] {
          Move(copy, table, fill);
        };
        if (device_.held_) {
          device_.waiting_.push_back(std::move(work));
        } else {
          work();
        }
      }
      return absl::OkStatus();
    }

    absl::StatusOr<bool> IsIdle() override {
      const MutexLock lock(device_.mutex_);
      return device_.waiting_.empty();
    }

    absl::Status LetGo() override {
      if (!device_.stuck()) device_.Release();
      return absl::OkStatus();
    }

   private:
    static void Move(const RegionCopy& copy, const CopyTable& table,
                     const std::string& fill) {
      if (copy.direction == Direction::kForward) {
        (void)RunForward(
            table, copy.row_bytes,
            std::vector<ConstBytes>(copy.sources.begin(), copy.sources.end()),
            copy.destination, fill);
      } else {
        (void)RunAdjoint(table, copy.row_bytes, copy.destination, copy.sources);
      }
    }

    FakeRegionDevice& device_;
    int mapping_count_ = 0;
  };

  mutable Mutex mutex_;
  std::map<std::string, std::string> allocations_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::function<void()>> waiting_ ABSL_GUARDED_BY(mutex_);
  std::vector<int> starts_ ABSL_GUARDED_BY(mutex_);
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  bool stuck_ ABSL_GUARDED_BY(mutex_) = false;
  int mapping_count_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace shardwright

#endif  // WORKER_RPC_FAKE_REGION_DEVICE_H_
