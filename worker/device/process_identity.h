// What CUDA IPC asks of two processes that want to share device memory.

#ifndef WORKER_DEVICE_PROCESS_IDENTITY_H_
#define WORKER_DEVICE_PROCESS_IDENTITY_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace shardwright {

// Where a process runs. What cannot be read is empty.
struct ProcessIdentity {
  int64_t pid = 0;            // As the process sees it.
  std::string pid_namespace;  // Inode of /proc/self/ns/pid.
  std::string boot_id;
  std::string shm_device;  // st_dev of /dev/shm.
};

ProcessIdentity OwnProcessIdentity();

// Whether `worker` can open memory of `trainer`.
//
// Errors:
//   FAILED_PRECONDITION NO_CUDA_IPC: another machine; or the same pid, which
//       CUDA takes for the same process. The message says what to change.
absl::Status CheckSharesMemory(const ProcessIdentity& worker,
                               const ProcessIdentity& trainer);

// Why the two cannot share events too, in words; empty if they can.
std::string WhyNoSharedEvents(const ProcessIdentity& worker,
                              const ProcessIdentity& trainer);

}  // namespace shardwright

#endif  // WORKER_DEVICE_PROCESS_IDENTITY_H_
