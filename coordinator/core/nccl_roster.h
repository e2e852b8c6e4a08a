// What the live members of one job say of their GPUs and NCCL, and which of
// them cannot work together. NCCL itself finds these out late, in words that
// name nobody, or by waiting for ever.

#ifndef COORDINATOR_CORE_NCCL_ROSTER_H_
#define COORDINATOR_CORE_NCCL_ROSTER_H_

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "proto/plan/layout.h"
#include "shardwright/v1/membership.pb.h"

namespace shardwright {

// Not thread-safe. Members that bring no NCCL are passed over.
class NcclRoster {
 public:
  using Seat = std::pair<Rank, v1::MemberKind>;

  // Why a member cannot be let in, and who is in its way.
  struct Conflict {
    absl::StatusCode code;
    std::string reason;
    std::string message;
    Seat other;
  };

  // Whether a member with these facts goes with those that are here.
  std::optional<Conflict> Find(const Seat& seat,
                               const v1::MemberFacts& facts) const;

  void Add(const Seat& seat, const v1::MemberFacts& facts);
  void Remove(const Seat& seat, const v1::MemberFacts& facts);

 private:
  using Seats = std::map<std::string, std::set<Seat>>;

  // Somebody in `seats` under another key than `key`; nothing: nobody.
  static std::optional<std::pair<std::string, Seat>> Other(
      const Seats& seats, const std::string& key, const Seat& self);

  std::map<std::string, Seat> gpus_;  // Of workers, by UUID.
  Seats versions_;
  Seats hosts_;
  Seats loopback_hosts_;  // Those of them where NCCL uses a loopback address.
};

}  // namespace shardwright

#endif  // COORDINATOR_CORE_NCCL_ROSTER_H_
