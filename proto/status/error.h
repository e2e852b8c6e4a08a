// Statuses that carry an ErrorDetail: the reason a program branches on, beside
// the message a person reads.

#ifndef PROTO_STATUS_ERROR_H_
#define PROTO_STATUS_ERROR_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "shardwright/v1/error.pb.h"

namespace shardwright {

// Most bytes of a serialised ErrorDetail. gRPC 1.51 turns a status with more
// than about 7.9 KB of details into RESOURCE_EXHAUSTED and drops them.
inline constexpr int kErrorDetailBytesMax = 4096;

// A status of `code` with `reason` (UPPER_SNAKE_CASE) and metadata.
absl::Status Error(absl::StatusCode code, absl::string_view reason,
                   absl::string_view message,
                   std::map<std::string, std::string> metadata = {});

// The same with all of a detail given. `detail.domain` is set. What does not
// fit kErrorDetailBytesMax is cut: long values of the metadata, then violations
// and missing ranks, which are marked so. The reason stays.
absl::Status Error(absl::StatusCode code, absl::string_view message,
                   v1::ErrorDetail detail);

// The detail of a status; empty if it has none.
v1::ErrorDetail DetailOf(const absl::Status& status);
std::string ReasonOf(const absl::Status& status);

// `text`, or as much of it as fits `bytes_max` with "..." behind. Whole UTF-8
// characters only: half of one makes the receiver refuse the whole message.
std::string CutText(absl::string_view text, size_t bytes_max);

// Ranks [first, last].
struct RankRange {
  int64_t first = 0;
  int64_t last = 0;
};

// The ranges of ascending ranks, which may repeat.
std::vector<RankRange> RangesOf(const std::vector<int64_t>& ranks);

// Ascending ranges as text, "0-3,17", cut at a comma to at most `bytes_max`.
v1::MemberSet CompressRanges(const std::vector<RankRange>& ranges,
                             size_t bytes_max = 1024);
v1::MemberSet CompressRanks(const std::vector<int64_t>& ranks,
                            size_t bytes_max = 1024);

}  // namespace shardwright

#endif  // PROTO_STATUS_ERROR_H_
