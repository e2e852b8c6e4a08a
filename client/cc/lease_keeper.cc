#include "client/cc/lease_keeper.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/numbers.h"
#include "proto/status/error.h"
#include "proto/time/proto_time.h"

namespace shardwright {
namespace {

constexpr size_t kPhaseBytesMax = 64;

// A little late rather than a little early: early costs another round.
constexpr absl::Duration kLeaseSlack = absl::Milliseconds(50);

// Whatever a server says, it is not flooded.
constexpr absl::Duration kRenewPeriodMin = absl::Milliseconds(1);

// Nor by a trainer that sets phases in a tight loop: people read them.
constexpr absl::Duration kPhasePeriodMin = absl::Milliseconds(100);

std::string TextIn(const v1::ErrorDetail& detail, const std::string& name) {
  const auto found = detail.metadata().find(name);
  return found == detail.metadata().end() ? "" : found->second;
}

// What is left of the lease of the process that has the rank.
absl::Duration LeaseRemaining(const v1::ErrorDetail& detail) {
  int64_t remaining_ms = 0;
  if (!absl::SimpleAtoi(TextIn(detail, "lease_remaining_ms"), &remaining_ms)) {
    return absl::ZeroDuration();
  }
  return absl::Milliseconds(remaining_ms);
}

}  // namespace

uint64_t RandomIncarnation() {
  std::random_device random;
  uint64_t incarnation = 0;
  while (incarnation == 0) incarnation = uint64_t{random()} << 32 | random();
  return incarnation;
}

LeaseKeeper::LeaseKeeper(CoordinatorClient client, Options options,
                         LeaseListener& listener)
    : client_(std::move(client)),
      options_(std::move(options)),
      listener_(listener),
      thread_([this] { Run(); }) {}

LeaseKeeper::~LeaseKeeper() { Stop(); }

void LeaseKeeper::Stop() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
    if (stream_ != nullptr) stream_->Cancel();
    changed_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

void LeaseKeeper::SetPhase(const std::string& phase) {
  const MutexLock lock(mutex_);
  std::string text = CutText(phase, kPhaseBytesMax);
  if (text == phase_) return;
  phase_ = std::move(text);
  phase_is_new_ = true;
  changed_.NotifyAll();
}

std::string LeaseKeeper::phase() const {
  const MutexLock lock(mutex_);
  return phase_;
}

v1::Caller LeaseKeeper::caller() const {
  const MutexLock lock(mutex_);
  v1::Caller caller;
  *caller.mutable_member() = options_.registration.member();
  caller.set_incarnation(options_.registration.incarnation());
  caller.set_generation(generation_);
  return caller;
}

void LeaseKeeper::Run() {
  while (!stopping()) {
    if (Register()) {
      Hold();
    } else {
      WaitFor(retry_after_);
    }
  }
}

bool LeaseKeeper::Register() {
  const absl::StatusOr<v1::RegisterResponse> grant =
      client_.Register(options_.registration);
  if (!grant.ok()) {
    OnRefused(grant.status());
    return false;
  }
  holder_.reset();
  renew_period_ = std::max(FromProto(grant->renew_period()), kRenewPeriodMin);
  {
    const MutexLock lock(mutex_);
    generation_ = grant->generation();
    // A later registration hears what happened since the earlier one; unless
    // the coordinator has lost its memory.
    revision_ =
        std::min(revision_.value_or(grant->revision()), grant->revision());
  }
  if (!stopping()) listener_.OnRegistered(*grant);
  return true;
}

bool LeaseKeeper::IsFatal(const absl::Status& status) const {
  const std::string reason = ReasonOf(status);
  if (reason == "RANK_NOT_IN_LAYOUT" || reason == "JOB_NOT_FOUND") {
    return !options_.waits_for_layout;
  }
  return reason == "FENCED" || reason == "INVALID_MEMBER" ||
         reason == "NCCL_COMM_ID_SET";
}

void LeaseKeeper::OnRefused(const absl::Status& status) {
  if (IsFatal(status)) {
    Fatal(status);
    return;
  }
  const v1::ErrorDetail detail = DetailOf(status);
  retry_after_ = backoff_.Next() + FromProto(detail.retry_delay());
  // Another live process is in the way: MEMBER_ID_IN_USE, GPU_IN_USE...
  std::pair<std::string, std::string> holder(
      TextIn(detail, "holder_incarnation"), TextIn(detail, "term"));
  if (!holder.first.empty()) {
    // The lease that was to run out has been renewed; or, in another term,
    // granted by a coordinator that restarted, which proves nothing.
    if (holder_ == holder) {
      Fatal(status);
      return;
    }
    holder_ = std::move(holder);
    retry_after_ = LeaseRemaining(detail) + kLeaseSlack;
  }
  if (!stopping()) listener_.OnRefused(status, retry_after_);
}

void LeaseKeeper::Hold() {
  const std::unique_ptr<SessionStream> stream = client_.OpenSession();
  {
    const MutexLock lock(mutex_);
    if (stopping_) return;
    stream_ = stream.get();
  }
  std::thread renewer([this, &stream] { Renew(*stream); });
  for (v1::SessionResponse response; stream->Read(&response);) {
    backoff_.Reset();
    OnResponse(response);
  }
  {
    const MutexLock lock(mutex_);
    stream_ = nullptr;
    changed_.NotifyAll();
  }
  renewer.join();
  const absl::Status end = stream->Finish();
  if (!stopping()) OnSessionEnded(end);
}

void LeaseKeeper::OnSessionEnded(const absl::Status& end) {
  if (IsFatal(end)) {
    Fatal(end);
    return;
  }
  if (ReasonOf(end) == "NOT_REGISTERED") {
    {
      // What happened meanwhile is of no interest to who begins anew.
      const MutexLock lock(mutex_);
      revision_.reset();
    }
    listener_.OnLeaseLost(end);
  } else {
    listener_.OnDisconnected(end);
  }
  WaitFor(backoff_.Next());
}

// A stream that ends makes Write() fail, and one that Hold() has let go of ends
// the wait.
void LeaseKeeper::Renew(SessionStream& stream) {
  while (stream.Write(NextRequest())) {
    const absl::Duration pause = std::min(renew_period_, kPhasePeriodMin);
    MutexLock lock(mutex_);
    const auto is_over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return stopping_ || stream_ == nullptr;
    };
    changed_.WaitFor(lock, pause, is_over);
    changed_.WaitFor(lock, renew_period_ - pause,
                     [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
                       return is_over() || phase_is_new_;
                     });
    if (is_over()) return;
  }
}

void LeaseKeeper::OnResponse(const v1::SessionResponse& response) {
  {
    const MutexLock lock(mutex_);
    if (stopping_) return;
    generation_ = response.generation();
    revision_ = response.revision();
  }
  listener_.OnNews(response.generation(), {response.lost_members().begin(),
                                           response.lost_members().end()});
}

v1::SessionRequest LeaseKeeper::NextRequest() {
  v1::SessionRequest request;
  *request.mutable_caller() = caller();
  const MutexLock lock(mutex_);
  request.set_phase(phase_);
  request.set_revision(revision_.value_or(0));
  phase_is_new_ = false;
  return request;
}

void LeaseKeeper::WaitFor(absl::Duration duration) {
  MutexLock lock(mutex_);
  changed_.WaitFor(
      lock, duration,
      [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_; });
}

bool LeaseKeeper::stopping() const {
  const MutexLock lock(mutex_);
  return stopping_;
}

void LeaseKeeper::Fatal(const absl::Status& why) {
  {
    const MutexLock lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
  }
  listener_.OnFatal(why);
}

}  // namespace shardwright
