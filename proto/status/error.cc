#include "proto/status/error.h"

#include <algorithm>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "proto/status/utf8.h"

namespace shardwright {
namespace {

constexpr absl::string_view kPayloadUrl =
    "type.googleapis.com/shardwright.v1.ErrorDetail";

// Bytes that are no UTF-8 become '?'. What is quoted from a file may have such,
// and so may what was cut; protobuf refuses to parse them, and the receiver
// would have no reason at all.
void MakeUtf8(std::string& text) {
  for (size_t i = 0; i < text.size();) {
    const size_t length =
        Utf8CharacterLength(absl::string_view(text).substr(i));
    if (length == 0) text[i] = '?';
    i += std::max<size_t>(1, length);
  }
}

void MakeUtf8(v1::ErrorDetail& detail) {
  for (auto& [key, value] : *detail.mutable_metadata()) MakeUtf8(value);
  for (v1::Violation& violation : *detail.mutable_violations()) {
    MakeUtf8(*violation.mutable_field());
    MakeUtf8(*violation.mutable_description());
    MakeUtf8(*violation.mutable_hint());
  }
}

// Of one text, where not all fit. Five of each fit the budget.
constexpr size_t kReasonBytesMax = 64;
constexpr size_t kValueBytesMax = 256;
constexpr size_t kDescriptionBytesMax = 1024;
constexpr size_t kRangesBytesMax = 512;

bool Fits(const v1::ErrorDetail& detail) {
  return detail.ByteSizeLong() <= kErrorDetailBytesMax;
}

// Cuts until it fits, what says least first.
void Fit(v1::ErrorDetail& detail) {
  if (Fits(detail)) return;
  for (auto& [name, value] : *detail.mutable_metadata()) {
    value = CutText(value, kValueBytesMax);
  }
  google::protobuf::RepeatedPtrField<v1::Violation> violations;
  violations.Swap(detail.mutable_violations());
  for (v1::Violation& violation : violations) {
    violation.set_field(CutText(violation.field(), kValueBytesMax));
    violation.set_description(
        CutText(violation.description(), kDescriptionBytesMax));
    violation.set_hint(CutText(violation.hint(), kValueBytesMax));
    *detail.add_violations() = std::move(violation);
    if (Fits(detail)) continue;
    detail.mutable_violations()->RemoveLast();
    detail.set_violations_truncated(true);
    break;
  }
  if (!Fits(detail) && detail.missing().ranges().size() > kRangesBytesMax) {
    v1::MemberSet& missing = *detail.mutable_missing();
    const size_t comma = missing.ranges().rfind(',', kRangesBytesMax);
    missing.mutable_ranges()->resize(comma == std::string::npos ? 0 : comma);
    missing.set_truncated(true);
  }
  if (Fits(detail)) return;
  v1::ErrorDetail bare;
  bare.set_reason(CutText(detail.reason(), kReasonBytesMax));
  bare.set_domain(detail.domain());
  detail = std::move(bare);
}

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
  Fit(detail);
  MakeUtf8(detail);
  std::string text(message);
  MakeUtf8(text);
  absl::Status status(code, text);
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

std::string CutText(absl::string_view text, size_t bytes_max) {
  constexpr absl::string_view kDots = "...";
  if (text.size() <= bytes_max) return std::string(text);
  size_t size = bytes_max - std::min(bytes_max, kDots.size());
  const auto continues = [&](size_t i) { return (text[i] & 0xC0) == 0x80; };
  while (size > 0 && continues(size)) --size;
  return absl::StrCat(text.substr(0, size), kDots);
}

std::vector<RankRange> RangesOf(const std::vector<int64_t>& ranks) {
  std::vector<RankRange> ranges;
  for (const int64_t rank : ranks) {
    if (ranges.empty() || rank > ranges.back().last + 1) {
      ranges.push_back({rank, rank});
    } else {
      ranges.back().last = rank;
    }
  }
  return ranges;
}

v1::MemberSet CompressRanges(const std::vector<RankRange>& ranges,
                             size_t bytes_max) {
  v1::MemberSet set;
  int64_t rank_count = 0;
  std::string& text = *set.mutable_ranges();
  for (const auto& [first, last] : ranges) {
    rank_count += last - first + 1;
    if (set.truncated()) continue;
    const std::string range =
        absl::StrCat(text.empty() ? "" : ",", first,
                     first == last ? "" : absl::StrCat("-", last));
    if (text.size() + range.size() > bytes_max) {
      set.set_truncated(true);
    } else {
      text += range;
    }
  }
  set.set_rank_count(rank_count);
  return set;
}

v1::MemberSet CompressRanks(const std::vector<int64_t>& ranks,
                            size_t bytes_max) {
  return CompressRanges(RangesOf(ranks), bytes_max);
}

}  // namespace shardwright
