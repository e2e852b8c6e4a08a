#include "worker/rpc/bridge_turns.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

// How often one who waits looks whether the caller still does.
constexpr absl::Duration kLookAround = absl::Milliseconds(100);

bool IsBefore(const v1::Attempt& a, const v1::Attempt& b) {
  return std::make_pair(a.term(), a.number()) <
         std::make_pair(b.term(), b.number());
}

}  // namespace

absl::StatusOr<BridgeTurns::Turn> BridgeTurns::Enter(const v1::Attempt& attempt,
                                                     uint64_t sequence,
                                                     absl::Time deadline,
                                                     const Caller& caller) {
  MutexLock lock(mutex_);
  if (IsBefore(attempt_, attempt)) {
    attempt_ = attempt;
    ++attempt_count_;
    next_sequence_.reset();
    changed_.NotifyAll();
  }
  const auto is_early = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return next_sequence_.has_value() && sequence > *next_sequence_;
  };
  const auto may_enter = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !is_early() && std::count(taken_, taken_ + kUnderWay, false) > 0;
  };
  while (true) {
    if (IsBefore(attempt, attempt_)) {
      return Error(absl::StatusCode::kFailedPrecondition, "CLIQUE_NOT_ACTIVE",
                   absl::StrCat("attempt ", attempt.number(), " of clique ",
                                attempt.clique(), " is over, and attempt ",
                                attempt_.number(), " active"));
    }
    RETURN_IF_ERROR(caller.status());
    if (may_enter()) break;
    const absl::Duration left = deadline - absl::Now();
    if (left > absl::ZeroDuration()) {
      changed_.WaitFor(lock, std::min(left, kLookAround));
    } else if (is_early()) {
      return Error(
          absl::StatusCode::kDeadlineExceeded, "SEQUENCE_MISSING",
          absl::StrCat("sequence is ", sequence, ", but nobody has called for ",
                       *next_sequence_, ", which comes next"));
    } else {
      return Error(absl::StatusCode::kDeadlineExceeded, "BRIDGE_BUSY",
                   absl::StrCat("sequence ", sequence, " waits, since ",
                                kUnderWay, " calls are still under way"));
    }
  }
  next_sequence_ = sequence + 1;
  changed_.NotifyAll();
  const int slot =
      static_cast<int>(std::find(taken_, taken_ + kUnderWay, false) - taken_);
  taken_[slot] = true;
  return Turn(*this, attempt_count_, next_number_++, slot);
}

void BridgeTurns::Turn::Begin() {
  MutexLock lock(turns_->mutex_);
  while (turns_->next_transfer_ != number_) turns_->changed_.Wait(lock);
}

void BridgeTurns::Turn::End() {
  const MutexLock lock(turns_->mutex_);
  turns_->next_transfer_ = number_ + 1;
  ended_ = true;
  turns_->changed_.NotifyAll();
}

BridgeTurns::Turn::~Turn() {
  if (moved_) return;
  if (!ended_) {
    Begin();
    End();
  }
  const MutexLock lock(turns_->mutex_);
  turns_->taken_[slot_] = false;
  if (!succeeded_ && attempt_count_ == turns_->attempt_count_) {
    turns_->next_sequence_.reset();
  }
  turns_->changed_.NotifyAll();
}

}  // namespace shardwright
