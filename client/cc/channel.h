// A Channel is one server as a client sees it: where it is, how unary calls to
// it are made and repeated, and what its failures say.

#ifndef CLIENT_CC_CHANNEL_H_
#define CLIENT_CC_CHANNEL_H_

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"

namespace shardwright {

// Thread-safe.
class Channel {
 public:
  // Most bytes of a message, either way.
  static constexpr int kMessageBytesMax = 64 << 20;

  // `target` is host:port. Connects when first used, and again by itself.
  explicit Channel(std::string target);

  const std::shared_ptr<grpc::Channel>& grpc_channel() const {
    return channel_;
  }

  // Makes one call with `call_timeout`, and repeats it while the answer is
  // UNAVAILABLE, or says when to come again, until `retry_timeout` has passed;
  // 0 never repeats.
  //
  // Errors: as the method, with its reason, and those of ToStatus().
  template <typename Stub, typename Request, typename Response>
  absl::StatusOr<Response> Call(
      Stub& stub,
      grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                   Response*),
      const Request& request, absl::Duration call_timeout,
      absl::Duration retry_timeout) const {
    Response response;
    const absl::Status status = Retry(retry_timeout, [&] {
      grpc::ClientContext context;
      context.set_deadline(DeadlineAfter(call_timeout));
      return (stub.*method)(&context, request, &response);
    });
    if (!status.ok()) return status;
    return response;
  }

  // A failure as the caller shall see it: the server's own, or gRPC's, which
  // comes without a reason and gets one:
  //   UNAVAILABLE        UNREACHABLE: there is no connection to the server, or
  //                      it cancelled the call when it stopped. Ask not for a
  //                      call that this client has cancelled.
  //   DEADLINE_EXCEEDED  CALL_TIMEOUT: no answer in time.
  //   RESOURCE_EXHAUSTED MESSAGE_TOO_LARGE: above what either side takes.
  //   any other          CALL_FAILED.
  absl::Status ToStatus(const grpc::Status& status) const;

  static std::chrono::system_clock::time_point DeadlineAfter(
      absl::Duration timeout) {
    return absl::ToChronoTime(absl::Now() + timeout);
  }

 private:
  absl::Status Retry(absl::Duration timeout,
                     const std::function<grpc::Status()>& attempt) const;

  std::string target_;
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace shardwright

#endif  // CLIENT_CC_CHANNEL_H_
