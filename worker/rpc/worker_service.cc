#include "worker/rpc/worker_service.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/status/error.h"
#include "proto/status/grpc_status.h"
#include "proto/status/status_macros.h"
#include "proto/sync/mutex.h"
#include "spdlog/spdlog.h"
#include "worker/exec/gather.h"

namespace shardwright {
namespace {

absl::Status TooManyCalls() {
  return Error(
      absl::StatusCode::kResourceExhausted, "TOO_MANY_CALLS",
      absl::StrCat(WorkQueue::kCapacity, " calls are waiting already"));
}

// When what waits for other members ends, of a call with this deadline: the
// caller shall hear who was missing, and its memory be its own again, before it
// stops waiting.
absl::Time EndBy(absl::Time deadline) {
  constexpr absl::Duration kMargin = absl::Seconds(2);
  const absl::Duration left = deadline - absl::Now();
  return deadline - std::min(kMargin, left / 4);
}

// Answers from a thread of `queue`, with what `run` returns. Owns itself, as
// reactors do.
class Answer : public grpc::ServerUnaryReactor {
 public:
  Answer(WorkQueue& queue, std::function<absl::Status(Caller&)> run) {
    if (!queue.Add([this, run = std::move(run)] {
          Finish(ToGrpcStatus(run(caller_)));
        })) {
      Finish(ToGrpcStatus(TooManyCalls()));
    }
  }

  void OnCancel() override { caller_.Leave(); }
  void OnDone() override { delete this; }

