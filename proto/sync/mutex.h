// The lock and condition variable of everything here that has threads: those of
// the standard library, annotated for Clang's -Wthread-safety, which refuses a
// use of an ABSL_GUARDED_BY member without its lock (--config=layering).
// absl::Mutex is not used: the distribution's is not instrumented, so tsan
// would report correct code.
//
// Waiting for a condition is a loop: while (!stopping_) changed_.Wait(lock);
// A predicate is a function of its own, and so has to say which lock it needs:
//   changed_.WaitFor(lock, timeout,
//                    [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
//                      return stopping_;
//                    });

#ifndef PROTO_SYNC_MUTEX_H_
#define PROTO_SYNC_MUTEX_H_

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"

namespace shardwright {

// Locked by a MutexLock only.
class ABSL_LOCKABLE Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

 private:
  friend class MutexLock;

  std::mutex mutex_;
};

// Holds a Mutex from its construction to its end, but between Unlock() and
// Lock(). Of one thread.
class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex)
      : lock_(mutex.mutex_) {}
  ~MutexLock() ABSL_UNLOCK_FUNCTION() {}
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

  void Unlock() ABSL_UNLOCK_FUNCTION() { lock_.unlock(); }
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { lock_.lock(); }

 private:
  friend class CondVar;

  std::unique_lock<std::mutex> lock_;
};

// Thread-safe. Waits let the lock go meanwhile; all who wait at a time must do
// so with one Mutex. A wait without a predicate may end early, for no
// reason.
class CondVar {
 public:
  void Wait(MutexLock& lock) { changed_.wait(lock.lock_); }

  void WaitFor(MutexLock& lock, absl::Duration timeout) {
    changed_.wait_for(lock.lock_, Bounded(timeout));
  }

  // Returns what the predicate is at the end.
  template <typename Predicate>
  bool WaitFor(MutexLock& lock, absl::Duration timeout, Predicate predicate) {
    return changed_.wait_for(lock.lock_, Bounded(timeout), predicate);
  }

  void NotifyOne() { changed_.notify_one(); }
  void NotifyAll() { changed_.notify_all(); }

 private:
  // The standard library adds it to the time of now, and would overflow.
  static std::chrono::nanoseconds Bounded(absl::Duration timeout) {
    return absl::ToChronoNanoseconds(
        std::min(timeout, absl::Hours(24 * 365 * 10)));
  }

  std::condition_variable changed_;
};

}  // namespace shardwright

#endif  // PROTO_SYNC_MUTEX_H_
