// The worker's gRPC server: WorkerService, health, and reflection.

#ifndef WORKER_RPC_SERVER_H_
#define WORKER_RPC_SERVER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/server.h"
#include "worker/rpc/worker_service.h"

namespace shardwright {

// Thread-safe.
class WorkerServer {
 public:
  // Serves on `listen`, a host:port of which port 0 picks a free one. `service`
  // must outlive the server.
  //
  // Errors:
  //   UNAVAILABLE LISTEN_FAILED: the address is in use, or not ours.
  static absl::StatusOr<std::unique_ptr<WorkerServer>> Start(
      const std::string& listen, WorkerService& service);

  // Reports NOT_SERVING and waits until all calls have ended, by force after
  // two seconds.
  ~WorkerServer();

  // The host of `listen`, and the port that was bound.
  const std::string& address() const { return address_; }

 private:
  WorkerServer(std::unique_ptr<grpc::Server> server, std::string address)
      : server_(std::move(server)), address_(std::move(address)) {}

  const std::unique_ptr<grpc::Server> server_;
  const std::string address_;
};

}  // namespace shardwright

#endif  // WORKER_RPC_SERVER_H_
