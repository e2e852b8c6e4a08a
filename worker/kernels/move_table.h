// A copy table as the kernel reads it.

#ifndef WORKER_KERNELS_MOVE_TABLE_H_
#define WORKER_KERNELS_MOVE_TABLE_H_

#include <cstdint>

#include "proto/plan/copy_table.h"
#include "worker/exec/executor.h"

namespace shardwright {

// Bytes that WriteMoveTable() needs at most for a table of that many entries
// and sources.
int64_t MoveTableBytesMax(int64_t entry_count, int64_t source_count,
                          Direction direction);

// Writes header and moves of `table` to `bytes`, which is aligned to 32 bytes
// and large enough, and returns how many bytes they are. Buffer k is source k;
// the destination is the buffer behind the sources. The adjoint's moves fill
// the source rows that no entry names; its fill value has to be zero.
int64_t WriteMoveTable(const CopyTable& table, Direction direction,
                       char* bytes);

}  // namespace shardwright

#endif  // WORKER_KERNELS_MOVE_TABLE_H_
