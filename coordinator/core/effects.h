// What the core wants done, beside its answer: messages for calls that are
// parked, ends of such calls, and lines for the log. All in order.

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
               absl::Status>  // The call ends with it; its last effect.
      what;
};

struct Effects {
  std::vector<StreamEffect> streams;
  std::vector<std::string> log;  // "event key=value key=value"

  template <typename Message>
  void Send(StreamId stream, std::shared_ptr<const Message> message) {
    streams.push_back({stream, std::move(message)});
  }
  void End(StreamId stream, absl::Status status) {
    streams.push_back({stream, std::move(status)});
  }
};

}  // namespace shardwright

#endif  // COORDINATOR_CORE_EFFECTS_H_
