#include "worker/rpc/session_table.h"

#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

// Not to be guessed by another trainer of the machine.
std::string RandomId() {
  std::random_device random;
  std::string id;
  for (int i = 0; i < 4; ++i) {
    absl::StrAppend(&id, absl::Hex(random(), absl::kZeroPad8));
  }
  return id;
}

}  // namespace

SessionTable::~SessionTable() {
  for (const auto& [id, memory] : sessions_) {
    for (const SharedMemory& segment : *memory) segment.Unlink();
  }
}

absl::StatusOr<std::string> SessionTable::Open(
    const v1::OpenSessionRequest& request) {
  if (request.segments_size() > kSegmentsMax) {
    return Error(
        absl::StatusCode::kInvalidArgument, "INVALID_SEGMENT",
        absl::StrCat("a session has ", request.segments_size(),
                     " segments, but at most ", kSegmentsMax, " are allowed"));
  }
  std::vector<SharedMemory> segments;
  segments.reserve(request.segments_size());
  for (const v1::SharedMemory& segment : request.segments()) {
    ASSIGN_OR_RETURN(SharedMemory mapped,
                     SharedMemory::Map(segment.name(), segment.size_bytes()));
    segments.push_back(std::move(mapped));
  }
  const MutexLock lock(mutex_);
  if (sessions_.size() >= kSessionsMax) {
    return Error(absl::StatusCode::kResourceExhausted, "TOO_MANY_SESSIONS",
                 absl::StrCat(kSessionsMax,
                              " sessions are open; end one to open another"));
  }
  const std::string id = RandomId();
  sessions_[id] =
      std::make_shared<const std::vector<SharedMemory>>(std::move(segments));
  return id;
}

void SessionTable::Close(const std::string& id) {
  SessionMemory memory;
  {
    const MutexLock lock(mutex_);
    const auto found = sessions_.find(id);
    if (found == sessions_.end()) return;
    memory = std::move(found->second);
    sessions_.erase(found);
  }
  for (const SharedMemory& segment : *memory) segment.Unlink();
}

absl::StatusOr<SessionMemory> SessionTable::Find(const std::string& id) const {
  const MutexLock lock(mutex_);
  const auto found = sessions_.find(id);
  if (found != sessions_.end()) return found->second;
  return Error(absl::StatusCode::kNotFound, "SESSION_NOT_FOUND",
               absl::StrCat("session \"", id.substr(0, 64),
                            "\" has ended or never was"));
}

int SessionTable::count() const {
  const MutexLock lock(mutex_);
  return static_cast<int>(sessions_.size());
}

}  // namespace shardwright
