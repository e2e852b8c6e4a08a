// Who called an RPC, and whether it still waits for the answer.

#ifndef WORKER_RPC_CALLER_H_
#define WORKER_RPC_CALLER_H_

#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "proto/status/error.h"
#include "proto/sync/mutex.h"

namespace shardwright {

// Thread-safe.
class Caller {
 public:
  // OK while the caller waits.
  //
  // Errors:
  //   CANCELLED CLIENT_GONE
  absl::Status status() const {
    const MutexLock lock(mutex_);
    return status_;
  }
  bool has_gone() const { return !status().ok(); }

  // The caller waits no longer. For who answers the RPC.
  void Leave() {
    const MutexLock lock(mutex_);
    status_ = Error(absl::StatusCode::kCancelled, "CLIENT_GONE",
                    "the caller has given up");
    if (when_gone_) when_gone_(status_);
  }

  // While it lives, calls `then` if the caller leaves, at once if it has left:
  // to end what would write to a caller's memory behind its back. `then` must
  // not wait. One at a time.
  class WhenGone {
   public:
    WhenGone(Caller& caller, std::function<void(const absl::Status&)> then)
        : caller_(caller) {
      const MutexLock lock(caller_.mutex_);
      caller_.when_gone_ = std::move(then);
      if (!caller_.status_.ok()) caller_.when_gone_(caller_.status_);
    }
    ~WhenGone() {
      const MutexLock lock(caller_.mutex_);
      caller_.when_gone_ = nullptr;
    }
    WhenGone(const WhenGone&) = delete;
    WhenGone& operator=(const WhenGone&) = delete;

   private:
    Caller& caller_;
  };

 private:
  mutable Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  std::function<void(const absl::Status&)> when_gone_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace shardwright

#endif  // WORKER_RPC_CALLER_H_
