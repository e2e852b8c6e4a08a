// Who is alive: registrations, leases, sessions, and the news of who was lost.
// Part of the core.
//
// Every loss has a revision of its own, stored before it is told. A session
// that comes back is told of what it missed by the revision it saw last.

#ifndef COORDINATOR_CORE_MEMBERSHIP_H_
#define COORDINATOR_CORE_MEMBERSHIP_H_

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/core/admission.h"
#include "coordinator/core/effects.h"
#include "coordinator/core/layout_table.h"
#include "coordinator/core/member_key.h"
#include "coordinator/core/nccl_roster.h"
#include "coordinator/core/stored.pb.h"
#include "coordinator/storage/state_store.h"
#include "proto/status/error.h"
#include "shardwright/v1/membership.pb.h"

namespace shardwright {

// Not thread-safe. `store`, `layouts` and `admission` must outlive it.
class Membership {
 public:
  // A process that is no member any more.
  struct Loss {
    MemberKey member;
    std::string what;  // "rank 3 (WORKER) on host-a, pid 77: lease expired"
    absl::Status end;  // How the process's own calls end.
  };

  Membership(StateStore& store, const LayoutTable& layouts,
             Admission& admission, int64_t term, absl::Duration lease_ttl);

  // Takes over what a store holds. Whoever was live gets a fresh lease.
  //
  // Errors:
  //   DATA_LOSS STORE_UNREADABLE: the message names the entry.
  absl::Status Load(const StateStore::Entries& entries, absl::Time now);

  // Errors: as Caller (membership.proto), less STALE_GENERATION.
  absl::Status Check(const v1::Caller& caller) const;

  // As MembershipService has them. A registration that changes nothing needs no
  // admission.
  absl::StatusOr<v1::RegisterResponse> Register(
      const v1::RegisterRequest& request, absl::Time now, Effects& effects);
  absl::StatusOr<v1::ListMembersResponse> List(
      const v1::ListMembersRequest& request) const;

  // One message of the session that is `stream`; each is answered. A failure
  // ends the session.
  absl::Status Session(StreamId stream, const v1::SessionRequest& request,
                       absl::Time now, Effects& effects);
  void StreamClosed(StreamId stream);

  // Ends live members, all or none, and stores `entries` with it. Their own
  // sessions end; PushNews() tells the others.
  //
  // Errors: of the store; nothing has changed.
  absl::StatusOr<std::vector<Loss>> End(const std::vector<MemberKey>& members,
                                        v1::Member::State state,
                                        const std::string& why,
                                        StateStore::Entries entries,
                                        Effects& effects);
  absl::StatusOr<std::vector<Loss>> Leave(const v1::LeaveRequest& request,
                                          Effects& effects);

  // Ends the members whose lease has run out. If the store fails they stay, and
  // are tried again a second later.
  std::vector<Loss> Expire(absl::Time now, Effects& effects);
  absl::Time NextExpiry() const;

  // Tells every session of the job of losses, generation and revision.
  void PushNews(const std::string& job, Effects& effects);

  // Live members of `job` whose rank is not in `layout`.
  std::vector<MemberKey> NotIn(const std::string& job,
                               const Layout& layout) const;
  int64_t LiveCount(const std::string& job) const;

  // What is known of a member. UNREGISTERED: nothing.
  v1::Member Get(const MemberKey& key) const;

  // The same in words, of the first three: "rank 3: step 12 on host-a, lease
  // expired, seen 4s ago", "rank 5: never registered".
  std::vector<std::string> LastSeen(const std::string& job, v1::MemberKind kind,
                                    const std::vector<RankRange>& ranks,
                                    absl::Time now) const;

 private:
  using Seat = std::pair<Rank, v1::MemberKind>;

  struct MemberState {
    stored::Member record;
    std::string phase;
    absl::Time expire_time;  // Of the lease, or of the last one.
    absl::Time last_seen = absl::InfinitePast();  // In this term.
    StreamId session = 0;                         // 0: none.
    int64_t told_revision = 0;
  };
  struct Job {
    std::map<Seat, MemberState> members;
    std::map<int64_t, Seat> losses;  // By revision; one a member, its latest.
    int64_t live_count = 0;
    NcclRoster nccl;  // Of those who are live.
  };

  const MemberState* Find(const MemberKey& key) const;
  MemberState* Find(const MemberKey& key);
  static absl::Status Fenced(const MemberKey& key,
                             const stored::Member& holder);
  absl::Status CheckRegistration(const v1::RegisterRequest& request) const;
  std::map<std::string, std::string> HolderOf(const MemberState& holder,
                                              absl::Time now) const;
  absl::Status CheckFree(const MemberKey& key, const MemberState& holder,
                         uint64_t incarnation, absl::Time now) const;
  absl::Status CheckNccl(const MemberKey& key, const v1::MemberFacts& facts,
                         absl::Time now) const;
  v1::RegisterResponse RegisterAnswer(const MemberKey& key) const;

  // membership_view.cc: for people.
  static v1::Member ToProto(const MemberState& member);
  static std::string Place(const v1::MemberFacts& facts);
  std::string LastSeen(const MemberKey& key, absl::Time now) const;
  void Grant(const MemberKey& key, MemberState& member, absl::Time now);
  void AnswerSession(const MemberKey& key, MemberState& member,
                     Effects& effects);
  v1::SessionResponse NewsSince(const std::string& name,
                                int64_t revision) const;

  StateStore& store_;
  const LayoutTable& layouts_;
  Admission& admission_;
  const int64_t term_;
  const absl::Duration lease_ttl_;
  int64_t revision_ = 0;
  std::map<std::string, Job> jobs_;
  std::map<StreamId, MemberKey> sessions_;
  std::set<std::pair<absl::Time, MemberKey>> leases_;  // Of live members.
  absl::Time retry_time_ = absl::InfinitePast();       // After a failed write.
};

}  // namespace shardwright

#endif  // COORDINATOR_CORE_MEMBERSHIP_H_
