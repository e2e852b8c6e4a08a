// The coordinator's gRPC server: its services, health, and reflection.

#ifndef COORDINATOR_RPC_SERVER_H_
#define COORDINATOR_RPC_SERVER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/rpc/core_loop.h"
#include "coordinator/rpc/services.h"
#include "grpcpp/server.h"

namespace shardwright {

// Largest message either way: the layout of the largest job with every rank in
// a list takes 62 MiB. What is larger fails with RESOURCE_EXHAUSTED by gRPC,
// without a reason.
inline constexpr int kMessageBytesMax = 64 << 20;

// Calls that one connection may have open; more wait in the client. A proxy may
// hold all of a job's members, with a session and some waits each.
inline constexpr int kStreamsPerConnectionMax = 32768;

// Thread-safe.
class CoordinatorServer {
 public:
  // Serves on `listen`, a host:port of which port 0 picks a free one. `loop`
  // must outlive the server.
  //
  // Errors:
  //   UNAVAILABLE LISTEN_FAILED: the address is in use, or not ours.
  static absl::StatusOr<std::unique_ptr<CoordinatorServer>> Start(
      const std::string& listen, CoreLoop& loop);

  // As Shutdown().
  ~CoordinatorServer();

  // host:port, with the port that was bound.
  const std::string& address() const { return address_; }

  // Reports NOT_SERVING, drains the loop, and waits until all calls have ended,
  // by force after five seconds. May be repeated.
  void Shutdown();

 private:
  explicit CoordinatorServer(CoreLoop& loop);

  CoreLoop& loop_;
  LayoutServiceImpl layout_service_;
  MembershipServiceImpl membership_service_;
  CommunicatorServiceImpl communicator_service_;
  BarrierServiceImpl barrier_service_;
  PlanServiceImpl plan_service_;
  DiagnosticsServiceImpl diagnostics_service_;
  UnknownMethods unknown_methods_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

}  // namespace shardwright

#endif  // COORDINATOR_RPC_SERVER_H_
