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

v1::SessionDescription Session::Describe() const {
  v1::SessionDescription description;
  description.set_segment_count(static_cast<int>(segments_.size()));
  description.set_table_count(static_cast<int>(tables_.count()));
  if (regions_ != nullptr) regions_->Describe(description);
  return description;
}

SessionTable::~SessionTable() {
  for (const auto& [id, session] : sessions_) {
    for (const SharedMemory& segment : session->segments()) segment.Unlink();
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
  std::unique_ptr<RegionTable> regions;
  if (request.has_gpu()) {
    ASSIGN_OR_RETURN(regions, RegionTable::Create(device_, request.gpu()));
  }
  const MutexLock lock(mutex_);
  if (sessions_.size() >= kSessionsMax) {
    return Error(absl::StatusCode::kResourceExhausted, "TOO_MANY_SESSIONS",
                 absl::StrCat(kSessionsMax,
                              " sessions are open; end one to open another"));
  }
  const std::string id = RandomId();
  sessions_[id] =
      std::make_shared<Session>(std::move(segments), std::move(regions));
  return id;
}

void SessionTable::Close(const std::string& id) {
  std::shared_ptr<Session> session;
  {
    const MutexLock lock(mutex_);
    const auto found = sessions_.find(id);
    if (found == sessions_.end()) return;
    session = std::move(found->second);
    sessions_.erase(found);
  }
  for (const SharedMemory& segment : session->segments()) segment.Unlink();
  if (session->regions() != nullptr) session->regions()->End();
}

absl::StatusOr<std::shared_ptr<Session>> SessionTable::Find(
    const std::string& id) const {
  const MutexLock lock(mutex_);
  const auto found = sessions_.find(id);
  if (found != sessions_.end()) return found->second;
  return Error(absl::StatusCode::kNotFound, "SESSION_NOT_FOUND",
               absl::StrCat("session \"", id.substr(0, 64),
                            "\" has ended or never was"));
}

std::vector<v1::SessionDescription> SessionTable::Describe() const {
  const MutexLock lock(mutex_);
  std::vector<v1::SessionDescription> descriptions;
  for (const auto& [id, session] : sessions_) {
    descriptions.push_back(session->Describe());
  }
  return descriptions;
}

}  // namespace shardwright
