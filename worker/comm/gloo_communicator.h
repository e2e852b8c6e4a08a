// Communicators over TCP, by Gloo: one connection between each two members.
//
// Each member publishes one slot: its address, and the port on which it expects
// each of the others. Nothing of Gloo gets out of here: it throws, and this is
// the one place that catches.

#ifndef WORKER_COMM_GLOO_COMMUNICATOR_H_
#define WORKER_COMM_GLOO_COMMUNICATOR_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/comm/communicator.h"

namespace shardwright {

struct GlooOptions {
  // Address or name of the network interface to listen on. Members reach each
  // other through it, so "127.0.0.1" keeps a clique on one machine.
  std::string host = "127.0.0.1";

  // For each peer, and once more for all of them to have arrived. A peer that
  // is known to be lost ends the attempt sooner, through Abort().
  absl::Duration connect_timeout = absl::Seconds(10);

  // How long an operation waits for the slowest member.
  absl::Duration operation_timeout = absl::Seconds(60);
};

// Listens and connects in one thread of its own, for all communicators. Makes
// the process ignore SIGPIPE unless it has a handler for it: Gloo writes to
// peers that may be gone.
//
// Errors:
//   INVALID_ARGUMENT INVALID_COMM_HOST: `host` is not an address of this
//   machine.
absl::StatusOr<std::unique_ptr<CommunicatorFactory>> CreateGlooFactory(
    const GlooOptions& options);

}  // namespace shardwright

#endif  // WORKER_COMM_GLOO_COMMUNICATOR_H_
