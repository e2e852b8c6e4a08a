#include "client/cc/member.h"

#include <unistd.h>

#include <algorithm>
#include <climits>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cc/backoff.h"
#include "client/native/call.h"
#include "client/native/handles.h"
#include "client/native/shardwright_service.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "proto/status/utf8.h"
#include "proto/time/proto_time.h"

// Thread-safe, as its parts are.
struct sw_member : shardwright::LiveHandle {
  sw_member(shardwright::CoordinatorClient coordinator,
            std::unique_ptr<shardwright::Member> joined)
      : client(std::move(coordinator)), member(std::move(joined)) {}

  shardwright::CoordinatorClient client;
  std::unique_ptr<shardwright::Member> member;
};

namespace shardwright {
namespace {

constexpr size_t kPhaseBytesMax = 64;

v1::MemberFacts FactsOfThisProcess() {
  char host[HOST_NAME_MAX + 1] = {};
  v1::MemberFacts facts;
  if (gethostname(host, HOST_NAME_MAX) == 0) facts.set_host(host);
  facts.set_pid(getpid());
  facts.set_device("host");
  return facts;
}

// Whether a barrier call that ended like this may be made again: the
// coordinator restarts, and the member is about to register with it.
bool IsRestart(const absl::Status& status) {
  return status.code() == absl::StatusCode::kUnavailable ||
         ReasonOf(status) == "NOT_REGISTERED";
}

absl::Status Wait(const sw_member& member, v1::WaitAtBarrierRequest request,
                  absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  Backoff backoff;
  for (;;) {
    *request.mutable_caller() = member.member->caller();
    const absl::Duration remaining = deadline - absl::Now();
    *request.mutable_timeout() = ToProto(remaining);
    const absl::Status status = member.client.WaitAtBarrier(
        request, [](const v1::WaitAtBarrierResponse&) { return true; });
    if (!IsRestart(status)) return status;
    RETURN_IF_ERROR(member.member->status());
    const absl::Duration delay = backoff.Next();
    if (absl::Now() + delay >= deadline) return status;
    absl::SleepFor(delay);
  }
}

}  // namespace
}  // namespace shardwright

using shardwright::Call;
using shardwright::CheckLive;
using shardwright::CheckNotNull;
using shardwright::Error;

sw_code sw_member_join(const sw_job* job, int64_t rank, int64_t timeout_ms,
                       sw_member** out) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("job", job));
    RETURN_IF_ERROR(CheckNotNull({{"out", out}}));
    if (!job->client.has_value()) {
      return Error(absl::StatusCode::kInvalidArgument, "OFFLINE_JOB",
                   absl::StrCat("job '", job->name,
                                "' was read from a file: only a job of a "
                                "coordinator has members"));
    }
    shardwright::Member::Options options;
    options.id.set_job(job->name);
    options.id.set_rank(rank);
    options.id.set_kind(shardwright::v1::TRAINER);
    options.facts = shardwright::FactsOfThisProcess();
    options.join_timeout = absl::Milliseconds(timeout_ms);
    ASSIGN_OR_RETURN(std::unique_ptr<shardwright::Member> member,
                     shardwright::Member::Join(*job->client, options));
    *out = new sw_member(*job->client, std::move(member));
    return absl::OkStatus();
  });
}

sw_code sw_member_leave(sw_member* member) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("member", member));
    return member->member->Leave();
  });
}

void sw_member_destroy(sw_member* member) { delete member; }

sw_code sw_member_check(const sw_member* member) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("member", member));
    return member->member->status();
  });
}

sw_code sw_member_set_phase(sw_member* member, const char* phase) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("member", member));
    RETURN_IF_ERROR(CheckNotNull({{"phase", phase}}));
    std::string text = phase;
    if (text.size() > shardwright::kPhaseBytesMax) {
      return Error(
          absl::StatusCode::kInvalidArgument, "INVALID_PHASE",
          absl::StrCat("the phase has ", text.size(), " bytes, at most ",
                       shardwright::kPhaseBytesMax, " are allowed"));
    }
    if (!shardwright::IsUtf8(text)) {
      return Error(absl::StatusCode::kInvalidArgument, "INVALID_PHASE",
                   "the phase is not UTF-8");
    }
    member->member->SetPhase(text);
    return absl::OkStatus();
  });
}

sw_code sw_member_get_generation(const sw_member* member, int64_t* generation) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("member", member));
    RETURN_IF_ERROR(CheckNotNull({{"generation", generation}}));
    *generation = member->member->caller().generation();
    return absl::OkStatus();
  });
}

sw_code sw_member_get_incarnation(const sw_member* member,
                                  uint64_t* incarnation) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("member", member));
    RETURN_IF_ERROR(CheckNotNull({{"incarnation", incarnation}}));
    *incarnation = member->member->caller().incarnation();
    return absl::OkStatus();
  });
}

sw_code sw_member_wait(sw_member* member, const char* name, int64_t sequence,
                       const char* scope, uint64_t digest, int64_t timeout_ms) {
  return Call([&]() -> absl::Status {
    RETURN_IF_ERROR(CheckLive("member", member));
    RETURN_IF_ERROR(CheckNotNull({{"name", name}, {"scope", scope}}));
    RETURN_IF_ERROR(member->member->status());
    shardwright::v1::WaitAtBarrierRequest request;
    request.set_name(name);
    request.set_sequence(sequence);
    request.set_scope(scope);
    request.set_digest(digest);
    return shardwright::Wait(*member, std::move(request),
                             absl::Milliseconds(timeout_ms));
  });
}
