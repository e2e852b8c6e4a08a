#include "tests/simulation/diagnostics_checker.h"

#include <set>
#include <utility>

namespace shardwright {
namespace simulation {
namespace {

constexpr int kPageSize = 3;  // So that there is more than one.

// Asks for page after page; `take` gets each. Whether all were answered.
template <typename Request, typename Method, typename Take>
bool ForEachPage(CoordinatorCore& core, Method method, Request request,
                 absl::Time now, Effects& effects, const Take& take) {
  request.set_page_size(kPageSize);
  do {
    const auto response = (core.*method)(request, now, effects);
    if (!response.ok()) return false;
    take(*response);
    request.set_page_token(response->next_page_token());
  } while (!request.page_token().empty());
  return true;
}

class Asker {
 public:
  Asker(CoordinatorCore& core, const std::string& job, absl::Time now,
        const StoreModel& store, Violations& violations)
      : core_(core),
        job_(job),
        now_(now),
        store_(store),
        violations_(violations) {}

  void Run() {
    v1::ListCommunicatorsRequest request;
    request.set_job(job_);
    std::set<std::pair<int, std::string>> seen;
    const bool listed =
        ForEachPage(core_, &CoordinatorCore::ListCommunicators, request, now_,
                    effects_, [&](const v1::ListCommunicatorsResponse& page) {
                      for (const v1::CliqueSummary& clique : page.cliques()) {
                        violations_.Require(
                            seen.insert({clique.kind(), clique.name()}).second,
                            "diagnostics: ", clique.name(), " is listed twice");
                        CheckClique(clique);
                      }
                    });
    violations_.Require(listed, "diagnostics: cliques are not listed");
    CheckEvents();
    violations_.Require(effects_.streams.empty() && effects_.log.empty(),
                        "diagnostics: asking is heard of by others");
  }

 private:
  void CheckClique(const v1::CliqueSummary& clique) {
    violations_.Require(clique.done_count() + clique.missing().rank_count() ==
                            clique.member_count(),
                        "diagnostics: the counts of ", clique.name(),
                        " do not add up");
    v1::ExplainCliqueRequest request;
    request.set_job(job_);
    request.set_clique(clique.name());
    request.set_kind(clique.kind());
    int64_t members = 0, blocking = 0;
    const bool explained = ForEachPage(
        core_, &CoordinatorCore::ExplainClique, request, now_, effects_,
        [&](const v1::CliqueExplanation& page) {
          violations_.Require(
              page.generation() == store_.FindJob(job_)->generation &&
                  page.clique().attempt().term() == store_.term(),
              "diagnostics: ", clique.name(), " is of another layout or term");
          for (const v1::CliqueMember& member : page.members()) {
            violations_.Require(member.position() == members,
                                "diagnostics: a member of ", clique.name(),
                                " is left out");
            ++members;
            blocking += member.blocking() ? 1 : 0;
            CheckMember(member.member());
          }
        });
    violations_.Require(explained && members == clique.member_count() &&
                            blocking == clique.missing().rank_count(),
                        "diagnostics: the explanation of ", clique.name(),
                        " names others than its summary");
    CheckReport(clique);
  }

  void CheckMember(const v1::Member& member) {
    const MemberKey key = KeyOf(member.member());
    violations_.Require(
        (member.state() == v1::Member::LIVE) == store_.IsLive(key),
        "diagnostics: ", Describe(key), " is ",
        v1::Member::State_Name(member.state()), ", unlike in the store");
  }

  // Only sets that were cut have a name.
  void CheckReport(const v1::CliqueSummary& clique) {
    if (clique.missing().report().empty()) return;
    v1::ListMissingMembersRequest request;
    request.set_report(clique.missing().report());
    int64_t members = 0;
    const bool listed =
        ForEachPage(core_, &CoordinatorCore::ListMissingMembers, request, now_,
                    effects_, [&](const v1::ListMissingMembersResponse& page) {
                      members += page.members_size();
                      for (const v1::Member& member : page.members()) {
                        CheckMember(member);
                      }
                    });
    violations_.Require(listed && members == clique.missing().rank_count(),
                        "diagnostics: the missing of ", clique.name(),
                        " are others than its summary says");
  }

  void CheckEvents() {
    v1::ListEventsRequest request;
    request.set_job(job_);
    request.set_page_size(kPageSize);
    for (int page = 0; page < 4; ++page) {
      const auto response = core_.ListEvents(request, now_, effects_);
      violations_.Require(response.ok() && response->term() == store_.term(),
                          "diagnostics: events are not listed, or are of "
                          "another term");
      if (!response.ok()) return;
      for (const v1::Event& event : response->events()) {
        violations_.Require(event.number() > request.after(),
                            "diagnostics: event ", event.number(),
                            " comes after ", request.after());
        request.set_after(event.number());
      }
      violations_.Require(response->last() >= request.after(),
                          "diagnostics: the last event is none of those told");
    }
  }

  CoordinatorCore& core_;
  const std::string& job_;
  const absl::Time now_;
  const StoreModel& store_;
  Violations& violations_;
  Effects effects_;
};

}  // namespace

void CheckDiagnostics(CoordinatorCore& core, const std::string& job,
                      absl::Time now, const StoreModel& store,
                      Violations& violations) {
  Asker(core, job, now, store, violations).Run();
}

}  // namespace simulation
}  // namespace shardwright
