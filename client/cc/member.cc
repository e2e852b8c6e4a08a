#include "client/cc/member.h"

#include <utility>

#include "absl/time/clock.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {

namespace {

bool IsWorthWaiting(const absl::Status& refusal) {
  const std::string reason = ReasonOf(refusal);
  return absl::IsUnavailable(refusal) || reason == "MEMBER_ID_IN_USE" ||
         reason == "OVERLOADED";
}

}  // namespace

absl::StatusOr<std::unique_ptr<Member>> Member::Join(CoordinatorClient client,
                                                     const Options& options) {
  std::unique_ptr<Member> member(new Member(std::move(client), options));
  RETURN_IF_ERROR(member->WaitUntilJoined());
  return member;
}

Member::Member(CoordinatorClient client, const Options& options)
    : client_(std::move(client)),
      join_deadline_(absl::Now() + options.join_timeout) {
  LeaseKeeper::Options lease;
  *lease.registration.mutable_member() = options.id;
  *lease.registration.mutable_facts() = options.facts;
  lease.registration.set_incarnation(RandomIncarnation());
  keeper_ = std::make_unique<LeaseKeeper>(client_, std::move(lease),
                                          static_cast<LeaseListener&>(*this));
}

Member::~Member() { Leave().IgnoreError(); }

absl::Status Member::WaitUntilJoined() {
  MutexLock lock(mutex_);
  while (!joined_ && status_.ok()) changed_.Wait(lock);
  return status_;
}

void Member::OnRegistered(const v1::RegisterResponse&) {
  const MutexLock lock(mutex_);
  joined_ = true;
  changed_.NotifyAll();
}

void Member::OnRefused(const absl::Status& why, absl::Duration retry_in) {
  const MutexLock lock(mutex_);
  if (joined_) return;
  if (IsWorthWaiting(why) && absl::Now() + retry_in <= join_deadline_) return;
  status_ = why;
  changed_.NotifyAll();
}

void Member::OnFatal(const absl::Status& why) {
  const MutexLock lock(mutex_);
  status_ = why;
  changed_.NotifyAll();
}

absl::Status Member::status() const {
  const MutexLock lock(mutex_);
  return status_;
}

absl::Status Member::Leave() {
  {
    const MutexLock lock(mutex_);
    if (left_) return status_;
    left_ = true;
  }
  keeper_->Stop();
  absl::Status end = status();
  if (end.ok()) {
    v1::LeaveRequest request;
    *request.mutable_caller() = caller();
    end = client_.Leave(request).status();
  }
  const MutexLock lock(mutex_);
  status_ = Error(absl::StatusCode::kFailedPrecondition, "NOT_A_MEMBER",
                  "this member has left the job");
  return end;
}

}  // namespace shardwright
