#include "proto/status/error.h"

#include <algorithm>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"

namespace shardwright {
namespace {

constexpr absl::string_view kPayloadUrl =
    "type.googleapis.com/shardwright.v1.ErrorDetail";

}  // namespace

absl::Status Error(absl::StatusCode code, absl::string_view reason,
                   absl::string_view message,
                   std::map<std::string, std::string> metadata) {
  v1::ErrorDetail detail;
  detail.set_reason(std::string(reason));
  detail.mutable_metadata()->insert(metadata.begin(), metadata.end());
  return Error(code, message, std::move(detail));
}

absl::Status Error(absl::StatusCode code, absl::string_view message,
                   v1::ErrorDetail detail) {
  detail.set_domain("shardwright");
  while (detail.ByteSizeLong() > kErrorDetailBytesMax) {
    if (detail.violations_size() > 1) {
      detail.mutable_violations()->RemoveLast();
      detail.set_violations_truncated(true);
    } else if (detail.missing().ranges().size() > 64) {
      v1::MemberSet& missing = *detail.mutable_missing();
      missing.set_truncated(true);
      missing.mutable_ranges()->resize(
          missing.ranges().rfind(',', missing.ranges().size() / 2));
    } else if (detail.violations_size() == 1 &&
               detail.violations(0).description().size() > 1024) {
      detail.mutable_violations(0)->mutable_description()->resize(1024);
      detail.mutable_violations(0)->mutable_hint()->clear();
      detail.mutable_violations(0)->mutable_field()->resize(
          std::min<size_t>(detail.violations(0).field().size(), 1024));
      detail.set_violations_truncated(true);
    } else {
      detail.clear_violations();
      detail.clear_metadata();
      detail.set_violations_truncated(true);
    }
  }
  absl::Status status(code, message);
  status.SetPayload(kPayloadUrl, absl::Cord(detail.SerializeAsString()));
  return status;
}

v1::ErrorDetail DetailOf(const absl::Status& status) {
  v1::ErrorDetail detail;
  const absl::optional<absl::Cord> payload = status.GetPayload(kPayloadUrl);
  if (payload.has_value() && !detail.ParseFromString(std::string(*payload))) {
    detail.Clear();
  }
  return detail;
}

std::string ReasonOf(const absl::Status& status) {
  return DetailOf(status).reason();
}

v1::MemberSet CompressRanks(const std::vector<int64_t>& ranks,
                            size_t bytes_max) {
  v1::MemberSet set;
  set.set_rank_count(static_cast<int64_t>(ranks.size()));
  std::string& ranges = *set.mutable_ranges();
  for (size_t begin = 0; begin < ranks.size();) {
    size_t end = begin + 1;
    while (end < ranks.size() && ranks[end] - ranks[end - 1] <= 1) ++end;
    const int64_t first = ranks[begin];
    const int64_t last = ranks[end - 1];
    const std::string range =
        absl::StrCat(begin == 0 ? "" : ",", first,
                     first == last ? "" : absl::StrCat("-", last));
    if (ranges.size() + range.size() > bytes_max) {
      set.set_truncated(true);
      break;
    }
    ranges += range;
    begin = end;
  }
  return set;
}

}  // namespace shardwright
