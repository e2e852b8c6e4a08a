#include "worker/rpc/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

constexpr absl::string_view kPrefix = "/shardwright-";
constexpr size_t kNameBytesMax = 64;  // After the prefix.

absl::Status CheckName(const std::string& name) {
  absl::string_view rest = name;
  const bool valid = absl::ConsumePrefix(&rest, kPrefix) && !rest.empty() &&
                     rest.size() <= kNameBytesMax &&
                     std::all_of(rest.begin(), rest.end(), [](unsigned char c) {
                       return absl::ascii_isalnum(c) || c == '-' || c == '_';
                     });
  if (valid) return absl::OkStatus();
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_SEGMENT",
               absl::StrCat("segment name \"", name.substr(0, 128),
                            "\" is not \"", kPrefix, "\" and 1 to ",
                            kNameBytesMax, " letters, digits, '-' or '_'"));
}

absl::Status CheckObject(const std::string& name, int64_t size_bytes,
                         const struct stat& object) {
  const mode_t mode = object.st_mode & 07777;
  if (object.st_uid != geteuid() || mode != 0600) {
    return Error(absl::StatusCode::kPermissionDenied, "SEGMENT_NOT_PRIVATE",
                 absl::StrFormat("segment %s has mode %04o and belongs to user "
                                 "%d, but must have mode 0600 and belong to "
                                 "user %d",
                                 name, mode, object.st_uid, geteuid()));
  }
  if (!S_ISREG(object.st_mode) || size_bytes < 1 ||
      object.st_size != size_bytes) {
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_SEGMENT",
                 absl::StrCat("segment ", name, " has ", object.st_size,
                              " bytes, but size_bytes is ", size_bytes),
                 {{"size_bytes", absl::StrCat(object.st_size)}});
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SharedMemory> SharedMemory::Map(const std::string& name,
                                               int64_t size_bytes) {
  RETURN_IF_ERROR(CheckName(name));
  const int fd = shm_open(name.c_str(), O_RDWR | O_CLOEXEC, 0);
  if (fd < 0) {
    const int error = errno;
    const bool denied = error == EACCES || error == EPERM;
    return Error(
        denied ? absl::StatusCode::kPermissionDenied
               : absl::StatusCode::kNotFound,
        denied ? "SEGMENT_NOT_PRIVATE" : "SEGMENT_NOT_FOUND",
        absl::StrCat("cannot open segment ", name, ": ", std::strerror(error)));
  }
  struct stat object;
  absl::Status status =
      fstat(fd, &object) == 0
          ? CheckObject(name, size_bytes, object)
          : Error(absl::StatusCode::kNotFound, "SEGMENT_NOT_FOUND",
                  absl::StrCat("cannot read segment ", name, ": ",
                               std::strerror(errno)));
  void* data = MAP_FAILED;
  if (status.ok()) {
    data = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) {
      status =
          Error(absl::StatusCode::kResourceExhausted, "MAP_FAILED",
                absl::StrCat("cannot map segment ", name, " of ", size_bytes,
                             " bytes: ", std::strerror(errno)));
    }
  }
  close(fd);
  RETURN_IF_ERROR(status);
  return SharedMemory(
      name, object.st_dev, object.st_ino,
      {static_cast<char*>(data), static_cast<size_t>(size_bytes)});
}

SharedMemory::SharedMemory(SharedMemory&& other) noexcept
    : name_(std::move(other.name_)),
      device_(other.device_),
      inode_(other.inode_),
      bytes_(std::exchange(other.bytes_, {})) {}

SharedMemory::~SharedMemory() {
  if (!bytes_.empty()) munmap(bytes_.data(), bytes_.size());
}

void SharedMemory::Unlink() const {
  const int fd = shm_open(name_.c_str(), O_RDONLY | O_CLOEXEC, 0);
  if (fd < 0) return;
  struct stat object;
  const bool same = fstat(fd, &object) == 0 && object.st_dev == device_ &&
                    object.st_ino == inode_;
  close(fd);
  if (same) shm_unlink(name_.c_str());
}

}  // namespace shardwright
