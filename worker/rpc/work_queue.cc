#include "worker/rpc/work_queue.h"

#include <utility>

#include "absl/time/clock.h"
#include "proto/sync/spin.h"

namespace shardwright {

WorkQueue::WorkQueue(int thread_count, absl::Duration spin) : spin_(spin) {
  for (int i = 0; i < thread_count; ++i) {
    threads_.emplace_back([this] { Run(); });
  }
}

WorkQueue::~WorkQueue() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
    something_to_do_ = true;
    changed_.NotifyAll();
  }
  for (std::thread& thread : threads_) thread.join();
}

bool WorkQueue::Add(std::function<void()> work) {
  const MutexLock lock(mutex_);
  if (work_.size() >= kCapacity) return false;
  work_.push_back(std::move(work));
  something_to_do_ = true;
  // Who spins takes one piece.
  if (!spinning_ || work_.size() > 1) changed_.NotifyOne();
  return true;
}

void WorkQueue::Spin() const {
  constexpr int kTurns = 64;  // Between two looks at the clock.
  const absl::Time end = absl::Now() + spin_;
  while (absl::Now() < end) {
    for (int i = 0; i < kTurns; ++i) {
      if (something_to_do_) return;
      PauseCore();
    }
  }
}

void WorkQueue::Run() {
  MutexLock lock(mutex_);
  while (true) {
    while (!stopping_ && work_.empty()) changed_.Wait(lock);
    if (work_.empty()) return;
    const std::function<void()> work = std::move(work_.front());
    work_.pop_front();
    something_to_do_ = stopping_ || !work_.empty();
    lock.Unlock();
    work();
    lock.Lock();
    if (spin_ == absl::ZeroDuration() || spinning_ || stopping_) continue;
    spinning_ = true;
    lock.Unlock();
    Spin();
    lock.Lock();
    spinning_ = false;
  }
}

}  // namespace shardwright
