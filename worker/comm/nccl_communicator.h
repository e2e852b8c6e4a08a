// Communicators between GPUs, by NCCL. The members that are asked to, one for
// each 128, mint an id in a process of its own that ends with the attempt; all
// then connect by those ids without blocking.
//
// A peer that dies need not break anything that NCCL would notice: who knows of
// it must call Abort(). Until then operations on that communicator wait.

#ifndef WORKER_COMM_NCCL_COMMUNICATOR_H_
#define WORKER_COMM_NCCL_COMMUNICATOR_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/comm/communicator.h"

namespace shardwright {

struct NcclOptions {
  int device = 0;  // CUDA's ordinal of the GPU: one a member of a clique.

  // For an id to be minted, and then for all members to have connected.
  absl::Duration connect_timeout = absl::Seconds(60);

  // How long an operation waits for the slowest member.
  absl::Duration operation_timeout = absl::Seconds(60);
};

// Operations are on bytes of the host: they go, in pieces, through 2 MiB of GPU
// memory, which a communicator allocates when it connects. Each communicator
// has one thread, and NCCL its own.
//
// Errors:
//   UNAVAILABLE NCCL_NOT_FOUND, NCCL_TOO_OLD
absl::StatusOr<std::unique_ptr<CommunicatorFactory>> CreateNcclFactory(
    const NcclOptions& options);

}  // namespace shardwright

#endif  // WORKER_COMM_NCCL_COMMUNICATOR_H_
