// The copy tables that a session keeps by the name of their plan, so that a
// call carries eight bytes instead of a table, and a GPU meets the same table
// again.

#ifndef WORKER_RPC_PLAN_TABLES_H_
#define WORKER_RPC_PLAN_TABLES_H_

#include <cstdint>
#include <list>
#include <map>
#include <tuple>
#include <utility>

#include "absl/status/statusor.h"
#include "proto/plan/copy_table.h"
#include "proto/sync/mutex.h"
#include "shardwright/v1/worker.pb.h"

namespace shardwright {

// Keeps what was used last. Thread-safe.
class PlanTables {
 public:
  static constexpr int64_t kTablesMax = 256;
  static constexpr int64_t kEntriesMax = 1 << 20;  // Of all tables.

  // Errors:
  //   NOT_FOUND PLAN_UNKNOWN
  absl::StatusOr<CopyTable> Find(const v1::PlanTable& name);

  // Keeps `table`, and returns it, or the equal one that is there already. A
  // table above kEntriesMax is not kept.
  //
  // Errors:
  //   INVALID_ARGUMENT PLAN_DIFFERS: `name` is another table's.
  absl::StatusOr<CopyTable> Keep(const v1::PlanTable& name,
                                 const CopyTable& table);

  int64_t count() const;

 private:
  using Key = std::tuple<uint64_t, int64_t, int>;  // Digest, rank, kind.
  using Order = std::list<std::pair<Key, CopyTable>>;

  static Key KeyOf(const v1::PlanTable& name) {
    return {name.digest(), name.rank(), name.kind()};
  }

  mutable Mutex mutex_;
  Order order_ ABSL_GUARDED_BY(mutex_);  // Used last first.
  std::map<Key, Order::iterator> by_key_ ABSL_GUARDED_BY(mutex_);
  int64_t entry_count_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace shardwright

#endif  // WORKER_RPC_PLAN_TABLES_H_
