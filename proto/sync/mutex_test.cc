#include "proto/sync/mutex.h"

#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace shardwright {
namespace {

class MutexTest : public ::testing::Test {
 protected:
  bool WaitUntilReady(absl::Duration timeout) {
    MutexLock lock(mutex_);
    // It has to let the lock go for this thread to come in.
    std::thread other([this] {
      const MutexLock lock(mutex_);
      ready_ = true;
      changed_.NotifyAll();
    });
    const bool ready = changed_.WaitFor(
        lock, timeout,
        [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return ready_; });
    lock.Unlock();
    other.join();
    return ready;
  }

  Mutex mutex_;
  CondVar changed_;
  bool ready_ ABSL_GUARDED_BY(mutex_) = false;
  int count_ ABSL_GUARDED_BY(mutex_) = 0;
};

TEST_F(MutexTest, LetsOneThreadInAtATime) {
  constexpr int kThreads = 4;
  constexpr int kTurns = 10000;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([this] {
      for (int turn = 0; turn < kTurns; ++turn) {
        const MutexLock lock(mutex_);
        const int before = count_;
        count_ = before + 1;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const MutexLock lock(mutex_);
  EXPECT_EQ(count_, kThreads * kTurns);
}

TEST_F(MutexTest, CanBeLetGoAndTakenAgain) {
  MutexLock lock(mutex_);
  lock.Unlock();
  std::thread([this] {
    const MutexLock lock(mutex_);
    ready_ = true;
  }).join();
  lock.Lock();
  EXPECT_TRUE(ready_);
}

TEST_F(MutexTest, AWaitWithoutEndDoesNotEndAtOnce) {
  EXPECT_TRUE(WaitUntilReady(absl::InfiniteDuration()));
}

TEST_F(MutexTest, AWaitThatTimesOutSaysWhatThePredicateIs) {
  MutexLock lock(mutex_);
  const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return ready_;
  };
  EXPECT_FALSE(changed_.WaitFor(lock, absl::ZeroDuration(), ready));
  EXPECT_FALSE(changed_.WaitFor(lock, -absl::InfiniteDuration(), ready));
  ready_ = true;
  EXPECT_TRUE(changed_.WaitFor(lock, absl::ZeroDuration(), ready));
}

}  // namespace
}  // namespace shardwright
