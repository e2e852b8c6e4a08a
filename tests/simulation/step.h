// One call of the core, as a checker sees it: what went in and what came out.

#ifndef TESTS_SIMULATION_STEP_H_
#define TESTS_SIMULATION_STEP_H_

#include <optional>
#include <string>
#include <variant>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "coordinator/core/effects.h"
#include "coordinator/core/member_key.h"
#include "shardwright/v1/barrier.pb.h"
#include "shardwright/v1/communicator.pb.h"
#include "shardwright/v1/layout.pb.h"
#include "shardwright/v1/membership.pb.h"

namespace shardwright {
namespace simulation {

struct TickDue {};
struct ClientGone {};     // CoordinatorCore::StreamClosed().
struct SessionOpened {};  // The same of CoordinatorCore.
struct AllRead {};        // CoordinatorCore::WatchOn().

using Request =
    std::variant<TickDue, ClientGone, v1::ApplyLayoutRequest,
                 v1::RegisterRequest, v1::LeaveRequest, v1::PublishSlotsRequest,
                 v1::ReportCommunicatorsRequest, v1::SessionRequest,
                 v1::FormCommunicatorsRequest, v1::WaitAtBarrierRequest,
                 v1::WatchLayoutsRequest, SessionOpened, AllRead>;

struct Step {
  absl::Time now;
  Request request;
  StreamId stream = 0;  // Of a parked call.

  absl::Status status;
  v1::ApplyLayoutResponse applied;  // If it is one and OK.
  v1::RegisterResponse registered;  // The same.
  Effects effects;
  absl::Time next_tick;
};

// Who calls; nullptr if the request has no Caller.
const v1::Caller* CallerOf(const Request& request);

// "Session", "PublishSlots"...
std::string NameOf(const Request& request);

// Notes the first violation of a run; what follows from it is of no interest.
class Violations {
 public:
  template <typename... Parts>
  void Require(bool holds, const Parts&... parts) {
    if (holds || first_.has_value()) return;
    first_ = absl::StrCat(parts...);
  }

  // "CHECKER: what was seen".
  const std::optional<std::string>& first() const { return first_; }

 private:
  std::optional<std::string> first_;
};

}  // namespace simulation
}  // namespace shardwright

#endif  // TESTS_SIMULATION_STEP_H_
