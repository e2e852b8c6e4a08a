#include "client/cc/worker_client.h"

#include <optional>
#include <thread>
#include <utility>

#include "client/cc/channel.h"
#include "grpcpp/support/sync_stream.h"
#include "proto/status/error.h"
#include "proto/sync/mutex.h"
#include "shardwright/v1/worker.grpc.pb.h"

namespace shardwright {

struct WorkerClient::Wire {
  Wire(const std::string& target, Options options)
      : options(options), channel(target), stub(channel.grpc_channel()) {}

  const Options options;
  const Channel channel;
  v1::WorkerService::Stub stub;
};

namespace {

// Reads the stream in a thread of its own: somebody has to notice its end.
class GrpcWorkerSession : public WorkerSession {
 public:
  GrpcWorkerSession(Channel channel, v1::WorkerService::Stub& stub,
                    const v1::OpenSessionRequest& request)
      : channel_(std::move(channel)),
        reader_(stub.OpenSession(&context_, request)),
        thread_([this] { ReadToEnd(); }) {}

  ~GrpcWorkerSession() override {
    context_.TryCancel();
    thread_.join();
  }

  // Waits for the worker's answer.
  absl::Status WaitUntilOpen(absl::Duration timeout) {
    MutexLock lock(mutex_);
    const bool answered = changed_.WaitFor(
        lock, timeout, [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
          return !answer_.session_id().empty() || end_.has_value();
        });
    if (answered) return end_.value_or(absl::OkStatus());
    return channel_.ToStatus(
        grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, ""));
  }

  const std::string& id() const override { return answer_.session_id(); }
  const v1::GpuSession& gpu() const override { return answer_.gpu(); }

  absl::Status status() const override {
    const MutexLock lock(mutex_);
    return end_.value_or(absl::OkStatus());
  }

 private:
  void ReadToEnd() {
    for (v1::OpenSessionResponse response; reader_->Read(&response);) {
      const MutexLock lock(mutex_);
      if (answer_.session_id().empty()) answer_ = response;
      changed_.NotifyAll();
    }
    absl::Status status = channel_.ToStatus(reader_->Finish());
    if (status.ok()) {
      status = Error(absl::StatusCode::kAborted, "SESSION_ENDED",
                     "the worker has ended the session");
    }
    const MutexLock lock(mutex_);
    end_ = std::move(status);
    changed_.NotifyAll();
  }

  const Channel channel_;
  grpc::ClientContext context_;
  const std::unique_ptr<grpc::ClientReader<v1::OpenSessionResponse>> reader_;

  mutable Mutex mutex_;
  CondVar changed_;
  v1::OpenSessionResponse answer_;  // Guarded by mutex_ until it is there.
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace

WorkerClient WorkerClient::Create(const std::string& target, Options options) {
  return WorkerClient(std::make_shared<Wire>(target, options));
}

WorkerClient WorkerClient::Create(const std::string& target) {
  return Create(target, Options());
}

WorkerClient::WorkerClient(std::shared_ptr<Wire> wire)
    : wire_(std::move(wire)) {}

absl::StatusOr<v1::WorkerDescription> WorkerClient::Describe() const {
  return wire_->channel.Call(
      wire_->stub, &v1::WorkerService::Stub::DescribeWorker,
      v1::DescribeWorkerRequest(), wire_->options.call_timeout,
      wire_->options.retry_timeout);
}

absl::StatusOr<std::unique_ptr<WorkerSession>> WorkerClient::OpenSession(
    const v1::OpenSessionRequest& request) const {
  auto session =
      std::make_unique<GrpcWorkerSession>(wire_->channel, wire_->stub, request);
  const absl::Status status =
      session->WaitUntilOpen(wire_->options.call_timeout);
  if (!status.ok()) return status;
  return session;
}

absl::StatusOr<v1::RegisterRegionResponse> WorkerClient::RegisterRegion(
    const v1::RegisterRegionRequest& request) const {
  return wire_->channel.Call(wire_->stub,
                             &v1::WorkerService::Stub::RegisterRegion, request,
                             wire_->options.call_timeout, absl::ZeroDuration());
}

absl::StatusOr<v1::UnregisterRegionResponse> WorkerClient::UnregisterRegion(
    const v1::UnregisterRegionRequest& request) const {
  return wire_->channel.Call(
      wire_->stub, &v1::WorkerService::Stub::UnregisterRegion, request,
      wire_->options.call_timeout, absl::ZeroDuration());
}

absl::StatusOr<v1::RunCopiesResponse> WorkerClient::RunCopies(
    const v1::RunCopiesRequest& request) const {
  return wire_->channel.Call(wire_->stub, &v1::WorkerService::Stub::RunCopies,
                             request, wire_->options.call_timeout,
                             absl::ZeroDuration());
}

absl::StatusOr<v1::GatherShardsResponse> WorkerClient::GatherShards(
    const v1::GatherShardsRequest& request) const {
  return wire_->channel.Call(wire_->stub,
                             &v1::WorkerService::Stub::GatherShards, request,
                             wire_->options.call_timeout, absl::ZeroDuration());
}

absl::StatusOr<v1::RunBridgeResponse> WorkerClient::RunBridge(
    const v1::RunBridgeRequest& request) const {
  return wire_->channel.Call(wire_->stub, &v1::WorkerService::Stub::RunBridge,
                             request, wire_->options.call_timeout,
                             absl::ZeroDuration());
}

}  // namespace shardwright
