// A few threads that do what gRPC's own threads must not wait for.

#ifndef WORKER_RPC_WORK_QUEUE_H_
#define WORKER_RPC_WORK_QUEUE_H_

#include <atomic>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "proto/sync/mutex.h"

namespace shardwright {

// Thread-safe. Work begins in the order in which it was added.
class WorkQueue {
 public:
  // For `spin` after each piece, one thread looks for the next without
  // sleeping: to wake a thread takes longer than some pieces of work.
  explicit WorkQueue(int thread_count,
                     absl::Duration spin = absl::ZeroDuration());

  // Does what has been added, then ends.
  ~WorkQueue();

  // False: kCapacity pieces wait already, and this one was not taken.
  static constexpr size_t kCapacity = 256;
  bool Add(std::function<void()> work);

 private:
  void Run();
  void Spin() const;

  const absl::Duration spin_;
  std::atomic<bool> something_to_do_{false};  // Work, or stopping.
  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> work_ ABSL_GUARDED_BY(mutex_);
  bool spinning_ ABSL_GUARDED_BY(mutex_) = false;  // Some thread.
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace shardwright

#endif  // WORKER_RPC_WORK_QUEUE_H_
