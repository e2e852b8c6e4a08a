// The kernel that carries out copy tables on a GPU. It moves rows and knows
// nothing of cp, tp, modalities, or which way a table is read: the host has
// turned the table into moves (move_table.h).
//
// Where sources, destination and row size are aligned to 16 bytes, GPUs since
// sm_90 move bytes by bulk copies through shared memory, with no thread
// touching them; else threads copy with the widest access that is aligned.

#ifndef WORKER_KERNELS_COPY_ROWS_H_
#define WORKER_KERNELS_COPY_ROWS_H_

#include <cstdint>

#include "cuda_runtime_api.h"

namespace shardwright {

// Rows [from_row, ...) of buffer `from` become rows of buffer `to`: row i goes
// from from_row + i * from_stride to to_row + i * to_stride.
struct RowMove {
  static constexpr int32_t kFill = -1;  // As `from`: write the fill value.

  int64_t first_row = 0;  // Rows of all moves before this one.
  int64_t from_row = 0;
  int64_t to_row = 0;
  int32_t from = 0;
  int32_t to = 0;
};

// In device memory, with `move_count` moves right behind it, and one more whose
// first_row is row_count. The strides are those of all moves.
struct alignas(32) MoveTableHeader {
  int64_t move_count = 0;
  int64_t row_count = 0;
  int64_t from_stride = 1;
  int64_t to_stride = 1;
};

// One table over its buffers.
struct RowCopyArguments {
  static constexpr int kBuffersMax = 17;  // Sources, then the destination.

  const MoveTableHeader* table = nullptr;
  int64_t row_bytes = 0;
  char* buffers[kBuffersMax] = {};

  // Divides row_bytes, of these and all addresses: 1, 2, 4, 8 or 16.
  int32_t alignment = 1;

  // The fill value over and over, phase 0 at the start of a row.
  alignas(16) unsigned char fill[16] = {};
};

// What a launch needs to know of a device.
struct CopyRowsDevice {
  int ordinal = 0;
  int multiprocessor_count = 0;
  bool bulk_copies = false;  // Has them.
};

constexpr int kCopiesPerLaunchMax = 8;

// Once a device, before the first launch on it. It becomes the thread's current
// device.
cudaError_t PrepareCopyRows(int ordinal, CopyRowsDevice* device);

// Starts one kernel that carries out `count` tables. They may not depend on one
// another. Neither allocates nor waits; may be captured in a graph, which then
// reads the tables that are in place when it runs. `device` must be current.
//
// REQUIRES: 1 <= count <= kCopiesPerLaunchMax.
cudaError_t LaunchCopyRows(const CopyRowsDevice& device,
                           const RowCopyArguments* copies, int count,
                           cudaStream_t stream);

}  // namespace shardwright

#endif  // WORKER_KERNELS_COPY_ROWS_H_
