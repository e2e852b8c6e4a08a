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
#include "spdlog/spdlog.h"
#include "worker/exec/gather.h"

namespace shardwright {
namespace {

// Answers from a thread of `queue`, with what `run` returns.
grpc::ServerUnaryReactor* AnswerFrom(WorkQueue& queue,
                                     grpc::CallbackServerContext* context,
                                     std::function<absl::Status()> run) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  if (!queue.Add([reactor, run = std::move(run)] {
        reactor->Finish(ToGrpcStatus(run()));
      })) {
    reactor->Finish(ToGrpcStatus(Error(
        absl::StatusCode::kResourceExhausted, "TOO_MANY_CALLS",
        absl::StrCat(WorkQueue::kCapacity, " calls are waiting already"))));
  }
  return reactor;
}

// Writes the session's id, then stays open until the trainer or the server ends
// the call. Owns itself, as reactors do.
class SessionReactor
    : public grpc::ServerWriteReactor<v1::OpenSessionResponse> {
 public:
  SessionReactor(SessionTable& sessions, const v1::OpenSessionRequest& request)
      : sessions_(sessions) {
    absl::StatusOr<std::string> id = sessions_.Open(request);
    if (!id.ok()) {
      Finish(ToGrpcStatus(id.status()));
      return;
    }
    response_.set_session_id(*std::move(id));
    spdlog::info("event=session_opened segments={}", request.segments_size());
    StartWrite(&response_);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) FinishOnce();
  }
  void OnCancel() override { FinishOnce(); }

  void OnDone() override {
    if (!response_.session_id().empty()) {
      sessions_.Close(response_.session_id());
      spdlog::info("event=session_closed");
    }
    delete this;
  }

 private:
  void FinishOnce() {
    if (finished_.exchange(true) || response_.session_id().empty()) return;
    Finish(grpc::Status::CANCELLED);
  }

  SessionTable& sessions_;
  v1::OpenSessionResponse response_;
  std::atomic<bool> finished_{false};
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
                             std::function<v1::WorkerDescription()> describe)
    : device_(device),
      cliques_(cliques),
      describe_(std::move(describe)),
      copies_(kCopyThreads),
      gathers_(kGatherThreads) {}

grpc::ServerUnaryReactor* WorkerService::DescribeWorker(
    grpc::CallbackServerContext* context, const v1::DescribeWorkerRequest*,
    v1::WorkerDescription* response) {
  *response = describe_();
  response->set_session_count(sessions_.count());
  response->set_copied_bytes(copied_bytes_);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerWriteReactor<v1::OpenSessionResponse>* WorkerService::OpenSession(
    grpc::CallbackServerContext*, const v1::OpenSessionRequest* request) {
  return new SessionReactor(sessions_, *request);
}

grpc::ServerUnaryReactor* WorkerService::RunCopies(
    grpc::CallbackServerContext* context, const v1::RunCopiesRequest* request,
    v1::RunCopiesResponse* response) {
  return AnswerFrom(copies_, context, [this, request, response] {
    return Run(*request, *response);
  });
}

grpc::ServerUnaryReactor* WorkerService::GatherShards(
    grpc::CallbackServerContext* context,
    const v1::GatherShardsRequest* request,
    v1::GatherShardsResponse* response) {
  const absl::Time deadline = absl::FromChrono(context->deadline());
  return AnswerFrom(gathers_, context, [this, request, response, deadline] {
    return Gather(*request, deadline, *response);
  });
}

absl::StatusOr<SessionMemory> WorkerService::MemoryOf(
    const std::string& session_id) const {
  if (session_id.empty()) return SessionMemory();
  return sessions_.Find(session_id);
}

absl::StatusOr<CopyOperation> WorkerService::OperationOf(
    const v1::GatherShardsRequest& request) const {
  ASSIGN_OR_RETURN(SessionMemory memory, MemoryOf(request.session_id()));
  return CopyOperation::Create(request.operation(), std::move(memory),
                               CopyOutputs::kSources);
}

absl::Status WorkerService::Run(const v1::RunCopiesRequest& request,
                                v1::RunCopiesResponse& response) {
  ASSIGN_OR_RETURN(const SessionMemory memory, MemoryOf(request.session_id()));
  std::vector<CopyOperation> operations;
  for (int i = 0; i < request.operations_size(); ++i) {
    const v1::CopyOperation& message = request.operations(i);
    absl::StatusOr<CopyOperation> operation = CopyOperation::Create(
        message, memory,
        message.adjoint() ? CopyOutputs::kSources : CopyOutputs::kDestination);
    if (!operation.ok()) {
      return Error(
          operation.status().code(),
          absl::StrCat("operations[", i, "]: ", operation.status().message()),
          DetailOf(operation.status()));
    }
    operations.push_back(*std::move(operation));
  }
  for (int i = 0; i < request.operations_size(); ++i) {
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

absl::Status WorkerService::Gather(const v1::GatherShardsRequest& request,
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
