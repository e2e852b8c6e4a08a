#include "client/cc/member.h"

#include <random>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "client/cc/backoff.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

uint64_t RandomIncarnation() {
  std::random_device random;
  uint64_t incarnation = 0;
  while (incarnation == 0) incarnation = uint64_t{random()} << 32 | random();
  return incarnation;
}

absl::Duration ToDuration(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) +
         absl::Nanoseconds(duration.nanos());
}

bool IsFinal(const absl::Status& status) {
  const std::string reason = ReasonOf(status);
  return reason == "FENCED" || reason == "MEMBER_ID_IN_USE" ||
         reason == "RANK_NOT_IN_LAYOUT" || reason == "JOB_NOT_FOUND" ||
         reason == "INVALID_MEMBER";
}

std::string TextIn(const v1::ErrorDetail& detail, const std::string& name) {
  const auto it = detail.metadata().find(name);
  return it == detail.metadata().end() ? "" : it->second;
}

// When the lease of the process that `detail` names will have run out.
absl::Duration LeaseRemaining(const v1::ErrorDetail& detail) {
  int64_t remaining_ms = 0;
  if (!absl::SimpleAtoi(TextIn(detail, "lease_remaining_ms"), &remaining_ms)) {
    return absl::ZeroDuration();
  }
  // A little late rather than a little early: early costs another round.
  return absl::Milliseconds(remaining_ms + 50);
}

absl::StatusOr<v1::RegisterResponse> RegisterWhenFree(
    const CoordinatorClient& client, const v1::RegisterRequest& request,
    absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  // Incarnation and term. A coordinator that restarts grants a lease to all
  // members that it remembers, so only within a term is a lease that did not
  // run out one that was renewed.
  std::pair<std::string, std::string> holder;
  for (;;) {
    absl::StatusOr<v1::RegisterResponse> grant = client.Register(request);
    const v1::ErrorDetail detail = DetailOf(grant.status());
    if (detail.reason() != "MEMBER_ID_IN_USE") return grant;
    std::pair<std::string, std::string> current(
        TextIn(detail, "holder_incarnation"), TextIn(detail, "term"));
    if (current.first.empty() || current == holder) return grant;
    holder = std::move(current);
    const absl::Duration remaining = LeaseRemaining(detail);
    if (absl::Now() + remaining > deadline) return grant;
    absl::SleepFor(remaining);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Member>> Member::Join(CoordinatorClient client,
                                                     Options options) {
  v1::RegisterRequest request;
  *request.mutable_member() = options.id;
  *request.mutable_facts() = options.facts;
  request.set_incarnation(RandomIncarnation());
  ASSIGN_OR_RETURN(const v1::RegisterResponse grant,
                   RegisterWhenFree(client, request, options.join_timeout));
  return std::unique_ptr<Member>(new Member(std::move(client), options.id,
                                            options.facts,
                                            request.incarnation(), grant));
}

Member::Member(CoordinatorClient client, v1::MemberId id, v1::MemberFacts facts,
               uint64_t incarnation, const v1::RegisterResponse& grant)
    : client_(std::move(client)),
      facts_(std::move(facts)),
      renew_period_(ToDuration(grant.renew_period())),
      revision_(grant.revision()) {
  *caller_.mutable_member() = std::move(id);
  caller_.set_incarnation(incarnation);
  caller_.set_generation(grant.generation());
  thread_ = std::thread([this] { KeepLease(); });
}

Member::~Member() { Leave().IgnoreError(); }

v1::Caller Member::caller() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return caller_;
}

absl::Status Member::status() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return status_;
}

void Member::SetPhase(std::string phase) {
  const std::lock_guard<std::mutex> lock(mutex_);
  phase_ = std::move(phase);
  phase_is_new_ = true;
  changed_.notify_all();
}

absl::Status Member::Leave() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (stopped_) return status_;
    stopped_ = true;
    changed_.notify_all();
  }
  thread_.join();
  absl::Status end = status();
  if (end.ok()) {
    v1::LeaveRequest request;
    *request.mutable_caller() = caller();
    end = client_.Leave(request).status();
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  status_ = Error(absl::StatusCode::kFailedPrecondition, "NOT_A_MEMBER",
                  "this member has left the job");
  return end;
}

v1::RegisterRequest Member::Registration() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  v1::RegisterRequest request;
  *request.mutable_member() = caller_.member();
  *request.mutable_facts() = facts_;
  request.set_incarnation(caller_.incarnation());
  return request;
}

void Member::KeepLease() {
  Backoff backoff;
  for (;;) {
    const absl::Time begin = absl::Now();
    absl::Status end = RunSession();
    if (absl::Now() - begin > Backoff::kMax) backoff.Reset();
    if (ReasonOf(end) == "NOT_REGISTERED") {
      const auto grant = client_.Register(Registration());
      end = grant.status();
      if (grant.ok()) {
        const std::lock_guard<std::mutex> lock(mutex_);
        caller_.set_generation(grant->generation());
        renew_period_ = ToDuration(grant->renew_period());
        backoff.Reset();
      }
    }
    if (IsFinal(end)) {
      const std::lock_guard<std::mutex> lock(mutex_);
      status_ = end;
      return;
    }
    if (StoppedWithin(backoff.Next())) return;
  }
}

absl::Status Member::RunSession() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    session_is_over_ = false;
    phase_is_new_ = true;
  }
  const std::unique_ptr<SessionStream> stream = client_.OpenSession();
  std::thread reader([this, &stream] { Read(*stream); });
  const absl::Status stop = Renew(*stream);
  // Not when it is over: that would replace the server's last word.
  if (!stop.ok()) stream->Cancel();
  reader.join();
  const absl::Status end = stream->Finish();
  return stop.ok() ? end : stop;
}

// Until the session is over (OK: ask the stream why), or Leave() is called.
absl::Status Member::Renew(SessionStream& stream) {
  for (;;) {
    v1::SessionRequest request;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      *request.mutable_caller() = caller_;
      request.set_phase(phase_);
      request.set_revision(revision_);
      phase_is_new_ = false;
    }
    const bool written = stream.Write(request);
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait_for(
        lock, absl::ToChronoNanoseconds(renew_period_), [this, written] {
          return stopped_ || session_is_over_ || (written && phase_is_new_);
        });
    if (stopped_) return absl::CancelledError("leaving");
    if (session_is_over_ || !written) return absl::OkStatus();
  }
}

void Member::Read(SessionStream& stream) {
  for (v1::SessionResponse response; stream.Read(&response);) {
    const std::lock_guard<std::mutex> lock(mutex_);
    caller_.set_generation(response.generation());
    revision_ = response.revision();
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  session_is_over_ = true;
  changed_.notify_all();
}

bool Member::StoppedWithin(absl::Duration delay) {
  std::unique_lock<std::mutex> lock(mutex_);
  return changed_.wait_for(lock, absl::ToChronoNanoseconds(delay),
                           [this] { return stopped_; });
}

}  // namespace shardwright
