#include "coordinator/core/missing_reports.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/core/page.h"
#include "proto/plan/fingerprint.h"
#include "proto/status/status_macros.h"

namespace shardwright {

std::string MissingReports::Keep(const std::string& job, v1::MemberKind kind,
                                 std::vector<RankRange> ranges) {
  if (ranges.size() > kReportRangesMax / 8) return "";
  Fingerprint fingerprint;
  fingerprint.Add(job);
  fingerprint.Add(uint64_t{static_cast<uint32_t>(kind)});
  int64_t rank_count = 0;
  for (const auto& [first, last] : ranges) {
    fingerprint.Add(static_cast<uint64_t>(first));
    fingerprint.Add(static_cast<uint64_t>(last));
    rank_count += last - first + 1;
  }
  const std::string name = DigestText(fingerprint.digest());
  const auto kept = by_name_.find(name);
  if (kept != by_name_.end()) {
    reports_.splice(reports_.begin(), reports_, kept->second);
    return name;
  }
  range_count_ += ranges.size();
  reports_.push_front({name, job, kind, std::move(ranges), rank_count});
  by_name_[name] = reports_.begin();
  while (reports_.size() > kReportsMax || range_count_ > kReportRangesMax) {
    range_count_ -= reports_.back().ranges.size();
    by_name_.erase(reports_.back().name);
    reports_.pop_back();
  }
  return name;
}

absl::StatusOr<v1::ListMissingMembersResponse> MissingReports::List(
    const v1::ListMissingMembersRequest& request,
    const Membership& membership) const {
  const auto found = by_name_.find(request.report());
  if (found == by_name_.end()) {
    return Error(absl::StatusCode::kNotFound, "REPORT_NOT_FOUND",
                 absl::StrCat("there is no report \"", request.report(),
                              "\", or it is no longer kept"));
  }
  ASSIGN_OR_RETURN(const int64_t after,
                   NumberFromPageToken(request.page_token()));
  const Report& report = *found->second;
  const int page_size = PageSize(request.page_size());
  v1::ListMissingMembersResponse response;
  response.set_total_count(report.rank_count);
  auto range = std::upper_bound(
      report.ranges.begin(), report.ranges.end(), after,
      [](int64_t rank, const RankRange& r) { return rank < r.last; });
  for (; range != report.ranges.end(); ++range) {
    for (Rank rank = std::max(range->first, after + 1); rank <= range->last;
         ++rank) {
      if (response.members_size() == page_size) {
        response.set_next_page_token(
            absl::StrCat(response.members(page_size - 1).member().rank()));
        return response;
      }
      *response.add_members() = membership.Get({report.job, rank, report.kind});
    }
  }
  return response;
}

}  // namespace shardwright
