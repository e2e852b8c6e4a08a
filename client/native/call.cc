#include "client/native/call.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <unordered_set>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "proto/sync/mutex.h"

namespace shardwright {
namespace {

struct LastError {
  std::string message;
  std::string reason;
  std::string details;
};

LastError& ThreadsLastError() {
  static thread_local LastError error;
  return error;
}

// Of all handles that can be asked about. Never destroyed: a program may end
// while its threads run.
struct LiveSet {
  Mutex mutex;
  std::unordered_set<const LiveHandle*> handles ABSL_GUARDED_BY(mutex);
};

LiveSet& LiveHandles() {
  static LiveSet& live = *new LiveSet;
  return live;
}

std::string DetailsText(const v1::ErrorDetail& detail) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const auto& [key, value] : detail.metadata()) {
    json["metadata"][key] = value;
  }
  if (detail.has_missing()) json["missing"] = detail.missing().ranges();
  for (const v1::Violation& violation : detail.violations()) {
    json["violations"].push_back({{"field", violation.field()},
                                  {"description", violation.description()},
                                  {"hint", violation.hint()}});
  }
  // Values may quote what a user wrote, in whatever encoding that was.
  return json.dump(-1, ' ', false,
                   nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace

sw_code Record(const absl::Status& status) noexcept {
  if (status.ok()) return SW_OK;
  try {
    const v1::ErrorDetail detail = DetailOf(status);
    LastError& error = ThreadsLastError();
    error.message = std::string(status.message());
    error.reason = detail.reason();
    error.details = DetailsText(detail);
  } catch (const std::exception&) {
    return SW_RESOURCE_EXHAUSTED;
  }
  return static_cast<sw_code>(status.code());
}

absl::Status CheckNotNull(std::initializer_list<Argument> arguments) {
  for (const Argument& argument : arguments) {
    if (argument.pointer == nullptr) {
      return Error(absl::StatusCode::kInvalidArgument, "NULL_ARGUMENT",
                   absl::StrCat(argument.name, " is NULL"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckArray(absl::string_view name, const void* pointer,
                        int64_t count, int64_t count_max) {
  if (count < 0 || count > count_max) {
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_COUNT",
                 absl::StrCat("the count of ", name, " is ", count,
                              ", must be 0 to ", count_max));
  }
  if (count > 0) return CheckNotNull({{name, pointer}});
  return absl::OkStatus();
}

LiveHandle::LiveHandle() {
  LiveSet& live = LiveHandles();
  const MutexLock lock(live.mutex);
  live.handles.insert(this);
}

LiveHandle::~LiveHandle() {
  LiveSet& live = LiveHandles();
  const MutexLock lock(live.mutex);
  live.handles.erase(this);
}

absl::Status CheckLive(absl::string_view name, const LiveHandle* handle) {
  RETURN_IF_ERROR(CheckNotNull({{name, handle}}));
  LiveSet& live = LiveHandles();
  const MutexLock lock(live.mutex);
  if (live.handles.count(handle) > 0) return absl::OkStatus();
  return Error(absl::StatusCode::kInvalidArgument, "FREED_HANDLE",
               absl::StrCat(name, " is a handle that was destroyed"));
}

char* CopyText(const std::string& text) {
  auto* copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (copy == nullptr) throw std::bad_alloc();
  std::memcpy(copy, text.c_str(), text.size() + 1);
  return copy;
}

}  // namespace shardwright

int32_t sw_abi_version(void) { return SW_ABI_VERSION; }

const char* sw_last_error(void) {
  return shardwright::ThreadsLastError().message.c_str();
}

const char* sw_last_error_reason(void) {
  return shardwright::ThreadsLastError().reason.c_str();
}

const char* sw_last_error_details(void) {
  const std::string& details = shardwright::ThreadsLastError().details;
  return details.empty() ? "{}" : details.c_str();
}

void sw_free(char* text) { std::free(text); }
