#include "proto/status/status_macros.h"
#include "worker/backend.h"
#include "worker/comm/gloo_communicator.h"
#include "worker/device/host_device.h"

namespace shardwright {

absl::StatusOr<Backend> OpenHostBackend(const std::string& host) {
  Backend backend;
  GlooOptions gloo;
  gloo.host = host;
  ASSIGN_OR_RETURN(backend.factory, CreateGlooFactory(gloo));
  backend.facts.set_device(HostDevice().name());
  backend.facts.set_comm_backend(backend.factory->backend());
  return backend;
}

}  // namespace shardwright
