// A coordinator process without its gRPC: the core, its timer, and its parked
// calls, each step watched by a Checker. It crashes and starts again on the
// same store, in a higher term.

#ifndef TESTS_SIMULATION_COORDINATOR_H_
#define TESTS_SIMULATION_COORDINATOR_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/core/coordinator_core.h"
#include "tests/simulation/checker.h"
#include "tests/simulation/faulty_store.h"
#include "tests/simulation/step.h"
#include "tests/simulation/timeline.h"

namespace shardwright {
namespace simulation {

class Coordinator {
 public:
  struct Hooks {
    std::function<FaultyStore::Fate()> next_fate;        // Of a write.
    std::function<void(const StreamEffect&)> on_effect;  // For a parked call.
    std::function<void()> on_crash;                      // All calls break.
    std::function<void(const Step&)> on_step;            // For the trace.
  };

  // Down at first. `timeline` must outlive it.
  Coordinator(Timeline& timeline, const CoordinatorCore::Options& options,
              Hooks hooks);
  Coordinator(const Coordinator&) = delete;
  Coordinator& operator=(const Coordinator&) = delete;

  bool up() const { return core_ != nullptr; }

  // Whether it has started; not if the store refuses.
  bool Start();
  void Crash();

  // Runs one request. A failed one of a parked call ends the call.
  //
  // Errors: of the core, and
  //   UNAVAILABLE, with no reason: it is down, or has crashed with this.
  Step Handle(const Request& request, StreamId stream = 0);

  // Somebody asks all about a job, as far as that is possible now.
  void Diagnose(const std::string& job);

  absl::StatusOr<JobLayout> FindLayout(const std::string& job) const;

  int64_t step_count() const { return step_count_; }
  const Checker& checker() const { return checker_; }
  Violations& violations() { return checker_.violations(); }

 private:
  void TickIfDue();
  void Run(Step& step);
  void Call(Step& step);
  void ScheduleTick();

  Timeline& timeline_;
  const CoordinatorCore::Options options_;
  const Hooks hooks_;
  Checker checker_;
  FaultyStore store_;
  std::unique_ptr<CoordinatorCore> core_;
  absl::Time wake_time_ = absl::InfiniteFuture();
  int64_t life_ = 0;  // Counts starts: timers of the last one do nothing.
  int64_t step_count_ = 0;
};

}  // namespace simulation
}  // namespace shardwright

#endif  // TESTS_SIMULATION_COORDINATOR_H_
