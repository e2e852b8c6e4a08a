// What has happened, for people who ask: the latest events of every job. Part
// of the core.

#ifndef COORDINATOR_CORE_EVENT_LOG_H_
#define COORDINATOR_CORE_EVENT_LOG_H_

#include <cstdint>
#include <deque>
#include <map>
#include <string>

#include "absl/time/time.h"
#include "coordinator/core/effects.h"
#include "shardwright/v1/diagnostics.pb.h"

namespace shardwright {

// Bounds what a job costs: about 300 bytes an event.
inline constexpr size_t kEventsPerJobMax = 1024;

// Not thread-safe.
class EventLog {
 public:
  void Add(const LogEntry& entry, absl::Time now);

  // As DiagnosticsService.ListEvents has it, less `term`. A job without events
  // has none.
  v1::ListEventsResponse List(const v1::ListEventsRequest& request) const;

 private:
  std::map<std::string, std::deque<v1::Event>> events_;  // By job.
  int64_t last_number_ = 0;
};

}  // namespace shardwright

#endif  // COORDINATOR_CORE_EVENT_LOG_H_
