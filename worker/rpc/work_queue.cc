#include "worker/rpc/work_queue.h"

#include <utility>

namespace shardwright {

WorkQueue::WorkQueue(int thread_count) {
  for (int i = 0; i < thread_count; ++i) {
    threads_.emplace_back([this] { Run(); });
  }
}

WorkQueue::~WorkQueue() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  for (std::thread& thread : threads_) thread.join();
}

bool WorkQueue::Add(std::function<void()> work) {
  const MutexLock lock(mutex_);
  if (work_.size() >= kCapacity) return false;
  work_.push_back(std::move(work));
  changed_.NotifyOne();
  return true;
}

void WorkQueue::Run() {
  MutexLock lock(mutex_);
  while (true) {
    while (!stopping_ && work_.empty()) changed_.Wait(lock);
    if (work_.empty()) return;
    const std::function<void()> work = std::move(work_.front());
    work_.pop_front();
    lock.Unlock();
    work();
    lock.Lock();
  }
}

}  // namespace shardwright
