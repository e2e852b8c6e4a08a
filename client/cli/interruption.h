// Ends a command that would go on for ever: by Ctrl-C, by SIGTERM, or because
// nobody reads its output any more.

#ifndef CLIENT_CLI_INTERRUPTION_H_
#define CLIENT_CLI_INTERRUPTION_H_

#include <thread>

#include "absl/time/time.h"
#include "client/cc/coordinator_client.h"
#include "proto/sync/mutex.h"

namespace shardwright {

// Blocks SIGINT and SIGTERM in the thread that creates it and in all that this
// one starts later: create it before any other thread. A second signal ends the
// process at once. Thread-safe.
class Interruption {
 public:
  // Also watches for `output_fd`, a pipe, to lose its reader.
  explicit Interruption(int output_fd);
  ~Interruption();
  Interruption(const Interruption&) = delete;
  Interruption& operator=(const Interruption&) = delete;

  bool occurred() const;

  // Calls with it end when the interruption occurs.
  CallCanceller canceller() const { return canceller_; }

  // False if the interruption occurred first.
  bool SleepFor(absl::Duration duration);

 private:
  void Run(int output_fd);

  CallCanceller canceller_;
  int signal_fd_;
  int stop_fd_;
  mutable Mutex mutex_;
  CondVar changed_;
  bool occurred_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace shardwright

#endif  // CLIENT_CLI_INTERRUPTION_H_
