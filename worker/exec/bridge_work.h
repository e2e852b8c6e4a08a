// The part of RunBridge() that sends nothing: what one call copies, sends and
// receives, checked. For bridge.cc, and a fuzz target.

#ifndef WORKER_EXEC_BRIDGE_WORK_H_
#define WORKER_EXEC_BRIDGE_WORK_H_

#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/plan/copy_table.h"
#include "worker/comm/communicator.h"
#include "worker/exec/bridge.h"
#include "worker/exec/executor.h"

namespace shardwright {

// Spans are of the part's tensors and of the engine's staging.
struct BridgeWork {
  std::vector<Outgoing> sends;
  std::vector<Incoming> receives;
  std::optional<CopyTable> table;  // None: no row needs to be copied.
  std::vector<Bytes> sources;
  Bytes destination;
};

// A plan may come from anywhere: afterwards no copy and no message goes beyond
// a tensor or to somebody outside the clique, and every row that is written is
// written once.
//
// Errors: INVALID_PLAN and INVALID_TENSOR of RunBridge(), those of
// CopyTable::Create(), and of the engine.
absl::StatusOr<BridgeWork> PrepareBridge(const Communicator& bridge,
                                         const Communicator* lane,
                                         const BridgePart& part,
                                         BridgeEngine& engine);

}  // namespace shardwright

#endif  // WORKER_EXEC_BRIDGE_WORK_H_
