// A Device carries out copy tables where the rows are. Two are foreseen: "host"
// (host_device.h), which runs anywhere and is the reference, and "cuda".

#ifndef WORKER_DEVICE_DEVICE_H_
#define WORKER_DEVICE_DEVICE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "proto/plan/copy_table.h"
#include "worker/exec/executor.h"

namespace shardwright {

// Thread-safe. Run* may return before the bytes have moved: buffers must stay,
// and outputs must not be read, until Synchronize() has returned.
//
// Errors and checks of Run*: as of the functions of the same name in
// worker/exec/executor.h. Nothing has been written when they fail.
class Device {
 public:
  virtual ~Device() = default;

  // "host", or the GPU's UUID: MemberFacts.device.
  virtual std::string name() const = 0;

  virtual absl::Status RunForward(const CopyTable& table, int64_t row_bytes,
                                  absl::Span<const ConstBytes> sources,
                                  Bytes destination, ConstBytes fill_value) = 0;
  virtual absl::Status RunAdjoint(const CopyTable& table, int64_t row_bytes,
                                  ConstBytes destination,
                                  absl::Span<const Bytes> sources) = 0;

  // Waits for all that this thread has started.
  //
  // Errors:
  //   DATA_LOSS DEVICE_FAILED: the device broke; outputs are undefined.
  virtual absl::Status Synchronize() = 0;
};

}  // namespace shardwright

#endif  // WORKER_DEVICE_DEVICE_H_
