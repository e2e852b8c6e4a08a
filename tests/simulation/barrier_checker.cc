#include "tests/simulation/barrier_checker.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_join.h"
#include "proto/plan/group.h"
#include "proto/status/error.h"
#include "proto/time/proto_time.h"

namespace shardwright {
namespace simulation {

void BarrierChecker::Crashed() {
  barriers_.clear();
  waits_.clear();
}

std::vector<Rank> BarrierChecker::ScopeRanks(const std::string& job,
                                             const std::string& scope) const {
  const Layout& layout = *store_.FindJob(job)->layout;
  std::vector<Rank> ranks;
  if (scope.empty()) {
    ranks.resize(layout.world_size());
    std::iota(ranks.begin(), ranks.end(), 0);
  } else if (const Module* module = layout.FindModule(scope)) {
    for (int64_t i = 0; i < module->rank_count(); ++i) {
      ranks.push_back(module->RankAt(i));
    }
  } else if (const auto group = FindGroup(layout, scope)) {
    ranks = RanksOf(layout, *group);
  }
  std::sort(ranks.begin(), ranks.end());
  return ranks;
}

// Whom the barrier waits for, ascending.
std::vector<Rank> BarrierChecker::Missing(const Wait& wait) const {
  const Barrier& barrier = barriers_.at(wait.barrier);
  std::vector<Rank> missing;
  for (const Rank rank : ScopeRanks(wait.member.job, barrier.use.scope)) {
    if (barrier.arrived.count(rank) == 0) missing.push_back(rank);
  }
  return missing;
}

// barrier.proto, MEMBERS_MISSING: those who never came, or else those who came
// and gave up.
std::vector<Rank> BarrierChecker::MissingAtDeadline(const Wait& wait) const {
  const Barrier& barrier = barriers_.at(wait.barrier);
  const std::vector<Rank> missing = Missing(wait);
  std::vector<Rank> never_came;
  std::copy_if(missing.begin(), missing.end(), std::back_inserter(never_came),
               [&](Rank rank) { return barrier.gave_up.count(rank) == 0; });
  return never_came.empty() ? missing : never_came;
}

void BarrierChecker::CloseWait(StreamId stream) {
  const auto found = waits_.find(stream);
  std::map<Rank, StreamId>& arrived =
      barriers_.at(found->second.barrier).arrived;
  const auto own = arrived.find(found->second.member.rank);
  if (own != arrived.end() && own->second == stream) arrived.erase(own);
  waits_.erase(found);
}

void BarrierChecker::OnLost(const MemberKey& lost) {
  for (auto& [key, barrier] : barriers_) {
    if (std::get<0>(key) != lost.job || std::get<1>(key) != lost.kind) continue;
    barrier.gave_up.erase(lost.rank);
    barrier.released_incarnations.erase(lost.rank);
    if (barrier.released_incarnations.empty()) barrier.released.reset();
    if (barrier.arrived.count(lost.rank) > 0) barrier.peer_lost = true;
  }
}

void BarrierChecker::BeforeEffects(const Step& step) {
  for (auto& [key, barrier] : barriers_) {
    barrier.peer_lost = barrier.mismatch = false;
    barrier.leaving.clear();
    if (store_.new_layouts().count(std::get<0>(key)) > 0) {
      barrier.released.reset();
      barrier.gave_up.clear();
    }
  }
  for (const MemberKey& lost : store_.lost()) OnLost(lost);
  missing_at_deadline_.clear();
  for (const auto& [stream, wait] : waits_) {
    if (wait.deadline <= step.now) {
      missing_at_deadline_[stream] = MissingAtDeadline(wait);
    }
  }
  if (const auto* wait = std::get_if<v1::WaitAtBarrierRequest>(&step.request)) {
    OnWait(step, *wait);
  } else if (std::holds_alternative<ClientGone>(step.request) &&
             IsOpen(step.stream)) {
    CloseWait(step.stream);
  }
}

void BarrierChecker::OnWait(const Step& step,
                            const v1::WaitAtBarrierRequest& request) {
  const MemberKey member = KeyOf(request.caller().member());
  const uint64_t incarnation = request.caller().incarnation();
  const Key key = {member.job, member.kind, request.name()};
  Barrier& barrier = barriers_[key];
  if (!step.status.ok()) return OnRefused(step.status, barrier, request);

  const auto released = barrier.released_incarnations.find(member.rank);
  const bool is_repeat = barrier.released.has_value() &&
                         barrier.released->sequence == request.sequence() &&
                         released != barrier.released_incarnations.end() &&
                         released->second == incarnation;
  waits_[step.stream] = {member,
                         incarnation,
                         request.caller().generation(),
                         key,
                         step.now + FromProto(request.timeout()),
                         is_repeat};
  if (is_repeat) {
    violations_.Require(UseOf(request) == *barrier.released,
                        "barrier: a repeat that differs is accepted");
    return;
  }
  const size_t own = barrier.arrived.count(member.rank);
  if (barrier.arrived.size() > own) {
    violations_.Require(
        UseOf(request) == barrier.use, "barrier: ", Describe(member),
        " waits with others at sequence ", barrier.use.sequence,
        " and brings something else: ", request.ShortDebugString());
  } else {
    violations_.Require(
        !barrier.released.has_value() ||
            request.sequence() == barrier.released->sequence + 1,
        "barrier: sequence ", request.sequence(), " begins after ",
        barrier.released.value_or(Use()).sequence, " was released");
    barrier.use = UseOf(request);
    barrier.gave_up.clear();
  }
  barrier.arrived[member.rank] = step.stream;
  barrier.gave_up.erase(member.rank);
}

void BarrierChecker::OnRefused(const absl::Status& status, Barrier& barrier,
                               const v1::WaitAtBarrierRequest& request) {
  const Rank rank = request.caller().member().rank();
  const bool others_wait = barrier.arrived.size() > barrier.arrived.count(rank);
  const v1::ErrorDetail detail = DetailOf(status);
  if (detail.reason() == "BARRIER_SEQUENCE") {
    const int64_t expected =
        others_wait ? barrier.use.sequence
                    : barrier.released.value_or(Use{-1, "", 0}).sequence + 1;
    violations_.Require(
        detail.metadata().at("expected") == absl::StrCat(expected) &&
            expected != request.sequence(),
        "barrier: sequence ", request.sequence(), " is refused for ",
        detail.metadata().at("expected"), ", where it should be ", expected);
  } else if (detail.reason() == "BARRIER_MISMATCH") {
    const bool as_released = barrier.released.has_value() &&
                             barrier.released->sequence == request.sequence() &&
                             barrier.released_incarnations.count(rank) > 0 &&
                             barrier.released_incarnations.at(rank) ==
                                 request.caller().incarnation();
    const Use& use = as_released ? *barrier.released : barrier.use;
    violations_.Require(
        (as_released || others_wait) && !(UseOf(request) == use),
        "barrier: a mismatch with nobody");
    barrier.mismatch = !as_released;
  } else if (detail.reason() == "SCOPE_NOT_FOUND") {
    const std::vector<Rank> scope =
        ScopeRanks(request.caller().member().job(), request.scope());
    violations_.Require(!std::binary_search(scope.begin(), scope.end(), rank),
                        "barrier: the scope \"", request.scope(),
                        "\" is not found, and is there");
  }
}

void BarrierChecker::OnProgress(StreamId stream,
                                const v1::WaitAtBarrierResponse& progress) {
  const std::vector<Rank> missing = Missing(waits_.at(stream));
  violations_.Require(
      progress.missing().ranges() == CompressRanks(missing).ranges() &&
          progress.member_count() - progress.present_count() ==
              static_cast<int64_t>(missing.size()),
      "waiting: says that ", progress.missing().ranges(),
      " are missing at a barrier, where these are: ",
      absl::StrJoin(missing, ","));
}

void BarrierChecker::OnEnd(const Step& step, StreamId stream,
                           const absl::Status& status) {
  const Wait& wait = waits_.at(stream);
  Barrier& barrier = barriers_.at(wait.barrier);
  const std::string reason = ReasonOf(status);
  if (status.ok()) {
    if (!wait.is_repeat) barrier.leaving[wait.member.rank] = wait.incarnation;
  } else if (reason == "MEMBERS_MISSING") {
    const auto expected = missing_at_deadline_.find(stream);
    violations_.Require(expected != missing_at_deadline_.end(),
                        "barrier: timed out before the deadline");
    if (expected == missing_at_deadline_.end()) return;
    violations_.Require(DetailOf(status).missing().ranges() ==
                            CompressRanks(expected->second).ranges(),
                        "missing: ", Describe(wait.member), " is told that ",
                        DetailOf(status).missing().ranges(),
                        " are missing at a barrier, where these are: ",
                        absl::StrJoin(expected->second, ","));
    barrier.gave_up.insert(wait.member.rank);
  } else if (reason == "REPLACED") {
    const auto* again = std::get_if<v1::WaitAtBarrierRequest>(&step.request);
    violations_.Require(again != nullptr && stream != step.stream &&
                            KeyOf(again->caller().member()) == wait.member &&
                            again->name() == std::get<2>(wait.barrier),
                        "barrier: a call is replaced by nobody");
  } else {
    violations_.Require(
        (reason == "PEER_LOST" && barrier.peer_lost) ||
            (reason == "NOT_REGISTERED" && store_.WasLost(wait.member)) ||
            (reason == "BARRIER_MISMATCH" && barrier.mismatch) ||
            (reason == "STALE_GENERATION" &&
             store_.new_layouts().count(wait.member.job) > 0),
        "barrier: a call ends with ", status.ToString());
  }
  CloseWait(stream);
}

void BarrierChecker::AfterEffects(const Step& step) {
  for (auto& [key, barrier] : barriers_) {
    const std::string& job = std::get<0>(key);
    if (!barrier.leaving.empty()) {
      std::vector<Rank> released;
      for (const auto& [rank, incarnation] : barrier.leaving) {
        released.push_back(rank);
        violations_.Require(
            store_.IsLive({job, rank, std::get<1>(key)}, incarnation),
            "barrier: rank ", rank, " is released and lost");
      }
      violations_.Require(released == ScopeRanks(job, barrier.use.scope),
                          "barrier: releases ", absl::StrJoin(released, ","),
                          " and not its whole scope");
      barrier.released = barrier.use;
      barrier.released_incarnations = barrier.leaving;
      barrier.gave_up.clear();
    }
    violations_.Require(
        barrier.arrived.empty() || (!barrier.peer_lost && !barrier.mismatch),
        "waiter forgotten: the others at barrier ", std::get<2>(key),
        " have failed");
    violations_.Require(
        barrier.arrived.empty() ||
            barrier.arrived.size() < ScopeRanks(job, barrier.use.scope).size(),
        "waiter forgotten: all have arrived at barrier ", std::get<2>(key));
  }
  for (const auto& [stream, wait] : waits_) {
    const Barrier& barrier = barriers_.at(wait.barrier);
    const auto arrived = barrier.arrived.find(wait.member.rank);
    violations_.Require(wait.deadline > step.now && !wait.is_repeat,
                        "barrier: a call is open after its deadline");
    violations_.Require(step.next_tick <= wait.deadline,
                        "barrier: the next tick comes after a deadline");
    violations_.Require(store_.IsLive(wait.member, wait.incarnation),
                        "barrier: a call is open, and its member is lost");
    violations_.Require(
        store_.FindJob(wait.member.job)->generation == wait.generation,
        "barrier: a call is open, and the layout has changed");
    violations_.Require(
        arrived != barrier.arrived.end() && arrived->second == stream,
        "barrier: a call is replaced, and still open");
  }
}

}  // namespace simulation
}  // namespace shardwright