 private:
  Caller caller_;
};

// Opens a session from a thread of `openings`, for CUDA may make it wait;
// writes the session's id, then stays open until the trainer or the server ends
// the call. Owns itself, as reactors do.
class SessionReactor
    : public grpc::ServerWriteReactor<v1::OpenSessionResponse> {
 public:
  // `request` lives as long as the call.
  SessionReactor(SessionTable& sessions, WorkQueue& openings,
                 WorkQueue& endings, const v1::OpenSessionRequest& request)
      : sessions_(sessions), endings_(endings) {
    if (!openings.Add([this, &request] { Opened(Open(request)); })) {
      Opened(TooManyCalls());
    }
  }

  void OnWriteDone(bool ok) override {
    if (!ok) Cancel();
  }
  void OnCancel() override { Cancel(); }

  void OnDone() override {
    if (!response_.session_id().empty()) End();
    delete this;
  }

 private:
  absl::Status Open(const v1::OpenSessionRequest& request) {
    ASSIGN_OR_RETURN(std::string id, sessions_.Open(request));
    ASSIGN_OR_RETURN(const std::shared_ptr<Session> session,
                     sessions_.Find(id));
    response_.set_session_id(std::move(id));
    if (session->regions() != nullptr) {
      *response_.mutable_gpu() = session->regions()->agreement();
    }
    const v1::SessionDescription description = session->Describe();
    spdlog::info("event=session_opened segments={} order={} reason=\"{}\"",
                 description.segment_count(), description.order(),
                 description.order_reason());
    return absl::OkStatus();
  }

  // Once the call is finished the reactor may be gone: it is not finished while
  // it opens, nor with the lock held.
  void Opened(const absl::Status& status) {
    {
      const MutexLock lock(mutex_);
      opening_ = false;
      if (status.ok() && !cancelled_) {
        StartWrite(&response_);
        return;
      }
      finished_ = true;
    }
    Finish(status.ok() ? grpc::Status::CANCELLED : ToGrpcStatus(status));
  }
  void Cancel() {
    {
      const MutexLock lock(mutex_);
      cancelled_ = true;
      if (opening_ || finished_) return;
      finished_ = true;
    }
    Finish(grpc::Status::CANCELLED);
  }

  void End() {
    const auto close = [&sessions = sessions_, id = response_.session_id()] {
      sessions.Close(id);
      spdlog::info("event=session_closed");
    };
    if (!endings_.Add(close)) close();
  }

  SessionTable& sessions_;
  WorkQueue& endings_;
  v1::OpenSessionResponse response_;
  Mutex mutex_;
  bool opening_ ABSL_GUARDED_BY(mutex_) = true;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

absl::Status RunOne(Device& device, const CopyOperation& operation,
                    bool adjoint) {
  if (adjoint) {
    return device.RunAdjoint(operation.table(), operation.row_bytes(),
                             operation.destination(), operation.sources());
  }
  return device.RunForward(operation.table(), operation.row_bytes(),
                           std::vector<ConstBytes>(operation.sources().begin(),
                                                   operation.sources().end()),
                           operation.destination(), operation.fill_value());
}

}  // namespace

WorkerService::WorkerService(Device& device, const CliqueTable& cliques,
                             std::function<v1::WorkerDescription()> describe,
                             RegionDevice* gpu)
    : device_(device),
      gpu_(gpu),
      cliques_(cliques),
      describe_(std::move(describe)),
      sessions_(gpu),
      bridge_(cliques, gpu),
      copies_(kCopyThreads),
      regions_(kRegionThreads, kRegionSpin),
      gathers_(kGatherThreads),
      bridges_(kBridgeThreads),
      endings_(kEndingThreads) {}

grpc::ServerUnaryReactor* WorkerService::DescribeWorker(
    grpc::CallbackServerContext* context, const v1::DescribeWorkerRequest*,
    v1::WorkerDescription* response) {
  *response = describe_();
  for (v1::SessionDescription& session : sessions_.Describe()) {
    *response->add_sessions() = std::move(session);
  }
  response->set_session_count(response->sessions_size());
  if (gpu_ != nullptr) {
    response->set_context_memory_bytes(gpu_->context_memory_bytes());
  }
  response->set_copied_bytes(copied_bytes_);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerWriteReactor<v1::OpenSessionResponse>* WorkerService::OpenSession(
    grpc::CallbackServerContext*, const v1::OpenSessionRequest* request) {
  return new SessionReactor(sessions_, copies_, endings_, *request);
}

grpc::ServerUnaryReactor* WorkerService::RegisterRegion(
    grpc::CallbackServerContext*, const v1::RegisterRegionRequest* request,
    v1::RegisterRegionResponse* response) {
  return new Answer(copies_,
                    [this, request, response](Caller&) -> absl::Status {
                      ASSIGN_OR_RETURN(const std::shared_ptr<Session> session,
                                       GpuSessionOf(request->session_id()));
                      ASSIGN_OR_RETURN(const int64_t id,
                                       session->regions()->Register(*request));
                      response->set_region_id(id);
                      return absl::OkStatus();
                    });
}

grpc::ServerUnaryReactor* WorkerService::UnregisterRegion(
    grpc::CallbackServerContext*, const v1::UnregisterRegionRequest* request,
    v1::UnregisterRegionResponse*) {
  return new Answer(endings_, [this, request](Caller&) -> absl::Status {
    ASSIGN_OR_RETURN(const std::shared_ptr<Session> session,
                     GpuSessionOf(request->session_id()));
    return session->regions()->Unregister(request->region_id());
  });
}

grpc::ServerUnaryReactor* WorkerService::RunCopies(
    grpc::CallbackServerContext*, const v1::RunCopiesRequest* request,
    v1::RunCopiesResponse* response) {
  const bool uses_regions = std::any_of(
      request->operations().begin(), request->operations().end(), UsesRegions);
  return new Answer(uses_regions ? regions_ : copies_,
                    [this, request, response](const Caller& caller) {
                      return Run(caller, *request, *response);
                    });
}

grpc::ServerUnaryReactor* WorkerService::GatherShards(
    grpc::CallbackServerContext* context,
    const v1::GatherShardsRequest* request,
    v1::GatherShardsResponse* response) {
  const absl::Time deadline = EndBy(absl::FromChrono(context->deadline()));
  return new Answer(gathers_,
                    [this, request, response, deadline](Caller& caller) {
                      return Gather(caller, *request, deadline, *response);
                    });
}

grpc::ServerUnaryReactor* WorkerService::RunBridge(
    grpc::CallbackServerContext* context, const v1::RunBridgeRequest* request,
    v1::RunBridgeResponse* response) {
  const absl::Time deadline = EndBy(absl::FromChrono(context->deadline()));
  return new Answer(
      bridges_, [this, request, response, deadline](Caller& caller) {
        return bridge_.Run(*request, SessionOf(request->session_id()),
                           std::min(absl::Now() + kCliqueWait, deadline),
                           deadline, caller, *response);
      });
}

absl::StatusOr<std::shared_ptr<Session>> WorkerService::SessionOf(
    const std::string& session_id) const {
  if (session_id.empty()) return std::shared_ptr<Session>();
  return sessions_.Find(session_id);
}

absl::StatusOr<std::shared_ptr<Session>> WorkerService::GpuSessionOf(
    const std::string& session_id) const {
  ASSIGN_OR_RETURN(std::shared_ptr<Session> session,
                   sessions_.Find(session_id));
  if (session->regions() != nullptr) return session;
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_REGION",
               "session_id is of a session that was opened without `gpu`: it "
               "has no regions");
}

absl::StatusOr<CopyOperation> WorkerService::OperationOf(
    const v1::GatherShardsRequest& request) const {
  if (UsesRegions(request.operation())) {
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_TENSOR",
                 "a tensor is in a region, but shards are gathered from host "
                 "memory");
  }
  ASSIGN_OR_RETURN(std::shared_ptr<Session> session,
                   SessionOf(request.session_id()));
  return CopyOperation::Create(request.operation(), std::move(session),
                               CopyOutputs::kSources);
}

absl::Status WorkerService::Run(const Caller& caller,
                                const v1::RunCopiesRequest& request,
                                v1::RunCopiesResponse& response) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Session> session,
                   SessionOf(request.session_id()));
  const bool uses_regions = std::any_of(
      request.operations().begin(), request.operations().end(), UsesRegions);
  const auto run = [&] { return RunOperations(request, session, response); };
  if (uses_regions && session != nullptr && session->regions() != nullptr) {
    return session->regions()->Run(run, caller);
  }
  return run();
}

