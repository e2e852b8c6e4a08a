// Device memory and times for programs that end at the first error.

#ifndef TESTS_GPU_DEVICE_BUFFERS_H_
#define TESTS_GPU_DEVICE_BUFFERS_H_

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cuda_runtime_api.h"
#include "worker/exec/executor.h"

namespace shardwright {

[[noreturn]] inline void Fail(const std::string& message) {
  std::fflush(stdout);
  std::fprintf(stderr, "error: %s\n", message.c_str());
  std::exit(1);
}

inline void Must(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  Fail(std::string(what) + ": " + cudaGetErrorString(error));
}

inline void Must(const absl::Status& status, const char* what) {
  if (!status.ok()) Fail(std::string(what) + ": " + status.ToString());
}

template <typename T>
T Must(absl::StatusOr<T> value, const char* what) {
  Must(value.status(), what);
  return *std::move(value);
}

// Owns device memory; of no bytes at first.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(int64_t size) : size_(size) {
    Must(cudaMalloc(&data_, std::max<int64_t>(size, 1)), "allocating");
    total_ += size_;
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~DeviceBuffer() {
    if (data_ == nullptr) return;
    Must(cudaFree(data_), "freeing");
    total_ -= size_;
  }

  char* data() const { return static_cast<char*>(data_); }
  int64_t size() const { return size_; }
  Bytes bytes() const { return Bytes(data(), size_); }
  Bytes bytes(int64_t size) const { return Bytes(data(), size); }

  // Bytes of all buffers that there are.
  static int64_t total() { return total_; }

 private:
  inline static int64_t total_ = 0;

  void* data_ = nullptr;
  int64_t size_ = 0;
};

inline std::vector<char> OnHost(Bytes bytes) {
  std::vector<char> host(bytes.size());
  Must(cudaMemcpy(host.data(), bytes.data(), bytes.size(), cudaMemcpyDefault),
       "reading back");
  return host;
}

// Random bytes, of which each buffer gets others. Waits until they are there.
class RandomBytes {
 public:
  RandomBytes() : block_(kBlock) {
    std::mt19937_64 random(1);
    std::vector<uint64_t> words(kBlock / sizeof(uint64_t));
    for (uint64_t& word : words) word = random();
    Must(cudaMemcpy(block_.data(), words.data(), kBlock, cudaMemcpyDefault),
         "uploading random bytes");
  }

  void Fill(const DeviceBuffer& buffer) {
    for (int64_t done = 0; done < buffer.size();) {
      const int64_t bytes =
          std::min(buffer.size() - done, kBlock - next_ % kBlock);
      Must(cudaMemcpyAsync(buffer.data() + done, block_.data() + next_ % kBlock,
                           bytes, cudaMemcpyDeviceToDevice),
           "filling");
      done += bytes;
      next_ += bytes + kStep;
    }
    Must(cudaStreamSynchronize(nullptr), "filling");
  }

 private:
  static constexpr int64_t kBlock = int64_t{64} << 20;
  static constexpr int64_t kStep = 1000 * 1000 + 16;  // Repeats late.

  DeviceBuffer block_;
  int64_t next_ = 0;
};

// Times of some runs on a stream, by events. Negative numbers are of warm-ups,
// and not kept.
class Stopwatch {
 public:
  explicit Stopwatch(int runs) : starts_(runs), stops_(runs) {
    for (cudaEvent_t& event : starts_) Create(event);
    for (cudaEvent_t& event : stops_) Create(event);
  }
  ~Stopwatch() {
    for (cudaEvent_t event : starts_) cudaEventDestroy(event);
    for (cudaEvent_t event : stops_) cudaEventDestroy(event);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  void Start(int run, cudaStream_t stream) { Mark(starts_, run, stream); }
  void Stop(int run, cudaStream_t stream) { Mark(stops_, run, stream); }

  // REQUIRES: all runs are done.
  double MedianUs() const {
    std::vector<double> us;
    for (size_t i = 0; i < starts_.size(); ++i) {
      float ms = 0;
      Must(cudaEventElapsedTime(&ms, starts_[i], stops_[i]), "timing");
      us.push_back(1e3 * ms);
    }
    std::sort(us.begin(), us.end());
    return (us[us.size() / 2] + us[(us.size() - 1) / 2]) / 2;
  }

 private:
  static void Create(cudaEvent_t& event) {
    Must(cudaEventCreate(&event), "creating an event");
  }
  static void Mark(const std::vector<cudaEvent_t>& events, int run,
                   cudaStream_t stream) {
    if (run < 0) return;
    Must(cudaEventRecord(events[run], stream), "recording an event");
  }

  std::vector<cudaEvent_t> starts_, stops_;
};

}  // namespace shardwright

#endif  // TESTS_GPU_DEVICE_BUFFERS_H_
