// The device that every machine has: rows in the process's own memory, copied
// by the calling thread. Run* return when the bytes have moved.

#ifndef WORKER_DEVICE_HOST_DEVICE_H_
#define WORKER_DEVICE_HOST_DEVICE_H_

#include <string>

#include "worker/device/device.h"

namespace shardwright {

class HostDevice : public Device {
 public:
  std::string name() const override { return "host"; }

  absl::Status RunForward(const CopyTable& table, int64_t row_bytes,
                          absl::Span<const ConstBytes> sources,
                          Bytes destination, ConstBytes fill_value) override {
    return shardwright::RunForward(table, row_bytes, sources, destination,
                                   fill_value);
  }
  absl::Status RunAdjoint(const CopyTable& table, int64_t row_bytes,
                          ConstBytes destination,
                          absl::Span<const Bytes> sources) override {
    return shardwright::RunAdjoint(table, row_bytes, destination, sources);
  }

  absl::Status Synchronize() override { return absl::OkStatus(); }
};

}  // namespace shardwright

#endif  // WORKER_DEVICE_HOST_DEVICE_H_
