// Who is waited for: what waiting members are told, and what they are told when
// their time is up.

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "coordinator/core/clique_table.h"
#include "proto/status/error.h"
#include "proto/time/proto_time.h"

namespace shardwright {
namespace {

constexpr absl::Duration kProgressPeriod = absl::Seconds(1);
constexpr absl::Duration kReminderPeriod = absl::Seconds(5);

using CliqueWaits = std::pair<const Clique*, const WaitedFor*>;

bool Holds(const std::vector<Rank>& all, const std::vector<Rank>& some) {
  if (some.size() * 16 > all.size()) {
    return std::includes(all.begin(), all.end(), some.begin(), some.end());
  }
  return absl::c_all_of(
      some, [&all](Rank rank) { return absl::c_binary_search(all, rank); });
}

// Brings the largest to the front. Returns nothing if it holds all the others,
// as most often it does, else all of all. Ten thousand calls may end at once:
// working out each one's own set would take many seconds.
std::vector<Rank> BeyondLargest(std::vector<CliqueWaits>& waits) {
  std::sort(waits.begin(), waits.end(), [](const auto& a, const auto& b) {
    return a.second->ranks.size() > b.second->ranks.size();
  });
  const std::vector<Rank>& largest = waits[0].second->ranks;
  std::vector<Rank> all;
  for (size_t i = 1; i < waits.size(); ++i) {
    const std::vector<Rank>& so_far = all.empty() ? largest : all;
    const std::vector<Rank>& ranks = waits[i].second->ranks;
    if (Holds(so_far, ranks)) continue;
    std::vector<Rank> merged;
    absl::c_set_union(so_far, ranks, std::back_inserter(merged));
    all = std::move(merged);
  }
  return all;
}

}  // namespace

const v1::MemberSet& CliqueTable::WithReport(const Clique& clique,
                                             const WaitedFor& who) const {
  if (who.set.report().empty()) {
    who.set.set_report(reports_.Keep(clique.job, clique.kind, who.ranges));
  }
  return who.set;
}

v1::FormCommunicatorsResponse CliqueTable::Waiting(const Clique& clique,
                                                   absl::Time now) const {
  const WaitedFor& missing = clique.Missing();
  v1::FormCommunicatorsResponse event;
  v1::Waiting& waiting = *event.mutable_waiting();
  *waiting.mutable_attempt() = AttemptOf(clique);
  waiting.set_member_count(clique.ranks.size());
  waiting.set_present_count(clique.ranks.size() - missing.ranks.size());
  *waiting.mutable_missing() =
      missing.set.truncated() ? WithReport(clique, missing) : missing.set;
  for (std::string& line :
       membership_.LastSeen(clique.job, clique.kind, missing.ranges, now)) {
    waiting.add_last_seen(std::move(line));
  }
  return event;
}

void CliqueTable::SendWaiting(StreamId stream, Call& call, News& news,
                              absl::Time now, Effects& effects) {
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

  const auto [common, is_new] = news.try_emplace(&clique);
  if (is_new) common->second = Waiting(clique, now);
  auto event = std::make_shared<v1::FormCommunicatorsResponse>(common->second);
  event->mutable_waiting()->set_active_clique_count(call.active_count);
  event->mutable_waiting()->set_clique_count(call.cliques.size());
  *event->mutable_waiting()->mutable_timeout() = ToProto(call.timeout);
  effects.Send<v1::FormCommunicatorsResponse>(stream, std::move(event));
}

// Those who never came. Only if there are none, those who came and whose own
// time was up earlier; and only if there are none, those who are present but
// owe a slot or a report.
v1::MemberSet CliqueTable::MissingOf(const Call& call) const {
  std::vector<CliqueWaits> never_came, absent, owing;
  for (const auto& [clique, position] : call.cliques) {
    if (clique->phase == Phase::kActive) continue;
    const WaitedFor& missing = clique->Missing();
    if (missing.ranks.empty()) continue;
    if (clique->phase != Phase::kGathering) {
      owing.push_back({clique, &missing});
      continue;
    }
    absent.push_back({clique, &missing});
    if (!clique->NeverCame().ranks.empty()) {
      never_came.push_back({clique, &clique->NeverCame()});
    }
  }
  std::vector<CliqueWaits>& waits = !never_came.empty() ? never_came
                                    : !absent.empty()   ? absent
                                                        : owing;
  if (waits.empty()) return {};
  const std::vector<Rank> more = BeyondLargest(waits);
  if (more.empty()) return WithReport(*waits[0].first, *waits[0].second);
  const std::vector<RankRange> all = RangesOf(more);
  v1::MemberSet set = CompressRanges(all);
  set.set_report(reports_.Keep(call.member.job, call.member.kind, all));
  return set;
}

absl::Status CliqueTable::TimedOut(const Call& call) const {
  const Clique* first = nullptr;
  for (const auto& [clique, position] : call.cliques) {
    if (first == nullptr && clique->phase != Phase::kActive) first = clique;
  }
  v1::ErrorDetail detail;
  detail.set_reason("MEMBERS_MISSING");
  *detail.mutable_missing() = MissingOf(call);
  (*detail.mutable_metadata())["clique"] = first->name;
  (*detail.mutable_metadata())["attempt"] = absl::StrCat(first->attempt);
  // Nobody is missing only while attempts that failed are held back.
  const std::string waits_for =
      detail.missing().rank_count() == 0
          ? "its next attempt"
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
    const MemberKey& member = calls_.at(stream).member;
    effects.LogMember("form_timed_out", member.job, member.rank,
                      LogKind(member));
    Close(stream, "its timeout passed", /*gave_up=*/true, now, effects);
    effects.End(stream, status);
  }
  while (!put_off_.empty() && put_off_.begin()->first <= now) {
    Clique& clique = *put_off_.begin()->second;
    put_off_.erase(put_off_.begin());
    Begin(clique, now, effects);
  }
  if (now < next_progress_) return;
  News news;
  for (auto& [stream, call] : calls_) {
    SendWaiting(stream, call, news, now, effects);
  }
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
