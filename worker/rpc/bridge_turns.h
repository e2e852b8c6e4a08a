// Lets the calls of RunBridge through one after another: a clique's members
// must use it in one order, but what a call does before and after it may go on
// beside another call's transfer.

#ifndef WORKER_RPC_BRIDGE_TURNS_H_
#define WORKER_RPC_BRIDGE_TURNS_H_

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/sync/mutex.h"
#include "shardwright/v1/communicator.pb.h"
#include "worker/rpc/caller.h"

namespace shardwright {

// Thread-safe.
class BridgeTurns {
 public:
  static constexpr int kUnderWay = 2;

  // A call that is under way. Leaving needs the transfer of the call before to
  // have ended: the destructor waits for it. One-thread-only.
  class Turn {
   public:
    Turn(Turn&& other) noexcept
        : Turn(*other.turns_, other.attempt_count_, other.number_,
               other.slot_) {
      ended_ = other.ended_;
      succeeded_ = other.succeeded_;
      other.moved_ = true;
    }
    ~Turn();

    // Which of the kUnderWay, from 0: of what there is one for each.
    int slot() const { return slot_; }

    // Waits until the calls before have ended their transfers.
    void Begin();
    void End();

    // Not called: the order begins anew.
    void Succeed() { succeeded_ = true; }

   private:
    friend class BridgeTurns;
    Turn(BridgeTurns& turns, uint64_t attempt_count, uint64_t number, int slot)
        : turns_(&turns),
          attempt_count_(attempt_count),
          number_(number),
          slot_(slot) {}

    BridgeTurns* turns_;
    uint64_t attempt_count_;
    uint64_t number_;  // In the order of Enter().
    int slot_;
    bool ended_ = false;
    bool succeeded_ = false;
    bool moved_ = false;
  };

  // Waits until fewer than kUnderWay calls are, and, if a call of this attempt
  // has entered and none has failed since, until that with the sequence before
  // has entered. A lower sequence does not wait: the members will compare.
  //
  // Errors:
  //   DEADLINE_EXCEEDED SEQUENCE_MISSING: that before does not come.
  //   DEADLINE_EXCEEDED BRIDGE_BUSY: others are still under way.
  //   CANCELLED         CLIENT_GONE: `caller` has left.
  //   FAILED_PRECONDITION CLIQUE_NOT_ACTIVE: a call of a later attempt has
  //       entered, or enters meanwhile.
  absl::StatusOr<Turn> Enter(const v1::Attempt& attempt, uint64_t sequence,
                             absl::Time deadline, const Caller& caller);

 private:
  Mutex mutex_;
  CondVar changed_;
  v1::Attempt attempt_ ABSL_GUARDED_BY(mutex_);
  uint64_t attempt_count_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<uint64_t> next_sequence_ ABSL_GUARDED_BY(mutex_);
  bool taken_[kUnderWay] ABSL_GUARDED_BY(mutex_) = {};
  uint64_t next_number_ ABSL_GUARDED_BY(mutex_) = 0;    // Of Enter().
  uint64_t next_transfer_ ABSL_GUARDED_BY(mutex_) = 0;  // Whose turn it is.
};

}  // namespace shardwright

#endif  // WORKER_RPC_BRIDGE_TURNS_H_
