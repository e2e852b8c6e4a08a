// Watches who watches layouts, and sessions that have not said whose they are.
//
//   1. What a watcher is told is the layout that is stored, of a job that it
//      asked for, with a revision above all that it was told before.
//   2. After each step every watcher has been told of the newest revision.
//   3. A session that says nothing ends after kSilenceMax, not before or after.

#ifndef TESTS_SIMULATION_WATCH_CHECKER_H_
#define TESTS_SIMULATION_WATCH_CHECKER_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/core/effects.h"
#include "shardwright/v1/layout.pb.h"
#include "tests/simulation/step.h"
#include "tests/simulation/store_model.h"

namespace shardwright {
namespace simulation {

class WatchChecker {
 public:
  // Both must outlive it.
  WatchChecker(const StoreModel& store, Violations& violations)
      : store_(store), violations_(violations) {}

  void Crashed();
  void BeforeEffects(const Step& step);
  void AfterEffects(const Step& step);

  bool IsOpen(StreamId stream) const {
    return watchers_.count(stream) > 0 || IsSilent(stream);
  }
  bool IsSilent(StreamId stream) const { return silent_.count(stream) > 0; }
  void OnLayout(StreamId stream, const v1::GetLayoutResponse& layout);
  void OnEnd(const Step& step, StreamId stream, const absl::Status& status);

 private:
  struct Watcher {
    std::string job;  // Empty: all.
    int64_t revision = 0;
  };

  const StoreModel& store_;
  Violations& violations_;
  std::map<StreamId, Watcher> watchers_;
  std::map<StreamId, absl::Time> silent_;  // Since when.
};

}  // namespace simulation
}  // namespace shardwright

#endif  // TESTS_SIMULATION_WATCH_CHECKER_H_
