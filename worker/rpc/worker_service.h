// WorkerService (worker.proto) over gRPC's callback API. Decodes, checks and
// answers; the device and worker/exec do the work, in threads of its own.

#ifndef WORKER_RPC_WORKER_SERVICE_H_
#define WORKER_RPC_WORKER_SERVICE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/server_context.h"
#include "shardwright/v1/worker.grpc.pb.h"
#include "worker/agent/clique_table.h"
#include "worker/device/device.h"
#include "worker/device/region_device.h"
#include "worker/rpc/bridge_runner.h"
#include "worker/rpc/caller.h"
#include "worker/rpc/copy_operation.h"
#include "worker/rpc/session_table.h"
#include "worker/rpc/work_queue.h"

namespace shardwright {

class WorkerService final : public v1::WorkerService::CallbackService {
 public:
  // Copies of host memory keep this many threads busy at most; what waits for a
  // GPU, and gatherings, which wait for other workers, have their own.
  static constexpr int kCopyThreads = 2;
  static constexpr int kRegionThreads = 8;
  static constexpr absl::Duration kRegionSpin = absl::Milliseconds(1);
  static constexpr int kGatherThreads = 8;
  static constexpr int kBridgeThreads = 8;
  static constexpr int kEndingThreads = 2;

  // How long what needs a clique waits for it to be formed.
  static constexpr absl::Duration kCliqueWait = absl::Seconds(10);

  // All must outlive the service. `describe` gives all of a description but
  // what the service adds: sessions and bytes. `device` copies host memory;
  // `gpu`, which may be null, regions.
  WorkerService(Device& device, const CliqueTable& cliques,
                std::function<v1::WorkerDescription()> describe,
                RegionDevice* gpu = nullptr);

  grpc::ServerUnaryReactor* DescribeWorker(
      grpc::CallbackServerContext* context,
      const v1::DescribeWorkerRequest* request,
      v1::WorkerDescription* response) override;
  grpc::ServerWriteReactor<v1::OpenSessionResponse>* OpenSession(
      grpc::CallbackServerContext* context,
      const v1::OpenSessionRequest* request) override;
  grpc::ServerUnaryReactor* RegisterRegion(
      grpc::CallbackServerContext* context,
      const v1::RegisterRegionRequest* request,
      v1::RegisterRegionResponse* response) override;
  grpc::ServerUnaryReactor* UnregisterRegion(
      grpc::CallbackServerContext* context,
      const v1::UnregisterRegionRequest* request,
      v1::UnregisterRegionResponse* response) override;
  grpc::ServerUnaryReactor* RunCopies(grpc::CallbackServerContext* context,
                                      const v1::RunCopiesRequest* request,
                                      v1::RunCopiesResponse* response) override;
  grpc::ServerUnaryReactor* GatherShards(
      grpc::CallbackServerContext* context,
      const v1::GatherShardsRequest* request,
      v1::GatherShardsResponse* response) override;
  grpc::ServerUnaryReactor* RunBridge(grpc::CallbackServerContext* context,
                                      const v1::RunBridgeRequest* request,
                                      v1::RunBridgeResponse* response) override;

 private:
  absl::Status Run(const Caller& caller, const v1::RunCopiesRequest& request,
                   v1::RunCopiesResponse& response);
  absl::Status Gather(Caller& caller, const v1::GatherShardsRequest& request,
                      absl::Time deadline, v1::GatherShardsResponse& response);
  absl::Status RunOperations(const v1::RunCopiesRequest& request,
                             const std::shared_ptr<Session>& session,
                             v1::RunCopiesResponse& response);
  absl::StatusOr<std::shared_ptr<Session>> SessionOf(
      const std::string& session_id) const;
  // For what needs a GPU.
  absl::StatusOr<std::shared_ptr<Session>> GpuSessionOf(
      const std::string& session_id) const;
  absl::StatusOr<CopyOperation> OperationOf(
      const v1::GatherShardsRequest& request) const;

  Device& device_;
  RegionDevice* const gpu_;
  const CliqueTable& cliques_;
  const std::function<v1::WorkerDescription()> describe_;
  SessionTable sessions_;
  BridgeRunner bridge_;
  std::atomic<int64_t> copied_bytes_{0};
  WorkQueue copies_;
  WorkQueue regions_;
  WorkQueue gathers_;
  WorkQueue bridges_;
  WorkQueue endings_;  // Of sessions and regions: these wait for a GPU.
};

}  // namespace shardwright

#endif  // WORKER_RPC_WORKER_SERVICE_H_
