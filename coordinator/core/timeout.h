// absl::Time and absl::Duration <-> the well-known messages.

#ifndef COORDINATOR_CORE_PROTO_TIME_H_
#define COORDINATOR_CORE_PROTO_TIME_H_

#include <algorithm>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"
#include "proto/status/error.h"

namespace shardwright {

// The longest that a call may wait, whatever it asks for.
inline constexpr absl::Duration kTimeoutMax = absl::Hours(1);

inline google::protobuf::Timestamp ToProto(absl::Time time) {
  google::protobuf::Timestamp message;
  const int64_t nanos = absl::ToUnixNanos(time);
  message.set_seconds(nanos / 1000000000);
  message.set_nanos(static_cast<int32_t>(nanos % 1000000000));
  return message;
}

inline google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration message;
  const int64_t nanos = absl::ToInt64Nanoseconds(duration);
  message.set_seconds(nanos / 1000000000);
  message.set_nanos(static_cast<int32_t>(nanos % 1000000000));
  return message;
}

// How long a call that asks for `message` may wait: kTimeoutMax at most.
//
// Errors:
//   INVALID_ARGUMENT INVALID_TIMEOUT: not above 0 s.
inline absl::StatusOr<absl::Duration> TimeoutFromProto(
    const google::protobuf::Duration& message) {
  const absl::Duration timeout =
      absl::Seconds(message.seconds()) + absl::Nanoseconds(message.nanos());
  if (timeout <= absl::ZeroDuration()) {
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_TIMEOUT",
                 absl::StrCat("timeout is ", absl::FormatDuration(timeout),
                              "; it must be above 0 s"));
  }
  return std::min(timeout, kTimeoutMax);
}

}  // namespace shardwright

#endif  // COORDINATOR_CORE_PROTO_TIME_H_
