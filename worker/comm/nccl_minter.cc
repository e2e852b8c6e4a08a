#include "worker/comm/nccl_minter.h"

#include <arpa/inet.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "worker/comm/nccl_library.h"

namespace shardwright {
namespace {

// The word by which the child knows itself, and its end of the socket.
constexpr char kMintWord[] = "--mint-nccl-id";
constexpr int kChildSocket = 3;

// First byte of the child's one message: an id follows, or what went wrong.
constexpr char kMinted = '+';
constexpr char kRefused = '-';

// What NCCL writes in place of a random number when NCCL_COMM_ID is set, be it
// by the environment or by nccl.conf.
constexpr uint64_t kFixedMagic = 0x0280028002800280;

absl::Status Failed(absl::string_view what) {
  return Error(absl::StatusCode::kUnavailable, "COMM_BACKEND_FAILED",
               absl::StrCat("minting an NCCL id: ", what));
}

// Starts the child with nothing of this process but its standard streams and
// one end of a socket. Returns an errno.
int Spawn(int child_socket, pid_t& pid) {
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, child_socket, kChildSocket);
  posix_spawn_file_actions_addclosefrom_np(&files, kChildSocket + 1);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  char name[] = "nccl-minter";
  char word[sizeof(kMintWord)];
  std::memcpy(word, kMintWord, sizeof(word));
  char* const arguments[] = {name, word, nullptr};
  const int error = posix_spawn(&pid, "/proc/self/exe", &files, &attributes,
                                arguments, environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  return error;
}

std::string Mint() {
  const absl::StatusOr<const NcclLibrary*> nccl = LoadNccl();
  if (!nccl.ok()) return absl::StrCat("-", nccl.status().message());
  ncclUniqueId id = {};
  const ncclResult_t result = (*nccl)->GetUniqueId(&id);
  if (result != ncclSuccess) {
    return absl::StrCat("-", (*nccl)->GetErrorString(result), ": ",
                        (*nccl)->GetLastError(nullptr));
  }
  return absl::StrCat("+", absl::string_view(id.internal, sizeof(id.internal)));
}

bool IsFixed(const std::string& id) {
  uint64_t magic = 0;
  std::memcpy(&magic, id.data(), sizeof(magic));
  return magic == kFixedMagic;
}

absl::Status CommIdSet() {
  return Error(absl::StatusCode::kInvalidArgument, "NCCL_COMM_ID_SET",
               "NCCL_COMM_ID is set, in the environment or in nccl.conf: every "
               "clique would meet at one address; unset it");
}

}  // namespace

absl::StatusOr<std::unique_ptr<NcclMinter>> NcclMinter::Start() {
  // NCCL would look for a network interface that goes with it, and say only
  // that there is none.
  if (std::getenv("NCCL_COMM_ID") != nullptr) return CommIdSet();
  // Packets: the one message arrives whole. Closed by any exec: the child sees
  // the end of this process, and of no other.
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) {
    return Failed(absl::StrCat("socketpair: ", std::strerror(errno)));
  }
  pid_t pid = 0;
  const int error = Spawn(sockets[1], pid);
  close(sockets[1]);
  if (error != 0) {
    close(sockets[0]);
    return Failed(absl::StrCat("starting a process: ", std::strerror(error)));
  }
  return std::unique_ptr<NcclMinter>(new NcclMinter(sockets[0], pid));
}

NcclMinter::~NcclMinter() {
  End();
  close(socket_);
}

absl::StatusOr<std::string> NcclMinter::Id(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  pollfd waited = {socket_, POLLIN, 0};
  int ready = 0;
  do {
    const int64_t left_ms = absl::ToInt64Milliseconds(deadline - absl::Now());
    ready = poll(&waited, 1, static_cast<int>(std::max<int64_t>(left_ms, 0)));
  } while (ready < 0 && errno == EINTR);
  if (ready == 0) {
    End();
    return Failed(absl::StrCat("its process said nothing in ",
                               absl::FormatDuration(timeout)));
  }
  char message[4096];
  const ssize_t size = recv(socket_, message, sizeof(message), 0);
  if (size <= 0) return Failed("its process has ended");
  std::string text(message + 1, size - 1);
  if (message[0] != kMinted || text.size() != NCCL_UNIQUE_ID_BYTES) {
    return Failed(message[0] == kRefused ? text
                                         : "its process is of another"
                                           " version");
  }
  if (IsFixed(text)) return CommIdSet();
  return text;
}

void NcclMinter::End() {
  const MutexLock lock(mutex_);
  if (pid_ == 0) return;
  kill(pid_, SIGKILL);
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
  pid_ = 0;
}

std::optional<int> RunNcclMinter(int argc, char** argv) {
  if (argc != 2 || std::strcmp(argv[1], kMintWord) != 0) return std::nullopt;
  dup2(STDERR_FILENO, STDOUT_FILENO);  // NCCL's own words belong in the log.
  const std::string message = Mint();
  if (send(kChildSocket, message.data(), message.size(), MSG_NOSIGNAL) < 0) {
    return 1;
  }
  // PR_SET_PDEATHSIG would ask for the end of the thread that started us.
  char nothing = 0;
  while (recv(kChildSocket, &nothing, 1, 0) < 0 && errno == EINTR) {
  }
  // NCCL's thread waits for ranks: no destructor may wait for it.
  _exit(message[0] == kMinted ? 0 : 1);
}

std::string NcclIdAddress(const std::string& id) {
  // Behind the magic, as every version since 2.3 has it.
  sockaddr_storage address = {};
  const size_t offset = sizeof(uint64_t);
  if (id.size() < offset + sizeof(sockaddr_in6)) return "";
  std::memcpy(&address, id.data() + offset, sizeof(sockaddr_in6));
  char text[INET6_ADDRSTRLEN] = {};
  const void* bytes =
      address.ss_family == AF_INET
          ? static_cast<const void*>(
                &reinterpret_cast<const sockaddr_in&>(address).sin_addr)
          : &reinterpret_cast<const sockaddr_in6&>(address).sin6_addr;
  const bool known =
      address.ss_family == AF_INET || address.ss_family == AF_INET6;
  if (!known ||
      inet_ntop(address.ss_family, bytes, text, sizeof(text)) == nullptr) {
    return "";
  }
  return text;
}

absl::StatusOr<NcclFacts> ProbeNccl() {
  ASSIGN_OR_RETURN(const NcclLibrary* nccl, LoadNccl());
  ASSIGN_OR_RETURN(const std::unique_ptr<NcclMinter> minter,
                   NcclMinter::Start());
  ASSIGN_OR_RETURN(const std::string id, minter->Id(absl::Seconds(60)));
  return NcclFacts{nccl->version, NcclIdAddress(id)};
}

}  // namespace shardwright
