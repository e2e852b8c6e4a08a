// Virtual time: what happens when. Time stands still while something happens,
// and jumps to the next thing that does. A coarse time lets things coincide,
// and timers be late.

#ifndef TESTS_SIMULATION_TIMELINE_H_
#define TESTS_SIMULATION_TIMELINE_H_

#include <algorithm>
#include <functional>
#include <map>
#include <utility>

#include "absl/time/time.h"

namespace shardwright {
namespace simulation {

class Timeline {
 public:
  // Things happen at multiples of `grain`; 0: at any time.
  explicit Timeline(absl::Duration grain) : grain_(grain) {}

  absl::Time now() const { return now_; }

  // Things of one instant happen in the order in which they were put there.
  void At(absl::Time time, std::function<void()> what) {
    if (grain_ > absl::ZeroDuration()) {
      time = absl::UnixEpoch() + absl::Ceil(time - absl::UnixEpoch(), grain_);
    }
    events_.emplace(std::max(time, now_), std::move(what));
  }
  void After(absl::Duration delay, std::function<void()> what) {
    At(now_ + delay, std::move(what));
  }

  // Lets the next thing happen, if it does by `end`; otherwise lets the time
  // pass until then and returns false.
  bool RunNext(absl::Time end) {
    if (events_.empty() || events_.begin()->first > end) {
      now_ = std::max(now_, end);
      return false;
    }
    auto next = events_.extract(events_.begin());
    now_ = next.key();
    next.mapped()();
    return true;
  }

 private:
  const absl::Duration grain_;
  absl::Time now_ = absl::FromUnixSeconds(1700000000);
  std::multimap<absl::Time, std::function<void()>> events_;
};

}  // namespace simulation
}  // namespace shardwright

#endif  // TESTS_SIMULATION_TIMELINE_H_
