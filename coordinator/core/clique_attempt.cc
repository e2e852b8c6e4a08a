// The life of one attempt at one clique.

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "coordinator/core/clique_table.h"
#include "proto/status/error.h"

namespace shardwright {
namespace {

// Between attempts that fail by report, so that members whose network is broken
// do not try thousands of times a second.
constexpr absl::Duration kBackOffMin = absl::Milliseconds(100);
constexpr absl::Duration kBackOffMax = absl::Seconds(5);
constexpr int kBackOffDoublingsMax = 6;

using Event = v1::FormCommunicatorsResponse;

}  // namespace

v1::Attempt CliqueTable::AttemptOf(const Clique& clique) const {
  v1::Attempt attempt;
  attempt.set_clique(clique.name);
  attempt.set_term(term_);
  attempt.set_number(clique.attempt);
  return attempt;
}

// Begins the attempt if all members are present and it is not put off.
void CliqueTable::Begin(Clique& clique, absl::Time now, Effects& effects) {
  if (clique.phase != Phase::kGathering ||
      clique.present_count < static_cast<int64_t>(clique.seats.size())) {
    return;
  }
  if (now < clique.not_before) {
    put_off_.emplace(clique.not_before, &clique);
    return;
  }
  clique.phase = Phase::kExchanging;
  ++clique.version;
  clique.slots.assign(clique.SlotCount(), "");

  Event event;
  v1::Go& go = *event.mutable_go();
  *go.mutable_attempt() = AttemptOf(clique);
  go.mutable_ranks()->Assign(clique.ranks.begin(), clique.ranks.end());
  go.set_slot_count(static_cast<int32_t>(clique.slots.size()));
  const auto without_slot = std::make_shared<const Event>(event);
  size_t slot = 0;
  for (size_t i = 0; i < clique.seats.size(); ++i) {
    if (slot == clique.slots.size() ||
        clique.SlotOwner(slot) != static_cast<int64_t>(i)) {
      effects.Send(clique.seats[i].stream, without_slot);
      continue;
    }
    Event with_slot = event;
    with_slot.mutable_go()->add_slot_indexes(static_cast<int32_t>(slot++));
    effects.Send(clique.seats[i].stream,
                 std::make_shared<const Event>(std::move(with_slot)));
  }
}

void CliqueTable::SendSlots(Clique& clique, Effects& effects) {
  clique.phase = Phase::kConnecting;
  ++clique.version;
  Event event;
  v1::Slots& slots = *event.mutable_slots();
  *slots.mutable_attempt() = AttemptOf(clique);
  for (const std::string& value : clique.slots) slots.add_values(value);
  const auto message = std::make_shared<const Event>(std::move(event));
  for (const Seat& seat : clique.seats) effects.Send(seat.stream, message);
}

void CliqueTable::Activate(Clique& clique, Effects& effects) {
  clique.phase = Phase::kActive;
  clique.failure_count = 0;
  ++clique.version;
  Event event;
  *event.mutable_active()->mutable_attempt() = AttemptOf(clique);
  const auto message = std::make_shared<const Event>(std::move(event));
  for (const Seat& seat : clique.seats) {
    // Ending the call clears the seat.
    const StreamId stream = seat.stream;
    effects.Send(stream, message);
    ++calls_.at(stream).active_count;
    EndIfComplete(stream, effects);
  }
}

// Ends an attempt that has begun, and begins the next one if it can. Does
// nothing while members gather.
void CliqueTable::Abort(Clique& clique, absl::string_view reason,
                        absl::string_view what, absl::Time now,
                        Effects& effects) {
  if (clique.phase == Phase::kGathering) return;
  const bool was_active = clique.phase == Phase::kActive;
  Event event;
  v1::AttemptAborted& aborted = *event.mutable_aborted();
  *aborted.mutable_attempt() = AttemptOf(clique);
  aborted.set_reason(std::string(reason));
  aborted.set_message(std::string(what));
  const auto message = std::make_shared<const Event>(std::move(event));
  for (Seat& seat : clique.seats) {
    seat.reported = false;
    if (seat.stream == 0) continue;
    effects.Send(seat.stream, message);
    if (was_active) --calls_.at(seat.stream).active_count;
  }
  effects.Log("attempt_aborted", clique.job,
              absl::StrCat("job=", clique.job, " clique=", clique.name,
                           " attempt=", clique.attempt, " reason=", reason,
                           " why=\"", absl::CEscape(what), "\""));
  clique.last_abort_reason = std::string(reason);
  clique.last_abort_message = std::string(what);
  clique.phase = Phase::kGathering;
  ++clique.attempt;
  ++clique.version;
  clique.slots.clear();
  clique.published_count = 0;
  clique.reported_count = 0;
  Begin(clique, now, effects);
}

void CliqueTable::BackOff(Clique& clique, absl::Time now) {
  const int doublings = std::min(clique.failure_count, kBackOffDoublingsMax);
  ++clique.failure_count;
  clique.not_before =
      now + std::min(kBackOffMax, kBackOffMin * (int64_t{1} << doublings));
}

}  // namespace shardwright
