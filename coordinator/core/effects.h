// What the core wants done, beside its answer: messages for calls that are
// parked, ends of such calls, and what to log. All in order.

#ifndef COORDINATOR_CORE_EFFECTS_H_
#define COORDINATOR_CORE_EFFECTS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "shardwright/v1/barrier.pb.h"
#include "shardwright/v1/communicator.pb.h"
#include "shardwright/v1/layout.pb.h"
#include "shardwright/v1/membership.pb.h"

namespace shardwright {

// Names a parked call. Chosen by whoever drives the core: positive, never used
// twice.
using StreamId = int64_t;

// One thing for one parked call. Messages are shared: one that goes to ten
// thousand calls exists once.
struct StreamEffect {
  StreamId stream = 0;
  std::variant<std::shared_ptr<const v1::SessionResponse>,
               std::shared_ptr<const v1::FormCommunicatorsResponse>,
               std::shared_ptr<const v1::WaitAtBarrierResponse>,
               std::shared_ptr<const v1::WatchLayoutsResponse>,
               absl::Status>  // The call ends with it; its last effect.
      what;
};

// Something that happened: a line of the log, and an event of its job.
struct LogEntry {
  std::string type;  // "member_lost"
  std::string job;   // Empty: of no one job.
  std::string text;  // "key=value key=value", the job among them.

  std::string Line() const { return type + " " + text; }
};

struct Effects {
  std::vector<StreamEffect> streams;
  std::vector<LogEntry> log;

  template <typename Message>
  void Send(StreamId stream, std::shared_ptr<const Message> message) {
    streams.push_back({stream, std::move(message)});
  }
  void End(StreamId stream, absl::Status status) {
    streams.push_back({stream, std::move(status)});
  }
  void Log(std::string type, std::string job, std::string text) {
    log.push_back({std::move(type), std::move(job), std::move(text)});
  }
};

}  // namespace shardwright

#endif  // COORDINATOR_CORE_EFFECTS_H_
