// Keeps who was missing, so that a message that is cut short can name the whole
// set: part of the core.

#ifndef COORDINATOR_CORE_MISSING_REPORTS_H_
#define COORDINATOR_CORE_MISSING_REPORTS_H_

#include <cstdint>
#include <list>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/core/membership.h"
#include "proto/status/error.h"
#include "shardwright/v1/diagnostics.pb.h"

namespace shardwright {

// How much is kept, the latest of it: that many sets, of so many ranges in all.
// A set of more than an eighth of the ranges is not kept.
inline constexpr size_t kReportsMax = 4096;
inline constexpr size_t kReportRangesMax = 1 << 20;

// Not thread-safe.
class MissingReports {
 public:
  // Keeps the set of members, and returns its name. The same set has the same
  // name and is kept once, however many are told of it. Empty: it is too large.
  std::string Keep(const std::string& job, v1::MemberKind kind,
                   std::vector<RankRange> ranges);

  // As DiagnosticsService has it.
  absl::StatusOr<v1::ListMissingMembersResponse> List(
      const v1::ListMissingMembersRequest& request,
      const Membership& membership) const;

 private:
  struct Report {
    std::string name;
    std::string job;
    v1::MemberKind kind;
    std::vector<RankRange> ranges;
    int64_t rank_count;
  };

  std::list<Report> reports_;  // The latest first.
  std::map<std::string, std::list<Report>::iterator> by_name_;
  size_t range_count_ = 0;
};

}  // namespace shardwright

#endif  // COORDINATOR_CORE_MISSING_REPORTS_H_
