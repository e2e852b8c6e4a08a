// Sessions that have been opened and have not said whose they are: part of the
// core. Nobody's lease ends them, so they have a time of their own.

#ifndef COORDINATOR_CORE_SILENT_SESSIONS_H_
#define COORDINATOR_CORE_SILENT_SESSIONS_H_

#include <map>
#include <set>
#include <utility>

#include "absl/time/time.h"
#include "coordinator/core/effects.h"

namespace shardwright {

// How long one may be silent, and how many. A member speaks at once; when there
// are too many, the one that has been silent longest ends.
inline constexpr absl::Duration kSilenceMax = absl::Seconds(10);
inline constexpr size_t kSilentSessionsMax = 16384;

// Not thread-safe.
class SilentSessions {
 public:
  void Opened(StreamId stream, absl::Time now, Effects& effects);

  // It has spoken, or is closed.
  void Forget(StreamId stream);

  // Ends those whose time is up.
  void Tick(absl::Time now, Effects& effects);
  absl::Time NextTick() const;

 private:
  void EndFirst(Effects& effects);

  std::map<StreamId, absl::Time> deadlines_;
  std::set<std::pair<absl::Time, StreamId>> by_deadline_;
};

}  // namespace shardwright

#endif  // COORDINATOR_CORE_SILENT_SESSIONS_H_
