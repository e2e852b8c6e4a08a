// What a hundred cliques of two GPUs leave behind: threads, files, memory.

#include <sys/wait.h>

#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cuda_runtime_api.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"
#include "worker/comm/nccl_fixture.h"
#include "worker/comm/nccl_minter.h"

namespace shardwright {
namespace {

// What must not grow.
struct Footprint {
  int threads = ThreadCount();
  int fds = CountEntries("/proc/self/fd");
  int64_t gpu_mib[2] = {GpuMib(0), GpuMib(1)};

  static int64_t GpuMib(int device) {
    size_t free_bytes = 0, bytes = 0;
    EXPECT_EQ(cudaSetDevice(device), cudaSuccess);
    EXPECT_EQ(cudaMemGetInfo(&free_bytes, &bytes), cudaSuccess);
    return (bytes - free_bytes) >> 20;
  }
};

std::ostream& operator<<(std::ostream& out, const Footprint& footprint) {
  return out << footprint.threads << " threads, " << footprint.fds << " fds, "
             << footprint.gpu_mib[0] << " + " << footprint.gpu_mib[1]
             << " MiB in use on the GPUs";
}

// Forms a clique of two; if `completes`, uses it, else aborts it while its
// members connect.
void FormAndAbort(bool completes) {
  std::vector<std::unique_ptr<CommunicatorAttempt>> attempts;
  for (int i = 0; i < 2; ++i) attempts.push_back(Begin(i, 2));
  const std::string id = IdOf(*attempts[0]);
  OnEach(completes ? 2 : 3, [&](int i) {
    if (i == 2) {  // While the others connect.
      for (const auto& attempt : attempts) {
        attempt->Abort(absl::AbortedError("enough"));
      }
      return;
    }
    const auto connected = attempts[i]->Connect({id});
    if (!completes) return;
    ASSERT_THAT(connected, IsOk());
    EXPECT_THAT((*connected)->Barrier(), IsOk());
  });
}

// Says what a hundred rounds took and did not give back.
std::pair<Footprint, Footprint> MeasureHundred(bool completes) {
  // What NCCL and CUDA keep once for the process is there then.
  for (int round = 0; round < 6; ++round) FormAndAbort(completes);
  const Footprint before;
  for (int round = 0; round < 100; ++round) FormAndAbort(completes);
  const Footprint after;
  std::cout << "[ FIGURES  ] before: " << before
            << "\n[ FIGURES  ] after:  " << after << std::endl;
  EXPECT_LE(after.threads, before.threads);
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1) << "a child is left";
  return {before, after};
}

using NcclFootprintTest = NcclTest;

TEST_F(NcclFootprintTest, AHundredFormationsAndAbortsLeaveNothingBehind) {
  const auto [before, after] = MeasureHundred(/*completes=*/true);
  EXPECT_LE(after.fds, before.fds);
  EXPECT_LE(after.gpu_mib[0], before.gpu_mib[0] + 2);
  EXPECT_LE(after.gpu_mib[1], before.gpu_mib[1] + 2);
}

// NCCL itself (2.28.9) keeps sockets, and some GPU memory, of an initialisation
// that is aborted half-way: a program of nothing but NCCL calls shows as much.
TEST_F(NcclFootprintTest, AnAbortWhileConnectingLeavesOnlyWhatNcclKeeps) {
  const auto [before, after] = MeasureHundred(/*completes=*/false);
  constexpr int kSocketsEach = 4;  // Of one member's attempt, at most.
  EXPECT_LE(after.fds, before.fds + 2 * 100 * kSocketsEach);
}

}  // namespace
}  // namespace shardwright

int main(int argc, char** argv) {
  if (const auto exit_code = shardwright::RunNcclMinter(argc, argv)) {
    return *exit_code;
  }
  ::testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
