// Admission of what the store must write: part of the core.

#ifndef COORDINATOR_CORE_ADMISSION_H_
#define COORDINATOR_CORE_ADMISSION_H_

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "proto/status/error.h"
#include "proto/time/proto_time.h"

namespace shardwright {

// A token bucket: admits so many a second, and four times as many at once when
// it has been idle. Not thread-safe.
class Admission {
 public:
  explicit Admission(int64_t rate_per_second)
      : interval_(absl::Seconds(1) / rate_per_second) {}

  // Errors:
  //   RESOURCE_EXHAUSTED OVERLOADED: with `retry_delay`.
  absl::Status Admit(absl::Time now) {
    used_until_ = std::max(used_until_, now - kBurst);
    if (used_until_ + interval_ <= now) {
      used_until_ += interval_;
      return absl::OkStatus();
    }
    // Not when there is room for one: many are refused in the same instant.
    const absl::Duration delay = used_until_ + interval_ - now + kBurst / 16;
    v1::ErrorDetail detail;
    detail.set_reason("OVERLOADED");
    *detail.mutable_retry_delay() = ToProto(delay);
    return Error(
        absl::StatusCode::kResourceExhausted,
        absl::StrCat("the coordinator writes all that it can; again in ",
                     absl::FormatDuration(delay)),
        std::move(detail));
  }

 private:
  static constexpr absl::Duration kBurst = absl::Seconds(4);

  const absl::Duration interval_;
  absl::Time used_until_ = absl::InfinitePast();
};

}  // namespace shardwright

#endif  // COORDINATOR_CORE_ADMISSION_H_
