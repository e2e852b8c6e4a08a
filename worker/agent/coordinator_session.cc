#include "worker/agent/coordinator_session.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "proto/status/error.h"
#include "spdlog/spdlog.h"

namespace shardwright {
namespace {

constexpr size_t kPhaseBytesMax = 64;

// A dead holder's lease ends after what is left of it, plus the coordinator's
// own tick.
constexpr absl::Duration kLeaseSlack = absl::Seconds(1);

absl::Duration ToDuration(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) +
         absl::Nanoseconds(duration.nanos());
}

int64_t NumberIn(const v1::ErrorDetail& detail, const std::string& name) {
  const auto found = detail.metadata().find(name);
  int64_t number = 0;
  if (found != detail.metadata().end()) {
    (void)absl::SimpleAtoi(found->second, &number);
  }
  return number;
}

std::string TextIn(const v1::ErrorDetail& detail, const std::string& name) {
  const auto found = detail.metadata().find(name);
  return found == detail.metadata().end() ? "" : found->second;
}

}  // namespace

CoordinatorSession::CoordinatorSession(CoordinatorClient client,
                                       v1::RegisterRequest request,
                                       SessionListener& listener)
    : client_(std::move(client)),
      request_(std::move(request)),
      listener_(listener),
      thread_([this] { Run(); }) {}

CoordinatorSession::~CoordinatorSession() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    if (stream_ != nullptr) stream_->Cancel();
    changed_.notify_all();
  }
  thread_.join();
}

void CoordinatorSession::SetPhase(const std::string& phase) {
  const std::lock_guard<std::mutex> lock(mutex_);
  phase_ = phase.substr(0, kPhaseBytesMax);
}

std::string CoordinatorSession::phase() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return phase_;
}

v1::Caller CoordinatorSession::caller() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  v1::Caller caller;
  *caller.mutable_member() = request_.member();
  caller.set_incarnation(request_.incarnation());
  caller.set_generation(generation_);
  return caller;
}

void CoordinatorSession::Run() {
  while (!stopping()) {
    if (Register()) {
      Hold();
    } else {
      WaitFor(retry_after_);
    }
  }
}

bool CoordinatorSession::Register() {
  const absl::StatusOr<v1::RegisterResponse> response =
      client_.Register(request_);
  if (!response.ok()) {
    OnRefused(response.status());
    return false;
  }
  last_failure_.clear();
  holder_.reset();
  renew_period_ =
      std::max(ToDuration(response->renew_period()), absl::Milliseconds(10));
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    generation_ = response->generation();
    // A later registration hears what happened since the earlier one; unless
    // the coordinator has lost its memory.
    revision_ = std::min(revision_.value_or(response->revision()),
                         response->revision());
  }
  spdlog::info("event=registered generation={} term={} lease={}",
               response->generation(), response->term(),
               absl::FormatDuration(ToDuration(response->lease_ttl())));
  listener_.OnRegistered(response->generation());
  return true;
}

void CoordinatorSession::OnRefused(const absl::Status& status) {
  const v1::ErrorDetail detail = DetailOf(status);
  const std::string& reason = detail.reason();
  retry_after_ = backoff_.Next();
  if (reason == "FENCED" || reason == "INVALID_MEMBER") {
    Fatal(status);
    return;
  }
  if (reason == "MEMBER_ID_IN_USE") {
    std::pair<std::string, std::string> holder(
        TextIn(detail, "holder_incarnation"), TextIn(detail, "term"));
    // The lease that was to run out has been renewed; or, in another term,
    // granted by a coordinator that restarted, which proves nothing.
    if (holder_ == holder) {
      Fatal(status);
      return;
    }
    holder_ = std::move(holder);
    retry_after_ = kLeaseSlack +
                   absl::Milliseconds(NumberIn(detail, "lease_remaining_ms"));
  }
  const std::string failure =
      absl::StrCat(reason, static_cast<int>(status.code()));
  if (failure != last_failure_) {
    last_failure_ = failure;
    spdlog::warn("event=register_refused reason={} retry_in={} message=\"{}\"",
                 reason, absl::FormatDuration(retry_after_),
                 std::string(status.message()));
  }
}

void CoordinatorSession::Hold() {
  const std::unique_ptr<SessionStream> stream = client_.OpenSession();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (stopping_) return;
    stream_ = stream.get();
  }
  std::thread renewer([this, &stream] { Renew(*stream); });
  for (v1::SessionResponse response; stream->Read(&response);) {
    backoff_.Reset();
    OnResponse(response);
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stream_ = nullptr;
    changed_.notify_all();
  }
  renewer.join();
  const absl::Status end = stream->Finish();
  if (stopping()) return;
  const std::string reason = ReasonOf(end);
  spdlog::warn("event=session_ended reason={} message=\"{}\"", reason,
               std::string(end.message()));
  if (reason == "FENCED") {
    Fatal(end);
  } else if (reason == "NOT_REGISTERED") {
    {
      // What happened meanwhile is of no interest to who begins anew.
      const std::lock_guard<std::mutex> lock(mutex_);
      revision_.reset();
    }
    listener_.OnLeaseLost();
  } else {
    listener_.OnDisconnected();
    WaitFor(backoff_.Next());
  }
}

// A stream that ends makes Write() fail, and one that Hold() has let go of ends
// the wait.
void CoordinatorSession::Renew(SessionStream& stream) {
  while (true) {
    if (!stream.Write(NextRequest())) return;
    std::unique_lock<std::mutex> lock(mutex_);
    const bool ended =
        changed_.wait_for(lock, absl::ToChronoNanoseconds(renew_period_),
                          [this] { return stopping_ || stream_ == nullptr; });
    if (ended) return;
  }
}

void CoordinatorSession::OnResponse(const v1::SessionResponse& response) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    generation_ = response.generation();
    revision_ = response.revision();
  }
  listener_.OnNews(response.generation(), {response.lost_members().begin(),
                                           response.lost_members().end()});
}

v1::SessionRequest CoordinatorSession::NextRequest() const {
  v1::SessionRequest request;
  *request.mutable_caller() = caller();
  const std::lock_guard<std::mutex> lock(mutex_);
  request.set_phase(phase_);
  request.set_revision(revision_.value_or(0));
  return request;
}

void CoordinatorSession::WaitFor(absl::Duration duration) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait_for(lock, absl::ToChronoNanoseconds(duration),
                    [this] { return stopping_; });
}

bool CoordinatorSession::stopping() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return stopping_;
}

void CoordinatorSession::Fatal(const absl::Status& why) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  spdlog::error("event=membership_refused reason={} message=\"{}\"",
                ReasonOf(why), std::string(why.message()));
  listener_.OnFatal(why);
}

}  // namespace shardwright
