// POSIX shared memory that a trainer has made and a worker maps.
//
// The trainer runs as the same user as the worker: whoever could shrink the
// object while it is mapped, and so end the worker, could as well kill it.

#ifndef WORKER_RPC_SHARED_MEMORY_H_
#define WORKER_RPC_SHARED_MEMORY_H_

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace shardwright {

// A mapped object. Thread-compatible; the bytes are the trainer's business.
class SharedMemory {
 public:
  // Maps the object `name` for reading and writing.
  //
  // Errors:
  //   INVALID_ARGUMENT  INVALID_SEGMENT: `name` is not "/shardwright-" and 1 to
  //   64
  //                     letters, digits, '-' or '_'; or `size_bytes` is not the
  //                     object's own size, which metadata has as `size_bytes`.
  //   NOT_FOUND         SEGMENT_NOT_FOUND: there is no such object.
  //   PERMISSION_DENIED SEGMENT_NOT_PRIVATE: it is not of this process's user,
  //   or
  //                     its mode is not 0600.
  static absl::StatusOr<SharedMemory> Map(const std::string& name,
                                          int64_t size_bytes);

  SharedMemory(SharedMemory&& other) noexcept;
  SharedMemory& operator=(SharedMemory&&) = delete;

  // Unmaps; does not unlink.
  ~SharedMemory();

  absl::Span<char> bytes() const { return bytes_; }

  // Removes the name, unless it is already another object's. The bytes stay
  // mapped.
  void Unlink() const;

 private:
  SharedMemory(std::string name, dev_t device, ino_t inode,
               absl::Span<char> bytes)
      : name_(std::move(name)), device_(device), inode_(inode), bytes_(bytes) {}

  std::string name_;
  dev_t device_;
  ino_t inode_;
  absl::Span<char> bytes_;  // Empty when moved from.
};

}  // namespace shardwright

#endif  // WORKER_RPC_SHARED_MEMORY_H_
