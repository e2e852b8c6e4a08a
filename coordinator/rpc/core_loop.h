// CoreLoop drives a CoordinatorCore for a server: one lock around it, one timer
// thread for what becomes due, and delivery of its effects to parked calls.
//
// Effects are queued at their calls under the lock, so that every call gets
// them in the order in which the core had them; they are sent outside of it.

#ifndef COORDINATOR_RPC_CORE_LOOP_H_
#define COORDINATOR_RPC_CORE_LOOP_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/core/effects.h"
#include "proto/sync/mutex.h"

namespace shardwright {

// A call whose client waits for messages. Thread-safe.
class ParkedCall {
 public:
  virtual ~ParkedCall() = default;

  // Puts what an effect brings into the call's queue; sends nothing yet. False:
  // the queue is full, the client does not read; the call is over.
  virtual bool Queue(const StreamEffect& effect) = 0;

  // Sends what is queued.
  virtual void Pump() = 0;

  // Whose call it is, "key=value key=value", for logs.
  virtual std::string Describe() const = 0;
};

// Parked calls of one server, those included that end slowly because their
// client does not read. Ten thousand members with a session, a formation and
// some barriers; each costs some 20 KB in gRPC.
inline constexpr int kParkedCallsMax = 65536;

// Thread-safe. All parked calls must have ended before it is destroyed.
class CoreLoop {
 public:
  // Must not run backwards, whatever happens to the machine's date.
  using Clock = std::function<absl::Time()>;

  CoreLoop(std::unique_ptr<CoordinatorCore> core, Clock clock);
  ~CoreLoop();
  CoreLoop(const CoreLoop&) = delete;
  CoreLoop& operator=(const CoreLoop&) = delete;

  // Returns `function(core, now, effects)`, an absl::Status or StatusOr.
  //
  // Errors: those of `function`, and
  //   UNAVAILABLE DRAINING: after Drain(); it was not run.
  template <typename Function>
  auto Run(Function function) {
    Delivery delivery;
    const auto run =
        [&]() -> decltype(function(*core_, absl::Time(), delivery.effects)) {
      const MutexLock lock(mutex_);
      if (draining_) return Draining();
      auto result = function(*core_, clock_(), delivery.effects);
      QueueEffects(delivery);
      return result;
    };
    auto result = run();
    Deliver(delivery);
    return result;
  }

  // Parks `call`, and gives it its name. Drain() ends it at the latest. When
  // there are too many, its end is queued at once:
  //   RESOURCE_EXHAUSTED TOO_MANY_CALLS
  StreamId Open(std::shared_ptr<ParkedCall> call);

  // A call that was opened needs no memory any more.
  void Released();

  // Run(), for the method of a parked call: a failure ends the call. Does
  // nothing for a call that has ended, whatever its client still sends.
  void RunStream(StreamId stream,
                 const std::function<absl::Status(CoordinatorCore&, absl::Time,
                                                  Effects&)>& function);

  // The client of a parked call has gone. May be repeated.
  void Close(StreamId stream);

  // Ends all parked calls with UNAVAILABLE DRAINING, and refuses what comes
  // afterwards. May be repeated.
  void Drain();

 private:
  struct Delivery {
    Effects effects;
    std::vector<std::shared_ptr<ParkedCall>> calls;  // With news.
  };

  static absl::Status Draining();
  static absl::Status TooManyCalls();
  void QueueEffects(Delivery& delivery) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void Deliver(const Delivery& delivery);
  void RunTimer();

  const Clock clock_;

  Mutex mutex_;
  const std::unique_ptr<CoordinatorCore> core_ ABSL_PT_GUARDED_BY(mutex_);
  std::map<StreamId, std::shared_ptr<ParkedCall>> calls_
      ABSL_GUARDED_BY(mutex_);
  StreamId last_stream_ ABSL_GUARDED_BY(mutex_) = 0;
  // And not released.
  int opened_count_ ABSL_GUARDED_BY(mutex_) = 0;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  // Of the timer.
  absl::Time wake_time_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  CondVar wake_;

  std::thread timer_;
};

}  // namespace shardwright

#endif  // COORDINATOR_RPC_CORE_LOOP_H_
