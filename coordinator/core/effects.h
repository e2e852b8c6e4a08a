// What the core wants done, beside its answer: messages for calls that are
// parked, ends of such calls, and what to log. All in order.

#ifndef COORDINATOR_CORE_EFFECTS_H_
#define COORDINATOR_CORE_EFFECTS_H_

#include <cstdint>
#include <memory>
#include <optional>
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
  // To whom it happened, and what is the same for all to whom it happens at
  // once: "kind=WORKER why=...".
  struct Member {
    int64_t rank = 0;
    std::string same;
  };

  std::string type;              // "member_lost"
  std::string job;               // Empty: of no one job.
  std::string text;              // "key=value key=value", the job among them.
  std::optional<Member> member;  // If it is about one.

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
    log.push_back(
        {std::move(type), std::move(job), std::move(text), std::nullopt});
  }
  // Of one member, with `details` of its own.
  void LogMember(std::string type, const std::string& job, int64_t rank,
                 const std::string& same, const std::string& details = "") {
    std::string text = "job=" + job + " rank=" + std::to_string(rank) + " " +
                       same + (details.empty() ? "" : " ") + details;
    log.push_back(
        {std::move(type), job, std::move(text), LogEntry::Member{rank, same}});
  }
};

}  // namespace shardwright

#endif  // COORDINATOR_CORE_EFFECTS_H_
