// Members of a clique of GPUs, for tests: threads of one process, each with its
// own GPU.

#ifndef WORKER_COMM_NCCL_FIXTURE_H_
#define WORKER_COMM_NCCL_FIXTURE_H_

#include <dirent.h>

#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "cuda_runtime_api.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"
#include "worker/comm/nccl_communicator.h"

namespace shardwright {

inline constexpr absl::Duration kPatience = absl::Seconds(30);

inline int GpuCount() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

inline std::unique_ptr<CommunicatorFactory> FactoryOf(
    int device, absl::Duration timeout = kPatience) {
  NcclOptions options;
  options.device = device;
  options.connect_timeout = options.operation_timeout = timeout;
  auto factory = CreateNcclFactory(options);
  EXPECT_THAT(factory, IsOk());
  return *std::move(factory);
}

// Position i has rank 10 + i and GPU i; the first mints.
inline std::unique_ptr<CommunicatorAttempt> Begin(
    int position, int size, absl::Duration timeout = kPatience) {
  CliqueAttempt attempt;
  attempt.clique = "language/tp/0";
  attempt.number = 3;
  attempt.ranks.resize(size);
  std::iota(attempt.ranks.begin(), attempt.ranks.end(), 10);
  attempt.position = position;
  attempt.slot_count = 1;
  if (position == 0) attempt.slot_indexes = {0};
  auto begun = FactoryOf(position, timeout)->Begin(attempt);
  EXPECT_THAT(begun, IsOk());
  return *std::move(begun);
}

inline std::string IdOf(CommunicatorAttempt& attempt) {
  const auto slots = attempt.Slots();
  EXPECT_THAT(slots, IsOk());
  return slots.ok() ? slots->at(0) : "";
}

inline void OnEach(int size, const std::function<void(int)>& run) {
  std::vector<std::thread> threads;
  for (int i = 0; i < size; ++i) threads.emplace_back(run, i);
  for (std::thread& thread : threads) thread.join();
}

inline std::vector<std::shared_ptr<Communicator>> ConnectAll(int size) {
  std::vector<std::unique_ptr<CommunicatorAttempt>> attempts;
  for (int i = 0; i < size; ++i) attempts.push_back(Begin(i, size));
  const std::string id = IdOf(*attempts[0]);
  std::vector<std::shared_ptr<Communicator>> communicators(size);
  OnEach(size, [&](int i) {
    auto connected = attempts[i]->Connect({id});
    ASSERT_THAT(connected, IsOk());
    communicators[i] = *std::move(connected);
  });
  return communicators;
}

inline int CountEntries(const std::string& directory) {
  int count = 0;
  DIR* const open = opendir(directory.c_str());
  while (readdir(open) != nullptr) ++count;
  closedir(open);
  return count;
}

inline int ThreadCount() { return CountEntries("/proc/self/task"); }

class NcclTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (GpuCount() < 2) {
      GTEST_SKIP() << "SKIPPED: needs 2 GPUs, there are " << GpuCount();
    }
  }
};

}  // namespace shardwright

#endif  // WORKER_COMM_NCCL_FIXTURE_H_
