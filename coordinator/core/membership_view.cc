// Members for people: who is known, and where each was last seen.

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "coordinator/core/membership.h"
#include "coordinator/core/page.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "proto/time/proto_time.h"

namespace shardwright {
namespace {

constexpr size_t kLastSeenCountMax = 3;

}  // namespace

// "host-a, pid 77", as far as it is known.
std::string Membership::Place(const v1::MemberFacts& facts) {
  return absl::StrCat(facts.host().empty() ? "unknown host" : facts.host(),
                      ", pid ", facts.pid());
}

std::string Membership::LastSeen(const MemberKey& key, absl::Time now) const {
  const MemberState* member = Find(key);
  if (member == nullptr) return "never registered";
  const stored::Member& record = member->record;
  std::string seen =
      absl::StrCat(member->phase.empty() ? "registered" : member->phase, " on ",
                   Place(record.facts()));
  if (record.state() != v1::Member::LIVE) {
    absl::StrAppend(&seen, ", ", record.lost_why());
  }
  if (member->last_seen == absl::InfinitePast()) {
    return absl::StrCat(seen, ", not seen since the coordinator started");
  }
  return absl::StrCat(seen, ", seen ",
                      absl::FormatDuration(absl::Trunc(now - member->last_seen,
                                                       absl::Seconds(1))),
                      " ago");
}

std::vector<std::string> Membership::LastSeen(
    const std::string& job, v1::MemberKind kind,
    const std::vector<RankRange>& ranks, absl::Time now) const {
  std::vector<std::string> lines;
  for (const auto& [first, last] : ranks) {
    for (Rank rank = first; rank <= last; ++rank) {
      if (lines.size() == kLastSeenCountMax) return lines;
      lines.push_back(
          absl::StrCat("rank ", rank, ": ", LastSeen({job, rank, kind}, now)));
    }
  }
  return lines;
}

v1::Member Membership::Get(const MemberKey& key) const {
  if (const MemberState* member = Find(key)) return ToProto(*member);
  v1::Member unknown;
  *unknown.mutable_member() = shardwright::ToProto(key);
  unknown.set_state(v1::Member::UNREGISTERED);
  return unknown;
}

v1::Member Membership::ToProto(const MemberState& member) {
  v1::Member message;
  *message.mutable_member() = member.record.member();
  message.set_incarnation(member.record.incarnation());
  *message.mutable_facts() = member.record.facts();
  message.set_state(member.record.state());
  message.set_phase(member.phase);
  if (member.record.state() == v1::Member::LIVE) {
    *message.mutable_expire_time() = shardwright::ToProto(member.expire_time);
  }
  if (member.last_seen != absl::InfinitePast()) {
    *message.mutable_last_seen_time() = shardwright::ToProto(member.last_seen);
  }
  return message;
}

absl::StatusOr<v1::ListMembersResponse> Membership::List(
    const v1::ListMembersRequest& request) const {
  RETURN_IF_ERROR(layouts_.Get(request.job()).status());
  v1::ListMembersResponse response;
  const auto job = jobs_.find(request.job());
  if (job == jobs_.end()) return response;
  Seat after = {-1, v1::MEMBER_KIND_UNSPECIFIED};
  if (!request.page_token().empty()) {
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(request.page_token(), absl::MaxSplits('/', 1));
    int kind = 0;
    if (!absl::SimpleAtoi(parts.first, &after.first) ||
        !absl::SimpleAtoi(parts.second, &kind)) {
      return InvalidPageToken(request.page_token());
    }
    after.second = static_cast<v1::MemberKind>(kind);
  }
  const int page_size = PageSize(request.page_size());
  for (auto it = job->second.members.upper_bound(after);
       it != job->second.members.end(); ++it) {
    if (response.members_size() == page_size) {
      const v1::MemberId& last = response.members(page_size - 1).member();
      response.set_next_page_token(absl::StrCat(last.rank(), "/", last.kind()));
      break;
    }
    *response.add_members() = ToProto(it->second);
  }
  return response;
}

}  // namespace shardwright
