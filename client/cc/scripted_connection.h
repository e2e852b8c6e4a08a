// A Connection whose answers a test writes: each RPC is a function that may be
// set, and is UNIMPLEMENTED until then.

#ifndef CLIENT_CC_SCRIPTED_CONNECTION_H_
#define CLIENT_CC_SCRIPTED_CONNECTION_H_

#include <deque>
#include <functional>
#include <memory>
#include <utility>

#include "client/cc/unimplemented_connection.h"
#include "proto/sync/mutex.h"

namespace shardwright {

// Both ends of a session: the test answers what the member writes. Thread-safe.
class ScriptedSession : public SessionStream {
 public:
  // What both the member's stream and the test hold.
  struct Wire {
    Mutex mutex;
    CondVar changed;
    std::deque<v1::SessionRequest> requests ABSL_GUARDED_BY(mutex);
    std::deque<v1::SessionResponse> responses ABSL_GUARDED_BY(mutex);
    bool ended ABSL_GUARDED_BY(mutex) = false;
    absl::Status end ABSL_GUARDED_BY(mutex);

    void Answer(const v1::SessionResponse& response) {
      const MutexLock lock(mutex);
      responses.push_back(response);
      changed.NotifyAll();
    }
    void End(const absl::Status& status) {
      const MutexLock lock(mutex);
      if (!ended) end = status;
      ended = true;
      changed.NotifyAll();
    }
    // Waits for the next request of the member.
    v1::SessionRequest Request() {
      MutexLock lock(mutex);
      while (requests.empty()) changed.Wait(lock);
      v1::SessionRequest request = std::move(requests.front());
      requests.pop_front();
      return request;
    }
  };

  explicit ScriptedSession(std::shared_ptr<Wire> wire)
      : wire_(std::move(wire)) {}
  ~ScriptedSession() override { Cancel(); }

  bool Write(const v1::SessionRequest& request) override {
    const MutexLock lock(wire_->mutex);
    if (wire_->ended) return false;
    wire_->requests.push_back(request);
    wire_->changed.NotifyAll();
    return true;
  }
  bool Read(v1::SessionResponse* response) override {
    MutexLock lock(wire_->mutex);
    while (wire_->responses.empty() && !wire_->ended) {
      wire_->changed.Wait(lock);
    }
    if (wire_->responses.empty()) return false;
    *response = std::move(wire_->responses.front());
    wire_->responses.pop_front();
    return true;
  }
  void Cancel() override { wire_->End(absl::CancelledError("cancelled")); }
  absl::Status Finish() override {
    const MutexLock lock(wire_->mutex);
    return wire_->end;
  }

 private:
  const std::shared_ptr<Wire> wire_;
};

class ScriptedConnection : public UnimplementedConnection {
 public:
  template <typename Request, typename Response>
  using Method = std::function<absl::StatusOr<Response>(const Request&)>;

  using OnForm =
      std::function<bool(const v1::FormCommunicatorsResponse& response)>;

  Method<v1::GetLayoutRequest, v1::GetLayoutResponse> get_layout;
  Method<v1::ExplainRankRequest, v1::RankExplanation> explain_rank;
  Method<v1::RegisterRequest, v1::RegisterResponse> on_register;
  Method<v1::LeaveRequest, v1::LeaveResponse> leave;
  Method<v1::PublishSlotsRequest, v1::PublishSlotsResponse> publish_slots;
  Method<v1::ReportCommunicatorsRequest, v1::ReportCommunicatorsResponse>
      report_communicators;
  std::function<std::unique_ptr<SessionStream>()> open_session;
  std::function<absl::Status(const v1::FormCommunicatorsRequest&, const OnForm&,
                             CallCanceller)>
      form_communicators;

  absl::StatusOr<v1::GetLayoutResponse> GetLayout(
      const v1::GetLayoutRequest& request) override {
    return Call(get_layout, request);
  }
  absl::StatusOr<v1::RankExplanation> ExplainRank(
      const v1::ExplainRankRequest& request) override {
    return Call(explain_rank, request);
  }
  absl::StatusOr<v1::RegisterResponse> Register(
      const v1::RegisterRequest& request) override {
    return Call(on_register, request);
  }
  absl::StatusOr<v1::LeaveResponse> Leave(
      const v1::LeaveRequest& request) override {
    return Call(leave, request);
  }
  std::unique_ptr<SessionStream> OpenSession() override {
    return open_session();
  }
  absl::StatusOr<v1::PublishSlotsResponse> PublishSlots(
      const v1::PublishSlotsRequest& request) override {
    return Call(publish_slots, request);
  }
  absl::StatusOr<v1::ReportCommunicatorsResponse> ReportCommunicators(
      const v1::ReportCommunicatorsRequest& request) override {
    return Call(report_communicators, request);
  }
  absl::Status FormCommunicators(const v1::FormCommunicatorsRequest& request,
                                 const OnForm& on_event,
                                 CallCanceller canceller) override {
    if (!form_communicators) return Unimplemented();
    return form_communicators(request, on_event, std::move(canceller));
  }

 private:
  template <typename Request, typename Response>
  static absl::StatusOr<Response> Call(const Method<Request, Response>& method,
                                       const Request& request) {
    if (!method) return Unimplemented();
    return method(request);
  }
};

}  // namespace shardwright

#endif  // CLIENT_CC_SCRIPTED_CONNECTION_H_
