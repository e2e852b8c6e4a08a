// What has happened, for people who ask: the latest events of every job. Part
// of the core.

#ifndef COORDINATOR_CORE_EVENT_LOG_H_
#define COORDINATOR_CORE_EVENT_LOG_H_

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/core/effects.h"
#include "proto/status/error.h"
#include "shardwright/v1/diagnostics.pb.h"

namespace shardwright {

// Bounds what a job costs: about 300 bytes an event, 4 KiB where it stands for
// many members.
inline constexpr size_t kEventsPerJobMax = 1024;

// What happens to this many scattered members, or for this long, is told as one
// event, if nobody has been told of the first of them yet: ten thousand that
// register would push everything else out.
inline constexpr size_t kEventRangesMax = 256;
inline constexpr absl::Duration kEventBurst = absl::Seconds(1);

// Not thread-safe.
class EventLog {
 public:
  void Add(const LogEntry& entry, absl::Time now);

  // As DiagnosticsService.ListEvents has it, less `term`. A job without events
  // has none. What was told once stays as it is.
  v1::ListEventsResponse List(const v1::ListEventsRequest& request);

 private:
  struct Kept {
    v1::Event event;
    absl::Time begin;
    LogEntry first;                 // Of those that it stands for.
    std::vector<RankRange> ranges;  // Of members: whom it is about.
    int64_t member_count = 0;
  };
  struct Job {
    std::deque<Kept> events;
    int64_t told_number = 0;  // Events up to it have been told.
    int64_t dropped_count = 0;
    int64_t dropped_number = 0;  // Of the last that was dropped.
  };

  // Whether `entry` could be told with the event before it.
  static bool Fold(const LogEntry& entry, absl::Time now, Job& job);

  std::map<std::string, Job> jobs_;
  int64_t last_number_ = 0;
};

}  // namespace shardwright

#endif  // COORDINATOR_CORE_EVENT_LOG_H_
