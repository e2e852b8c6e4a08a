#include "coordinator/core/barrier_table.h"

#include <algorithm>
#include <iterator>
#include <memory>

#include "absl/strings/str_cat.h"
#include "coordinator/core/clique.h"
#include "coordinator/core/timeout.h"
#include "proto/plan/fingerprint.h"
#include "proto/plan/group.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "proto/time/proto_time.h"

namespace shardwright {
namespace {

constexpr absl::Duration kProgressPeriod = absl::Seconds(1);
constexpr absl::Duration kReminderPeriod = absl::Seconds(5);
constexpr size_t kNameBytesMax = 63;

// As many ranges as progress can tell of where its ranks were last seen.
constexpr size_t kFirstMissing = 3;

absl::Status ScopeNotFound(absl::string_view message) {
  return Error(absl::StatusCode::kNotFound, "SCOPE_NOT_FOUND", message);
}

// The ranks of a scope. Empty: there is no such scope.
//
// Errors:
//   INVALID_ARGUMENT CLIQUE_TOO_LARGE
absl::StatusOr<std::vector<RankRange>> ScopeRanges(const Layout& layout,
                                                   const std::string& scope) {
  if (scope.empty()) {
    return std::vector<RankRange>{{0, layout.world_size() - 1}};
  }
  std::vector<Rank> ranks;
  if (const Module* module = layout.FindModule(scope); module != nullptr) {
    ranks = module->listed_ranks();
    if (ranks.empty()) {
      return std::vector<RankRange>{
          {module->RankAt(0), module->RankAt(module->rank_count() - 1)}};
    }
  } else if (const auto group = FindGroup(layout, scope); group.has_value()) {
    RETURN_IF_ERROR(Clique::CheckSize(layout, *group));
    ranks = RanksOf(layout, *group);
  }
  std::sort(ranks.begin(), ranks.end());
  return RangesOf(ranks);
}

bool Holds(const std::vector<RankRange>& ranges, Rank rank) {
  const auto range = std::upper_bound(
      ranges.begin(), ranges.end(), rank,
      [](Rank wanted, const RankRange& r) { return wanted < r.first; });
  return range != ranges.begin() && rank <= std::prev(range)->last;
}

// `ranges` less the ranks that `of` of each of `taken` gives, ascending.
template <typename Ranks, typename Function>
std::vector<RankRange> Without(const std::vector<RankRange>& ranges,
                               const Ranks& taken, Function of) {
  std::vector<RankRange> rest;
  auto next = taken.begin();
  for (const auto& [first, last] : ranges) {
    Rank begin = first;
    while (next != taken.end() && of(*next) < first) ++next;
    for (; next != taken.end() && of(*next) <= last; ++next) {
      if (begin < of(*next)) rest.push_back({begin, of(*next) - 1});
      begin = of(*next) + 1;
    }
    if (begin <= last) rest.push_back({begin, last});
  }
  return rest;
}

}  // namespace

BarrierTable::BarrierTable(const Membership& membership,
                           MissingReports& reports)
    : membership_(membership), reports_(reports) {}

bool BarrierTable::IsRepeat(const Barrier& barrier,
                            const v1::WaitAtBarrierRequest& request) {
  if (!barrier.released.has_value() ||
      barrier.released->sequence != request.sequence()) {
    return false;
  }
  const auto released =
      barrier.released_incarnations.find(request.caller().member().rank());
  return released != barrier.released_incarnations.end() &&
         released->second == request.caller().incarnation();
}

absl::Status BarrierTable::CheckSequence(
    const Barrier& barrier, bool waiting,
    const v1::WaitAtBarrierRequest& request) {
  if (!waiting && !barrier.released.has_value()) return absl::OkStatus();
  const int64_t expected =
      waiting ? barrier.use.sequence : barrier.released->sequence + 1;
  if (request.sequence() != expected) {
    return Error(absl::StatusCode::kFailedPrecondition, "BARRIER_SEQUENCE",
                 absl::StrCat("sequence ", request.sequence(), " of barrier \"",
                              request.name(), "\" is not the one ",
                              waiting ? "that others wait at" : "that is next",
                              ", which is ", expected),
                 {{"expected", absl::StrCat(expected)},
                  {"got", absl::StrCat(request.sequence())}});
  }
  return absl::OkStatus();
}

absl::Status BarrierTable::CheckSame(const Use& use,
                                     const v1::WaitAtBarrierRequest& request) {
  if (request.scope() == use.scope && request.digest() == use.digest) {
    return absl::OkStatus();
  }
  const std::string digest = DigestText(use.digest);
  const std::string got = DigestText(request.digest());
  return Error(
      absl::StatusCode::kInvalidArgument, "BARRIER_MISMATCH",
      absl::StrCat("barrier \"", request.name(), "\" has scope \"", use.scope,
                   "\" and digest ", digest, "; rank ",
                   request.caller().member().rank(), " brings scope \"",
                   request.scope(), "\" and digest ", got),
      {{"scope", use.scope},
       {"digest", digest},
       {"got_scope", request.scope()},
       {"got_digest", got}});
}

absl::Status BarrierTable::CheckHolds(const Scope& scope,
                                      const v1::WaitAtBarrierRequest& request) {
  const MemberKey member = KeyOf(request.caller().member());
  if (Holds(scope.ranges, member.rank)) return absl::OkStatus();
  return ScopeNotFound(
      scope.ranges.empty()
          ? absl::StrCat("scope \"", request.scope(),
                         "\" is no module or clique of job ", member.job)
          : absl::StrCat("scope \"", request.scope(), "\" does not hold ",
                         Describe(member)));
}

absl::Status BarrierTable::Wait(StreamId stream, const JobLayout& job,
                                const v1::WaitAtBarrierRequest& request,
                                absl::Time now, Effects& effects) {
  if (request.name().empty() || request.name().size() > kNameBytesMax) {
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_BARRIER_NAME",
                 absl::StrCat("name has ", request.name().size(),
                              " bytes; it must have 1 to ", kNameBytesMax));
  }
  ASSIGN_OR_RETURN(const absl::Duration timeout,
                   TimeoutFromProto(request.timeout()));
  const MemberKey member = KeyOf(request.caller().member());
  const BarrierKey key = {member.job, member.kind, request.name()};
  auto found = barriers_.find(key);
  StreamId earlier = 0;
  bool repeat = false;
  std::shared_ptr<const Scope> scope;
  if (found != barriers_.end()) {
    Barrier& barrier = found->second;
    const auto own = barrier.arrived.find(member.rank);
    if (own != barrier.arrived.end()) earlier = own->second;
    const bool others_wait = barrier.arrived.size() > (earlier == 0 ? 0 : 1);
    repeat = IsRepeat(barrier, request);
    if (repeat) {
      RETURN_IF_ERROR(CheckSame(*barrier.released, request));
    } else {
      RETURN_IF_ERROR(CheckSequence(barrier, others_wait, request));
    }
    if (others_wait && !repeat) {
      const absl::Status same = CheckSame(barrier.use, request);
      if (!same.ok()) EndAll(barrier, same, effects);
      RETURN_IF_ERROR(same);
      scope = barrier.scope;
    }
  }
  const bool first = scope == nullptr;
  if (!repeat) {
    if (first) {
      ASSIGN_OR_RETURN(scope, FindScope(*job.layout, request.scope()));
    }
    RETURN_IF_ERROR(CheckHolds(*scope, request));
  }
  // Nothing refuses it any more: only now does it take the earlier one's place.
  if (earlier != 0) {
    effects.End(earlier,
                Error(absl::StatusCode::kAborted, "REPLACED",
                      absl::StrCat(Describe(member), " called again")));
    Close(earlier);
  }
  if (repeat) {
    effects.End(stream, absl::OkStatus());
    return absl::OkStatus();
  }
  if (found == barriers_.end()) {
    MakeRoom(member.job, effects);
    found = barriers_.try_emplace(key).first;
    ++barrier_counts_[member.job];
  }
  Barrier& barrier = found->second;
  if (first) {
    barrier.use = {request.sequence(), request.scope(), request.digest()};
    barrier.scope = std::move(scope);
    barrier.gave_up.clear();
  }
  barrier.last_use_time = now;
  next_progress_ = std::min(next_progress_, now + kProgressPeriod);
  Arrive(stream, barrier,
         {member, request.caller().incarnation(), key, timeout, now + timeout},
         effects);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const BarrierTable::Scope>>
BarrierTable::FindScope(const Layout& layout, const std::string& text) const {
  for (auto it = barriers_.lower_bound({layout.name(), {}, ""});
       it != barriers_.end() && std::get<0>(it->first) == layout.name(); ++it) {
    const Barrier& barrier = it->second;
    if (barrier.scope != nullptr && barrier.use.scope == text) {
      return barrier.scope;
    }
  }
  auto scope = std::make_shared<Scope>();
  ASSIGN_OR_RETURN(scope->ranges, ScopeRanges(layout, text));
  for (const auto& [first, last] : scope->ranges) {
    scope->rank_count += last - first + 1;
  }
  return std::shared_ptr<const Scope>(std::move(scope));
}

void BarrierTable::MakeRoom(const std::string& job, Effects& effects) {
  if (barrier_counts_[job] < kBarriersPerJobMax) return;
  auto oldest = barriers_.end();
  for (auto it = barriers_.lower_bound({job, {}, ""});
       it != barriers_.end() && std::get<0>(it->first) == job; ++it) {
    if (oldest == barriers_.end() ||
        std::make_pair(!it->second.arrived.empty(), it->second.last_use_time) <
            std::make_pair(!oldest->second.arrived.empty(),
                           oldest->second.last_use_time)) {
      oldest = it;
    }
  }
  EndAll(oldest->second,
         Error(absl::StatusCode::kResourceExhausted, "TOO_MANY_BARRIERS",
               absl::StrCat("job ", job, " waits at more than ",
                            kBarriersPerJobMax, " barriers")),
         effects);
  barriers_.erase(oldest);
  --barrier_counts_[job];
}

void BarrierTable::Arrive(StreamId stream, Barrier& barrier, Call call,
                          Effects& effects) {
  barrier.arrived[call.member.rank] = stream;
  barrier.gave_up.erase(call.member.rank);
  ++barrier.version;
  calls_of_member_.insert({call.member, stream});
  deadlines_.insert({call.deadline, stream});
  calls_[stream] = std::move(call);
  if (static_cast<int64_t>(barrier.arrived.size()) <
      barrier.scope->rank_count) {
    return;
  }
  barrier.released = barrier.use;
  barrier.released_incarnations.clear();
  for (const auto& [rank, arrived] : barrier.arrived) {
    barrier.released_incarnations[rank] = calls_.at(arrived).incarnation;
  }
  EndAll(barrier, absl::OkStatus(), effects);
}

// Takes a call out whose stream has ended.
void BarrierTable::Close(StreamId stream) {
  const auto it = calls_.find(stream);
  const Call& call = it->second;
  Barrier& barrier = barriers_.at(call.barrier);
  barrier.arrived.erase(call.member.rank);
  ++barrier.version;
  if (barrier.arrived.empty()) barrier.scope = nullptr;
  deadlines_.erase({call.deadline, stream});
  auto [begin, end] = calls_of_member_.equal_range(call.member);
  calls_of_member_.erase(std::find_if(
      begin, end, [&](const auto& entry) { return entry.second == stream; }));
  calls_.erase(it);
}

void BarrierTable::EndAll(Barrier& barrier, const absl::Status& status,
                          Effects& effects) {
  const std::map<Rank, StreamId> arrived = barrier.arrived;
  for (const auto& [rank, stream] : arrived) {
    effects.End(stream, status);
    Close(stream);
  }
}

void BarrierTable::StreamClosed(StreamId stream) {
  if (calls_.count(stream) != 0) Close(stream);
}

void BarrierTable::MemberLost(const MemberKey& member, const absl::Status& end,
                              const std::string& what, Effects& effects) {
  for (auto it = calls_of_member_.find(member); it != calls_of_member_.end();
       it = calls_of_member_.find(member)) {
    const StreamId stream = it->second;
    Barrier& barrier = barriers_.at(calls_.at(stream).barrier);
    effects.End(stream, end);
    Close(stream);
    v1::ErrorDetail detail;
    detail.set_reason("PEER_LOST");
    *detail.mutable_missing() = CompressRanks({member.rank});
    EndAll(barrier,
           Error(absl::StatusCode::kAborted,
                 absl::StrCat("a member that had arrived was lost: ", what),
                 std::move(detail)),
           effects);
  }
  for (auto it = barriers_.lower_bound({member.job, member.kind, ""});
       it != barriers_.end() && std::get<0>(it->first) == member.job &&
       std::get<1>(it->first) == member.kind;
       ++it) {
    Barrier& barrier = it->second;
    barrier.gave_up.erase(member.rank);
    barrier.released_incarnations.erase(member.rank);
    if (barrier.released_incarnations.empty()) barrier.released.reset();
  }
}

void BarrierTable::LayoutChanged(const std::string& job,
                                 const absl::Status& end, Effects& effects) {
  for (auto it = barriers_.lower_bound({job, {}, ""});
       it != barriers_.end() && std::get<0>(it->first) == job;
       it = barriers_.erase(it)) {
    EndAll(it->second, end, effects);
  }
  barrier_counts_.erase(job);
}

// Those who have not arrived.
std::vector<RankRange> BarrierTable::Awaited(const Barrier& barrier) {
  return Without(barrier.scope->ranges, barrier.arrived,
                 [](const auto& arrived) { return arrived.first; });
}

void BarrierTable::WorkOutMissing(const Call& call,
                                  const Barrier& barrier) const {
  if (barrier.missing_version == barrier.version) return;
  barrier.missing_version = barrier.version;
  barrier.missing_for_error.Clear();
  std::vector<RankRange> missing = Awaited(barrier);
  barrier.missing = CompressRanges(missing);
  barrier.first_missing.assign(
      missing.begin(),
      missing.begin() + std::min<size_t>(missing.size(), kFirstMissing));
  if (barrier.missing.truncated()) {
    barrier.missing.set_report(
        reports_.Keep(call.member.job, call.member.kind, std::move(missing)));
  }
}

// Names those who never came; only if there are none, those who came and whose
// own time was up earlier.
absl::Status BarrierTable::TimedOut(const Call& call) const {
  const Barrier& barrier = barriers_.at(call.barrier);
  WorkOutMissing(call, barrier);
  v1::MemberSet& named = barrier.missing_for_error;
  if (named.rank_count() == 0) {
    const std::vector<RankRange> missing = Awaited(barrier);
    std::vector<RankRange> never_came =
        Without(missing, barrier.gave_up, [](Rank rank) { return rank; });
    if (never_came.empty()) never_came = missing;
    named = CompressRanges(never_came);
    named.set_report(reports_.Keep(call.member.job, call.member.kind,
                                   std::move(never_came)));
  }
  v1::ErrorDetail detail;
  detail.set_reason("MEMBERS_MISSING");
  *detail.mutable_missing() = named;
  return Error(absl::StatusCode::kDeadlineExceeded,
               absl::StrCat("barrier \"", std::get<2>(call.barrier),
                            "\" sequence ", barrier.use.sequence,
                            " still waits for ranks ", named.ranges()),
               std::move(detail));
}

v1::WaitAtBarrierResponse BarrierTable::Progress(const Call& call,
                                                 absl::Time now) const {
  const Barrier& barrier = barriers_.at(call.barrier);
  WorkOutMissing(call, barrier);
  v1::WaitAtBarrierResponse progress;
  progress.set_present_count(barrier.arrived.size());
  progress.set_member_count(barrier.scope->rank_count);
  *progress.mutable_missing() = barrier.missing;
  for (std::string& line : membership_.LastSeen(
           call.member.job, call.member.kind, barrier.first_missing, now)) {
    progress.add_last_seen(std::move(line));
  }
  *progress.mutable_timeout() = ToProto(call.timeout);
  return progress;
}

void BarrierTable::Tick(absl::Time now, Effects& effects) {
  // All are told before any is taken out: nobody whose time is up in the same
  // instant is missing for another.
  std::vector<StreamId> due;
  for (const auto& [deadline, stream] : deadlines_) {
    if (deadline > now) break;
    due.push_back(stream);
    effects.End(stream, TimedOut(calls_.at(stream)));
  }
  for (const StreamId stream : due) {
    const Call& call = calls_.at(stream);
    barriers_.at(call.barrier).gave_up.insert(call.member.rank);
    Close(stream);
  }
  if (now < next_progress_) return;
  // All who wait at one barrier for as long are told the same.
  std::map<std::pair<BarrierKey, absl::Duration>,
           std::shared_ptr<const v1::WaitAtBarrierResponse>>
      news;
  for (auto& [stream, call] : calls_) {
    const Barrier& barrier = barriers_.at(call.barrier);
    if (call.told_version == barrier.version &&
        now < call.told_time + kReminderPeriod) {
      continue;
    }
    call.told_version = barrier.version;
    call.told_time = now;
    auto& message = news[{call.barrier, call.timeout}];
    if (message == nullptr) {
      message = std::make_shared<const v1::WaitAtBarrierResponse>(
          Progress(call, now));
    }
    effects.Send(stream, message);
  }
  next_progress_ =
      calls_.empty() ? absl::InfiniteFuture() : now + kProgressPeriod;
}

absl::Time BarrierTable::NextTick() const {
  if (deadlines_.empty()) return next_progress_;
  return std::min(next_progress_, deadlines_.begin()->first);
}

}  // namespace shardwright
