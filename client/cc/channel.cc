#include "client/cc/channel.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cc/backoff.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"
#include "proto/status/error.h"
#include "proto/status/grpc_status.h"
#include "proto/time/proto_time.h"

namespace shardwright {
namespace {

constexpr int kKeepaliveMs = 20'000;
constexpr int kKeepaliveTimeoutMs = 10'000;

grpc::ChannelArguments Arguments() {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(Channel::kMessageBytesMax);
  arguments.SetMaxSendMessageSize(Channel::kMessageBytesMax);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // gRPC's own limit of two minutes would outlast every restart.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  // How long one try to connect may take: a second is too short on a machine
  // that is busy.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  // Two channels to one target would share a connection, and a job's data
  // would queue behind another's.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return arguments;
}

}  // namespace

Channel::Channel(std::string target)
    : target_(std::move(target)),
      channel_(grpc::CreateCustomChannel(
          target_, grpc::InsecureChannelCredentials(), Arguments())) {}

absl::Status Channel::ToStatus(const grpc::Status& status) const {
  const bool has_reason = !status.error_details().empty();
  // A server that shuts down may cancel a call before it can give a reason.
  if (!has_reason && (status.error_code() == grpc::StatusCode::UNAVAILABLE ||
                      status.error_code() == grpc::StatusCode::CANCELLED)) {
    return Error(
        absl::StatusCode::kUnavailable, "UNREACHABLE",
        absl::StrCat(target_, " cannot be reached: ", status.error_message()),
        {{"target", target_}});
  }
  if (!has_reason &&
      status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
    return Error(absl::StatusCode::kDeadlineExceeded, "CALL_TIMEOUT",
                 absl::StrCat(target_, " did not answer in time"),
                 {{"target", target_}});
  }
  if (has_reason || status.ok()) return FromGrpcStatus(status);
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  return Error(code,
               code == absl::StatusCode::kResourceExhausted
                   ? "MESSAGE_TOO_LARGE"
                   : "CALL_FAILED",
               status.error_message(), {{"target", target_}});
}

absl::Status Channel::Retry(
    absl::Duration timeout,
    const std::function<grpc::Status()>& attempt) const {
  const absl::Time deadline = absl::Now() + timeout;
  Backoff backoff;
  for (;;) {
    const absl::Status status = ToStatus(attempt());
    const v1::ErrorDetail detail = DetailOf(status);
    if (!absl::IsUnavailable(status) && !detail.has_retry_delay()) {
      return status;
    }
    // The backoff is added as jitter: many are told the same delay.
    const absl::Duration delay =
        std::max(absl::ZeroDuration(), FromProto(detail.retry_delay())) +
        backoff.Next();
    if (absl::Now() + delay >= deadline) return status;
    absl::SleepFor(delay);
  }
}

}  // namespace shardwright
