// CoordinatorClient speaks to a coordinator: one method an RPC, absl::Status
// with the reason (proto/status/error.h) instead of grpc::Status.
//
// Thread safety: thread-safe. Copies share one connection and are cheap.
//
// Retries: unary calls that fail with UNAVAILABLE are repeated with exponential
// backoff and full jitter until Options::retry_timeout has passed; every unary
// method of the services is idempotent. So are calls that an overloaded server
// refuses, after the delay that it names. Streams are not repeated: who holds
// one knows what to do after a restart.
//
// Deadlines: every unary try has Options::call_timeout. Streams that wait take
// their timeout in the request and end by themselves; the client adds slack so
// that the coordinator's own answer, which names who is missing, arrives first.

#ifndef CLIENT_CC_COORDINATOR_CLIENT_H_
#define CLIENT_CC_COORDINATOR_CLIENT_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "shardwright/v1/barrier.pb.h"
#include "shardwright/v1/communicator.pb.h"
#include "shardwright/v1/diagnostics.pb.h"
#include "shardwright/v1/layout.pb.h"
#include "shardwright/v1/membership.pb.h"
#include "shardwright/v1/plan.pb.h"

namespace shardwright {

class Connection;  // client/cc/connection.h: the seam that tests replace.

// Lets another thread cut a waiting call short. Serves one call at a time;
// copies are the same canceller. Thread-safe.
class CallCanceller {
 public:
  CallCanceller();

  // The call that was started with this canceller ends with CANCELLED; one that
  // is started afterwards ends at once.
  void Cancel();
  bool cancelled() const;

  // For Connection: runs `cancel` on Cancel(), at once if that has happened.
  // It must not use this canceller.
  void OnCancel(std::function<void()> cancel);

  // For Connection: `cancel` runs no more once this has returned, so that what
  // it uses may go.
  void CallEnded();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

// The client's side of MembershipService.Session. One thread may write while
// another reads. Destroying it cancels the call.
class SessionStream {
 public:
  virtual ~SessionStream() = default;

  // False when the call has ended: Finish() says why.
  virtual bool Write(const v1::SessionRequest& request) = 0;
  virtual bool Read(v1::SessionResponse* response) = 0;

  // Makes Read() and Write() return false soon. From any thread.
  virtual void Cancel() = 0;

  // How the call ended. Once, after Read() returned false.
  virtual absl::Status Finish() = 0;
};

class CoordinatorClient {
 public:
  struct Options {
    absl::Duration call_timeout = absl::Seconds(10);
    absl::Duration retry_timeout = absl::Seconds(30);  // 0: never retry.
  };

  // `target` is host:port. Connects when first used.
  static CoordinatorClient Create(const std::string& target, Options options);
  static CoordinatorClient Create(const std::string& target);

  explicit CoordinatorClient(std::shared_ptr<Connection> connection);

  absl::StatusOr<v1::ApplyLayoutResponse> ApplyLayout(
      const v1::ApplyLayoutRequest& request) const;
  absl::StatusOr<v1::GetLayoutResponse> GetLayout(
      const v1::GetLayoutRequest& request) const;
  absl::StatusOr<v1::ListLayoutsResponse> ListLayouts(
      const v1::ListLayoutsRequest& request) const;
  absl::StatusOr<v1::RankExplanation> ExplainRank(
      const v1::ExplainRankRequest& request) const;
  // As FormCommunicators() below; it has no timeout, and ends when the
  // canceller says so, `on_event` returns false, or the server is lost.
  absl::Status WatchLayouts(
      const v1::WatchLayoutsRequest& request,
      const std::function<bool(const v1::WatchLayoutsResponse&)>& on_event,
      CallCanceller canceller = CallCanceller()) const;

  // Never repeated: LeaseKeeper does that, and can be stopped in between.
  absl::StatusOr<v1::RegisterResponse> Register(
      const v1::RegisterRequest& request) const;
  // Takes two seconds at most, whatever Options say: who leaves is about to
  // end, and a lease that was not given up runs out.
  absl::StatusOr<v1::LeaveResponse> Leave(
      const v1::LeaveRequest& request) const;
  absl::StatusOr<v1::ListMembersResponse> ListMembers(
      const v1::ListMembersRequest& request) const;
  std::unique_ptr<SessionStream> OpenSession() const;

  absl::StatusOr<v1::PublishSlotsResponse> PublishSlots(
      const v1::PublishSlotsRequest& request) const;
  absl::StatusOr<v1::ReportCommunicatorsResponse> ReportCommunicators(
      const v1::ReportCommunicatorsRequest& request) const;

  // Waits for the stream to end. `on_event` runs in the calling thread for each
  // message; returning false cancels the call.
  absl::Status FormCommunicators(
      const v1::FormCommunicatorsRequest& request,
      const std::function<bool(const v1::FormCommunicatorsResponse&)>& on_event,
      CallCanceller canceller = CallCanceller()) const;
  absl::Status WaitAtBarrier(
      const v1::WaitAtBarrierRequest& request,
      const std::function<bool(const v1::WaitAtBarrierResponse&)>& on_event,
      CallCanceller canceller = CallCanceller()) const;

  absl::StatusOr<v1::ShardPlan> GetShardPlan(
      const v1::GetShardPlanRequest& request) const;
  absl::StatusOr<v1::ShardPlan> GetComposePlan(
      const v1::GetComposePlanRequest& request) const;
  absl::StatusOr<v1::RoutePlan> GetRoutePlan(
      const v1::GetRoutePlanRequest& request) const;

  absl::StatusOr<v1::ListMissingMembersResponse> ListMissingMembers(
      const v1::ListMissingMembersRequest& request) const;
  absl::StatusOr<v1::ListCommunicatorsResponse> ListCommunicators(
      const v1::ListCommunicatorsRequest& request) const;
  absl::StatusOr<v1::CliqueExplanation> ExplainClique(
      const v1::ExplainCliqueRequest& request) const;
  absl::StatusOr<v1::ListEventsResponse> ListEvents(
      const v1::ListEventsRequest& request) const;

  // gRPC health of the whole server: OK when SERVING. Never repeated.
  //
  // Errors:
  //   UNAVAILABLE UNREACHABLE, NOT_SERVING.
  absl::Status CheckHealth() const;

 private:
  std::shared_ptr<Connection> connection_;
};

}  // namespace shardwright

#endif  // CLIENT_CC_COORDINATOR_CLIENT_H_