absl::Status WorkerService::RunOperations(
    const v1::RunCopiesRequest& request,
    const std::shared_ptr<Session>& session, v1::RunCopiesResponse& response) {
  std::vector<CopyOperation> operations;
  operations.reserve(request.operations_size());
  std::vector<RegionCopy> region_copies;
  for (int i = 0; i < request.operations_size(); ++i) {
    const v1::CopyOperation& message = request.operations(i);
    absl::StatusOr<CopyOperation> operation = CopyOperation::Create(
        message, session,
        message.adjoint() ? CopyOutputs::kSources : CopyOutputs::kDestination);
    if (!operation.ok()) {
      return Error(
          operation.status().code(),
          absl::StrCat("operations[", i, "]: ", operation.status().message()),
          DetailOf(operation.status()));
    }
    operations.push_back(*std::move(operation));
    if (operations.back().in_regions()) {
      region_copies.push_back(operations.back().AsRegionCopy());
    }
  }
  // The GPU works while the host does its part: they have no tensor in common.
  if (!region_copies.empty()) {
    RETURN_IF_ERROR(session->regions()->Start(region_copies));
  }
  for (int i = 0; i < request.operations_size(); ++i) {
    if (operations[i].in_regions()) continue;
    RETURN_IF_ERROR(
        RunOne(device_, operations[i], request.operations(i).adjoint()));
  }
  RETURN_IF_ERROR(device_.Synchronize());
  int64_t bytes = 0;
  for (CopyOperation& operation : operations) {
    bytes += operation.copied_bytes();
    v1::InlineOutputs& outputs = *response.add_outputs();
    for (std::string& tensor : operation.TakeInlineOutputs()) {
      outputs.add_tensors(std::move(tensor));
    }
  }
  response.set_copied_bytes(bytes);
  copied_bytes_ += bytes;
  return absl::OkStatus();
}

absl::Status WorkerService::Gather(Caller& caller,
                                   const v1::GatherShardsRequest& request,
                                   absl::Time deadline,
                                   v1::GatherShardsResponse& response) {
  ASSIGN_OR_RETURN(
      const CliqueTable::Clique clique,
      cliques_.WaitActive(request.kind(),
                          std::min(kCliqueWait, deadline - absl::Now())));
  absl::StatusOr<CopyOperation> operation = OperationOf(request);
  GatherPart part;
  if (operation.ok()) {
    part = {request.digest(), operation->table(), operation->row_bytes(),
            operation->destination(), operation->sources()};
  }
  part.deadline = deadline;
  // Others may be at it too, and get none of this rank's: the clique is over.
  const Caller::WhenGone when_gone(caller, [&](const absl::Status& why) {
    clique.communicator->Abort(why);
  });
  // What is wrong with this call the other members must hear too: they wait.
  ASSIGN_OR_RETURN(const std::vector<int64_t> restored_rows,
                   shardwright::GatherShards(*clique.communicator, part,
                                             operation.status()));
  response.mutable_restored_rows()->Assign(restored_rows.begin(),
                                           restored_rows.end());
  for (std::string& tensor : operation->TakeInlineOutputs()) {
    response.add_inline_sources(std::move(tensor));
  }
  return absl::OkStatus();
}

}  // namespace shardwright
