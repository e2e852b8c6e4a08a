#include "tests/simulation/watch_checker.h"

#include "proto/status/error.h"

namespace shardwright {
namespace simulation {
namespace {

// silent_sessions.h.
constexpr absl::Duration kSilenceMax = absl::Seconds(10);

}  // namespace

void WatchChecker::Crashed() {
  watchers_.clear();
  silent_.clear();
}

void WatchChecker::BeforeEffects(const Step& step) {
  if (const auto* watch = std::get_if<v1::WatchLayoutsRequest>(&step.request)) {
    const bool exists =
        watch->job().empty() || store_.FindJob(watch->job()) != nullptr;
    const bool ahead = watch->revision() > store_.layout_revision();
    violations_.Require(step.status.ok() == (exists && !ahead),
                        "watch: of job \"", watch->job(), "\" from revision ",
                        watch->revision(), " gets ", step.status.ToString());
    if (step.status.ok()) {
      watchers_[step.stream] = {watch->job(), watch->revision()};
    }
  } else if (std::holds_alternative<SessionOpened>(step.request)) {
    silent_[step.stream] = step.now;
  } else if (std::holds_alternative<v1::SessionRequest>(step.request)) {
    silent_.erase(step.stream);
  } else if (std::holds_alternative<ClientGone>(step.request)) {
    watchers_.erase(step.stream);
    silent_.erase(step.stream);
  }
}

void WatchChecker::OnLayout(StreamId stream,
                            const v1::GetLayoutResponse& layout) {
  const auto found = watchers_.find(stream);
  violations_.Require(found != watchers_.end(),
                      "call: a layout is told to a session");
  if (found == watchers_.end()) return;
  Watcher& watcher = found->second;
  const std::string& name = layout.layout().name();
  const StoreModel::Job* job = store_.FindJob(name);
  violations_.Require(job != nullptr && job->revision == layout.revision() &&
                          job->generation == layout.generation() &&
                          job->layout->digest() == layout.digest(),
                      "watch: generation ", layout.generation(), " of ", name,
                      " is told, and is not the one that is stored");
  violations_.Require(watcher.job.empty() || watcher.job == name, "watch: of ",
                      watcher.job, " is told of ", name);
  violations_.Require(layout.revision() > watcher.revision,
                      "watch: goes back from revision ", watcher.revision,
                      " to ", layout.revision());
  watcher.revision = layout.revision();
}

void WatchChecker::OnEnd(const Step& step, StreamId stream,
                         const absl::Status& status) {
  const auto silent = silent_.find(stream);
  violations_.Require(silent != silent_.end(), "watch: ends with ",
                      status.ToString());
  if (silent == silent_.end()) return;
  violations_.Require(ReasonOf(status) == "SESSION_SILENT" &&
                          step.now >= silent->second + kSilenceMax,
                      "session: a silent one ends too early, or with ",
                      status.ToString());
  silent_.erase(silent);
}

void WatchChecker::AfterEffects(const Step& step) {
  for (const auto& [stream, watcher] : watchers_) {
    for (const auto& [name, job] : store_.jobs()) {
      violations_.Require((!watcher.job.empty() && watcher.job != name) ||
                              watcher.revision >= job.revision,
                          "watch: stream ", stream, " is not told of revision ",
                          job.revision);
    }
  }
  for (const auto& [stream, since] : silent_) {
    violations_.Require(
        step.now < since + kSilenceMax && step.next_tick <= since + kSilenceMax,
        "session: stream ", stream, " is silent for too long");
  }
}

}  // namespace simulation
}  // namespace shardwright
