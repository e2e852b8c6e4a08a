// WorkerClient speaks to one worker daemon: one method an RPC, absl::Status
// with the reason instead of grpc::Status.
//
// Thread safety: thread-safe. Copies share one channel and are cheap.
//
// Retries: Describe only. A call that moves bytes belongs to a session, and a
// session does not survive what makes a call UNAVAILABLE.

#ifndef CLIENT_CC_WORKER_CLIENT_H_
#define CLIENT_CC_WORKER_CLIENT_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "shardwright/v1/worker.pb.h"

namespace shardwright {

// Shared memory that a worker has mapped. Destroying it ends the session: the
// worker unmaps the segments and unlinks their names. Thread-safe.
class WorkerSession {
 public:
  virtual ~WorkerSession() = default;

  virtual const std::string& id() const = 0;

  // How the worker's GPU is used; has no order if that was not asked for.
  virtual const v1::GpuSession& gpu() const = 0;

  // OK while the worker holds the session; then why it ended.
  virtual absl::Status status() const = 0;
};

class WorkerClient {
 public:
  struct Options {
    // Of each call; of OpenSession, until it is answered.
    absl::Duration call_timeout = absl::Seconds(60);
    absl::Duration retry_timeout = absl::Seconds(30);  // 0: never retry.
  };

  // `target` is host:port. Connects when first used.
  static WorkerClient Create(const std::string& target, Options options);
  static WorkerClient Create(const std::string& target);

  absl::StatusOr<v1::WorkerDescription> Describe() const;

  // The session outlives the client.
  absl::StatusOr<std::unique_ptr<WorkerSession>> OpenSession(
      const v1::OpenSessionRequest& request) const;

  absl::StatusOr<v1::RegisterRegionResponse> RegisterRegion(
      const v1::RegisterRegionRequest& request) const;
  absl::StatusOr<v1::UnregisterRegionResponse> UnregisterRegion(
      const v1::UnregisterRegionRequest& request) const;
  absl::StatusOr<v1::RunCopiesResponse> RunCopies(
      const v1::RunCopiesRequest& request) const;
  absl::StatusOr<v1::GatherShardsResponse> GatherShards(
      const v1::GatherShardsRequest& request) const;
  absl::StatusOr<v1::RunBridgeResponse> RunBridge(
      const v1::RunBridgeRequest& request) const;

 private:
  struct Wire;

  explicit WorkerClient(std::shared_ptr<Wire> wire);

  std::shared_ptr<Wire> wire_;
};

}  // namespace shardwright

#endif  // CLIENT_CC_WORKER_CLIENT_H_
