#include "tests/simulation/checker.h"

#include <algorithm>
#include <memory>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "proto/status/error.h"
#include "proto/time/proto_time.h"

namespace shardwright {
namespace simulation {
namespace {

// membership.h: after a write that the store refused, a loss is tried again a
// second later.
constexpr absl::Duration kStoreRetryPeriod = absl::Seconds(1);

bool NeedsGeneration(const Request& request) {
  return std::holds_alternative<v1::FormCommunicatorsRequest>(request) ||
         std::holds_alternative<v1::PublishSlotsRequest>(request) ||
         std::holds_alternative<v1::ReportCommunicatorsRequest>(request) ||
         std::holds_alternative<v1::WaitAtBarrierRequest>(request);
}

bool IsLeave(const Request& request) {
  return std::holds_alternative<v1::LeaveRequest>(request);
}

}  // namespace

void Checker::OnCommit(const StateStore::Entries* entries, absl::Time now) {
  if (entries == nullptr) {
    refused_write_time_ = now;
    return;
  }
  store_.Commit(*entries);
}

void Checker::OnStart(CoordinatorCore& core, absl::Time now) {
  violations_.Require(core.term() == store_.term(), "term: ", core.term(),
                      " begins, and ", store_.term(), " is stored");
  for (const auto& [name, job] : store_.jobs()) {
    const absl::StatusOr<JobLayout> found = core.FindLayout(name);
    violations_.Require(found.ok() && found->generation() == job.generation &&
                            found->layout->digest() == job.layout->digest(),
                        "restart: the layout of ", name,
                        " is not the one "
                        "that was stored");
  }
  renewed_.clear();
  for (const auto& [key, record] : store_.members()) {
    if (record.state() == v1::Member::LIVE) renewed_[key] = now;
  }
}

void Checker::OnCrash() {
  sessions_.clear();
  renewed_.clear();
  cliques_.Crashed();
  barriers_.Crashed();
  watches_.Crashed();
}

std::string Checker::StaleReason(const Request& request) const {
  if (const auto* registration = std::get_if<v1::RegisterRequest>(&request)) {
    const MemberKey key = KeyOf(registration->member());
    const uint64_t incarnation = registration->incarnation();
    const StoreModel::Job* job = store_.FindJob(key.job);
    if (job == nullptr || key.rank >= job->layout->world_size()) return "";
    if (store_.WasReplaced(key, incarnation)) return "FENCED";
    if (store_.IsLive(key) && !store_.IsLive(key, incarnation)) {
      return "MEMBER_ID_IN_USE";
    }
    return "";
  }
  const v1::Caller* caller = CallerOf(request);
  if (caller == nullptr) return "";
  const MemberKey key = KeyOf(caller->member());
  if (store_.WasReplaced(key, caller->incarnation()) ||
      (store_.IsLive(key) && !store_.IsLive(key, caller->incarnation()))) {
    return "FENCED";
  }
  if (!store_.IsLive(key)) return "NOT_REGISTERED";
  if (NeedsGeneration(request) &&
      caller->generation() != store_.FindJob(key.job)->generation) {
    return "STALE_GENERATION";
  }
  return "";
}

std::string Checker::Observe(CoordinatorCore& core, absl::Time now) const {
  std::string seen;
  Effects effects;
  for (const auto& [name, job] : store_.jobs()) {
    v1::ListMembersRequest request;
    request.set_job(name);
    absl::StrAppend(
        &seen, core.FindLayout(name)->generation(), ":",
        core.ListMembers(request, now, effects)->SerializeAsString(), ";");
  }
  if (!ends_silence_) {
    absl::StrAppend(&seen, absl::ToUnixNanos(core.NextTick()));
  }
  return seen;
}

void Checker::BeginStep(const Step& step) {
  store_.BeginStep();
  stale_reason_ = StaleReason(step.request);
  ends_silence_ = std::holds_alternative<v1::SessionRequest>(step.request) &&
                  watches_.IsSilent(step.stream);
}

void Checker::CheckRefusal(const Step& step, const std::string& before,
                           const std::string& after) {
  const std::string name = NameOf(step.request);
  const std::string reason = ReasonOf(step.status);
  if (!stale_reason_.empty()) {
    const bool left = IsLeave(step.request) && step.status.ok() &&
                      stale_reason_ == "NOT_REGISTERED";
    violations_.Require(left || reason == stale_reason_, "zombie: ", name,
                        " gets \"", step.status.ToString(), "\" and not ",
                        stale_reason_);
    violations_.Require(store_.commit_count() == 0, "zombie: ", name,
                        " writes into the store");
    violations_.Require(step.effects.streams.empty(), "zombie: ", name,
                        " is heard of by others");
    violations_.Require(before == after, "zombie: ", name,
                        " leaves something that others see");
  } else if (!step.status.ok() && CallerOf(step.request) != nullptr) {
    violations_.Require(
        reason != "FENCED" && reason != "NOT_REGISTERED" &&
            reason != "STALE_GENERATION" && reason != "MEMBER_ID_IN_USE",
        "fencing: ", name, " of a live member gets ", step.status.ToString());
  }
  violations_.Require(step.status.ok() || store_.commit_count() == 0,
                      "refusal: ", name, " fails with ", step.status.ToString(),
                      " and writes");
  // Reports that are not stale are taken though others are refused, and a
  // mismatch at a barrier is one for all who wait.
  violations_.Require(
      step.status.ok() || step.effects.streams.empty() ||
          std::holds_alternative<v1::ReportCommunicatorsRequest>(
              step.request) ||
          reason == "BARRIER_MISMATCH",
      "refusal: ", name, " fails with ", step.status.ToString(),
      " and is heard of");
  if (reason == "OVERLOADED") {
    const bool writes =
        std::holds_alternative<v1::RegisterRequest>(step.request) ||
        std::holds_alternative<v1::ApplyLayoutRequest>(step.request);
    violations_.Require(writes && step.effects.streams.empty() &&
                            FromProto(DetailOf(step.status).retry_delay()) >
                                absl::ZeroDuration(),
                        "overload: ", name,
                        " is refused, is heard of, or not told when to "
                        "come again");
  }
  if (reason == "STALE_GENERATION" && CallerOf(step.request) != nullptr) {
    const int64_t current =
        store_.FindJob(CallerOf(step.request)->member().job())->generation;
    violations_.Require(
        DetailOf(step.status).metadata().at("current_generation") ==
            absl::StrCat(current),
        "generation: another current one is told than the stored one");
  }
}

// What unary methods answer.
void Checker::CheckAnswer(const Step& step) {
  if (!step.status.ok()) return;
  if (const auto* apply = std::get_if<v1::ApplyLayoutRequest>(&step.request)) {
    const StoreModel::Job* job = store_.FindJob(apply->layout().name());
    if (apply->dry_run()) {
      violations_.Require(store_.commit_count() == 0,
                          "layout: a dry run writes");
    } else {
      violations_.Require(
          job != nullptr && job->generation == step.applied.generation() &&
              job->layout->digest() == step.applied.digest(),
          "generation: ", step.applied.generation(), " of ",
          apply->layout().name(), " is announced, and not stored");
      violations_.Require(
          step.applied.changed() == !store_.new_layouts().empty(),
          "generation: a layout is written that is in force already");
    }
  } else if (const auto* registration =
                 std::get_if<v1::RegisterRequest>(&step.request)) {
    const MemberKey key = KeyOf(registration->member());
    violations_.Require(store_.IsLive(key, registration->incarnation()),
                        "member: ", Describe(key),
                        " is told that it is one, "
                        "and that is not stored");
    violations_.Require(
        step.registered.generation() == store_.FindJob(key.job)->generation &&
            step.registered.term() == store_.term() &&
            step.registered.revision() == store_.revision(),
        "registration: tells what is not stored: ",
        step.registered.ShortDebugString());
    renewed_[key] = step.now;
  }
}

void Checker::OnSession(const Step& step, const v1::SessionRequest& request) {
  const auto open = sessions_.find(step.stream);
  if (!step.status.ok()) {
    if (open != sessions_.end()) sessions_.erase(open);
    return;
  }
  const MemberKey key = KeyOf(request.caller().member());
  renewed_[key] = step.now;
  if (open != sessions_.end()) {
    violations_.Require(open->second.member == key,
                        "session: speaks for another member");
    return;
  }
  Session& session = sessions_[step.stream];
  session.member = key;
  session.incarnation = request.caller().incarnation();
  session.told_revision =
      std::clamp<int64_t>(request.revision(), 0, store_.revision());
}

void Checker::OnNews(StreamId stream, const v1::SessionResponse& news) {
  const auto found = sessions_.find(stream);
  violations_.Require(found != sessions_.end(),
                      "call: something is said to a session that is not open");
  if (found == sessions_.end()) return;
  Session& session = found->second;
  const std::string& job = session.member.job;
  violations_.Require(
      news.generation() == store_.FindJob(job)->generation &&
          news.term() == store_.term() && news.revision() == store_.revision(),
      "session: tells what is not stored: ", news.ShortDebugString());
  std::set<MemberKey> told;
  for (const v1::LostMember& lost : news.lost_members()) {
    told.insert(KeyOf(lost.member()));
  }
  std::set<MemberKey> expected;
  for (const auto& [key, record] : store_.members()) {
    if (key.job == job && record.lost_revision() > session.told_revision &&
        record.lost_revision() <= news.revision()) {
      expected.insert(key);
    }
  }
  violations_.Require(told == expected, "session: ", Describe(session.member),
                      " is told of ", told.size(), " losses since revision ",
                      session.told_revision, ", where there are ",
                      expected.size());
  session.told_revision = news.revision();
  session.told_generation = news.generation();
  ++session.told_count;
}

void Checker::OnSessionEnd(const Step& step, StreamId stream,
                           const absl::Status& status) {
  const auto found = sessions_.find(stream);
  const Session session = found->second;
  sessions_.erase(found);
  const std::string reason = ReasonOf(status);
  const auto* again = std::get_if<v1::SessionRequest>(&step.request);
  violations_.Require(
      (reason == "NOT_REGISTERED" && store_.WasLost(session.member)) ||
          (reason == "REPLACED" && again != nullptr && stream != step.stream &&
           KeyOf(again->caller().member()) == session.member),
      "session: ends with ", status.ToString());
}

void Checker::OnEffect(const Step& step, const StreamEffect& effect) {
  const StreamId stream = effect.stream;
  const auto* end = std::get_if<absl::Status>(&effect.what);
  if (cliques_.IsOpen(stream)) {
    const auto* event =
        std::get_if<std::shared_ptr<const v1::FormCommunicatorsResponse>>(
            &effect.what);
    if (event != nullptr) return cliques_.OnEvent(step, stream, **event);
    if (end != nullptr) return cliques_.OnEnd(step, stream, *end);
  } else if (barriers_.IsOpen(stream)) {
    const auto* progress =
        std::get_if<std::shared_ptr<const v1::WaitAtBarrierResponse>>(
            &effect.what);
    if (progress != nullptr) return barriers_.OnProgress(stream, **progress);
    if (end != nullptr) return barriers_.OnEnd(step, stream, *end);
  } else if (sessions_.count(stream) > 0) {
    const auto* news =
        std::get_if<std::shared_ptr<const v1::SessionResponse>>(&effect.what);
    if (news != nullptr) return OnNews(stream, **news);
    if (end != nullptr) return OnSessionEnd(step, stream, *end);
  } else if (watches_.IsOpen(stream)) {
    const auto* news =
        std::get_if<std::shared_ptr<const v1::WatchLayoutsResponse>>(
            &effect.what);
    if (news != nullptr) return watches_.OnLayout(stream, (*news)->layout());
    if (end != nullptr) return watches_.OnEnd(step, stream, *end);
  }
  violations_.Require(false, "call: ", NameOf(step.request),
                      " says something to stream ", stream,
                      ", which is not open or of another kind");
}

void Checker::CheckSessions(const Step& step) {
  std::map<std::string, int64_t> last_losses;
  for (const auto& [key, record] : store_.members()) {
    int64_t& last = last_losses[key.job];
    last = std::max(last, record.lost_revision());
  }
  std::set<MemberKey> members;
  for (auto& [stream, session] : sessions_) {
    const std::string& job = session.member.job;
    violations_.Require(
        store_.IsLive(session.member, session.incarnation),
        "session: open, and its member is lost: ", Describe(session.member));
    violations_.Require(members.insert(session.member).second,
                        "session: two of ", Describe(session.member));
    violations_.Require(session.told_revision >= last_losses[job],
                        "session: ", Describe(session.member),
                        " is not told of a loss");
    violations_.Require(
        session.told_generation == store_.FindJob(job)->generation,
        "session: ", Describe(session.member), " is not told of a new layout");
    violations_.Require(stream != step.stream || session.told_count > 0,
                        "session: a message is not answered");
    session.told_count = 0;
  }
}

void Checker::CheckLeases(const Step& step) {
  for (const MemberKey& lost : store_.lost()) {
    violations_.Require(
        store_.FindMember(lost)->lost_why() != "lease expired" ||
            step.now >= renewed_[lost] + lease_ttl_,
        "lease: ", Describe(lost), " loses it before its time");
    renewed_.erase(lost);
  }
  for (const auto& [key, time] : renewed_) {
    violations_.Require(step.now < time + lease_ttl_ ||
                            step.now < refused_write_time_ + kStoreRetryPeriod,
                        "lease: ", Describe(key), " has it after its time");
    violations_.Require(
        step.next_tick <= std::max(time + lease_ttl_,
                                   refused_write_time_ + kStoreRetryPeriod),
        "lease: the next tick comes after the end of one");
  }
}

void Checker::EndStep(const Step& step, const std::string& before,
                      const std::string& after) {
  CheckRefusal(step, before, after);
  CheckAnswer(step);
  if (const auto* session = std::get_if<v1::SessionRequest>(&step.request)) {
    OnSession(step, *session);
  } else if (std::holds_alternative<ClientGone>(step.request)) {
    sessions_.erase(step.stream);
  }
  cliques_.BeforeEffects(step);
  barriers_.BeforeEffects(step);
  watches_.BeforeEffects(step);
  for (const StreamEffect& effect : step.effects.streams) {
    OnEffect(step, effect);
    if (violations_.first().has_value()) return;
  }
  cliques_.AfterEffects(step);
  barriers_.AfterEffects(step);
  watches_.AfterEffects(step);
  CheckSessions(step);
  CheckLeases(step);
  violations_.Require(step.next_tick > step.now ||
                          !std::holds_alternative<TickDue>(step.request),
                      "tick: the next one is due at once");
}

}  // namespace simulation
}  // namespace shardwright
