#include "coordinator/core/silent_sessions.h"

#include "proto/status/error.h"

namespace shardwright {

void SilentSessions::Opened(StreamId stream, absl::Time now, Effects& effects) {
  deadlines_[stream] = now + kSilenceMax;
  by_deadline_.insert({now + kSilenceMax, stream});
  if (deadlines_.size() > kSilentSessionsMax) EndFirst(effects);
}

void SilentSessions::Forget(StreamId stream) {
  const auto it = deadlines_.find(stream);
  if (it == deadlines_.end()) return;
  by_deadline_.erase({it->second, stream});
  deadlines_.erase(it);
}

void SilentSessions::Tick(absl::Time now, Effects& effects) {
  while (NextTick() <= now) EndFirst(effects);
}

absl::Time SilentSessions::NextTick() const {
  return by_deadline_.empty() ? absl::InfiniteFuture()
                              : by_deadline_.begin()->first;
}

void SilentSessions::EndFirst(Effects& effects) {
  const StreamId stream = by_deadline_.begin()->second;
  Forget(stream);
  effects.End(stream,
              Error(absl::StatusCode::kDeadlineExceeded, "SESSION_SILENT",
                    "the session has not said whose it is; send the first "
                    "message when you open it"));
}

}  // namespace shardwright
