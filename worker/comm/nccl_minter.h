// Mints NCCL unique ids, each in a process of its own. An id is a listening
// socket and a thread of the process that minted it, which NCCL keeps until the
// last rank has checked in: for ever, if one never does. A process that ends
// takes both along.

#ifndef WORKER_COMM_NCCL_MINTER_H_
#define WORKER_COMM_NCCL_MINTER_H_

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/sync/mutex.h"

namespace shardwright {

// One id and the process that stands for it. Thread-safe.
class NcclMinter {
 public:
  // Starts this program again (/proc/self/exe), whose main() must begin with
  // RunNcclMinter(). Does not wait for the id.
  //
  // Errors:
  //   UNAVAILABLE COMM_BACKEND_FAILED: no process could be started.
  //   INVALID_ARGUMENT NCCL_COMM_ID_SET: in the environment.
  static absl::StatusOr<std::unique_ptr<NcclMinter>> Start();

  // As End().
  ~NcclMinter();

  NcclMinter(const NcclMinter&) = delete;
  NcclMinter& operator=(const NcclMinter&) = delete;

  // Waits for the id, NCCL_UNIQUE_ID_BYTES long. Once. Secret.
  //
  // Errors:
  //   UNAVAILABLE COMM_BACKEND_FAILED: NCCL refused, or nothing came in time,
  //       as the message says; or End() was called.
  //   INVALID_ARGUMENT NCCL_COMM_ID_SET: in nccl.conf.
  absl::StatusOr<std::string> Id(absl::Duration timeout);

  // Ends the process, and with it what ranks could reach by the id.
  void End();

 private:
  NcclMinter(int socket, pid_t pid) : socket_(socket), pid_(pid) {}

  const int socket_;
  Mutex mutex_;
  pid_t pid_ ABSL_GUARDED_BY(mutex_);  // 0: has ended.
};

// Is this process a minter? Then does what one does until its parent has ended,
// and returns the exit code.
std::optional<int> RunNcclMinter(int argc, char** argv);

// The address in an id, "10.0.0.7"; empty if NCCL keeps it elsewhere.
std::string NcclIdAddress(const std::string& id);

// What NCCL is on this machine, for MemberFacts.
struct NcclFacts {
  std::string version;  // "2.28.9"

  // Where the cliques meet that this machine is the root of; empty: unknown.
  std::string address;
};

// Mints an id to find out. Needs no GPU.
//
// Errors:
//   UNAVAILABLE NCCL_NOT_FOUND, NCCL_TOO_OLD, and as of NcclMinter.
absl::StatusOr<NcclFacts> ProbeNccl();

}  // namespace shardwright

#endif  // WORKER_COMM_NCCL_MINTER_H_
