// The layout in force of every job, and the generations: part of the core.

#ifndef COORDINATOR_CORE_LAYOUT_TABLE_H_
#define COORDINATOR_CORE_LAYOUT_TABLE_H_

#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/storage/state_store.h"
#include "proto/plan/layout.h"
#include "shardwright/v1/layout.pb.h"

namespace shardwright {

// One job's layout. A value: copies share the layout itself, so that planning
// can go on with a copy while another layout is applied.
struct JobLayout {
  std::shared_ptr<const Layout> layout;

  // The layout as it was sent, with generation, digest and time; and what the
  // store holds.
  std::shared_ptr<const v1::GetLayoutResponse> record;

  int64_t generation() const { return record->generation(); }
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

  // Takes over what a store holds.
  //
  // Errors:
  //   DATA_LOSS STORE_UNREADABLE: the message names the entry.
  absl::Status Load(const StateStore::Entries& entries);

  // nullptr if there is no such job. Valid until the next Adopt().
  const JobLayout* Find(const std::string& job) const;

  // The same. Errors:
  //   NOT_FOUND JOB_NOT_FOUND
  absl::StatusOr<JobLayout> Get(const std::string& job) const;

  // Errors: as LayoutService.ApplyLayout, less the store's.
  absl::StatusOr<Change> Prepare(const v1::ApplyLayoutRequest& request,
                                 absl::Time now) const;
  void Adopt(const Change& change);

  // By name.
  const std::map<std::string, JobLayout>& jobs() const { return jobs_; }

 private:
  std::map<std::string, JobLayout> jobs_;
};

}  // namespace shardwright

#endif  // COORDINATOR_CORE_LAYOUT_TABLE_H_
