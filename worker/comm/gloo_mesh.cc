#include "worker/comm/gloo_mesh.h"

#include <netdb.h>
#include <netinet/in.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gloo/transport/context.h"
#include "proto/status/error.h"

// Takes the place of Gloo's own, which the dynamic linker finds later. That one
// throws where the connection is over already, as with a peer that dies while
// it connects, in a thread in which nobody catches; the process would end. The
// first byte that is read or written shows as much, and fails the pair alone.
gloo::transport::tcp::Address gloo::transport::tcp::Address::fromPeerName(
    int fd) {
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  (void)getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size);
  return Address(address);
}

namespace shardwright {

GlooMesh::GlooMesh(int position, int size,
                   std::shared_ptr<gloo::transport::Device> device,
                   absl::Duration connect_timeout)
    : gloo::Context(position, size) {
  device_ = std::move(device);
  transportContext_ = device_->createContext(position, size);
  // A pair waits five times as long for its connection.
  transportContext_->setTimeout(
      absl::ToChronoMilliseconds(connect_timeout / 5));
  for (int i = 0; i < size; ++i) {
    if (i != position) transportContext_->createPair(i);
  }
}

sockaddr_storage GlooMesh::AddressFor(int i) {
  return dynamic_cast<const gloo::transport::tcp::Address&>(
             getPair(i)->address())
      .getSockaddr();
}

std::string GlooMesh::Slot() {
  std::string host, ports;
  for (int i = 0; i < size; ++i) {
    in_port_t port = 0;
    if (i != rank) {
      const sockaddr_storage address = AddressFor(i);
      if (address.ss_family == AF_INET) {
        const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
        host = "\4";
        host.append(reinterpret_cast<const char*>(&v4.sin_addr),
                    sizeof(v4.sin_addr));
        port = v4.sin_port;
      } else {
        const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
        host = "\6";
        host.append(reinterpret_cast<const char*>(&v6.sin6_addr),
                    sizeof(v6.sin6_addr));
        port = v6.sin6_port;
      }
    }
    ports.append(reinterpret_cast<const char*>(&port), sizeof(port));
  }
  return host + ports;
}

absl::StatusOr<gloo::transport::tcp::Address> DecodeSlot(
    const std::string& slot, int i, int size) {
  sockaddr_storage address;
  std::memset(&address, 0, sizeof(address));
  const bool is_v4 = !slot.empty() && slot[0] == '\4';
  const bool is_v6 = !slot.empty() && slot[0] == '\6';
  const size_t address_bytes = is_v4 ? sizeof(in_addr) : sizeof(in6_addr);
  const size_t ports_at = 1 + address_bytes;
  if ((!is_v4 && !is_v6) ||
      slot.size() != ports_at + size * sizeof(in_port_t)) {
    return Error(
        absl::StatusCode::kInvalidArgument, "INVALID_SLOT",
        absl::StrCat("a slot of ", slot.size(),
                     " bytes is not the address of a member of ", size));
  }
  const char* ip = slot.data() + 1;
  const char* port = slot.data() + ports_at + i * sizeof(in_port_t);
  if (is_v4) {
    auto& v4 = reinterpret_cast<sockaddr_in&>(address);
    v4.sin_family = AF_INET;
    std::memcpy(&v4.sin_addr, ip, address_bytes);
    std::memcpy(&v4.sin_port, port, sizeof(v4.sin_port));
  } else {
    auto& v6 = reinterpret_cast<sockaddr_in6&>(address);
    v6.sin6_family = AF_INET6;
    std::memcpy(&v6.sin6_addr, ip, address_bytes);
    std::memcpy(&v6.sin6_port, port, sizeof(v6.sin6_port));
  }
  return gloo::transport::tcp::Address(address);
}

absl::Status CheckHost(const std::string& host) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int code = getaddrinfo(host.c_str(), nullptr, &hints, &found);
  std::string why = code == 0 ? "" : gai_strerror(code);
  bool bound = false;
  for (const addrinfo* a = found; a != nullptr && !bound; a = a->ai_next) {
    const int fd = socket(a->ai_family, a->ai_socktype, a->ai_protocol);
    bound = fd >= 0 && bind(fd, a->ai_addr, a->ai_addrlen) == 0;
    if (!bound) why = std::strerror(errno);
    if (fd >= 0) close(fd);
  }
  if (found != nullptr) freeaddrinfo(found);
  if (bound) return absl::OkStatus();
  return Error(
      absl::StatusCode::kInvalidArgument, "INVALID_COMM_HOST",
      absl::StrCat("communicators cannot listen on host \"", host, "\": ", why),
      {{"host", host}});
}

}  // namespace shardwright
