// Who is waited for: what waiting members are told, and what they are told when
// their time is up.

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/core/clique_table.h"
#include "proto/status/error.h"

namespace shardwright {
namespace {

constexpr absl::Duration kProgressPeriod = absl::Seconds(1);
constexpr absl::Duration kReminderPeriod = absl::Seconds(5);
constexpr int kLastSeenCountMax = 3;

// Of ascending lists. Most often the largest holds the others, and ten thousand
// calls may end at once: sorting for each of them would take many seconds.
std::vector<Rank> Union(std::vector<const std::vector<Rank>*> lists) {
  std::sort(lists.begin(), lists.end(),
            [](const auto* a, const auto* b) { return a->size() > b->size(); });
  std::vector<Rank> all;
  for (const std::vector<Rank>* list : lists) {
    if (std::includes(all.begin(), all.end(), list->begin(), list->end())) {
      continue;
    }
    std::vector<Rank> merged;
    std::set_union(all.begin(), all.end(), list->begin(), list->end(),
                   std::back_inserter(merged));
    all = std::move(merged);
  }
  return all;
}

}  // namespace

void CliqueTable::SendWaiting(StreamId stream, Call& call, absl::Time now,
                              Effects& effects) {
  const auto incomplete = std::find_if(
      call.cliques.begin(), call.cliques.end(), [](const CliquePlace& place) {
        return place.clique->phase != Phase::kActive;
      });
  const Clique& clique = *incomplete->clique;
  const bool changed = call.told_clique != &clique ||
                       call.told_version != clique.version ||
                       call.told_active_count != call.active_count;
  if (!changed && now < call.told_time + kReminderPeriod) return;
  call.told_clique = &clique;
  call.told_version = clique.version;
  call.told_active_count = call.active_count;
  call.told_time = now;

  const std::vector<Rank>& missing = Missing(clique);
  v1::FormCommunicatorsResponse event;
  v1::Waiting& waiting = *event.mutable_waiting();
  *waiting.mutable_attempt() = AttemptOf(clique);
  waiting.set_member_count(clique.ranks.size());
  waiting.set_present_count(clique.ranks.size() - missing.size());
  *waiting.mutable_missing() = clique.missing_set;
  waiting.set_active_clique_count(call.active_count);
  waiting.set_clique_count(call.cliques.size());
  for (size_t i = 0; i < missing.size() && i < kLastSeenCountMax; ++i) {
    MemberKey key = call.member;
    key.rank = missing[i];
    waiting.add_last_seen(
        absl::StrCat("rank ", key.rank, ": ", last_seen_(key, now)));
  }
  effects.Send(stream, std::make_shared<const v1::FormCommunicatorsResponse>(
                           std::move(event)));
}

// Names those who never came. Only if there are none, those who came and whose
// own time was up earlier; and only if there are none, those who are present
// but owe a slot or a report.
absl::Status CliqueTable::TimedOut(const Call& call) const {
  std::vector<const std::vector<Rank>*> never_came, absent, owing;
  const Clique* first = nullptr;
  for (const auto& [clique, position] : call.cliques) {
    if (clique->phase == Phase::kActive) continue;
    if (first == nullptr) first = clique;
    const std::vector<Rank>& missing = Missing(*clique);
    if (clique->phase != Phase::kGathering) {
      owing.push_back(&missing);
      continue;
    }
    if (!missing.empty()) absent.push_back(&missing);
    if (!clique->never_came.empty()) never_came.push_back(&clique->never_came);
  }
  const std::vector<Rank> missing = Union(!never_came.empty() ? never_came
                                          : !absent.empty()   ? absent
                                                              : owing);
  v1::ErrorDetail detail;
  detail.set_reason("MEMBERS_MISSING");
  *detail.mutable_missing() = CompressRanks(missing);
  (*detail.mutable_metadata())["clique"] = first->name;
  (*detail.mutable_metadata())["attempt"] = absl::StrCat(first->attempt);
  // Nobody is missing only while attempts that failed are held back.
  const std::string waits_for =
      missing.empty() ? "its next attempt"
                      : absl::StrCat("ranks ", detail.missing().ranges());
  return Error(
      absl::StatusCode::kDeadlineExceeded,
      absl::StrCat(first->name, " attempt ", first->attempt,
                   " still waits for ", waits_for, "; ", call.active_count,
                   " of ", call.cliques.size(), " communicators are active"),
      std::move(detail));
}

void CliqueTable::Tick(absl::Time now, Effects& effects) {
  // What they are told is worked out for all before any is taken out: nobody
  // whose time is up in the same instant is missing for another.
  std::vector<std::pair<StreamId, absl::Status>> due;
  for (const auto& [deadline, stream] : deadlines_) {
    if (deadline > now) break;
    due.emplace_back(stream, TimedOut(calls_.at(stream)));
  }
  for (const auto& [stream, status] : due) {
    effects.log.push_back(
        absl::StrCat("form_timed_out ", LogFields(calls_.at(stream).member)));
    Close(stream, "its timeout passed", /*gave_up=*/true, now, effects);
    effects.End(stream, status);
  }
  while (!put_off_.empty() && put_off_.begin()->first <= now) {
    Clique& clique = *put_off_.begin()->second;
    put_off_.erase(put_off_.begin());
    Begin(clique, now, effects);
  }
  if (now < next_progress_) return;
  for (auto& [stream, call] : calls_) SendWaiting(stream, call, now, effects);
  next_progress_ =
      calls_.empty() ? absl::InfiniteFuture() : now + kProgressPeriod;
}

absl::Time CliqueTable::NextTick() const {
  absl::Time next = next_progress_;
  if (!deadlines_.empty()) next = std::min(next, deadlines_.begin()->first);
  if (!put_off_.empty()) next = std::min(next, put_off_.begin()->first);
  return next;
}

}  // namespace shardwright
