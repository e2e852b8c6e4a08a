// RunBridge of a worker: finds a call's tensors and cliques, and carries its
// route plan out in the memory that they are in.

#ifndef WORKER_RPC_BRIDGE_RUNNER_H_
#define WORKER_RPC_BRIDGE_RUNNER_H_

#include <array>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "shardwright/v1/worker.pb.h"
#include "worker/agent/clique_table.h"
#include "worker/device/region_device.h"
#include "worker/exec/bridge.h"
#include "worker/rpc/bridge_turns.h"
#include "worker/rpc/caller.h"
#include "worker/rpc/session_table.h"

namespace shardwright {

// Thread-safe.
class BridgeRunner {
 public:
  // Both must outlive it. With `gpu`, which may be null, the cliques work on
  // its memory, and tensors must be in regions; else in the host's.
  BridgeRunner(const CliqueTable& cliques, RegionDevice* gpu)
      : cliques_(cliques), gpu_(gpu) {}

  // As the RPC. `session` may be the reason why there is none, which the other
  // members hear too, or null. Cliques are waited for until `clique_deadline`.
  // If `caller` leaves while they are in use they end: nothing is written to
  // its memory once this has returned, and it must return soon.
  absl::Status Run(const v1::RunBridgeRequest& request,
                   const absl::StatusOr<std::shared_ptr<Session>>& session,
                   absl::Time clique_deadline, absl::Time deadline,
                   Caller& caller, v1::RunBridgeResponse& response);

 private:
  // Of one call at a time; staging stays for the next.
  struct Slot {
    HostBridgeEngine host;
    std::unique_ptr<DeviceMemory> device;  // Null until it is needed.
  };

  const CliqueTable& cliques_;
  RegionDevice* const gpu_;
  BridgeTurns turns_;
  std::array<Slot, BridgeTurns::kUnderWay> slots_;
};

}  // namespace shardwright

#endif  // WORKER_RPC_BRIDGE_RUNNER_H_
