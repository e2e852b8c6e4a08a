// One clique and how far it is: what CliqueTable works on.

#ifndef COORDINATOR_CORE_CLIQUE_H_
#define COORDINATOR_CORE_CLIQUE_H_

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/core/effects.h"
#include "proto/plan/group.h"
#include "proto/plan/layout.h"
#include "proto/status/error.h"
#include "shardwright/v1/communicator.pb.h"
#include "shardwright/v1/membership.pb.h"

namespace shardwright {

// Above this many members an NCCL clique has several roots, as
// ncclCommInitRankScalable advises.
inline constexpr int64_t kRanksPerRoot = 128;

// A place costs 40 bytes as soon as one member asks for the clique.
inline constexpr int64_t kCliqueMembersMax = 1 << 17;

// Some members of one clique, ascending, and how messages say so. `set.report`
// is filled by who sends it.
struct WaitedFor {
  std::vector<Rank> ranks;
  std::vector<RankRange> ranges;  // The same.
  mutable v1::MemberSet set;
};

struct Clique {
  enum class Phase { kGathering, kExchanging, kConnecting, kActive };

  // One member's place.
  struct Seat {
    StreamId stream = 0;    // Of the call that wants the clique; 0: absent.
    bool reported = false;  // Connected, in this attempt.
    bool gave_up = false;   // Absent because its own timeout passed.
  };

  // Whether the group may be a clique. Errors:
  //   INVALID_ARGUMENT CLIQUE_TOO_LARGE: above kCliqueMembersMax members.
  static absl::Status CheckSize(const Layout& layout, const Group& group);

  Clique() = default;
  Clique(const Layout& layout, v1::MemberKind kind, const Group& group);

  std::string job;
  v1::MemberKind kind = v1::MEMBER_KIND_UNSPECIFIED;
  std::string name;
  std::vector<Rank> ranks;                      // In group order.
  std::vector<std::pair<Rank, int>> positions;  // By rank.
  std::vector<Seat> seats;                      // By position.
  v1::CommBackend backend = v1::COMM_BACKEND_UNSPECIFIED;
  Phase phase = Phase::kGathering;
  int32_t attempt = 1;
  int64_t present_count = 0;
  std::vector<std::string> slots;  // Empty string: not published.
  int64_t published_count = 0;
  int64_t reported_count = 0;
  int failure_count = 0;  // Reports of failure since it was last active.
  absl::Time not_before = absl::InfinitePast();  // Of the next attempt.

  // Why the attempt before this one ended; empty if there was none.
  std::string last_abort_reason;
  std::string last_abort_message;

  int64_t version = 0;  // Counts changes.

  std::optional<int> PositionOf(Rank rank) const;

  // NCCL: one slot a root; Gloo: one a member. And the position of the member
  // that publishes one: for NCCL the first member of each root's even share,
  // which is where ncclCommInitRankScalable looks for it.
  int64_t SlotCount() const;
  int64_t SlotOwner(int64_t slot) const;

  // Those whom it waits for: absent, or owing a slot or a report. And those of
  // the absent who never came. Worked out once for each version.
  const WaitedFor& Missing() const;
  const WaitedFor& NeverCame() const;

 private:
  void WorkOutMissing() const;

  mutable int64_t missing_version_ = -1;
  mutable WaitedFor missing_, never_came_;
};

}  // namespace shardwright

#endif  // COORDINATOR_CORE_CLIQUE_H_
