// How a function of the C interface begins and ends: arguments are checked,
// failures recorded for sw_last_error(), and no exception leaves.

#ifndef CLIENT_NATIVE_CALL_H_
#define CLIENT_NATIVE_CALL_H_

#include <cstdint>
#include <exception>
#include <initializer_list>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "client/native/shardwright.h"

namespace shardwright {

// Records `status` as the calling thread's last error, unless it is OK.
sw_code Record(const absl::Status& status) noexcept;

// Runs `body`, which returns an absl::Status, as the body of a C function.
template <typename Body>
sw_code Call(const Body& body) noexcept {
  try {
    return Record(body());
  } catch (const std::exception& e) {
    return Record(absl::InternalError(e.what()));
  }
}

struct Argument {
  absl::string_view name;
  const void* pointer;
};

// Errors:
//   INVALID_ARGUMENT NULL_ARGUMENT: names the first that is NULL.
absl::Status CheckNotNull(std::initializer_list<Argument> arguments);

// For `count` elements at `pointer`; none need no pointer.
// Errors:
//   INVALID_ARGUMENT NULL_ARGUMENT, INVALID_COUNT: not in [0, count_max].
absl::Status CheckArray(absl::string_view name, const void* pointer,
                        int64_t count, int64_t count_max);

// What a handle points to, if it is asked whether it still lives: a base class.
// A new one at the same address lives, so not every mistake is found.
class LiveHandle {
 public:
  LiveHandle();
  ~LiveHandle();
  LiveHandle(const LiveHandle&) = delete;
  LiveHandle& operator=(const LiveHandle&) = delete;
};

// Errors:
//   INVALID_ARGUMENT NULL_ARGUMENT; FREED_HANDLE: its _destroy() was called.
absl::Status CheckLive(absl::string_view name, const LiveHandle* handle);

// For sw_free().
char* CopyText(const std::string& text);

}  // namespace shardwright

#endif  // CLIENT_NATIVE_CALL_H_
