#include "tests/simulation/clique_checker.h"

#include <algorithm>

#include "proto/plan/group.h"
#include "proto/status/error.h"
#include "proto/time/proto_time.h"

namespace shardwright {
namespace simulation {
namespace {

bool Contains(const std::vector<Rank>& ranks, Rank rank) {
  return std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
}

}  // namespace

void CliqueChecker::Crashed() {
  calls_.clear();
  call_of_member_.clear();
  for (auto& [key, clique] : cliques_) {
    EndAttempt(clique);
    clique.present.clear();
    clique.gave_up.clear();
    clique.ranks.clear();
    clique.failure_time = absl::InfinitePast();
  }
}

CliqueChecker::Clique* CliqueChecker::Find(const MemberKey& member,
                                           const v1::Attempt& attempt) {
  const auto found = cliques_.find({member.job, member.kind, attempt.clique()});
  return found == cliques_.end() ? nullptr : &found->second;
}

CliqueChecker::Clique* CliqueChecker::FindRunning(const MemberKey& member,
                                                  const v1::Attempt& attempt) {
  Clique* clique = Find(member, attempt);
  if (clique == nullptr || clique->phase == Phase::kGathering ||
      clique->attempt != NumberOf(attempt) ||
      !Contains(clique->ranks, member.rank)) {
    return nullptr;
  }
  return clique;
}

bool CliqueChecker::IsActive(const MemberKey& member,
                             const v1::Attempt& attempt) const {
  const Clique* clique =
      const_cast<CliqueChecker*>(this)->FindRunning(member, attempt);
  return clique != nullptr && clique->phase == Phase::kActive;
}

std::vector<CliqueChecker::Clique*> CliqueChecker::Wanted(
    const MemberKey& member, const v1::FormCommunicatorsRequest& request) {
  const StoreModel::Job* job = store_.FindJob(member.job);
  std::vector<Clique*> wanted;
  if (job == nullptr) return wanted;
  const absl::StatusOr<Placement> placement = job->layout->Find(member.rank);
  if (!placement.ok()) return wanted;
  const auto& kinds = request.kinds();
  for (const auto& [group, position] : GroupsOf(*job->layout, *placement)) {
    if (!kinds.empty() && std::find(kinds.begin(), kinds.end(),
                                    group.kind->name) == kinds.end()) {
      continue;
    }
    std::vector<Rank> ranks = RanksOf(*job->layout, group);
    if (ranks.size() < 2) continue;
    const std::string name = group.name();
    Clique& clique = cliques_[{member.job, member.kind, name}];
    clique.name = name;
    clique.ranks = std::move(ranks);
    wanted.push_back(&clique);
  }
  return wanted;
}

// Something has happened that ends an attempt, if one runs.
void CliqueChecker::EndAttempt(Clique& clique) {
  clique.has_reason = true;
  clique.phase = Phase::kGathering;
  clique.told_go.clear();
  clique.told_slots.clear();
  clique.reported.clear();
  clique.slots.clear();
  clique.owners.clear();
}

void CliqueChecker::CloseCall(StreamId stream) {
  const auto found = calls_.find(stream);
  const Call& call = found->second;
  for (Clique* clique : call.cliques) {
    const auto present = clique->present.find(call.member.rank);
    if (present != clique->present.end() && present->second == stream) {
      clique->present.erase(present);
    }
    if (clique->phase != Phase::kActive) EndAttempt(*clique);
  }
  const auto of_member = call_of_member_.find(call.member);
  if (of_member != call_of_member_.end() && of_member->second == stream) {
    call_of_member_.erase(of_member);
  }
  calls_.erase(found);
}

void CliqueChecker::BeforeEffects(const Step& step) {
  for (auto& [key, clique] : cliques_) {
    clique.told_end = false;
    clique.has_reason = false;
    const auto& [job, kind, name] = key;
    if (store_.new_layouts().count(job) > 0) {
      EndAttempt(clique);
      clique.gave_up.clear();
      clique.ranks.clear();
      clique.failure_time = absl::InfinitePast();
    }
  }
  for (const MemberKey& lost : store_.lost()) {
    for (auto& [key, clique] : cliques_) {
      if (std::get<0>(key) != lost.job || std::get<1>(key) != lost.kind ||
          !Contains(clique.ranks, lost.rank)) {
        continue;
      }
      EndAttempt(clique);
      clique.gave_up.erase(lost.rank);
    }
  }
  missing_at_deadline_.clear();
  for (const auto& [stream, call] : calls_) {
    if (call.deadline <= step.now) {
      missing_at_deadline_[stream] = MissingAtDeadline(call);
    }
  }
  // Of a stale request Checker sees to it that nothing happens.
  if (const v1::Caller* caller = CallerOf(step.request);
      caller != nullptr && !store_.IsCurrent(*caller)) {
    return;
  }
  if (const auto* form =
          std::get_if<v1::FormCommunicatorsRequest>(&step.request)) {
    OnForm(step, *form);
  } else if (const auto* publish =
                 std::get_if<v1::PublishSlotsRequest>(&step.request)) {
    OnPublish(step, *publish);
  } else if (const auto* report =
                 std::get_if<v1::ReportCommunicatorsRequest>(&step.request)) {
    OnReport(step, *report);
  } else if (std::holds_alternative<ClientGone>(step.request) &&
             IsOpen(step.stream)) {
    CloseCall(step.stream);
  }
}

void CliqueChecker::OnForm(const Step& step,
                           const v1::FormCommunicatorsRequest& request) {
  if (!step.status.ok()) return;
  const MemberKey member = KeyOf(request.caller().member());
  const StoreModel::Job* job = store_.FindJob(member.job);
  violations_.Require(
      job != nullptr && request.layout_digest() == job->layout->digest(),
      "digest: a call with another layout's digest is accepted");
  Call call;
  call.member = member;
  call.request = request;
  call.deadline = step.now + FromProto(request.timeout());
  call.cliques = Wanted(member, request);
  for (Clique* clique : call.cliques) {
    if (clique->phase == Phase::kActive &&
        clique->backend != request.backend()) {
      EndAttempt(*clique);
    }
    clique->present[member.rank] = step.stream;
    clique->gave_up.erase(member.rank);
  }
  calls_[step.stream] = std::move(call);
  // One that is open still must end in this step: CheckCall() sees to it.
  call_of_member_[member] = step.stream;
}

bool CliqueChecker::MayPublish(const v1::PublishSlotsRequest& request) {
  const MemberKey member = KeyOf(request.caller().member());
  std::map<std::pair<const Clique*, int32_t>, std::string> values;
  for (const v1::Slot& slot : request.slots()) {
    const Clique* clique = FindRunning(member, slot.attempt());
    if (clique == nullptr || slot.index() < 0 ||
        slot.index() >= static_cast<int32_t>(clique->slots.size()) ||
        clique->owners.at(slot.index()) != member.rank ||
        slot.value().empty() || slot.value().size() > 4096) {
      return false;
    }
    const std::string& stored = clique->slots[slot.index()];
    const std::string& first =
        values
            .try_emplace({clique, slot.index()},
                         stored.empty() ? slot.value() : stored)
            .first->second;
    if (first != slot.value()) return false;
  }
  return true;
}

void CliqueChecker::OnPublish(const Step& step,
                              const v1::PublishSlotsRequest& request) {
  const bool may = MayPublish(request);
  violations_.Require(step.status.ok() == may, "slots: a publication that is ",
                      may ? "right is refused: " : "wrong is accepted: ",
                      step.status.ToString(), " ", request.ShortDebugString());
  if (!step.status.ok() || !may) return;
  const MemberKey member = KeyOf(request.caller().member());
  for (const v1::Slot& slot : request.slots()) {
    FindRunning(member, slot.attempt())->slots[slot.index()] = slot.value();
  }
}

void CliqueChecker::OnReport(const Step& step,
                             const v1::ReportCommunicatorsRequest& request) {
  const MemberKey member = KeyOf(request.caller().member());
  bool all_run = true;
  for (const v1::CommunicatorReport& report : request.reports()) {
    Clique* clique = FindRunning(member, report.attempt());
    if (clique == nullptr) {
      all_run = false;
    } else if (!report.ok()) {
      EndAttempt(*clique);
      clique->failure_time = step.now;
    } else if (clique->phase == Phase::kConnecting) {
      clique->reported.insert(member.rank);
    }
  }
  violations_.Require(step.status.ok() == all_run,
                      "reports: ", step.status.ToString(), " for ",
                      request.ShortDebugString());
}

void CliqueChecker::OnEvent(const Step& step, StreamId stream,
                            const v1::FormCommunicatorsResponse& event) {
  Call& call = calls_.at(stream);
  switch (event.event_case()) {
    case v1::FormCommunicatorsResponse::kWaiting:
      return OnWaiting(call, event.waiting());
    case v1::FormCommunicatorsResponse::kGo:
      return OnGo(stream, call, event.go());
    case v1::FormCommunicatorsResponse::kSlots:
      return OnSlots(call, event.slots());
    case v1::FormCommunicatorsResponse::kActive:
      return OnActive(step, stream, call, event.active().attempt());
    case v1::FormCommunicatorsResponse::kAborted:
      return OnAborted(call, event.aborted().attempt());
    case v1::FormCommunicatorsResponse::EVENT_NOT_SET:
      violations_.Require(false, "clique: an empty event");
  }
}

void CliqueChecker::OnGo(StreamId stream, Call& call, const v1::Go& go) {
  const v1::Attempt& attempt = go.attempt();
  Clique* clique = Find(call.member, attempt);
  violations_.Require(
      clique != nullptr && std::find(call.cliques.begin(), call.cliques.end(),
                                     clique) != call.cliques.end(),
      "go: for ", attempt.clique(), ", which ", Describe(call.member),
      " has not asked for");
  if (violations_.first().has_value()) return;
  if (clique->attempt != NumberOf(attempt)) {
    violations_.Require(clique->phase == Phase::kGathering,
                        "go: while an attempt runs at ", clique->name);
    violations_.Require(NumberOf(attempt) > clique->attempt,
                        "attempt: ", attempt.ShortDebugString(),
                        " begins after attempt ", clique->attempt.second,
                        " of term ", clique->attempt.first);
    violations_.Require(attempt.term() == store_.term(),
                        "term: GO for another term than the stored one");
    clique->attempt = NumberOf(attempt);
    clique->phase = Phase::kExchanging;
    clique->backend = call.request.backend();
    clique->slots.assign(go.slot_count(), "");
  }
  violations_.Require(clique->phase == Phase::kExchanging,
                      "go: for an attempt that is over or further");
  violations_.Require(clique->told_go.insert(call.member.rank).second,
                      "go: twice to ", Describe(call.member));
  violations_.Require(
      std::vector<Rank>(go.ranks().begin(), go.ranks().end()) == clique->ranks,
      "go: with other ranks than those of the group");
  const auto present = clique->present.find(call.member.rank);
  violations_.Require(
      present != clique->present.end() && present->second == stream &&
          store_.IsLive(call.member, call.request.caller().incarnation()),
      "go: to one who is not there");
  const StoreModel::Job& job = *store_.FindJob(call.member.job);
  violations_.Require(call.request.layout_digest() == job.layout->digest() &&
                          call.request.caller().generation() == job.generation,
                      "digest: GO to ", Describe(call.member),
                      ", who works with another layout than the one in force");
  violations_.Require(call.request.backend() == clique->backend,
                      "digest: GO to members with different backends");
  for (const int32_t index : go.slot_indexes()) {
    violations_.Require(
        index >= 0 && index < go.slot_count() &&
            clique->owners.emplace(index, call.member.rank).second,
        "slots: slot ", index, " of ", clique->name, " has two owners");
  }
  call.runs[clique] = clique->attempt;
}

void CliqueChecker::OnSlots(Call& call, const v1::Slots& slots) {
  Clique* clique = FindRunning(call.member, slots.attempt());
  violations_.Require(clique != nullptr && call.runs.count(clique) > 0 &&
                          call.runs[clique] == clique->attempt,
                      "slots: of an attempt that does not run: ",
                      slots.attempt().ShortDebugString());
  if (violations_.first().has_value()) return;
  if (clique->phase == Phase::kExchanging) clique->phase = Phase::kConnecting;
  violations_.Require(clique->phase == Phase::kConnecting &&
                          clique->told_slots.insert(call.member.rank).second,
                      "slots: served twice to ", Describe(call.member));
  violations_.Require(
      std::vector<std::string>(slots.values().begin(), slots.values().end()) ==
          clique->slots,
      "slots: ", Describe(call.member), " is served others than were put in ",
      slots.attempt().ShortDebugString());
}

void CliqueChecker::OnActive(const Step& step, StreamId stream, Call& call,
                             const v1::Attempt& attempt) {
  Clique* clique = FindRunning(call.member, attempt);
  violations_.Require(clique != nullptr, "active: an attempt that is over: ",
                      attempt.ShortDebugString());
  if (violations_.first().has_value()) return;
  if (clique->phase == Phase::kConnecting) {
    violations_.Require(clique->reported.size() == clique->ranks.size(),
                        "active: ", clique->name,
                        " before all have reported success");
    clique->phase = Phase::kActive;
    clique->failure_time = absl::InfinitePast();
  }
  violations_.Require(
      clique->phase == Phase::kActive &&
          (stream == step.stream || call.runs.count(clique) > 0),
      "active: told to one who took no part");
  call.runs[clique] = clique->attempt;
}

void CliqueChecker::OnAborted(Call& call, const v1::Attempt& attempt) {
  Clique* clique = Find(call.member, attempt);
  const auto run = call.runs.find(clique);
  violations_.Require(
      run != call.runs.end() && run->second == NumberOf(attempt),
      "attempt: an end is told of one that ", Describe(call.member),
      " took no part in: ", attempt.ShortDebugString());
  if (violations_.first().has_value()) return;
  call.runs.erase(run);
  if (clique->phase == Phase::kGathering) return;
  const bool has_reason = clique->has_reason;
  EndAttempt(*clique);
  clique->has_reason = has_reason;
  clique->told_end = true;
}

}  // namespace simulation
}  // namespace shardwright
