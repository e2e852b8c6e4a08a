// gMock matchers for Status and StatusOr. There is no "is not OK": a test names
// the code it expects, and with HasReason the reason.

#ifndef PROTO_STATUS_STATUS_MATCHERS_H_
#define PROTO_STATUS_STATUS_MATCHERS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "proto/status/error.h"

namespace shardwright {
namespace status_matchers_internal {

inline const absl::Status& StatusOf(const absl::Status& status) {
  return status;
}
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& status) {
  return status.status();
}

}  // namespace status_matchers_internal

MATCHER(IsOk, negation ? "is not OK" : "is OK") {
  const absl::Status& status = status_matchers_internal::StatusOf(arg);
  *result_listener << status;
  return status.ok();
}

MATCHER_P2(StatusIs, code, message, "") {
  const absl::Status& status = status_matchers_internal::StatusOf(arg);
  *result_listener << status;
  return status.code() == code &&
         testing::ExplainMatchResult(message, std::string(status.message()),
                                     result_listener);
}

MATCHER_P(HasReason, reason, "") {
  const absl::Status& status = status_matchers_internal::StatusOf(arg);
  *result_listener << status << " with reason " << ReasonOf(status);
  return ReasonOf(status) == reason;
}

}  // namespace shardwright

#endif  // PROTO_STATUS_STATUS_MATCHERS_H_
