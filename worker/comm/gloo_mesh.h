// What two members of a Gloo communicator need to reach each other, and the
// slots in which it travels. Throws, as Gloo does: gloo_communicator.cc
// catches.

#ifndef WORKER_COMM_GLOO_MESH_H_
#define WORKER_COMM_GLOO_MESH_H_

#include <sys/socket.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gloo/context.h"
#include "gloo/transport/device.h"
#include "gloo/transport/tcp/address.h"

namespace shardwright {

// The connections of one member to all others, before and after they exist.
//
// gloo::rendezvous::Context connects in one call that nobody can end; this one
// splits it in two, so that the slots may travel in between and
// closeConnections() works at any time, from any thread.
class GlooMesh : public gloo::Context {
 public:
  // Listens for each peer at once.
  GlooMesh(int position, int size,
           std::shared_ptr<gloo::transport::Device> device,
           absl::Duration connect_timeout);

  // What the others need: one byte for the address family, the address, then
  // for each position the port where that peer is expected, all in network
  // order. (Gloo's own form would need 136 bytes a peer.)
  std::string Slot();

 private:
  sockaddr_storage AddressFor(int i);
};

// Where the member that published `slot` expects position `i` of `size`.
//
// Errors:
//   INVALID_ARGUMENT INVALID_SLOT: it is not what Slot() makes.
absl::StatusOr<gloo::transport::tcp::Address> DecodeSlot(
    const std::string& slot, int i, int size);

// Whether one can listen on `host`: Gloo reads through a null pointer when a
// name does not resolve.
//
// Errors:
//   INVALID_ARGUMENT INVALID_COMM_HOST
absl::Status CheckHost(const std::string& host);

}  // namespace shardwright

#endif  // WORKER_COMM_GLOO_MESH_H_
