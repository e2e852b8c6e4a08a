#include "worker/device/table_memory.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cuda_runtime.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "worker/device/cuda_call.h"
#include "worker/kernels/move_table.h"

namespace shardwright {
namespace {

constexpr int64_t kAlignment = 256;

int64_t RoundUp(int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

int64_t BytesMax(int64_t entry_count, size_t source_count,
                 Direction direction) {
  return RoundUp(MoveTableBytesMax(
      entry_count, static_cast<int64_t>(source_count), direction));
}

absl::Status CheckBounds(const TableBounds& bounds) {
  std::string problem;
  const auto check = [&](const std::string& name, int64_t value, int64_t max) {
    if (problem.empty() && (value < 0 || value > max)) {
      problem =
          absl::StrCat(name, " is ", value, ", but must be in [0, ", max, "]");
    }
  };
  constexpr int64_t kEntriesMax = int64_t{1} << 24;
  check("entry_count", bounds.entry_count, kEntriesMax);
  check("the number of sources",
        static_cast<int64_t>(bounds.source_rows.size()),
        CopyTable::kSourcesMax);
  for (size_t k = 0; k < bounds.source_rows.size(); ++k) {
    check(absl::StrCat("rows of source ", k), bounds.source_rows[k],
          CopyTable::kRowsMax);
  }
  check("destination_rows", bounds.destination_rows, CopyTable::kRowsMax);
  if (problem.empty()) return absl::OkStatus();
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_SLOT_BOUNDS",
               problem);
}

absl::Status CheckFits(const CopyTable& table, const TableBounds& bounds) {
  std::string problem;
  const auto check = [&](const std::string& name, int64_t value, int64_t max) {
    if (problem.empty() && value > max) {
      problem = absl::StrCat("the table has ", value, " ", name,
                             ", but the slot has room for ", max);
    }
  };
  check("entries", static_cast<int64_t>(table.entries().size()),
        bounds.entry_count);
  check("destination rows", table.destination_rows(), bounds.destination_rows);
  if (table.source_rows().size() != bounds.source_rows.size()) {
    problem = absl::StrCat("the table has ", table.source_rows().size(),
                           " sources, but the slot is for ",
                           bounds.source_rows.size());
  }
  for (size_t k = 0; problem.empty() && k < bounds.source_rows.size(); ++k) {
    check(absl::StrCat("rows in source ", k), table.source_rows()[k],
          bounds.source_rows[k]);
  }
  if (problem.empty()) return absl::OkStatus();
  return Error(absl::StatusCode::kInvalidArgument, "TABLE_TOO_LARGE", problem);
}

absl::Status NewEvent(cudaEvent_t& event) {
  return CudaStatus(cudaEventCreateWithFlags(&event, cudaEventDisableTiming),
                    "creating an event");
}

}  // namespace

absl::StatusOr<std::unique_ptr<TableSlot>> TableSlot::Create(
    int ordinal, TableBounds bounds, Direction direction) {
  RETURN_IF_ERROR(CheckBounds(bounds));
  auto slot = std::unique_ptr<TableSlot>(
      new TableSlot(ordinal, std::move(bounds), direction));
  RETURN_IF_ERROR(slot->Allocate());
  return slot;
}

TableSlot::TableSlot(int ordinal, TableBounds bounds, Direction direction)
    : ordinal_(ordinal),
      bounds_(std::move(bounds)),
      direction_(direction),
      bytes_(BytesMax(bounds_.entry_count, bounds_.source_rows.size(),
                      direction)) {}

absl::Status TableSlot::Allocate() {
  const CurrentDevice current(ordinal_);
  RETURN_IF_ERROR(
      CudaStatus(cudaMalloc(&device_, bytes_), "allocating a table's slot"));
  // A header of zeros is an empty table.
  RETURN_IF_ERROR(CudaStatus(cudaMemset(device_, 0, sizeof(MoveTableHeader)),
                             "clearing a table's slot"));
  // Not in order with other streams, one of which may write to it next.
  RETURN_IF_ERROR(CudaStatus(cudaStreamSynchronize(cudaStreamLegacy),
                             "clearing a table's slot"));
  RETURN_IF_ERROR(CudaStatus(cudaMallocHost(&staging_, kWrites * bytes_),
                             "allocating pinned memory for a table's slot"));
  for (cudaEvent_t& event : read_) RETURN_IF_ERROR(NewEvent(event));
  return absl::OkStatus();
}

TableSlot::~TableSlot() {
  const CurrentDevice current(ordinal_);
  for (cudaEvent_t event : read_) {
    if (event == nullptr) continue;
    cudaEventSynchronize(event);
    cudaEventDestroy(event);
  }
  cudaFree(device_);
  if (staging_ != nullptr) cudaFreeHost(staging_);
}

absl::Status TableSlot::Write(const CopyTable& table, cudaStream_t stream) {
  RETURN_IF_ERROR(CheckFits(table, bounds_));
  const CurrentDevice current(ordinal_);
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  RETURN_IF_ERROR(CudaStatus(cudaStreamIsCapturing(stream, &capture),
                             "asking whether a stream is captured"));
  if (capture != cudaStreamCaptureStatusNone) {
    return Error(absl::StatusCode::kFailedPrecondition, "SLOT_WRITE_CAPTURED",
                 "the stream is being captured: a slot is written between "
                 "replays, not by them");
  }
  const int write = next_;
  RETURN_IF_ERROR(CudaStatus(cudaEventSynchronize(read_[write]),
                             "waiting for an earlier table of a slot"));
  char* const staging = staging_ + write * bytes_;
  int64_t bytes = 0;
  if (direction_ == Direction::kForward) {
    bytes = WriteMoveTable(table, direction_, staging);
  } else {
    // The sources' buffers have the bounds' rows: all that none names are zero.
    ASSIGN_OR_RETURN(const CopyTable whole,
                     CopyTable::Create(table.entries(), bounds_.source_rows,
                                       table.destination_rows()));
    bytes = WriteMoveTable(whole, direction_, staging);
  }
  RETURN_IF_ERROR(CudaStatus(
      cudaMemcpyAsync(device_, staging, bytes, cudaMemcpyHostToDevice, stream),
      "writing a table into its slot"));
  next_ = (write + 1) % kWrites;
  return CudaStatus(cudaEventRecord(read_[write], stream),
                    "recording that a slot was written");
}

absl::StatusOr<std::unique_ptr<TableCache>> TableCache::Create(int ordinal,
                                                               int64_t bytes) {
  auto cache = std::unique_ptr<TableCache>(new TableCache(ordinal, bytes));
  RETURN_IF_ERROR(cache->Allocate());
  return cache;
}

absl::Status TableCache::Allocate() {
  const CurrentDevice current(ordinal_);
  RETURN_IF_ERROR(
      CudaStatus(cudaMalloc(&device_, bytes_), "allocating room for tables"));
  RETURN_IF_ERROR(CudaStatus(cudaMallocHost(&staging_, bytes_),
                             "allocating pinned memory for tables"));
  return CudaStatus(cudaStreamCreateWithFlags(&uploads_, cudaStreamNonBlocking),
                    "creating a stream for tables");
}

TableCache::~TableCache() {
  const CurrentDevice current(ordinal_);
  std::vector<cudaEvent_t> events = std::move(spare_arrivals_);
  for (const auto& table : tables_) events.push_back(table->arrival);
  for (const auto& use : uses_) events.push_back(use->done);
  for (const cudaEvent_t event : events) {
    cudaEventSynchronize(event);
    cudaEventDestroy(event);
  }
  if (uploads_ != nullptr) cudaStreamDestroy(uploads_);
  cudaFree(device_);
  if (staging_ != nullptr) cudaFreeHost(staging_);
}

absl::StatusOr<ResidentTable*> TableCache::Load(const CopyTable& table,
                                                Direction direction) {
  const Key key = {table.entries().data(), direction};
  const auto known = by_key_.find(key);
  // Tables without entries may have one address; they differ in their sources.
  if (known != by_key_.end() && known->second->table == table) {
    known->second->pinned = true;
    return known->second;
  }
  const int64_t bytes =
      BytesMax(table.entries().size(), table.source_rows().size(), direction);
  ASSIGN_OR_RETURN(const int64_t begin, MakeRoom(bytes));
  auto resident = std::make_unique<ResidentTable>();
  resident->table = table;
  resident->direction = direction;
  resident->begin = begin;
  resident->bytes = bytes;
  resident->pinned = true;
  if (spare_arrivals_.empty()) {
    RETURN_IF_ERROR(NewEvent(resident->arrival));
  } else {
    resident->arrival = spare_arrivals_.back();
    spare_arrivals_.pop_back();
  }
  RETURN_IF_ERROR(Upload(*resident));
  by_key_[key] = resident.get();
  next_ = begin + bytes;
  tables_.push_back(std::move(resident));
  return tables_.back().get();
}

absl::StatusOr<int64_t> TableCache::MakeRoom(int64_t bytes) {
  const auto too_large = [&] {
    return Error(absl::StatusCode::kResourceExhausted, "TABLES_TOO_LARGE",
                 absl::StrCat("a table of ", bytes, " bytes does not fit ",
                              bytes_, " bytes beside those in use"));
  };
  if (bytes > bytes_) return too_large();
  // The oldest table is the next one behind next_, going round.
  int64_t begin = next_;
  bool wrapped = false;
  if (begin + bytes > bytes_) {
    begin = 0;
    wrapped = true;
  }
  const auto in_the_way = [&] {
    if (tables_.empty()) return false;
    const ResidentTable& oldest = *tables_.front();
    const bool overlaps =
        oldest.begin < begin + bytes && begin < oldest.begin + oldest.bytes;
    // What lies between next_ and the ring's end is left behind.
    return overlaps || (wrapped && oldest.begin >= next_);
  };
  while (in_the_way()) {
    if (tables_.front()->pinned) return too_large();
    RETURN_IF_ERROR(Evict());
  }
  return begin;
}

absl::Status TableCache::Evict() {
  ResidentTable& oldest = *tables_.front();
  const CurrentDevice current(ordinal_);
  // Its staging is overwritten by the host, its place by the upload stream.
  if (!oldest.arrived) {
    RETURN_IF_ERROR(CudaStatus(cudaEventSynchronize(oldest.arrival),
                               "waiting for an earlier table"));
  }
  if (oldest.last_use != nullptr) {
    RETURN_IF_ERROR(
        CudaStatus(cudaStreamWaitEvent(uploads_, oldest.last_use->done, 0),
                   "waiting for the last use of a table"));
    Forget(oldest.last_use);
  }
  const auto known =
      by_key_.find({oldest.table.entries().data(), oldest.direction});
  if (known != by_key_.end() && known->second == &oldest) by_key_.erase(known);
  spare_arrivals_.push_back(oldest.arrival);
  tables_.pop_front();
  return absl::OkStatus();
}

absl::Status TableCache::Upload(ResidentTable& table) {
  const CurrentDevice current(ordinal_);
  char* const staging = staging_ + table.begin;
  char* const device = device_ + table.begin;
  const int64_t bytes = WriteMoveTable(table.table, table.direction, staging);
  RETURN_IF_ERROR(CudaStatus(
      cudaMemcpyAsync(device, staging, bytes, cudaMemcpyHostToDevice, uploads_),
      "uploading a table"));
  table.device = reinterpret_cast<const MoveTableHeader*>(device);
  return CudaStatus(cudaEventRecord(table.arrival, uploads_),
                    "recording that a table was uploaded");
}

absl::StatusOr<TableUse*> TableCache::NewUse() {
  if (spare_uses_.empty()) {
    auto use = std::make_unique<TableUse>();
    RETURN_IF_ERROR(NewEvent(use->done));
    spare_uses_.push_back(use.get());
    uses_.push_back(std::move(use));
  }
  TableUse* const use = spare_uses_.back();
  spare_uses_.pop_back();
  return use;
}

void TableCache::Forget(TableUse* use) {
  if (--use->table_count == 0) spare_uses_.push_back(use);
}

absl::Status TableCache::WaitFor(ResidentTable& table, const TableUse& use,
                                 cudaStream_t stream) {
  if (!table.arrived) {
    const cudaError_t arrival = cudaEventQuery(table.arrival);
    table.arrived = arrival == cudaSuccess;
    if (arrival == cudaErrorNotReady) {
      (void)cudaGetLastError();  // The caller's next question is not for it.
      RETURN_IF_ERROR(CudaStatus(cudaStreamWaitEvent(stream, table.arrival, 0),
                                 "waiting for a table"));
    } else {
      RETURN_IF_ERROR(CudaStatus(arrival, "asking whether a table is there"));
    }
  }
  const TableUse* const last = table.last_use;
  if (last == nullptr || last->stream_id == use.stream_id) {
    return absl::OkStatus();
  }
  return CudaStatus(cudaStreamWaitEvent(stream, last->done, 0),
                    "waiting for an earlier use of a table");
}

// What this asks of CUDA comes with every copy: for tables that are used in one
// stream, a number of the host's, and one event for the GPU to record.
absl::Status TableCache::Use(absl::Span<ResidentTable* const> tables,
                             cudaStream_t stream,
                             absl::FunctionRef<absl::Status()> start) {
  ASSIGN_OR_RETURN(TableUse* const use, NewUse());
  // Equal handles are not always one stream; equal ids are.
  absl::Status status = CudaStatus(cudaStreamGetId(stream, &use->stream_id),
                                   "asking which stream this is");
  for (size_t i = 0; i < tables.size() && status.ok(); ++i) {
    status = WaitFor(*tables[i], *use, stream);
  }
  if (!status.ok()) {
    spare_uses_.push_back(use);
    return status;
  }
  status = start();
  for (ResidentTable* const table : tables) {
    if (table->last_use == use) continue;  // Twice in one launch.
    if (table->last_use != nullptr) Forget(table->last_use);
    table->last_use = use;
    ++use->table_count;
  }
  const absl::Status recorded = CudaStatus(cudaEventRecord(use->done, stream),
                                           "recording the use of tables");
  return status.ok() ? recorded : status;
}

}  // namespace shardwright
