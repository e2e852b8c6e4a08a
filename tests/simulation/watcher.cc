#include "tests/simulation/watcher.h"

#include "absl/time/time.h"

namespace shardwright {
namespace simulation {
namespace {

constexpr absl::Duration kBackoffMax = absl::Seconds(2);

}  // namespace

void Watcher::Start() {
  v1::WatchLayoutsRequest request;
  request.set_job(job_);
  request.set_revision(revision_);
  world_.network.Open(
      link_, request,
      {[self = shared_from_this()](const StreamEffect& effect) {
         const int64_t revision =
             (*std::get_if<std::shared_ptr<const v1::WatchLayoutsResponse>>(
                  &effect.what))
                 ->layout()
                 .revision();
         self->violations_.Require(revision > self->revision_,
                                   "watch: a client goes back from revision ",
                                   self->revision_, " to ", revision);
         self->revision_ = revision;
       },
       [self = shared_from_this()](const absl::Status&) {
         self->world_.timeline.After(
             self->world_.random.Between(absl::Milliseconds(1), kBackoffMax),
             [self] { self->Start(); });
       }});
}

}  // namespace simulation
}  // namespace shardwright
