// The layout in force of every job, the generations, and who watches them: part
// of the core.
//
// Every change has a revision, one above all before it, stored with the layout.
// The highest one stored is therefore the last that was given out: none is ever
// given twice.

#ifndef COORDINATOR_CORE_LAYOUT_TABLE_H_
#define COORDINATOR_CORE_LAYOUT_TABLE_H_

#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/core/effects.h"
#include "coordinator/storage/state_store.h"
#include "proto/plan/layout.h"
#include "shardwright/v1/layout.pb.h"

namespace shardwright {

// What a watcher is told at a time before it has caught up: a portion ends with
// the message that reaches either.
inline constexpr int kPortionMessagesMax = 64;
inline constexpr int64_t kPortionBytesMax = 1 << 20;

// One job's layout. A value: copies share the layout itself, so that planning
// can go on with a copy while another layout is applied.
struct JobLayout {
  std::shared_ptr<const Layout> layout;

  // The layout as it was sent, with generation, digest and time; and what the
  // store holds.
  std::shared_ptr<const v1::GetLayoutResponse> record;

  // What watchers are told; `record` is part of it.
  std::shared_ptr<const v1::WatchLayoutsResponse> news;

  int64_t generation() const { return record->generation(); }
  int64_t revision() const { return record->revision(); }
};

// FAILED_PRECONDITION STALE_GENERATION, with `current_generation`.
absl::Status StaleGeneration(const std::string& job, int64_t got,
                             int64_t current);

// Not thread-safe. Prepare() decides and Adopt() takes over, so that the store
// can be written in between.
class LayoutTable {
 public:
  struct Change {
    bool changed = false;  // False: `next` is in force already.
    JobLayout next;
    StateStore::Entries entries;  // To be stored before Adopt().
  };

  // Revisions that it gives are above `revision_base`.
  explicit LayoutTable(int64_t revision_base = 0)
      : last_revision_(revision_base) {}

  // Takes over what a store holds. Layouts that were stored before there were
  // revisions get one each; `upgraded` is then to be stored.
  //
  // Errors:
  //   DATA_LOSS STORE_UNREADABLE: the message names the entry.
  absl::Status Load(const StateStore::Entries& entries,
                    StateStore::Entries& upgraded);

  // nullptr if there is no such job. Valid until the next Adopt().
  const JobLayout* Find(const std::string& job) const;

  // The same. Errors:
  //   NOT_FOUND JOB_NOT_FOUND
  absl::StatusOr<JobLayout> Get(const std::string& job) const;

  // `layout` is that of the request. Errors:
  //   FAILED_PRECONDITION STALE_GENERATION
  absl::StatusOr<Change> Prepare(const v1::ApplyLayoutRequest& request,
                                 Layout layout, absl::Time now) const;
  void Adopt(const Change& change, Effects& effects);

  // As LayoutService.WatchLayouts has it. `stream` is open when it returns OK.
  absl::Status Watch(StreamId stream, const v1::WatchLayoutsRequest& request,
                     Effects& effects);

  // Tells a watcher that has not caught up what comes next.
  void WatchOn(StreamId stream, Effects& effects);
  void StreamClosed(StreamId stream) { watchers_.erase(stream); }

  // By name.
  const std::map<std::string, JobLayout>& jobs() const { return jobs_; }

 private:
  struct Watcher {
    std::string job;         // Empty: of all.
    int64_t revision = 0;    // The last that it was told.
    bool caught_up = false;  // It is told of what is adopted at once.
  };

  std::map<std::string, JobLayout> jobs_;
  std::map<int64_t, std::string> job_by_revision_;
  std::map<StreamId, Watcher> watchers_;
  int64_t last_revision_;
};

}  // namespace shardwright

#endif  // COORDINATOR_CORE_LAYOUT_TABLE_H_
