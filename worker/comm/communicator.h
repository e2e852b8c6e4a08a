// A Communicator is one rank's handle to a clique: the members that move bytes
// together. It comes out of a CommunicatorAttempt, one try at connecting them.
//
// Implementations: NCCL between GPUs (nccl_communicator.h), Gloo over TCP
// (gloo_communicator.h), and members of one process (loopback_communicator.h).
//
// Implementers must not call back into their user, and must not throw. They
// must notice a peer that goes away even when nothing runs: status().

#ifndef WORKER_COMM_COMMUNICATOR_H_
#define WORKER_COMM_COMMUNICATOR_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "proto/sync/mutex.h"

namespace shardwright {

// One try at forming one clique, as one member sees it.
struct CliqueAttempt {
  std::string clique;          // "language/tp/3"; for messages.
  std::vector<int64_t> ranks;  // Members in group order.
  int position = 0;            // Of this member in `ranks`.

  // Equal at all members of this attempt, and at those of no other: a member
  // that reaches somebody else's attempt finds out before it sends a row.
  uint64_t identity = 0;

  std::vector<int> slot_indexes;  // Which slots this member shall fill,
  int slot_count = 0;             // of how many.

  int number = 0;  // Of the attempt; for messages.

  // Whether Exchange() takes rows of tensors over it, and should be fast; what
  // else members tell each other is small, and forming should be.
  bool carries_rows = true;
};

// A message to the member at `position`, and one from there.
struct Outgoing {
  int position = 0;
  absl::Span<const char> bytes;
};
struct Incoming {
  int position = 0;
  absl::Span<char> bytes;
};

// Thread-safe: operations of one communicator run one after another, and
// Abort() may be called at any time. All members must call the same operations
// in the same order: who needs several that belong together, where others may
// use the communicator too, has a Conversation (conversation.h).
//
// Errors of every operation. Afterwards the communicator has ended: it is of no
// more use, and soon its peers' end as well, so that nobody waits for another.
//   ABORTED           PEER_LOST: a member died or gave up; the detail's
//   `missing`
//                     and the message name it, when it is known.
//   DEADLINE_EXCEEDED MEMBERS_MISSING: a member did not call in time; the
//                     detail's `missing` names who was not heard from.
//   UNAVAILABLE       COMM_BACKEND_FAILED: the backend itself failed.
//   whatever Abort() was given.
class Communicator {
 public:
  // Peers that use the communicator fail.
  virtual ~Communicator() = default;

  // Members in group order, and this one's place there.
  virtual const std::vector<int64_t>& ranks() const = 0;
  virtual int position() const = 0;
  int size() const { return static_cast<int>(ranks().size()); }

  // Every member gets the inputs of all, in group order.
  // REQUIRES: output.size() == size() * input.size(), sizes equal everywhere.
  virtual absl::Status AllGather(absl::Span<const char> input,
                                 absl::Span<char> output) = 0;

  // The same with a size for each: byte_counts[i] bytes come from position i.
  // REQUIRES: byte_counts equal everywhere; its entry for this member is
  // input.size(); its sum is output.size().
  virtual absl::Status AllGatherV(absl::Span<const char> input,
                                  absl::Span<const int64_t> byte_counts,
                                  absl::Span<char> output) = 0;

  // Sends and receives messages between any members, in one go. Those from one
  // member to another arrive in the order in which both list them. Every member
  // must call, also with none. Unlike those of the other operations, buffers
  // are in the memory that the backend works on: the host's, or of NCCL its
  // GPU's, which is ready when the call begins. Returns when all has been
  // received, and what was sent may be overwritten; also after a failure the
  // buffers are the caller's again.
  // REQUIRES: both ends have the same messages, of the same sizes; no buffer
  // that is written overlaps another.
  virtual absl::Status Exchange(absl::Span<const Outgoing> sends,
                                absl::Span<const Incoming> receives) = 0;

  // Returns when all members have called.
  virtual absl::Status Barrier() = 0;

  // OK until the communicator has ended, then why: as an operation would fail.
  virtual absl::Status status() const = 0;

  // Ends what runs and refuses what comes, with `why`. The first call counts.
  virtual void Abort(const absl::Status& why) = 0;

 protected:
  // How long an operation may wait that begins now: `timeout`, but not beyond
  // the deadline of the conversation that it is part of.
  absl::Duration WithinDeadline(absl::Duration timeout) const {
    const absl::Time deadline = absl::FromUnixNanos(deadline_nanos_);
    return std::max(std::min(timeout, deadline - absl::Now()),
                    absl::ZeroDuration());
  }

 private:
  friend class Conversation;
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

  Mutex conversation_;
  std::atomic<int64_t> deadline_nanos_{kNever};
};

// Thread-safe. An attempt is used once: what another attempt was given never
// reaches it.
class CommunicatorAttempt {
 public:
  // Aborts, unless Connect() has succeeded.
  virtual ~CommunicatorAttempt() = default;

  // What other members need to reach this one, by slot index. Secret. May wait
  // until it is there; Abort() ends that.
  //
  // Errors:
  //   UNAVAILABLE COMM_BACKEND_FAILED: the backend refused.
  //   whatever Abort() was given.
  virtual absl::StatusOr<std::map<int, std::string>> Slots() = 0;

  // Waits until all members have connected. `slots` are those of all members,
  // by index. Once.
  //
  // Errors: as for an operation of a Communicator, and
  //   INVALID_ARGUMENT INVALID_SLOT: `slots` is not what this backend
  //   publishes.
  virtual absl::StatusOr<std::shared_ptr<Communicator>> Connect(
      const std::vector<std::string>& slots) = 0;

  // Ends Connect(), or the communicator that it has returned, with `why`.
  virtual void Abort(const absl::Status& why) = 0;
};

// Thread-safe.
class CommunicatorFactory {
 public:
  virtual ~CommunicatorFactory() = default;

  // "gloo" or "nccl": MemberFacts.comm_backend.
  virtual std::string backend() const = 0;

  // Errors:
  //   UNAVAILABLE COMM_BACKEND_FAILED: the backend refused, as the message
  //   says.
  virtual absl::StatusOr<std::unique_ptr<CommunicatorAttempt>> Begin(
      const CliqueAttempt& attempt) = 0;
};

// The failures above, for implementations and for those who call Abort().
absl::Status PeerLost(const std::string& clique,
                      const std::vector<int64_t>& lost_ranks,
                      const std::string& why);
absl::Status PeersMissing(const std::string& clique,
                          const std::vector<int64_t>& missing_ranks,
                          const std::string& timeout);

}  // namespace shardwright

#endif  // WORKER_COMM_COMMUNICATOR_H_
