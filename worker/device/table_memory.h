// Copy tables in a GPU's memory: slots, which a caller owns and overwrites, and
// the cache of the tables that were used last. One thread at a time.
//
// Errors of everything here, besides those named: DATA_LOSS DEVICE_FAILED.

#ifndef WORKER_DEVICE_TABLE_MEMORY_H_
#define WORKER_DEVICE_TABLE_MEMORY_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cuda_runtime_api.h"
#include "proto/plan/copy_table.h"
#include "worker/exec/executor.h"
#include "worker/kernels/copy_rows.h"

namespace shardwright {

// What tables of a slot may be: the buffers of a captured kernel are fixed, and
// no table may reach beyond them.
struct TableBounds {
  int64_t entry_count = 0;
  std::vector<int64_t> source_rows;
  int64_t destination_rows = 0;
};

// Device memory for one table at a time, at an address that never changes: a
// captured kernel reads it anew at each replay.
class TableSlot {
 public:
  // Holds an empty table at first.
  //
  // Errors:
  //   INVALID_ARGUMENT INVALID_SLOT_BOUNDS: negative, too many or too large.
  static absl::StatusOr<std::unique_ptr<TableSlot>> Create(int ordinal,
                                                           TableBounds bounds,
                                                           Direction direction);
  ~TableSlot();  // Waits for what Write() has started.

  // Overwrites the slot in order of `stream`. Waits only if the kWrites last
  // writes have not been carried out yet. Forward, rows of the destination
  // beyond the table's stay as they are; the adjoint zeroes all rows of the
  // sources, as the bounds have them, that no entry names.
  //
  // Errors:
  //   FAILED_PRECONDITION SLOT_WRITE_CAPTURED: `stream` is being captured.
  //   INVALID_ARGUMENT TABLE_TOO_LARGE: beyond the bounds; the message names
  //       which. The slot is as it was.
  absl::Status Write(const CopyTable& table, cudaStream_t stream);

  const TableBounds& bounds() const { return bounds_; }
  Direction direction() const { return direction_; }
  const MoveTableHeader* table() const {
    return reinterpret_cast<const MoveTableHeader*>(device_);
  }

 private:
  static constexpr int kWrites = 4;

  TableSlot(int ordinal, TableBounds bounds, Direction direction);
  absl::Status Allocate();

  const int ordinal_;
  const TableBounds bounds_;
  const Direction direction_;
  const int64_t bytes_;
  char* device_ = nullptr;
  char* staging_ = nullptr;         // Pinned; kWrites times bytes_.
  cudaEvent_t read_[kWrites] = {};  // When the device has read each.
  int next_ = 0;
};

// A launch, as long as it is the last one that used some table.
struct TableUse {
  cudaEvent_t done = nullptr;
  unsigned long long stream_id = 0;
  int table_count = 0;
};

// One table of the cache, until another takes its place.
struct ResidentTable {
  CopyTable table;  // Keeps what the key points to.
  Direction direction = Direction::kForward;
  int64_t begin = 0, bytes = 0;  // Its place.
  const MoveTableHeader* device = nullptr;
  bool pinned = false;   // From Load() to Unpin().
  bool arrived = false;  // Known to be there.
  cudaEvent_t arrival = nullptr;
  TableUse* last_use = nullptr;  // Null: not used yet.
};

// A ring of device memory, and pinned host memory of the same size: the next
// table takes the place of the oldest ones, and arrives on a stream of its own
// after the kernels that used those. All memory is allocated by Create().
class TableCache {
 public:
  static absl::StatusOr<std::unique_ptr<TableCache>> Create(int ordinal,
                                                            int64_t bytes);
  ~TableCache();  // Waits.

  // Puts a table into the ring, if it is not there, and pins it there. A table
  // is known by where its entries are, so that a copy of a CopyTable is the
  // same one. Waits only if a whole ring of tables has not arrived yet.
  //
  // Errors:
  //   RESOURCE_EXHAUSTED TABLES_TOO_LARGE: this and what is pinned need more
  //       than there is.
  absl::StatusOr<ResidentTable*> Load(const CopyTable& table,
                                      Direction direction);

  // Calls `start`, which starts kernels in `stream` that use the tables: they
  // run after these have arrived, and what takes their place comes after them,
  // also if `start` fails. A table that is used in several streams puts them in
  // order.
  absl::Status Use(absl::Span<ResidentTable* const> tables, cudaStream_t stream,
                   absl::FunctionRef<absl::Status()> start);

  static void Unpin(ResidentTable& table) { table.pinned = false; }

  int64_t table_count() const { return static_cast<int64_t>(tables_.size()); }
  int64_t byte_count() const { return bytes_; }

 private:
  using Key = std::pair<const RowCopy*, Direction>;

  TableCache(int ordinal, int64_t bytes) : ordinal_(ordinal), bytes_(bytes) {}
  absl::Status Allocate();
  // A free run of bytes, where a table has to wait for what was there.
  absl::StatusOr<int64_t> MakeRoom(int64_t bytes);
  absl::Status Evict();
  absl::Status Upload(ResidentTable& table);
  absl::StatusOr<TableUse*> NewUse();
  absl::Status WaitFor(ResidentTable& table, const TableUse& use,
                       cudaStream_t stream);
  void Forget(TableUse* use);  // Of one table.

  const int ordinal_;
  const int64_t bytes_;
  char* device_ = nullptr;
  char* staging_ = nullptr;
  cudaStream_t uploads_ = nullptr;
  int64_t next_ = 0;  // Where the next table goes, if there is room.
  std::deque<std::unique_ptr<ResidentTable>> tables_;  // Oldest first.
  std::map<Key, ResidentTable*> by_key_;
  std::vector<cudaEvent_t> spare_arrivals_;
  std::vector<std::unique_ptr<TableUse>> uses_;
  std::vector<TableUse*> spare_uses_;  // Of no table.
};

}  // namespace shardwright

#endif  // WORKER_DEVICE_TABLE_MEMORY_H_
