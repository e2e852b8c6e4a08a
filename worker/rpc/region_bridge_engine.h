// The bridge in the memory of a GPU: tensors in a session's regions.

#ifndef WORKER_RPC_REGION_BRIDGE_ENGINE_H_
#define WORKER_RPC_REGION_BRIDGE_ENGINE_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/device/region_device.h"
#include "worker/exec/bridge.h"
#include "worker/rpc/caller.h"
#include "worker/rpc/region_table.h"

namespace shardwright {

// Copies run in the regions' stream, and are done when Copy() returns.
class RegionBridgeEngine : public BridgeEngine {
 public:
  // All must outlive it. Nothing is copied for a caller that has left. Staging
  // is taken from `staging`, which may be null, and stays there for the next
  // engine.
  RegionBridgeEngine(RegionDevice& device, RegionTable& regions,
                     std::unique_ptr<DeviceMemory>& staging,
                     const Caller& caller)
      : device_(device),
        regions_(regions),
        staging_(staging),
        caller_(caller) {}

  absl::StatusOr<Bytes> Staging(int64_t byte_count) override;
  absl::Status Copy(const CopyTable& table, Direction direction,
                    int64_t row_bytes, int64_t element_bytes,
                    absl::Span<const Bytes> sources, Bytes destination,
                    ConstBytes fill_value) override;

 private:
  RegionDevice& device_;
  RegionTable& regions_;
  std::unique_ptr<DeviceMemory>& staging_;
  const Caller& caller_;
};

}  // namespace shardwright

#endif  // WORKER_RPC_REGION_BRIDGE_ENGINE_H_
