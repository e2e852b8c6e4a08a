// A GPU of this process: carries out copy tables on its memory, in any stream,
// several tables in one launch. The tables themselves stay in device memory, so
// that a table that is used again costs one launch and nothing else.
//
// All memory is allocated by Open(). After that nothing allocates, and nothing
// waits unless a whole ring of tables (table_memory.h) is on its way.

#ifndef WORKER_DEVICE_CUDA_DEVICE_H_
#define WORKER_DEVICE_CUDA_DEVICE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cuda_runtime_api.h"
#include "proto/plan/copy_table.h"
#include "proto/sync/mutex.h"
#include "worker/device/device.h"
#include "worker/device/table_memory.h"
#include "worker/exec/executor.h"
#include "worker/kernels/copy_rows.h"

namespace shardwright {

// One table over buffers of a GPU's memory, of source_rows * row_bytes and
// destination_rows * row_bytes bytes.
struct GpuCopy {
  const CopyTable* table = nullptr;
  Direction direction = Direction::kForward;

  // Instead of the two above: whatever is in the slot when the kernel runs. The
  // buffers have the rows of the slot's bounds.
  const TableSlot* slot = nullptr;

  int64_t row_bytes = 0;
  int64_t element_bytes = 1;  // Divides row_bytes and all addresses.

  std::vector<Bytes> sources;  // Only read with kForward.
  Bytes destination;           // Only read with kAdjoint.
  ConstBytes fill_value;  // In host memory; 0 (zero), 1, 2, 4, 8 or 16 bytes.
};

struct GpuFacts {
  std::string name;  // "NVIDIA H200"
  std::string uuid;  // "GPU-8f0c…"
  int64_t memory_bytes = 0;
};

// Thread-safe. Calls leave the thread's current device as it was.
//
// Errors of everything that uses the GPU:
//   DATA_LOSS DEVICE_FAILED: CUDA failed; the message has its words.
class CudaDevice : public Device {
 public:
  // Room for tables: half a million runs of rows, half of that for adjoints.
  static constexpr int64_t kTableBytes = int64_t{16} << 20;

  // By index among the GPUs that CUDA shows this process, or by UUID; "" is
  // index 0.
  //
  // Errors:
  //   UNAVAILABLE NO_GPU: no driver, no GPU; or it is older than sm_80.
  //   NOT_FOUND   GPU_NOT_FOUND: not this one; the message lists them.
  static absl::StatusOr<std::unique_ptr<CudaDevice>> Open(
      absl::string_view gpu, int64_t table_bytes = kTableBytes);
  ~CudaDevice() override;  // Waits for all that was started.

  std::string name() const override { return facts_.uuid; }
  const GpuFacts& facts() const { return facts_; }
  int ordinal() const { return kernels_.ordinal; }

  // Puts a table into device memory ahead of its first use.
  absl::Status Prepare(const CopyTable& table, Direction direction);

  // Starts copies that do not depend on one another, in order of `stream`, in
  // one launch for each eight. Buffers are used until `stream` has got there.
  // Nothing is started on failure.
  //
  // Errors:
  //   INVALID_ARGUMENT INVALID_TENSOR: a buffer, row size or fill value does
  //       not fit; the message names copy, buffer and value.
  //   FAILED_PRECONDITION CAPTURE_NEEDS_SLOT: `stream` is being captured, and a
  //       table is not in a slot.
  //   RESOURCE_EXHAUSTED TABLES_TOO_LARGE: there is no room for them together.
  absl::Status Run(absl::Span<const GpuCopy> copies, cudaStream_t stream);

  // Device's functions run in a stream of this object.
  absl::Status RunForward(const CopyTable& table, int64_t row_bytes,
                          absl::Span<const ConstBytes> sources,
                          Bytes destination, ConstBytes fill_value) override;
  absl::Status RunAdjoint(const CopyTable& table, int64_t row_bytes,
                          ConstBytes destination,
                          absl::Span<const Bytes> sources) override;
  absl::Status Synchronize() override;
  cudaStream_t stream() const { return stream_; }

  // What it holds and has done.
  struct Usage {
    int64_t table_count = 0;   // In device memory,
    int64_t table_bytes = 0;   // which has room for this much.
    int64_t copied_bytes = 0;  // Written by the kernels that were started.
  };
  Usage usage() const;

 private:
  CudaDevice() = default;

  absl::Status Initialize(int ordinal, int64_t table_bytes);
  absl::Status Check(const GpuCopy& copy) const;
  absl::Status CheckBuffer(const std::string& name, ConstBytes buffer,
                           int64_t element_bytes) const;
  // The tables of `copies` are loaded and pinned: `resident` has those that are
  // not in slots, in order.
  absl::Status Launch(absl::Span<const GpuCopy> copies,
                      absl::Span<ResidentTable* const> resident,
                      cudaStream_t stream)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  GpuFacts facts_;
  CopyRowsDevice kernels_;
  cudaStream_t stream_ = nullptr;

  mutable Mutex mutex_;
  std::unique_ptr<TableCache> tables_ ABSL_GUARDED_BY(mutex_);
  int64_t copied_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace shardwright

#endif  // WORKER_DEVICE_CUDA_DEVICE_H_
