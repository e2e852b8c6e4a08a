// The loop without a server: what is due happens by itself, effects come in
// order and to the end, and draining leaves nobody parked. Links no gRPC
// server, so that it can run under the thread sanitizer.

#include "coordinator/rpc/core_loop.h"

#include <memory>
#include <thread>
#include <vector>

#include "coordinator/storage/memory_state_store.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"

namespace shardwright {
namespace {

// Keeps what it is told; sends nothing.
class RecordingCall final : public ParkedCall {
 public:
  bool Queue(const StreamEffect& effect) override {
    const MutexLock lock(mutex_);
    EXPECT_FALSE(end_.has_value()) << "told something after its end";
    if (const auto* status = std::get_if<absl::Status>(&effect.what)) {
      end_ = *status;
      return true;
    }
    ++message_count_;
    return message_count_ <= message_count_max;
  }
  void Pump() override {
    const MutexLock lock(mutex_);
    if (end_.has_value()) ended_.NotifyAll();
  }
  std::string Describe() const override { return "peer=test"; }
  absl::Status WaitForEnd() {
    MutexLock lock(mutex_);
    while (!end_.has_value()) ended_.Wait(lock);
    return *end_;
  }
  int message_count() {
    const MutexLock lock(mutex_);
    return message_count_;
  }

  int message_count_max = 1000000;

 private:
  Mutex mutex_;
  CondVar ended_;
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
  int message_count_ ABSL_GUARDED_BY(mutex_) = 0;
};

class CoreLoopTest : public ::testing::Test {
 protected:
  CoreLoopTest()
      : loop_(CoordinatorCore::Start(store_, {}, absl::Now()).value(),
              [] { return absl::Now(); }) {
    v1::ApplyLayoutRequest request;
    v1::Layout& layout = *request.mutable_layout();
    layout.set_name("job");
    layout.set_world_size(kMembers);
    v1::Module& module = *layout.add_modules();
    module.set_name("language");
    module.set_role(v1::LANGUAGE);
    module.set_first_rank(0);
    module.set_rank_count(kMembers);
    EXPECT_THAT(
        loop_.Run([&](CoordinatorCore& core, absl::Time now, Effects& effects) {
          return core.ApplyLayout(request, now, effects);
        }),
        IsOk());
    for (int rank = 0; rank < kMembers; ++rank) {
      EXPECT_THAT(Register(rank), IsOk());
    }
  }

  static v1::Caller CallerOf(int rank) {
    v1::Caller caller;
    caller.mutable_member()->set_job("job");
    caller.mutable_member()->set_rank(rank);
    caller.mutable_member()->set_kind(v1::WORKER);
    caller.set_incarnation(1 + rank);
    caller.set_generation(1);
    return caller;
  }
  absl::Status Register(int rank) {
    v1::RegisterRequest request;
    *request.mutable_member() = CallerOf(rank).member();
    request.set_incarnation(1 + rank);
    return loop_
        .Run([&](CoordinatorCore& core, absl::Time now, Effects& effects) {
          return core.Register(request, now, effects);
        })
        .status();
  }
  StreamId Wait(std::shared_ptr<RecordingCall> call, int rank, int64_t sequence,
                int timeout_ms = 60000) {
    v1::WaitAtBarrierRequest request;
    *request.mutable_caller() = CallerOf(rank);
    request.set_name("step");
    request.set_sequence(sequence);
    request.mutable_timeout()->set_seconds(timeout_ms / 1000);
    request.mutable_timeout()->set_nanos(timeout_ms % 1000 * 1000000);
    const StreamId stream = loop_.Open(std::move(call));
    loop_.RunStream(
        stream, [&](CoordinatorCore& core, absl::Time now, Effects& effects) {
          return core.WaitAtBarrier(stream, request, now, effects);
        });
    return stream;
  }
  void Session(StreamId stream, int rank) {
    v1::SessionRequest request;
    *request.mutable_caller() = CallerOf(rank);
    loop_.RunStream(
        stream, [&](CoordinatorCore& core, absl::Time now, Effects& effects) {
          return core.Session(stream, request, now, effects);
        });
  }

  static constexpr int kMembers = 4;
  MemoryStateStore store_;
  CoreLoop loop_;
};

TEST_F(CoreLoopTest, WhatIsDueHappensByItself) {
  const auto call = std::make_shared<RecordingCall>();
  Wait(call, 0, 1, /*timeout_ms=*/20);
  EXPECT_THAT(call->WaitForEnd(), HasReason("MEMBERS_MISSING"));
}

TEST_F(CoreLoopTest, AFailureEndsTheCall) {
  const auto call = std::make_shared<RecordingCall>();
  Wait(call, kMembers, 1);
  EXPECT_THAT(call->WaitForEnd(), HasReason("NOT_REGISTERED"));
}

TEST_F(CoreLoopTest, ManyThreadsPassManyBarriers) {
  constexpr int kBarriers = 100;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kMembers; ++rank) {
    threads.emplace_back([this, rank] {
      for (int sequence = 1; sequence <= kBarriers; ++sequence) {
        const auto call = std::make_shared<RecordingCall>();
        const StreamId stream = Wait(call, rank, sequence);
        EXPECT_THAT(call->WaitForEnd(), IsOk());
        EXPECT_THAT(Register(rank), IsOk());
        loop_.Close(stream);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(CoreLoopTest, ACallThatCannotTakeMoreIsClosedInTheCoreToo) {
  const auto slow = std::make_shared<RecordingCall>();
  slow->message_count_max = 2;
  const StreamId stream = loop_.Open(slow);
  for (int i = 0; i < 5; ++i) Session(stream, 0);
  EXPECT_EQ(slow->message_count(), 3);
}

TEST_F(CoreLoopTest, WhenTooManyCallsAreParkedTheNextIsRefused) {
  const auto parked = std::make_shared<RecordingCall>();
  for (int i = 0; i < kParkedCallsMax; ++i) loop_.Open(parked);
  const auto refused = std::make_shared<RecordingCall>();
  Wait(refused, 0, 1);
  EXPECT_THAT(refused->WaitForEnd(), HasReason("TOO_MANY_CALLS"));
  // One that has been cut off still costs memory, until it is released.
  loop_.Released();
  loop_.Released();
  const auto late = std::make_shared<RecordingCall>();
  Wait(late, 0, 1, /*timeout_ms=*/20);
  EXPECT_THAT(late->WaitForEnd(), HasReason("MEMBERS_MISSING"));
  for (StreamId stream = 1; stream <= kParkedCallsMax; ++stream) {
    loop_.Close(stream);
  }
}

TEST_F(CoreLoopTest, DrainingEndsParkedCallsAndRefusesNewOnes) {
  const auto parked = std::make_shared<RecordingCall>();
  Wait(parked, 0, 1);
  loop_.Drain();
  EXPECT_THAT(parked->WaitForEnd(), HasReason("DRAINING"));
  EXPECT_THAT(Register(0), HasReason("DRAINING"));
  const auto late = std::make_shared<RecordingCall>();
  const StreamId stream = Wait(late, 1, 1);
  EXPECT_THAT(late->WaitForEnd(), HasReason("DRAINING"));
  loop_.Close(stream);
  loop_.Drain();
}

}  // namespace
}  // namespace shardwright
