// How long a call may wait.

#ifndef COORDINATOR_CORE_TIMEOUT_H_
#define COORDINATOR_CORE_TIMEOUT_H_

#include <algorithm>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"
#include "proto/status/error.h"
#include "proto/time/proto_time.h"

namespace shardwright {

// The longest, whatever a call asks for.
inline constexpr absl::Duration kTimeoutMax = absl::Hours(1);

// How long a call that asks for `message` may wait: kTimeoutMax at most.
//
// Errors:
//   INVALID_ARGUMENT INVALID_TIMEOUT: not above 0 s.
inline absl::StatusOr<absl::Duration> TimeoutFromProto(
    const google::protobuf::Duration& message) {
  const absl::Duration timeout = FromProto(message);
  if (timeout <= absl::ZeroDuration()) {
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_TIMEOUT",
                 absl::StrCat("timeout is ", absl::FormatDuration(timeout),
                              "; it must be above 0 s"));
  }
  return std::min(timeout, kTimeoutMax);
}

}  // namespace shardwright

#endif  // COORDINATOR_CORE_TIMEOUT_H_
