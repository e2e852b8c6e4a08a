// Brings the members of every clique together, attempt by attempt: part of the
// core. communicator.proto says what members see; this is what happens inside.
//
//   GATHERING --all members present--> EXCHANGING (GO sent)
//   EXCHANGING --all slots published--> CONNECTING (SLOTS sent)
//   CONNECTING --all reported ok--> ACTIVE
//   any of the last three --doubt--> GATHERING, attempt + 1, slots wiped
//
// A member is present while it has an open FormCommunicators call that wants
// the clique. Doubt is: a call that ends before ACTIVE, a failed report, a lost
// member, another layout. ACTIVE survives the end of the calls.
//
// Messages about different cliques reach all members in one order, so a member
// that connects them one after the other cannot deadlock with another.
//
// Cost: an event costs O(log members) for each of the member's cliques, but for
// the four that every member must be told of, which cost O(members).

#ifndef COORDINATOR_CORE_CLIQUE_TABLE_H_
#define COORDINATOR_CORE_CLIQUE_TABLE_H_

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/core/clique.h"
#include "coordinator/core/effects.h"
#include "coordinator/core/layout_table.h"
#include "coordinator/core/member_key.h"
#include "coordinator/core/membership.h"
#include "coordinator/core/missing_reports.h"
#include "shardwright/v1/communicator.pb.h"
#include "shardwright/v1/diagnostics.pb.h"

namespace shardwright {

// Bounds what one slot can cost.
inline constexpr size_t kSlotBytesMax = 4096;

// Not thread-safe. Callers have been checked (Caller in membership.proto).
// What ExplainClique needs of the layout alone: takes as long as the clique has
// members, so that a server does it before it takes its lock.
struct IdleClique {
  // Errors:
  //   NOT_FOUND CLIQUE_NOT_FOUND: the message says what the layout has.
  //   INVALID_ARGUMENT CLIQUE_TOO_LARGE, INVALID_PAGE_TOKEN
  static absl::StatusOr<IdleClique> Create(
      const JobLayout& job, const v1::ExplainCliqueRequest& request);

  int64_t generation = 0;
  int64_t after = -1;  // Position that the page before ended with.
  Clique clique;       // As it is before anybody asks for it.
};

class CliqueTable {
 public:
  // Both must outlive it: they know who is missing, and keep it for reports.
  CliqueTable(int64_t term, const Membership& membership,
              MissingReports& reports);

  // As CommunicatorService has them. `stream` is open when Form() returns OK,
  // unless `effects` ends it.
  absl::Status Form(StreamId stream, const JobLayout& job,
                    const v1::FormCommunicatorsRequest& request, absl::Time now,
                    Effects& effects);
  absl::Status Publish(const v1::PublishSlotsRequest& request,
                       Effects& effects);
  absl::Status Report(const v1::ReportCommunicatorsRequest& request,
                      absl::Time now, Effects& effects);

  void StreamClosed(StreamId stream, absl::Time now, Effects& effects);

  // The member's own call ends with `end`; its cliques begin again, and their
  // members are told `what`.
  void MemberLost(const Layout& layout, const MemberKey& member,
                  const absl::Status& end, const std::string& what,
                  absl::Time now, Effects& effects);

  // All calls of the job end with `end`; nothing is active any more.
  void LayoutChanged(const std::string& job, const absl::Status& end,
                     Effects& effects);

  // Ends calls whose time is up, begins attempts that were put off, and tells
  // who is missing.
  void Tick(absl::Time now, Effects& effects);
  absl::Time NextTick() const;

  // As DiagnosticsService has them, for a job that exists.
  absl::StatusOr<v1::ListCommunicatorsResponse> List(
      const v1::ListCommunicatorsRequest& request) const;
  // `idle` stands for a clique that nobody has asked for.
  v1::CliqueExplanation Explain(const v1::ExplainCliqueRequest& request,
                                const IdleClique& idle) const;

 private:
  using Phase = Clique::Phase;
  using Seat = Clique::Seat;

  struct CliquePlace {
    Clique* clique;
    int position;
  };

  // An open FormCommunicators call.
  struct Call {
    MemberKey member;
    absl::Duration timeout;
    absl::Time deadline;
    std::vector<CliquePlace> cliques;  // In creation order.
    size_t active_count = 0;

    // What was last told.
    const Clique* told_clique = nullptr;
    int64_t told_version = -1;
    size_t told_active_count = 0;
    absl::Time told_time = absl::InfinitePast();
  };

  using CliqueKey = std::tuple<std::string, v1::MemberKind, std::string>;

  // clique_table.cc: calls.
  absl::StatusOr<std::vector<GroupMembership>> Wanted(
      const JobLayout& job, const MemberKey& member,
      const v1::FormCommunicatorsRequest& request) const;
  absl::Status CheckBackend(const Group& group, const MemberKey& member,
                            v1::CommBackend backend) const;
  Clique& Find(const JobLayout& job, v1::MemberKind kind, const Group& group);
  absl::StatusOr<CliquePlace> FindAttempt(const v1::Caller& caller,
                                          const v1::Attempt& attempt);
  void Close(StreamId stream, absl::string_view what, bool gave_up,
             absl::Time now, Effects& effects);
  void EndIfComplete(StreamId stream, Effects& effects);

  // clique_progress.cc: who is waited for.
  // Messages that all who wait for one clique are told, but for what is theirs.
  using News = std::map<const Clique*, v1::FormCommunicatorsResponse>;

  const v1::MemberSet& WithReport(const Clique& clique,
                                  const WaitedFor& who) const;
  v1::MemberSet MissingOf(const Call& call) const;
  absl::Status TimedOut(const Call& call) const;
  v1::FormCommunicatorsResponse Waiting(const Clique& clique,
                                        absl::Time now) const;
  void SendWaiting(StreamId stream, Call& call, News& news, absl::Time now,
                   Effects& effects);

  // clique_attempt.cc: one clique.
  v1::Attempt AttemptOf(const Clique& clique) const;
  void Begin(Clique& clique, absl::Time now, Effects& effects);
  void SendSlots(Clique& clique, Effects& effects);
  void Activate(Clique& clique, Effects& effects);
  void Abort(Clique& clique, absl::string_view reason, absl::string_view what,
             absl::Time now, Effects& effects);
  void BackOff(Clique& clique, absl::Time now);

  // clique_view.cc: for people.
  v1::CliqueSummary Summary(const Clique& clique) const;

  const int64_t term_;
  const Membership& membership_;
  MissingReports& reports_;
  std::map<CliqueKey, Clique> cliques_;  // Of the layouts in force.

  // By job: above every attempt under its former layouts.
  std::map<std::string, int32_t> first_attempts_;
  std::map<StreamId, Call> calls_;
  std::map<MemberKey, StreamId> call_of_member_;
  std::set<std::pair<absl::Time, StreamId>> deadlines_;
  std::multimap<absl::Time, Clique*> put_off_;
  absl::Time next_progress_ = absl::InfiniteFuture();
};

}  // namespace shardwright

#endif  // COORDINATOR_CORE_CLIQUE_TABLE_H_
