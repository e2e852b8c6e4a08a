// Batches as they come over the C interface.

#ifndef CLIENT_NATIVE_BATCH_H_
#define CLIENT_NATIVE_BATCH_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "client/native/shardwright_plan.h"
#include "shardwright/v1/plan.pb.h"

namespace shardwright {

// Far above what a planner accepts; only there so that a garbage count is
// refused before memory is read.
inline constexpr int64_t kBatchCountMax = int64_t{1} << 40;

// Names and counts are checked; what they say is the planner's affair.
//
// Errors:
//   INVALID_ARGUMENT NULL_ARGUMENT, INVALID_COUNT
//   INVALID_ARGUMENT INVALID_BATCH: a name is there twice.
absl::StatusOr<v1::Batch> BatchFrom(const sw_batch& in);

}  // namespace shardwright

#endif  // CLIENT_NATIVE_BATCH_H_
