#include "coordinator/core/coordinator_core.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "coordinator/core/page.h"
#include "proto/plan/codec.h"
#include "proto/plan/fingerprint.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "proto/time/proto_time.h"

namespace shardwright {
namespace {

constexpr char kTermKey[] = "term";
constexpr int kListSizeDefault = 100;
constexpr int kListSizeMax = 1000;

}  // namespace

CoordinatorCore::CoordinatorCore(StateStore& store, const Options& options,
                                 int64_t term)
    : term_(term),
      admission_(options.admission_rate),
      layouts_(options.number_base),
      membership_(store, layouts_, admission_, term, options.lease_ttl),
      cliques_(term, membership_, reports_),
      barriers_(membership_, reports_) {}

CoordinatorCore::Step::Step(CoordinatorCore& core, absl::Time now,
                            Effects& effects)
    : core_(core),
      now_(now),
      effects_(effects),
      logged_before_(effects.log.size()) {
  if (now < core.NextTick()) return;
  core.Announce(core.membership_.Expire(now, effects), now, effects);
  core.silent_sessions_.Tick(now, effects);
  core.cliques_.Tick(now, effects);
  core.barriers_.Tick(now, effects);
}

CoordinatorCore::Step::~Step() {
  for (size_t i = logged_before_; i < effects_.log.size(); ++i) {
    core_.events_.Add(effects_.log[i], now_);
  }
}

absl::StatusOr<std::unique_ptr<CoordinatorCore>> CoordinatorCore::Start(
    StateStore& store, const Options& options, absl::Time now) {
  ASSIGN_OR_RETURN(const StateStore::Entries entries, store.Load());
  int64_t last_term = 0;
  const auto term = entries.find(kTermKey);
  if (term != entries.end() && !absl::SimpleAtoi(term->second, &last_term)) {
    return Error(absl::StatusCode::kDataLoss, "STORE_UNREADABLE",
                 "stored entry term cannot be read: it is no number");
  }
  const int64_t next_term = std::max(last_term, options.number_base) + 1;
  std::unique_ptr<CoordinatorCore> core(
      new CoordinatorCore(store, options, next_term));
  StateStore::Entries changes;
  RETURN_IF_ERROR(core->layouts_.Load(entries, changes));
  RETURN_IF_ERROR(core->membership_.Load(entries, now));
  changes[kTermKey] = absl::StrCat(next_term);
  RETURN_IF_ERROR(store.Commit(changes));
  return core;
}

absl::StatusOr<v1::ApplyLayoutResponse> CoordinatorCore::ApplyLayout(
    const v1::ApplyLayoutRequest& request, absl::Time now, Effects& effects) {
  ASSIGN_OR_RETURN(Layout layout, LayoutFromProto(request.layout()));
  return ApplyLayout(request, std::move(layout), now, effects);
}

absl::StatusOr<v1::ApplyLayoutResponse> CoordinatorCore::ApplyLayout(
    const v1::ApplyLayoutRequest& request, Layout layout, absl::Time now,
    Effects& effects) {
  const Step step(*this, now, effects);
  ASSIGN_OR_RETURN(LayoutTable::Change change,
                   layouts_.Prepare(request, std::move(layout), now));
  const std::string& job = change.next.layout->name();
  const int64_t generation = change.next.generation();
  v1::ApplyLayoutResponse response;
  response.set_generation(generation);
  response.set_digest(change.next.layout->digest());
  response.set_changed(change.changed);
  if (request.dry_run() || !change.changed) return response;

  RETURN_IF_ERROR(admission_.Admit(now));
  ASSIGN_OR_RETURN(const std::vector<Membership::Loss> losses,
                   membership_.End(membership_.NotIn(job, *change.next.layout),
                                   v1::Member::LOST, "not in the new layout",
                                   std::move(change.entries), effects));
  layouts_.Adopt(change, effects);
  const absl::Status end = StaleGeneration(job, generation - 1, generation);
  cliques_.LayoutChanged(job, end, effects);
  barriers_.LayoutChanged(job, end, effects);
  membership_.PushNews(job, effects);
  effects.Log(
      "layout_applied", job,
      absl::StrCat("job=", job, " generation=", generation,
                   " revision=", change.next.revision(),
                   " world_size=", change.next.layout->world_size(),
                   " digest=", DigestText(change.next.layout->digest())));
  return response;
}

absl::StatusOr<v1::ListLayoutsResponse> CoordinatorCore::ListLayouts(
    const v1::ListLayoutsRequest& request) const {
  const int page_size =
      PageSize(request.page_size(), kListSizeDefault, kListSizeMax);
  v1::ListLayoutsResponse response;
  for (auto it = layouts_.jobs().upper_bound(request.page_token());
       it != layouts_.jobs().end(); ++it) {
    if (response.layouts_size() == page_size) {
      response.set_next_page_token(response.layouts(page_size - 1).name());
      break;
    }
    const auto& [name, job] = *it;
    v1::LayoutSummary& summary = *response.add_layouts();
    summary.set_name(name);
    summary.set_world_size(job.layout->world_size());
    summary.set_module_count(job.layout->modules().size());
    summary.set_generation(job.generation());
    summary.set_member_count(membership_.LiveCount(name));
    *summary.mutable_apply_time() = job.record->apply_time();
  }
  return response;
}

absl::Status CoordinatorCore::WatchLayouts(
    StreamId stream, const v1::WatchLayoutsRequest& request, absl::Time now,
    Effects& effects) {
  const Step step(*this, now, effects);
  return layouts_.Watch(stream, request, effects);
}

void CoordinatorCore::WatchOn(StreamId stream, absl::Time now,
                              Effects& effects) {
  const Step step(*this, now, effects);
  layouts_.WatchOn(stream, effects);
}

absl::StatusOr<JobLayout> CoordinatorCore::FindLayout(
    const std::string& job, int64_t generation) const {
  ASSIGN_OR_RETURN(JobLayout layout, layouts_.Get(job));
  if (generation != 0 && generation != layout.generation()) {
    return StaleGeneration(job, generation, layout.generation());
  }
  return layout;
}

absl::StatusOr<JobLayout> CoordinatorCore::CheckCaller(
    const v1::Caller& caller) const {
  RETURN_IF_ERROR(membership_.Check(caller));
  ASSIGN_OR_RETURN(JobLayout job, layouts_.Get(caller.member().job()));
  if (caller.generation() != job.generation()) {
    return StaleGeneration(caller.member().job(), caller.generation(),
                           job.generation());
  }
  return job;
}

absl::StatusOr<v1::RegisterResponse> CoordinatorCore::Register(
    const v1::RegisterRequest& request, absl::Time now, Effects& effects) {
  const Step step(*this, now, effects);
  return membership_.Register(request, now, effects);
}

void CoordinatorCore::SessionOpened(StreamId stream, absl::Time now,
                                    Effects& effects) {
  const Step step(*this, now, effects);
  silent_sessions_.Opened(stream, now, effects);
}

absl::Status CoordinatorCore::Session(StreamId stream,
                                      const v1::SessionRequest& request,
                                      absl::Time now, Effects& effects) {
  silent_sessions_.Forget(stream);
  const Step step(*this, now, effects);
  const absl::Status status =
      membership_.Session(stream, request, now, effects);
  if (!status.ok()) membership_.StreamClosed(stream);
  return status;
}

absl::Status CoordinatorCore::Leave(const v1::LeaveRequest& request,
                                    absl::Time now, Effects& effects) {
  const Step step(*this, now, effects);
  ASSIGN_OR_RETURN(const std::vector<Membership::Loss> losses,
                   membership_.Leave(request, effects));
  Announce(losses, now, effects);
  return absl::OkStatus();
}

absl::StatusOr<v1::ListMembersResponse> CoordinatorCore::ListMembers(
    const v1::ListMembersRequest& request, absl::Time now, Effects& effects) {
  const Step step(*this, now, effects);
  return membership_.List(request);
}

absl::Status CoordinatorCore::FormCommunicators(
    StreamId stream, const v1::FormCommunicatorsRequest& request,
    absl::Time now, Effects& effects) {
  const Step step(*this, now, effects);
  ASSIGN_OR_RETURN(const JobLayout job, CheckCaller(request.caller()));
  return cliques_.Form(stream, job, request, now, effects);
}

absl::Status CoordinatorCore::PublishSlots(
    const v1::PublishSlotsRequest& request, absl::Time now, Effects& effects) {
  const Step step(*this, now, effects);
  RETURN_IF_ERROR(CheckCaller(request.caller()).status());
  return cliques_.Publish(request, effects);
}

absl::Status CoordinatorCore::ReportCommunicators(
    const v1::ReportCommunicatorsRequest& request, absl::Time now,
    Effects& effects) {
  const Step step(*this, now, effects);
  RETURN_IF_ERROR(CheckCaller(request.caller()).status());
  return cliques_.Report(request, now, effects);
}

absl::Status CoordinatorCore::WaitAtBarrier(
    StreamId stream, const v1::WaitAtBarrierRequest& request, absl::Time now,
    Effects& effects) {
  const Step step(*this, now, effects);
  ASSIGN_OR_RETURN(const JobLayout job, CheckCaller(request.caller()));
  return barriers_.Wait(stream, job, request, now, effects);
}

absl::StatusOr<v1::ListMissingMembersResponse>
CoordinatorCore::ListMissingMembers(
    const v1::ListMissingMembersRequest& request, absl::Time now,
    Effects& effects) {
  const Step step(*this, now, effects);
  return reports_.List(request, membership_);
}

absl::StatusOr<v1::ListCommunicatorsResponse>
CoordinatorCore::ListCommunicators(const v1::ListCommunicatorsRequest& request,
                                   absl::Time now, Effects& effects) {
  const Step step(*this, now, effects);
  RETURN_IF_ERROR(layouts_.Get(request.job()).status());
  return cliques_.List(request);
}

absl::StatusOr<v1::CliqueExplanation> CoordinatorCore::ExplainClique(
    const v1::ExplainCliqueRequest& request, absl::Time now, Effects& effects) {
  ASSIGN_OR_RETURN(const JobLayout job, layouts_.Get(request.job()));
  ASSIGN_OR_RETURN(const IdleClique idle, IdleClique::Create(job, request));
  return ExplainCliqueOrIdle(request, idle, now, effects);
}

v1::CliqueExplanation CoordinatorCore::ExplainCliqueOrIdle(
    const v1::ExplainCliqueRequest& request, const IdleClique& idle,
    absl::Time now, Effects& effects) {
  const Step step(*this, now, effects);
  return cliques_.Explain(request, idle);
}

absl::StatusOr<v1::ListEventsResponse> CoordinatorCore::ListEvents(
    const v1::ListEventsRequest& request, absl::Time now, Effects& effects) {
  const Step step(*this, now, effects);
  RETURN_IF_ERROR(layouts_.Get(request.job()).status());
  v1::ListEventsResponse response = events_.List(request);
  response.set_term(term_);
  return response;
}

void CoordinatorCore::StreamClosed(StreamId stream, absl::Time now,
                                   Effects& effects) {
  const Step step(*this, now, effects);
  layouts_.StreamClosed(stream);
  silent_sessions_.Forget(stream);
  membership_.StreamClosed(stream);
  cliques_.StreamClosed(stream, now, effects);
  barriers_.StreamClosed(stream);
}

void CoordinatorCore::Announce(const std::vector<Membership::Loss>& losses,
                               absl::Time now, Effects& effects) {
  std::set<std::string> jobs;
  for (const Membership::Loss& loss : losses) {
    jobs.insert(loss.member.job);
    cliques_.MemberLost(*layouts_.Find(loss.member.job)->layout, loss.member,
                        loss.end, loss.what, now, effects);
    barriers_.MemberLost(loss.member, loss.end, loss.what, effects);
  }
  for (const std::string& job : jobs) membership_.PushNews(job, effects);
}

void CoordinatorCore::Tick(absl::Time now, Effects& effects) {
  const Step step(*this, now, effects);
}

absl::Time CoordinatorCore::NextTick() const {
  return std::min({membership_.NextExpiry(), silent_sessions_.NextTick(),
                   cliques_.NextTick(), barriers_.NextTick()});
}

}  // namespace shardwright
