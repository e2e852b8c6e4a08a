// How calls that wait for cliques end, and what may stay open.

#include <algorithm>
#include <iterator>

#include "absl/strings/str_join.h"
#include "proto/status/error.h"
#include "tests/simulation/clique_checker.h"

namespace shardwright {
namespace simulation {
namespace {

// communicator.proto, ReportCommunicators: the longest that the next attempt is
// held back.
constexpr absl::Duration kBackOffMax = absl::Seconds(5);

}  // namespace

bool CliqueChecker::IsPresent(const Call& call, const Clique& clique,
                              Rank rank) const {
  return clique.present.count(rank) > 0 &&
         !store_.WasLost({call.member.job, rank, call.member.kind});
}

// Whom the clique waits for, ascending.
std::vector<Rank> CliqueChecker::Missing(const Call& call,
                                         const Clique& clique) const {
  std::vector<Rank> missing;
  if (clique.phase == Phase::kExchanging) {
    for (const auto& [index, owner] : clique.owners) {
      if (clique.slots[index].empty()) missing.push_back(owner);
    }
  } else {
    for (const Rank rank : clique.ranks) {
      const bool done = clique.phase == Phase::kConnecting
                            ? clique.reported.count(rank) > 0
                            : IsPresent(call, clique, rank);
      if (!done) missing.push_back(rank);
    }
  }
  std::sort(missing.begin(), missing.end());
  return missing;
}

// communicator.proto, MEMBERS_MISSING.
std::vector<Rank> CliqueChecker::MissingAtDeadline(const Call& call) const {
  std::set<Rank> never_came, absent, owing;
  for (const Clique* clique : call.cliques) {
    if (clique->phase == Phase::kActive) continue;
    const bool gathering = clique->phase == Phase::kGathering;
    for (const Rank rank : Missing(call, *clique)) {
      (gathering ? absent : owing).insert(rank);
      if (gathering && clique->gave_up.count(rank) == 0) {
        never_came.insert(rank);
      }
    }
  }
  const std::set<Rank>& named = !never_came.empty() ? never_came
                                : !absent.empty()   ? absent
                                                    : owing;
  return {named.begin(), named.end()};
}

void CliqueChecker::OnWaiting(const Call& call, const v1::Waiting& waiting) {
  const auto first = std::find_if(
      call.cliques.begin(), call.cliques.end(),
      [](const Clique* clique) { return clique->phase != Phase::kActive; });
  violations_.Require(
      first != call.cliques.end() &&
          (*first)->name == waiting.attempt().clique(),
      "waiting: does not name the first clique that is not active");
  if (violations_.first().has_value()) return;
  const std::vector<Rank> missing = Missing(call, **first);
  violations_.Require(
      CompressRanks(missing).ranges() == waiting.missing().ranges() &&
          waiting.member_count() - waiting.present_count() ==
              static_cast<int64_t>(missing.size()),
      "waiting: says that ", waiting.missing().ranges(), " are missing at ",
      (*first)->name, ", where these are: ", absl::StrJoin(missing, ","));
}

void CliqueChecker::CheckEnd(const Step& step, StreamId stream,
                             const Call& call, const absl::Status& status) {
  const std::string reason = ReasonOf(status);
  const std::string& job = call.member.job;
  if (status.ok()) {
    for (const Clique* clique : call.cliques) {
      const auto run = call.runs.find(clique);
      violations_.Require(clique->phase == Phase::kActive &&
                              run != call.runs.end() &&
                              run->second == clique->attempt,
                          "call: ends with OK, and ", clique->name,
                          " is not active or was not told");
    }
  } else if (reason == "MEMBERS_MISSING") {
    const auto expected = missing_at_deadline_.find(stream);
    violations_.Require(expected != missing_at_deadline_.end(),
                        "call: timed out before its deadline");
    if (expected == missing_at_deadline_.end()) return;
    violations_.Require(DetailOf(status).missing().ranges() ==
                            CompressRanks(expected->second).ranges(),
                        "missing: ", Describe(call.member), " is told that ",
                        DetailOf(status).missing().ranges(),
                        " are missing, where these are: ",
                        absl::StrJoin(expected->second, ","));
  } else if (reason == "REPLACED") {
    const auto* form = std::get_if<v1::FormCommunicatorsRequest>(&step.request);
    violations_.Require(form != nullptr && stream != step.stream &&
                            KeyOf(form->caller().member()) == call.member,
                        "call: replaced by nobody");
  } else if (reason == "NOT_REGISTERED") {
    violations_.Require(store_.WasLost(call.member),
                        "call: ends as if its member were lost");
  } else if (reason == "STALE_GENERATION") {
    violations_.Require(store_.new_layouts().count(job) > 0,
                        "call: ends as if the layout had changed");
  } else {
    violations_.Require(false, "call: ends with ", status.ToString());
  }
}

void CliqueChecker::OnEnd(const Step& step, StreamId stream,
                          const absl::Status& status) {
  const Call& call = calls_.at(stream);
  CheckEnd(step, stream, call, status);
  if (ReasonOf(status) == "MEMBERS_MISSING") {
    for (Clique* clique : call.cliques) {
      clique->gave_up.insert(call.member.rank);
    }
  }
  CloseCall(stream);
}

void CliqueChecker::CheckCall(const Step& step, StreamId stream,
                              const Call& call) {
  const v1::Caller& caller = call.request.caller();
  violations_.Require(call.deadline > step.now,
                      "call: open after its deadline: ", Describe(call.member));
  violations_.Require(step.next_tick <= call.deadline,
                      "call: the next tick comes after a deadline");
  violations_.Require(
      store_.IsLive(call.member, caller.incarnation()),
      "call: open, and its member is lost: ", Describe(call.member));
  violations_.Require(
      store_.FindJob(call.member.job)->generation == caller.generation(),
      "call: open, and the layout has changed: ", Describe(call.member));
  const auto of_member = call_of_member_.find(call.member);
  violations_.Require(
      of_member != call_of_member_.end() && of_member->second == stream,
      "call: replaced, and still open: ", Describe(call.member));
  bool all_active = true;
  for (const Clique* clique : call.cliques) {
    const auto run = call.runs.find(clique);
    const bool runs = run != call.runs.end();
    if (clique->phase == Phase::kGathering) {
      violations_.Require(!runs, "attempt: ", Describe(call.member),
                          " was not told that one ended at ", clique->name);
    } else {
      violations_.Require(runs && run->second == clique->attempt,
                          "attempt: ", Describe(call.member),
                          " was not told of the one that runs at ",
                          clique->name);
    }
    all_active = all_active && clique->phase == Phase::kActive;
    CheckClique(step, *clique);
  }
  violations_.Require(!all_active, "waiter forgotten: all cliques of ",
                      Describe(call.member), " are active, its call is open");
}

void CliqueChecker::CheckClique(const Step& step, const Clique& clique) {
  const size_t count = clique.ranks.size();
  switch (clique.phase) {
    case Phase::kGathering:
      violations_.Require(clique.present.size() < count ||
                              step.now <= clique.failure_time + kBackOffMax,
                          "waiter forgotten: all are present at ", clique.name,
                          ", and there is no GO");
      break;
    case Phase::kExchanging:
      violations_.Require(clique.told_go.size() == count,
                          "go: not to all members of ", clique.name);
      violations_.Require(clique.owners.size() == clique.slots.size(),
                          "slots: one of ", clique.name, " has no owner");
      violations_.Require(
          std::count(clique.slots.begin(), clique.slots.end(), "") > 0,
          "waiter forgotten: all slots are put at ", clique.name,
          ", and are not served");
      break;
    case Phase::kConnecting:
      violations_.Require(clique.told_slots.size() == count,
                          "slots: not served to all members of ", clique.name);
      violations_.Require(clique.reported.size() < count,
                          "waiter forgotten: all have reported at ",
                          clique.name, ", and it is not active");
      break;
    case Phase::kActive:
      break;
  }
}

void CliqueChecker::AfterEffects(const Step& step) {
  for (const auto& [key, clique] : cliques_) {
    violations_.Require(!clique.told_end || clique.has_reason,
                        "attempt: ended for no reason at ", clique.name);
  }
  for (const auto& [stream, call] : calls_) CheckCall(step, stream, call);
}

}  // namespace simulation
}  // namespace shardwright
