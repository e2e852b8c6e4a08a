#include "tests/simulation/process.h"

#include <algorithm>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "proto/plan/clique_name.h"
#include "proto/plan/fingerprint.h"
#include "proto/plan/group_kind.h"
#include "proto/status/error.h"
#include "proto/time/proto_time.h"

namespace shardwright {
namespace simulation {
namespace {

constexpr absl::Duration kBackoffMax = absl::Seconds(2);
constexpr absl::Duration kLeaseSlack = absl::Seconds(1);

std::string TextIn(const v1::ErrorDetail& detail, const std::string& name) {
  const auto found = detail.metadata().find(name);
  return found == detail.metadata().end() ? "" : found->second;
}

}  // namespace

Process::Process(World& world, MemberKey seat, uint64_t incarnation,
                 std::vector<std::string> kinds, v1::CommBackend backend)
    : world_(world),
      seat_(std::move(seat)),
      incarnation_(incarnation),
      kinds_(std::move(kinds)),
      backend_(backend) {
  if (!world_.options.with_barriers) return;
  barriers_.resize(3);
  barriers_[1].scope = Barrier::Scope::kModule;
  barriers_[2].scope = Barrier::Scope::kClique;
}

void Process::Start() {
  Register();
  for (size_t i = 0; i < barriers_.size(); ++i) WaitAtBarrier(i);
}

// What the process does some time later: not when it is dead, and not while it
// is paused.
std::function<void()> Process::Guard(std::function<void()> what) {
  return [weak = weak_from_this(), what = std::move(what)] {
    const std::shared_ptr<Process> self = weak.lock();
    if (self == nullptr || !self->alive_) return;
    if (self->paused_) {
      self->backlog_.push_back(what);
    } else {
      what();
    }
  };
}

void Process::After(absl::Duration delay, std::function<void()> what) {
  world_.timeline.After(delay, Guard(std::move(what)));
}

void Process::Call(const Request& request,
                   std::function<void(const Step&)> done) {
  world_.network.Call(link_, request,
                      [self = shared_from_this(), done](const Step& step) {
                        self->Guard([done, step] { done(step); })();
                      });
}

Network::StreamPtr Process::Open(
    const Request& request, std::function<void(const StreamEffect&)> on_message,
    std::function<void(const absl::Status&)> on_end) {
  const std::weak_ptr<Process> weak = weak_from_this();
  return world_.network.Open(
      link_, request,
      {[weak, on_message](const StreamEffect& effect) {
         if (const auto self = weak.lock()) {
           self->Guard([on_message, effect] { on_message(effect); })();
         }
       },
       [weak, on_end](const absl::Status& status) {
         if (const auto self = weak.lock()) {
           self->Guard([on_end, status] { on_end(status); })();
         }
       }});
}

void Process::Pause() { paused_ = true; }

void Process::Resume() {
  paused_ = false;
  while (!paused_ && alive_ && !backlog_.empty()) {
    const std::function<void()> what = std::move(backlog_.front());
    backlog_.pop_front();
    what();
  }
}

void Process::Crash() { End("killed"); }

void Process::Leave() {
  v1::LeaveRequest request;
  *request.mutable_caller() = Caller();
  world_.network.Call(link_, request, [](const Step&) {});
  End("left");
}

void Process::End(const std::string& reason) {
  if (!alive_) return;
  EndForm();
  EndActive([](const Clique&) { return true; }, /*report=*/false);
  alive_ = false;
  end_reason_ = reason;
  if (session_ != nullptr) world_.network.Close(session_);
  for (const Barrier& barrier : barriers_) {
    if (barrier.call != nullptr) world_.network.Close(barrier.call);
  }
}

absl::Duration Process::Backoff() {
  const absl::Duration delay =
      world_.random.Between(absl::Milliseconds(1), backoff_);
  backoff_ = std::min(2 * backoff_, kBackoffMax);
  return delay;
}

v1::Caller Process::Caller() {
  v1::Caller caller;
  *caller.mutable_member() = ToProto(seat_);
  caller.set_incarnation(incarnation_);
  const bool wrong = world_.random.Chance(world_.options.old_generation);
  caller.set_generation(generation_ - (wrong ? 1 : 0));
  return caller;
}

void Process::Register() {
  v1::RegisterRequest request;
  *request.mutable_member() = ToProto(seat_);
  request.set_incarnation(incarnation_);
  request.mutable_facts()->set_host(absl::StrCat("host-", seat_.rank));
  request.mutable_facts()->set_pid(incarnation_ % 30000);
  Call(request, [this](const Step& step) { OnRegistered(step); });
}

void Process::OnRegistered(const Step& step) {
  if (step.status.ok()) {
    holder_ = {};
    registered_ = true;
    check_layout_ = true;
    renew_period_ = FromProto(step.registered.renew_period());
    revision_ = std::min(revision_.value_or(step.registered.revision()),
                         step.registered.revision());
    const bool is_new = generation_ != step.registered.generation();
    generation_ = step.registered.generation();
    OpenSession();
    if (is_new) Interrupt();
    Work();
    return;
  }
  const v1::ErrorDetail detail = DetailOf(step.status);
  absl::Duration delay = Backoff() + FromProto(detail.retry_delay());
  if (detail.reason() == "FENCED") return End("FENCED");
  if (detail.reason() == "MEMBER_ID_IN_USE") {
    std::pair<std::string, std::string> holder(
        TextIn(detail, "holder_incarnation"), TextIn(detail, "term"));
    // Its lease was to run out, and was renewed: it is alive.
    if (holder == holder_) return End("MEMBER_ID_IN_USE");
    holder_ = std::move(holder);
    int64_t remaining_ms = 0;
    (void)absl::SimpleAtoi(TextIn(detail, "lease_remaining_ms"), &remaining_ms);
    delay = kLeaseSlack + absl::Milliseconds(remaining_ms);
  }
  After(delay, [this] { Register(); });
}

v1::SessionRequest Process::NextRenewal() {
  v1::SessionRequest request;
  *request.mutable_caller() = Caller();
  request.set_phase(form_ != nullptr ? "forming" : "ready");
  request.set_revision(revision_.value_or(0));
  return request;
}

void Process::OpenSession() {
  if (session_ != nullptr) world_.network.Close(session_);
  session_ = Open(
      NextRenewal(),
      [this](const StreamEffect& effect) {
        OnNews(**std::get_if<std::shared_ptr<const v1::SessionResponse>>(
            &effect.what));
      },
      [this](const absl::Status& status) { OnSessionEnd(status); });
  After(renew_period_, [this, session = session_] { Renew(session); });
}

void Process::Renew(const Network::StreamPtr& session) {
  if (session_ != session) return;
  world_.network.Send(session, NextRenewal());
  After(renew_period_, [this, session] { Renew(session); });
}

void Process::OnNews(const v1::SessionResponse& news) {
  backoff_ = absl::Milliseconds(100);
  revision_ = news.revision();
  int ended_count = 0;
  for (const v1::LostMember& lost : news.lost_members()) {
    if (lost.member().kind() != seat_.kind) continue;
    const Rank rank = lost.member().rank();
    // Its own loss too: its peers have been told of it.
    ended_count += EndActive(
        [&](const Clique& clique) {
          return rank == seat_.rank ||
                 std::count(clique.ranks.begin(), clique.ranks.end(), rank) > 0;
        },
        /*report=*/false);
  }
  const bool is_new = generation_ != news.generation();
  generation_ = news.generation();
  if (is_new || ended_count > 0) Interrupt();
}

void Process::OnSessionEnd(const absl::Status& status) {
  session_ = nullptr;
  const std::string reason = ReasonOf(status);
  if (reason == "FENCED") return End("FENCED");
  if (reason == "NOT_REGISTERED") {
    registered_ = false;
    revision_.reset();
    EndActive([](const Clique&) { return true; }, /*report=*/false);
    Interrupt();
    Register();
    return;
  }
  if (seat_.kind == v1::TRAINER) {
    After(Backoff(), [this] { OpenSession(); });
    return;
  }
  registered_ = false;
  After(Backoff(), [this] { Register(); });
}

// Nothing while it is not known.
std::optional<std::string> Process::ScopeOf(const Barrier& barrier) const {
  if (barrier.scope == Barrier::Scope::kJob) return "";
  if (module_.empty()) return std::nullopt;
  if (barrier.scope == Barrier::Scope::kModule) return module_;
  // The first of the module's own: in one of several modules the others would
  // wait for whom they do not share another with. Not all ranks have cliques.
  for (const auto& [name, clique] : cliques_) {
    if (!FindGroupKind(ParseCliqueName(name)->kind)->across_modules) {
      return name;
    }
  }
  return module_;
}

void Process::WaitAtBarrier(size_t index) {
  Barrier& barrier = barriers_[index];
  const std::optional<std::string> scope = ScopeOf(barrier);
  if (!registered_ || !scope.has_value()) {
    After(absl::Milliseconds(500), [this, index] { WaitAtBarrier(index); });
    return;
  }
  v1::WaitAtBarrierRequest request;
  *request.mutable_caller() = Caller();
  request.set_name(absl::StrCat(index, " ", *scope));
  request.set_scope(*scope);
  request.set_sequence(barrier.sequence);
  if (!barrier.digest.has_value()) {
    Fingerprint digest;
    digest.Add(static_cast<uint64_t>(barrier.sequence));
    digest.Add(world_.random.Chance(world_.options.wrong_digest) ? 1u : 0u);
    barrier.digest = digest.digest();
  }
  request.set_digest(*barrier.digest);
  const absl::Duration timeout = world_.random.Between(
      absl::Milliseconds(500), world_.options.barrier_timeout_max);
  *request.mutable_timeout() = ToProto(timeout);
  barrier.call = Open(
      request, [](const StreamEffect&) {},
      [this, index](const absl::Status& status) {
        OnBarrierEnd(index, status);
      });
}

void Process::OnBarrierEnd(size_t index, const absl::Status& status) {
  Barrier& barrier = barriers_[index];
  barrier.call = nullptr;
  const v1::ErrorDetail detail = DetailOf(status);
  // Who does not know whether it was released says the same again.
  if (!absl::IsUnavailable(status) && detail.reason() != "REPLACED") {
    barrier.digest.reset();
  }
  absl::Duration pause =
      world_.random.Between(absl::Milliseconds(10), absl::Milliseconds(500));
  if (status.ok()) {
    ++barrier.sequence;
    ++barrier.release_count;
    pause *= 4;
  } else if (detail.reason() == "BARRIER_SEQUENCE") {
    (void)absl::SimpleAtoi(TextIn(detail, "expected"), &barrier.sequence);
  } else if (detail.reason() == "BARRIER_MISMATCH") {
    barrier.digest = std::stoull(TextIn(detail, "digest"), nullptr, 16);
  }
  After(pause, [this, index] { WaitAtBarrier(index); });
}

int64_t Process::release_count() const {
  int64_t least = std::numeric_limits<int64_t>::max();
  for (const Barrier& barrier : barriers_) {
    least = std::min(least, barrier.release_count);
  }
  return least;
}

std::string Process::Describe() const {
  return absl::StrCat(
      LogFields(seat_), " incarnation=", absl::Hex(incarnation_),
      alive_ ? "" : absl::StrCat(" ended=", end_reason_),
      paused_ ? " paused" : "", registered_ ? "" : " unregistered",
      " generation=", generation_, " learned=", learned_generation_,
      form_ != nullptr ? " forming" : "");
}

}  // namespace simulation
}  // namespace shardwright
