// Names a member inside the core: the value form of v1::MemberId.

#ifndef COORDINATOR_CORE_MEMBER_KEY_H_
#define COORDINATOR_CORE_MEMBER_KEY_H_

#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "proto/plan/layout.h"
#include "shardwright/v1/membership.pb.h"

namespace shardwright {

// Ordered by job, then rank, then kind.
struct MemberKey {
  std::string job;
  Rank rank = 0;
  v1::MemberKind kind = v1::MEMBER_KIND_UNSPECIFIED;

  friend bool operator<(const MemberKey& a, const MemberKey& b) {
    return std::tie(a.job, a.rank, a.kind) < std::tie(b.job, b.rank, b.kind);
  }
  friend bool operator==(const MemberKey& a, const MemberKey& b) {
    return std::tie(a.job, a.rank, a.kind) == std::tie(b.job, b.rank, b.kind);
  }
};

inline MemberKey KeyOf(const v1::MemberId& member) {
  return {member.job(), member.rank(), member.kind()};
}

inline v1::MemberId ToProto(const MemberKey& key) {
  v1::MemberId member;
  member.set_job(key.job);
  member.set_rank(key.rank);
  member.set_kind(key.kind);
  return member;
}

// "rank 3 (WORKER)", for messages.
inline std::string Describe(const MemberKey& key) {
  return absl::StrCat("rank ", key.rank, " (", v1::MemberKind_Name(key.kind),
                      ")");
}

// "job=vlm rank=3 kind=WORKER", for logs; and the last of it.
inline std::string LogFields(const MemberKey& key) {
  return absl::StrCat("job=", key.job, " rank=", key.rank,
                      " kind=", v1::MemberKind_Name(key.kind));
}
inline std::string LogKind(const MemberKey& key) {
  return absl::StrCat("kind=", v1::MemberKind_Name(key.kind));
}

}  // namespace shardwright

#endif  // COORDINATOR_CORE_MEMBER_KEY_H_
