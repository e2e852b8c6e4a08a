// Members that wait for each other: part of the core. barrier.proto says what
// members see.

#ifndef COORDINATOR_CORE_BARRIER_TABLE_H_
#define COORDINATOR_CORE_BARRIER_TABLE_H_

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
#include "coordinator/core/effects.h"
#include "coordinator/core/layout_table.h"
#include "coordinator/core/member_key.h"
#include "coordinator/core/membership.h"
#include "coordinator/core/missing_reports.h"
#include "proto/status/error.h"
#include "shardwright/v1/barrier.pb.h"

namespace shardwright {

// Barriers that one job may have waiting or remembered. The one that was
// released longest ago is forgotten for a new one.
inline constexpr int kBarriersPerJobMax = 1024;

// Not thread-safe. Callers have been checked (Caller in membership.proto).
class BarrierTable {
 public:
  // Both must outlive it: they know who is missing, and keep it for reports.
  BarrierTable(const Membership& membership, MissingReports& reports);

  // As BarrierService has it. `stream` is open when Wait() returns OK, unless
  // `effects` ends it.
  absl::Status Wait(StreamId stream, const JobLayout& job,
                    const v1::WaitAtBarrierRequest& request, absl::Time now,
                    Effects& effects);

  void StreamClosed(StreamId stream);

  // The member's own call ends with `end`, those that waited with it with
  // PEER_LOST. What it was released from is no longer its to repeat.
  void MemberLost(const MemberKey& member, const absl::Status& end,
                  const std::string& what, Effects& effects);

  // All calls of the job end with `end`; released sequences are forgotten.
  void LayoutChanged(const std::string& job, const absl::Status& end,
                     Effects& effects);

  // Ends calls whose time is up, and tells who is missing.
  void Tick(absl::Time now, Effects& effects);
  absl::Time NextTick() const;

 private:
  // By job, kind and name.
  using BarrierKey = std::tuple<std::string, v1::MemberKind, std::string>;

  // Whom to wait for. All that wait for the same share one.
  struct Scope {
    std::vector<RankRange> ranges;  // Ascending.
    int64_t rank_count = 0;
  };

  // What the first to arrive brought.
  struct Use {
    int64_t sequence = 0;
    std::string scope;
    uint64_t digest = 0;
  };

  struct Barrier {
    Use use;
    std::map<Rank, StreamId> arrived;
    std::shared_ptr<const Scope> scope;  // Only while somebody waits.
    std::set<Rank> gave_up;              // Left because their own time was up.

    // The last use that was released, while one of those whom it released is
    // still a member; and who they are.
    std::optional<Use> released;
    std::map<Rank, uint64_t> released_incarnations;

    absl::Time last_use_time;
    int64_t version = 0;  // Counts changes.

    // Whom it waits for; worked out once for each version.
    mutable int64_t missing_version = -1;
    mutable v1::MemberSet missing;
    mutable std::vector<RankRange> first_missing;  // The first few.
    mutable v1::MemberSet missing_for_error;       // Empty: not worked out.
  };

  struct Call {
    MemberKey member;
    uint64_t incarnation;
    BarrierKey barrier;
    absl::Duration timeout;
    absl::Time deadline;
    int64_t told_version = -1;
    absl::Time told_time = absl::InfinitePast();
  };

  // Whether the very process that calls was released at that sequence.
  static bool IsRepeat(const Barrier& barrier,
                       const v1::WaitAtBarrierRequest& request);
  // `waiting`: somebody else waits.
  static absl::Status CheckSequence(const Barrier& barrier, bool waiting,
                                    const v1::WaitAtBarrierRequest& request);
  static absl::Status CheckSame(const Use& use,
                                const v1::WaitAtBarrierRequest& request);
  static absl::Status CheckHolds(const Scope& scope,
                                 const v1::WaitAtBarrierRequest& request);
  absl::StatusOr<std::shared_ptr<const Scope>> FindScope(
      const Layout& layout, const std::string& text) const;
  void MakeRoom(const std::string& job, Effects& effects);
  void Arrive(StreamId stream, Barrier& barrier, Call call, Effects& effects);
  void Close(StreamId stream);
  void EndAll(Barrier& barrier, const absl::Status& status, Effects& effects);
  static std::vector<RankRange> Awaited(const Barrier& barrier);
  void WorkOutMissing(const Call& call, const Barrier& barrier) const;
  absl::Status TimedOut(const Call& call) const;
  v1::WaitAtBarrierResponse Progress(const Call& call, absl::Time now) const;

  const Membership& membership_;
  MissingReports& reports_;
  std::map<BarrierKey, Barrier> barriers_;
  std::map<std::string, int> barrier_counts_;  // By job.
  std::map<StreamId, Call> calls_;
  std::multimap<MemberKey, StreamId> calls_of_member_;
  std::set<std::pair<absl::Time, StreamId>> deadlines_;
  absl::Time next_progress_ = absl::InfiniteFuture();
};

}  // namespace shardwright

#endif  // COORDINATOR_CORE_BARRIER_TABLE_H_
