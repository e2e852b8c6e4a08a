// Members of one job by the thousand, in this process, over real gRPC: no
// thread of their own, only the calls that a test is about. They hold no
// session, so the coordinator needs a lease that outlasts the test.

#ifndef TESTS_SCALE_SIMULATED_MEMBERS_H_
#define TESTS_SCALE_SIMULATED_MEMBERS_H_

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "shardwright/v1/barrier.grpc.pb.h"
#include "shardwright/v1/communicator.grpc.pb.h"
#include "shardwright/v1/layout.grpc.pb.h"
#include "shardwright/v1/membership.grpc.pb.h"

namespace shardwright {

// How one waiting call went.
struct WaitResult {
  absl::Status status;
  int64_t progress_count = 0;
  v1::MemberSet missing;  // As the last progress message had it.
  std::chrono::steady_clock::time_point end;
};

// Thread-compatible. Every call that was started must be waited for.
class SimulatedMembers {
 public:
  // Applies a layout of `world_size` language ranks, tp 8, at the coordinator
  // that listens at `address`. Dies if it is refused.
  SimulatedMembers(const std::string& address, int64_t world_size);

  // Registers `ranks` as workers, some hundred at a time; whom the coordinator
  // asks to come later does. Returns the first failure.
  absl::Status Register(const std::vector<int64_t>& ranks);

  // Starts the call for each rank, and returns when all have been answered for
  // the first time: with progress, or with the end.
  void StartBarrier(const std::vector<int64_t>& ranks, const std::string& name,
                    std::chrono::seconds timeout);
  void StartForming(const std::vector<int64_t>& ranks,
                    std::chrono::seconds timeout);

  // Waits for the ends of all calls that were started, in their order.
  std::vector<WaitResult> Wait();

  const std::shared_ptr<grpc::Channel>& channel() const { return channels_[0]; }

 private:
  class Counter;
  template <typename Response>
  class WaitCall;

  v1::Caller CallerOf(int64_t rank) const;
  const std::shared_ptr<grpc::Channel>& ChannelOf(int64_t rank) const;

  std::vector<std::shared_ptr<grpc::Channel>> channels_;
  int64_t generation_ = 0;
  uint64_t layout_digest_ = 0;
  std::shared_ptr<Counter> running_;
  std::vector<std::shared_ptr<WaitResult>> results_;
};

}  // namespace shardwright

#endif  // TESTS_SCALE_SIMULATED_MEMBERS_H_
